"""Fetching from a machine that is not trusted: answers that are slow, huge, wrong or elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import pytest

from warren.edge.fetch import MAX_BODY_BYTES, FetchFailed, fetch
from warren.netmap.endpoint import Endpoint

LOOPBACK = IPv4Address("127.0.0.1")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Endpoint]:
    """Serve each connection with `handler` on a loopback port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, str(LOOPBACK), 0)
    async with server:
        yield Endpoint(LOOPBACK, server.sockets[0].getsockname()[1])


def saying(*pieces: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return handler


async def test_get_and_post() -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(4) if head.startswith(b"POST") else b""
        seen.append(head + body)
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nfault")

    async with serving(handler) as server:
        assert await fetch(server, "GET", "/d?x=1", limit_s=5) == (500, b"fault")
        headers = [("soapaction", '"a#b"')]
        assert await fetch(server, "POST", "/c", headers, b"body", limit_s=5) == (500, b"fault")
    assert seen[0].startswith(b"GET /d?x=1 HTTP/1.1\r\n")
    assert f"host: {server}\r\n".encode() in seen[0].lower()
    assert b'"a#b"' in seen[1] and seen[1].endswith(b"\r\n\r\nbody")


async def test_bodies_of_every_framing() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    for answer in (chunked, b"HTTP/1.0 200 OK\r\n\r\nabc", b"HTTP/1.1 200 OK\n\nabc"):
        async with serving(saying(answer)) as server:
            assert await fetch(server, "GET", "/", limit_s=5) == (200, b"abc")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-dropbear\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"\x00" * 100_000,
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    ],
    ids=["nothing", "ssh", "short", "negative", "long head", "zeros", "upgrade"],
)
async def test_what_is_not_http(answer: bytes) -> None:
    async with serving(saying(answer)) as server:
        with pytest.raises(FetchFailed):
            await fetch(server, "GET", "/", limit_s=5)


async def test_a_body_without_end() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    async with serving(saying(head, *[bytes(65536)] * 1000)) as server:
        with pytest.raises(FetchFailed, match=str(MAX_BODY_BYTES)):
            await fetch(server, "GET", "/", limit_s=5)


async def test_a_server_that_says_little_for_long() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async with serving(handler) as server:
        began = time.monotonic()
        with pytest.raises(FetchFailed, match=r"0\.3 s"):
            await fetch(server, "GET", "/", limit_s=0.3)
        assert time.monotonic() - began < 4


async def test_nobody_there() -> None:
    async with serving(saying(b"")) as server:
        pass
    with pytest.raises(FetchFailed, match="refused"):
        await fetch(server, "GET", "/", limit_s=5)


@pytest.mark.parametrize(
    "target", ["http://192.0.2.1/x", "https://127.0.0.1/", "file:///etc/passwd", "//[", ""]
)
async def test_redirects_elsewhere_are_not_followed(target: str) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
    async with serving(saying(answer)) as server:
        with pytest.raises(FetchFailed, match="redirects"):
            await fetch(server, "GET", "/", limit_s=5)


async def test_redirects_on_the_same_machine() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /new?a=b "):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        else:
            writer.write(b"HTTP/1.1 301 x\r\nLocation: /new?a=b\r\nContent-Length: 0\r\n\r\n")

    async with serving(handler) as server:
        assert await fetch(server, "GET", "/old", limit_s=5) == (200, b"ok")
        assert (await fetch(server, "POST", "/old", limit_s=5)).status == 301
