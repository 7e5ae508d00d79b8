"""One request and its answer: who keeps a connection, and whom nobody waits for."""

from __future__ import annotations

import asyncio
import secrets
import socket

import httpx
import pytest
from coordinator_machine import http_get
from coordinator_server import Running
from coordinator_world import machine_key
from test_server import upgrade

from warren.control.handshake import Initiator
from warren.coordinator import exchange
from warren.edge import http as edge_http

SLOW = b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
LARGE = b"GET /api/v2/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"


async def is_over(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(10):
            while await reader.read(1 << 16):
                pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("tls", [False, True])
async def test_a_connection_is_kept(running: Running, tls: bool) -> None:
    """Pages, refusals with and without a body read, and small answers, all on one connection."""
    base = f"https://127.0.0.1:{running.tls}" if tls else f"http://127.0.0.1:{running.http}"
    networks = set()
    async with httpx.AsyncClient(base_url=base, verify=False) as client:
        for method, path, body, status in (
            ("GET", "/", b"", 200),
            ("GET", "/api/v2/openapi.json", b"", 200),
            ("POST", "/api/v2/tailnet/-/acl", b"x" * 500_000, 401),
            ("POST", "/verify", b"{", 400),
            ("GET", "/healthz", b"", 200),
            ("GET", "/nothing", b"", 404),
        ):
            answer = await client.request(method, path, content=body)
            assert answer.status_code == status, path
            networks.add(id(answer.extensions["network_stream"]))
    assert len(networks) == 1


async def test_an_upgrade_comes_after_a_page(running: Running) -> None:
    server = running.server._identity.noise.public()
    message = Initiator(machine_key("a"), server, 113, secrets.token_bytes(32)).message()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.http)
    writer.write(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n" + upgrade(message))
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        while not (line := await reader.readline()).startswith(b"Disallow"):
            assert line
        assert (await reader.readline()).startswith(b"HTTP/1.1 101")
    writer.close()


@pytest.mark.parametrize("request_", [SLOW, LARGE * 4], ids=["no body", "nobody reads"])
async def test_strangers_do_not_keep_others_out(running: Running, request_: bytes) -> None:
    ends = []
    for _ in range(600):
        sock = socket.socket()
        # So that the server's end is full after one answer, and not after megabytes.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", running.http))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1)
        writer.transport.pause_reading()
        writer.write(request_)
        ends.append((reader, writer))
    await asyncio.sleep(0.5)
    assert (await http_get(running.http, "/robots.txt"))[0] == 200
    for _, writer in ends:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("place", "name", "request_"),
    [
        (exchange, "BODY_TIMEOUT_S", SLOW),
        (exchange, "TAKE_TIMEOUT_S", LARGE * 200),
        (edge_http, "HEAD_TIMEOUT_S", b"GET / HTTP/1.1\r\n"),
        (edge_http, "HEAD_TIMEOUT_S", b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
    ids=["a body", "a reader", "a head", "another request"],
)
async def test_nobody_is_waited_for_without_end(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    place: object,
    name: str,
    request_: bytes,
) -> None:
    monkeypatch.setattr(place, name, 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.http, limit=1)
    if name == "TAKE_TIMEOUT_S":
        writer.transport.pause_reading()
    writer.write(request_)
    await asyncio.sleep(0.6)
    if name == "TAKE_TIMEOUT_S":
        writer.transport.resume_reading()
    assert await is_over(reader)
    assert (await http_get(running.http, "/robots.txt"))[0] == 200
