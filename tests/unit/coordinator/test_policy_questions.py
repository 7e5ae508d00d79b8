"""Who only looks at policies, however large, holds nobody up: it is done beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from api_office import Office
from test_every_change_is_audited import admin_socket

from warren.coordinator import policies, policy_edits
from warren.coordinator.api import policy_file
from warren.coordinator.policies import may_tag, set_policy

ACL = "/tailnet/-/acl"
POLICY = '{"tagOwners": {"tag:web": ["ann@"]}, "grants": []}'


@pytest.mark.parametrize(
    ("method", "path", "where", "name"),
    [
        ("POST", f"{ACL}/validate", policies, "check_policy"),
        ("POST", f"{ACL}/preview?type=user&previewFor=ann", policy_file, "read_policy"),
        ("GET", ACL, policy_file, "parse_hujson_untrusted"),
        ("POST", ACL, policies, "check_and_compile"),
    ],
)
async def test_beside_the_loop(
    office: Office, monkeypatch: pytest.MonkeyPatch, method: str, path: str, where: Any, name: str
) -> None:
    work, threads = getattr(where, name), set()

    def noted(*given: Any) -> Any:
        threads.add(threading.current_thread())
        return work(*given)

    monkeypatch.setattr(where, name, noted)
    content = POLICY.encode() if method == "POST" else b""
    answer = await office.ask(method, path, content=content, headers={"accept": "application/json"})
    assert answer.status_code == 200, answer.text
    assert threads and threading.main_thread() not in threads


async def test_on_the_socket_too(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    threads = []
    monkeypatch.setattr(
        policies, "check_policy", lambda *_: threads.append(threading.current_thread())
    )
    transport = httpx.ASGITransport(admin_socket(office))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        answer = await http.post("/v1/policy/check", json={"text": POLICY})
    assert answer.status_code == 200 and threads != [threading.main_thread()]


async def test_one_at_a_time_and_not_without_end(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, most, go_on = 0, 0, threading.Event()
    lock = threading.Lock()

    def slow(*_: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        go_on.wait(10)
        with lock:
            now -= 1

    monkeypatch.setattr(policies, "check_policy", slow)

    async def look() -> Any:
        answer = await office.ask("POST", f"{ACL}/validate", content=POLICY.encode())
        if answer.status_code != 200:
            go_on.set()
        return answer

    answers = await asyncio.gather(*(look() for _ in range(policy_edits.MAX_WAITING + 2)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert [answer.status_code for answer in refused] == [503, 503]
    assert int(refused[0].headers["retry-after"]) > 0
    assert "ask again" in refused[0].json()["message"]
    assert most == 1
    assert (await look()).status_code == 200


async def test_the_policy_in_force_stays_read_whatever_is_looked_at(office: Office) -> None:
    wall = office.world.clock.wall()
    await office.registry.commit(lambda now: (set_policy(now, POLICY, "", wall), None))
    assert may_tag(office.registry.snapshot, office.owner, "tag:web")
    before = policies._stored.cache_info()
    for number in range(5):
        text = f'{{"grants": [], "hosts": {{"h{number}": "10.0.0.1"}}}}'
        await office.told("POST", f"{ACL}/validate", content=text.encode())
    assert may_tag(office.registry.snapshot, office.owner, "tag:web")
    after = policies._stored.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)
