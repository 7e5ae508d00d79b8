"""SOCKS5 (RFC 1928) and HTTP CONNECT (RFC 9110 §9.3.6) on one loopback port, for userspace mode.

Only the handshake is read here, byte by byte as far as it goes and no further; then the socket
itself is handed to the engine, so that no payload enters the interpreter.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address

import structlog

from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.node.dialing import Dialer, DialFailed

HANDSHAKE_TIMEOUT_S = 10.0
DIAL_TIMEOUT_S = 20.0
CLIENTS_MAX = 256
_HEAD_MAX_BYTES = 8 * 1024
_SOCKS_VERSION = 5
_OK, _GENERAL_FAILURE, _HOST_UNREACHABLE, _NOT_SUPPORTED, _BAD_ADDRESS = 0, 1, 4, 7, 8

log = structlog.get_logger(__name__)


class ProxyProblem(Exception):
    """The proxy cannot listen. The text is one sentence with the way out."""


class _Broken(Exception):
    """The client does not speak either protocol, or went away."""


def listen_proxy(address: str, *, fall_back: bool) -> socket.socket:
    """Listen on a loopback `ip:port`; `fall_back`: take any port if that one is busy.

    Raises ProxyProblem.
    """
    try:
        endpoint = Endpoint.parse(address)
    except MalformedEndpoint as error:
        raise ProxyProblem(f"--proxy takes an address like 127.0.0.1:1055: {error}.") from error
    if not endpoint.ip.is_loopback:
        raise ProxyProblem("The proxy listens on loopback only: it asks nobody for a password.")
    family = socket.AF_INET if endpoint.is_v4 else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listener.bind((str(endpoint.ip), endpoint.port))
        except OSError as error:
            if not fall_back or error.errno != errno.EADDRINUSE:
                raise
            listener.bind((str(endpoint.ip), 0))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise ProxyProblem(
            f"The proxy cannot listen on {address} ({(error.strerror or '').lower()}); "
            "choose another place with --proxy IP:PORT, or --proxy none."
        ) from error
    return listener


class ProxyServer:
    """Serves clients of a listening socket; `find` gives the address of a machine's name."""

    def __init__(
        self, listener: socket.socket, dialer: Dialer, find: Callable[[str], str | None]
    ) -> None:
        self._listener = listener
        self._dialer = dialer
        self._find = find
        self._clients = 0
        host, port = listener.getsockname()[:2]
        self._address = str(Endpoint.of(ip_address(host), port))

    @property
    def address(self) -> str:
        """Where the proxy listens."""
        return self._address

    async def run(self) -> None:
        """Accept clients until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    client, _ = await loop.sock_accept(self._listener)
                    client.setblocking(False)
                    if self._clients >= CLIENTS_MAX:
                        client.close()
                        continue
                    self._clients += 1
                    tasks.create_task(self._serve(client), name="proxy-client")
        finally:
            self._listener.close()

    async def _serve(self, client: socket.socket) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S + DIAL_TIMEOUT_S):
                first = await _peek(client)
                if first[0] == _SOCKS_VERSION:
                    await self._serve_socks(client)
                else:
                    await self._serve_http(client)
        except (_Broken, OSError, TimeoutError):
            pass
        finally:
            self._clients -= 1
            client.close()

    async def _serve_socks(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = await _read(client, 2)
        methods = await _read(client, head[1])
        if 0 not in methods:
            await loop.sock_sendall(client, b"\x05\xff")
            return
        await loop.sock_sendall(client, b"\x05\x00")
        _, command, _, kind = await _read(client, 4)
        if kind == 1:
            host = str(ip_address(await _read(client, 4)))
        elif kind == 4:
            host = str(ip_address(await _read(client, 16)))
        elif kind == 3:
            size = (await _read(client, 1))[0]
            host = (await _read(client, size)).decode("ascii", "replace")
        else:
            await self._answer_socks(client, _BAD_ADDRESS)
            return
        (port,) = struct.unpack("!H", await _read(client, 2))
        if command != 1:
            await self._answer_socks(client, _NOT_SUPPORTED)
            return
        try:
            number = await self._dial(host, port)
        except DialFailed:
            await self._answer_socks(client, _HOST_UNREACHABLE)
            return
        await self._join(client, number, b"\x05\x00\x00\x01" + bytes(6))

    async def _answer_socks(self, client: socket.socket, code: int) -> None:
        reply = bytes([_SOCKS_VERSION, code, 0, 1]) + bytes(6)
        await asyncio.get_running_loop().sock_sendall(client, reply)

    async def _serve_http(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = await _read_head(client)
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise _Broken
        if parts[0] != "CONNECT":
            text = "This proxy only does CONNECT (curl: --proxytunnel) and SOCKS5.\n"
            await loop.sock_sendall(client, _http_reply("405 Method Not Allowed", text))
            return
        host, _, digits = parts[1].rpartition(":")
        if not host or not digits.isdecimal() or not 0 < int(digits) < 65536:
            reply = _http_reply("400 Bad Request", "CONNECT takes host:port.\n")
            await loop.sock_sendall(client, reply)
            return
        try:
            number = await self._dial(host.strip("[]"), int(digits))
        except DialFailed as error:
            await loop.sock_sendall(client, _http_reply("502 Bad Gateway", f"{error}.\n"))
            return
        await self._join(client, number, b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def _dial(self, host: str, port: int) -> int:
        """Connect inside the network; names are those of machines. Raises DialFailed."""
        try:
            address = str(ip_address(host))
        except ValueError:
            found = self._find(host)
            if found is None:
                raise DialFailed(f"there is no machine {host[:80]!r} in this network") from None
            address = found
        return await self._dialer.dial(str(Endpoint.of(ip_address(address), port)), DIAL_TIMEOUT_S)

    async def _join(self, client: socket.socket, number: int, reply: bytes) -> None:
        """Say that it works, then give the socket away."""
        try:
            await asyncio.get_running_loop().sock_sendall(client, reply)
            fd = os.dup(client.fileno())
        except BaseException:
            self._dialer.hang_up(number)
            raise
        self._dialer.splice(number, fd)


async def _read(client: socket.socket, size: int) -> bytes:
    """Read exactly so much: what follows belongs to the engine."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(client, size - len(data))
        if not piece:
            raise _Broken
        data += piece
    return data


async def _peek(client: socket.socket) -> bytes:
    """Wait until something can be read, and look at it without taking it."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(client.fileno(), on_readable)
    try:
        await ready
    finally:
        loop.remove_reader(client.fileno())
    data = client.recv(_HEAD_MAX_BYTES, socket.MSG_PEEK)
    if not data:
        raise _Broken
    return data


async def _read_head(client: socket.socket) -> bytes:
    """Read a request head up to its blank line, and not a byte more."""
    head = b""
    while len(head) < _HEAD_MAX_BYTES:
        data = await _peek(client)
        end = (head + data).find(b"\r\n\r\n")
        if end >= 0:
            return head + await _read(client, end + 4 - len(head))
        # Without the blank line everything so far is head, so it may be taken.
        head += await _read(client, len(data))
    raise _Broken


def _http_reply(status: str, text: str) -> bytes:
    body = text.encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
