"""`warren relay` as a program: what it tells those who watch it, and what --check finds out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_relay import Client

from warren.lab.ports import free_port

MAIN = [sys.executable, "-m", "warren", "relay"]


class Coordinator(BaseHTTPRequestHandler):
    """Lets nobody in whose key ends so; counts connections."""

    protocol_version = "HTTP/1.1"
    connections = 0
    status = 200
    asked: ClassVar[list[Any]] = []

    def setup(self) -> None:
        super().setup()
        Coordinator.connections += 1

    def do_POST(self) -> None:
        Coordinator.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        body = json.dumps({"Allow": len(Coordinator.asked) < 4}).encode()
        self.send_response(Coordinator.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def coordinator() -> Iterator[str]:
    Coordinator.connections, Coordinator.status, Coordinator.asked = 0, 200, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Coordinator)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f" {label}" for label in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_relay_is_watched(tmp_path: Path, coordinator: str) -> None:
    port, watch = free_port(), free_port()
    program = subprocess.Popen(
        [*MAIN, "--server", coordinator, "--no-fail-open", "--host", "127.0.0.1", *(
            "--listen", f"127.0.0.1:{free_port()}", "--http", f"127.0.0.1:{port}",
            "--stun", "off", "--metrics", f"127.0.0.1:{watch}", "--state", str(tmp_path / "relay"),
        )],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    at = f"http://127.0.0.1:{watch}"
    try:
        assert program.stdout is not None and "{" in program.stdout.readline()
        assert get(f"{at}/healthz")[0] == get(f"{at}/readyz")[0] == 200
        before = samples(get(f"{at}/metrics")[1].decode())
        assert before["warren_relay_clients"] == before["warren_relay_packets_total"] == 0
        assert (
            before["warren_certificate_expiry_timestamp_seconds"]
            > before["process_start_time_seconds"]
        )
        clients = [await Client(name).connect(port) for name in ("a", "b", "c")]
        with pytest.raises(ConnectionError):
            await Client("d").connect(port)
        now = samples(get(f"{at}/metrics")[1].decode())
        assert now["warren_relay_clients"] == now["warren_relay_admissions_total allowed"] == 3
        assert now["warren_relay_admissions_total denied"] == 1
        assert now["warren_relay_refused_clients_total"] == 1
        assert Coordinator.connections == 1, "it asks over one connection"
        Coordinator.status = 500
        with pytest.raises(ConnectionError):
            await Client("e").connect(port)
        status, told = get(f"{at}/readyz")
        assert status == 503 and "status 500" in json.loads(told)["reason"]
        assert get(f"{at}/nothing")[0] == 404
        for client in clients:
            await client.close()
    finally:
        program.terminate()
        program.wait(20)


def test_check(tmp_path: Path, coordinator: str) -> None:
    state = tmp_path / "relay"

    def check(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MAIN, "--check", "--host", "127.0.0.1", "--state", str(state), *args],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip

    good = check("--server", coordinator)
    assert good.returncode == 0 and "are good" in good.stdout and not state.exists()
    assert len(Coordinator.asked) == 1
    Coordinator.status = 404
    for args, said in (
        (("--server", coordinator), "status 404"),
        (("--server", "http://127.0.0.1:1"), "cannot connect"),
        (("--server", "any", "--metrics", "x"), "metrics is 'x'"),
        (("--server", "any", "--tls", "files", "--tls-cert", "x", "--tls-key", "y"), "x"),
    ):
        bad = check(*args)
        assert bad.returncode == 1 and said in bad.stderr, args
        assert bad.stderr.count("\n") == 1, "one sentence"
