"""SOCKS5 and HTTP CONNECT: the handshake, and not a byte more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from warren.engine.commands import AnyCommand, Dial, Hangup, Splice
from warren.engine.events import Dialed
from warren.node.dialing import Dialer
from warren.node.proxy import ProxyProblem, ProxyServer, listen_proxy


class Tunnel:
    """An engine that connects to everything but port 1, and echoes what a splice brings."""

    def __init__(self) -> None:
        self.dialer = Dialer(self)  # type: ignore[arg-type]
        self.dialed: list[str] = []
        self.hung_up: list[int] = []
        self.silent = False

    def apply(self, commands: Sequence[AnyCommand], generation: int = 0) -> None:
        for command in commands:
            if isinstance(command, Dial):
                self.dialed.append(command.to)
                if not self.silent:
                    error = "refused" if command.to.endswith(":1") else ""
                    loop = asyncio.get_running_loop()
                    loop.call_soon(self.dialer.finish, Dialed(id=command.id, error=error))
            elif isinstance(command, Splice):
                with socket.socket(fileno=command.fd) as joined:
                    joined.setblocking(True)
                    joined.settimeout(1)
                    joined.sendall(b"<" + joined.recv(100) + b">")
            elif isinstance(command, Hangup):
                self.hung_up.append(command.id)


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[Tunnel, ProxyServer]]:
    tunnel = Tunnel()
    listener = listen_proxy("127.0.0.1:0", fall_back=False)
    server = ProxyServer(listener, tunnel.dialer, {"box": "100.64.0.2"}.get)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.run())
        yield tunnel, server
        running.cancel()


async def say(server: ProxyServer, *parts: bytes) -> bytes:
    """Send parts with a pause after each, and return all that comes back."""
    host, port = server.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.03)
        with suppress(OSError):
            writer.write_eof()
        async with asyncio.timeout(5):
            return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()


OK = b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6)


@pytest.mark.parametrize(
    ("address", "to"),
    [
        (b"\x01\x64\x40\x00\x02", "100.64.0.2:80"),
        (b"\x03\x03box", "100.64.0.2:80"),
        (b"\x04" + bytes(15) + b"\x01", "[::1]:80"),
    ],
)
async def test_socks(proxy: tuple[Tunnel, ProxyServer], address: bytes, to: str) -> None:
    tunnel, server = proxy
    request = b"\x05\x01\x00" + address + b"\x00\x50"
    # The payload follows in the same segment: it must be left for the engine.
    assert await say(server, b"\x05\x01\x00", request + b"payload") == OK + b"<payload>"
    assert tunnel.dialed == [to]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"\x05\x01\x00\x03\x06nobody\x00\x50", 4),
        (b"\x05\x01\x00\x03\x03box\x00\x01", 4),
        (b"\x05\x02\x00\x03\x03box\x00\x50", 7),
        (b"\x05\x01\x00\x09", 8),
    ],
)
async def test_socks_refusals(
    proxy: tuple[Tunnel, ProxyServer], request_: bytes, code: int
) -> None:
    answer = await say(proxy[1], b"\x05\x01\x00", request_)
    assert answer[2:4] == bytes([5, code])


async def test_socks_with_a_password_only(proxy: tuple[Tunnel, ProxyServer]) -> None:
    assert await say(proxy[1], b"\x05\x01\x02") == b"\x05\xff"


async def test_connect(proxy: tuple[Tunnel, ProxyServer]) -> None:
    tunnel, server = proxy
    answer = await say(server, b"CONNECT box:22 HTTP/1.1\r\n", b"Host: box\r\n\r\npayload")
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n<payload>"
    assert tunnel.dialed == ["100.64.0.2:22"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://box/ HTTP/1.1\r\n\r\n", b"405"),
        (b"CONNECT box HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT box:x HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT box:99999 HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT nobody:1 HTTP/1.1\r\n\r\n", b"502"),
        (b"CONNECT box:1 HTTP/1.1\r\n\r\n", b"502"),
    ],
)
async def test_http_refusals(
    proxy: tuple[Tunnel, ProxyServer], request_: bytes, status: bytes
) -> None:
    assert (await say(proxy[1], request_)).split(b" ")[1] == status


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\x05", b"\x05\x01", b"\x05\x01\x00\x05\x01", b"\x04\x01", b"x" * 20_000, b"\r\n\r\n"],
)
async def test_garbage_ends_quietly(proxy: tuple[Tunnel, ProxyServer], garbage: bytes) -> None:
    tunnel, server = proxy
    await say(server, garbage)
    assert tunnel.dialed == []
    assert (await say(server, b"CONNECT box:22 HTTP/1.1\r\n\r\nx")).endswith(b"<x>")


async def test_a_client_that_goes_away_hangs_up(proxy: tuple[Tunnel, ProxyServer]) -> None:
    tunnel, server = proxy
    tunnel.silent = True
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(tunnel.dialer.dial("100.64.0.2:80", 5))
        await asyncio.sleep(0)
        waiting.cancel()
    assert tunnel.hung_up == [1]
    tunnel.dialer.finish(Dialed(id=1))
    assert tunnel.hung_up == [1, 1], "an answer that comes too late is hung up"
    assert server.address


def test_where_it_listens() -> None:
    with pytest.raises(ProxyProblem, match="loopback only"):
        listen_proxy("0.0.0.0:1055", fall_back=False)
    with pytest.raises(ProxyProblem, match="takes an address"):
        listen_proxy("here", fall_back=False)
    first = listen_proxy("127.0.0.1:0", fall_back=False)
    taken = f"127.0.0.1:{first.getsockname()[1]}"
    with pytest.raises(ProxyProblem, match=r"--proxy"):
        listen_proxy(taken, fall_back=False)
    second = listen_proxy(taken, fall_back=True)
    assert second.getsockname() != first.getsockname()
    first.close()
    second.close()
