"""What those who watch over a server are told: metrics, whether it lives, whether it is ready."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from coordinator_server import Running
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from web_browser import Browser

from warren.coordinator.config import BadConfig, Config, check
from warren.coordinator.registry import Registry
from warren.coordinator.store import AuditQuestion, StoreProblem
from warren.lab.ports import free_port


def values(text: str) -> dict[str, float]:
    """Return the samples by name and labels."""
    return {
        sample.name + "".join(f" {label}" for label in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_server_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    running = Running(tmp_path, metrics=f"127.0.0.1:{port}")
    await running.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

        async def scrape() -> dict[str, float]:
            answer = await http.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            return values(answer.text)

        before = await scrape()
        assert before["warren_nodes online"] == before["warren_sessions"] == 0
        key = await running.key()
        machines = [await running.join_machine(name, key) for name in ("one", "two")]
        async with asyncio.timeout(5):
            while (now := await scrape())["warren_nodes online"] < 2:
                await asyncio.sleep(0.05)
        assert (now["warren_sessions"], now["warren_registrations_total"]) == (2, 2)
        assert now["warren_map_messages_total map"] >= 2 and now["warren_map_bytes_total"] > 500
        assert now["warren_store_write_seconds_count"] > before["warren_store_write_seconds_count"]
        assert now["warren_store_failures_total"] == 0
        async with httpx.AsyncClient() as client:
            page = await Browser(client).get(running.owner)
            await Browser(client).submit(page, urlsplit(page.url).path, new="correct horse battery")
        assert (await scrape())["warren_log_ins_total done"] == 1
        assert now["warren_policy_follow_seconds_count"] >= 2
        for name in ("packets_total", "bytes_total", "dropped_total full", "dropped_total unknown"):
            assert now[f"warren_relay_{name}"] == 0
        assert now["warren_users"] == 1 and now["process_resident_memory_bytes"] > 1e6
        assert not any("admin" in name or "one" in name.split(" ")[1:] for name in now)

        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        told = await http.get("/metrics", headers=accept)
        assert list(openmetrics.text_string_to_metric_families(told.text))

        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/readyz")).json() == {"status": "ready"}

        async def away(self: Registry, question: AuditQuestion) -> None:
            raise StoreProblem("the database is away")

        monkeypatch.setattr(Registry, "history", away)
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "the database is away")
        assert (await http.get("/nothing")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405
        public = await http.get(f"http://127.0.0.1:{running.http}/healthz")
        assert public.json() == {"status": "ok"}
        assert (await http.get(f"http://127.0.0.1:{running.http}/metrics")).status_code == 404
        for machine in machines:
            await machine.close()
    await running.stop()


def test_a_port_that_makes_no_sense() -> None:
    with pytest.raises(BadConfig, match="metrics"):
        check(Config(metrics="9090"))
