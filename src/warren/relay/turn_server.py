"""TURN on real sockets: UDP, TCP and TLS towards clients, a UDP socket for each relayed address.

All decisions are those of `warren.nat.turn.server`; here are only sockets and timers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, cast

import structlog

from warren.edge.entropy import Entropy
from warren.nat.stun import MalformedStun
from warren.nat.turn.allocation import CloseRelay, Flow, OpenRelay, ToClient, Transport
from warren.nat.turn.events import IPAddress
from warren.nat.turn.framing import TurnStream
from warren.nat.turn.server import TurnServer
from warren.netmap.endpoint import Endpoint

_log = structlog.get_logger("turn")

MAX_STREAMS = 2000
# A connection that has no allocation for so long is closed.
IDLE_S = 60.0
# What a client may leave unread before data for it is dropped.
CLIENT_BUFFER_BYTES = 256 * 1024
FIRST_PORT, LAST_PORT = 49152, 65535
_PORT_TRIES = 50
# Datagrams that one relayed address may bring in a row before others have their turn.
_BATCH = 32
_MAX_DATAGRAM_BYTES = 1 << 16
_RELAY_BUFFER_BYTES = 512 * 1024


@dataclass(frozen=True)
class RelayAddress:
    """Where relay sockets are bound, and what peers are to send to (another one behind a NAT)."""

    bind: IPAddress
    advertised: IPAddress


class TurnService:
    """One machine and its sockets: `serve_datagrams`, and `stream` for each TCP connection.

    `relays`: by family, 4 and 6; the machine's settings hold the same advertised addresses.
    """

    def __init__(
        self,
        machine: TurnServer,
        relays: Mapping[int, RelayAddress],
        entropy: Entropy,
        ports: tuple[int, int] = (FIRST_PORT, LAST_PORT),
    ) -> None:
        self.machine = machine
        self._relays = dict(relays)
        self._entropy = entropy
        self._ports = ports
        self._sockets: dict[Endpoint, socket.socket] = {}
        self._writers: dict[Flow, Callable[[bytes], None]] = {}
        self._datagrams: dict[int, socket.socket] = {}
        self._listeners = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def serve_datagrams(self, sock: socket.socket) -> None:
        """Serve clients on a bound, non-blocking UDP socket; it is closed by `close`."""
        self._listeners += 1
        self._datagrams[self._listeners] = sock
        loop = asyncio.get_running_loop()
        loop.add_reader(sock, self._client_readable, self._listeners, sock)

    def stream(self, transport: Transport) -> asyncio.Protocol:
        """Return a protocol for one connection of a client, TCP or TLS."""
        self._listeners += 1
        return _Stream(self, transport, self._listeners)

    def close(self) -> None:
        """Close all UDP sockets; listening TCP sockets and connections are their owner's."""
        self._closed = True
        for sock in self._datagrams.values():
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._datagrams.clear()
        if self._timer is not None:
            self._timer.cancel()
        for relayed in list(self._sockets):
            self._close_relay(relayed)

    # Called by the protocols.

    def joined(self, flow: Flow, write: Callable[[bytes], None]) -> bool:
        """A connection is there; False: there are too many."""
        if self._closed or len(self._writers) >= MAX_STREAMS:
            return False
        self._writers[flow] = write
        return True

    def left(self, flow: Flow) -> None:
        """A connection is gone."""
        if self._writers.pop(flow, None) is not None:
            self.machine.gone(flow)
            self._pump()

    def receive(self, flow: Flow, data: bytes) -> None:
        """Take one message of a client."""
        if self._closed:
            return
        self.machine.receive(flow, data, asyncio.get_running_loop().time())
        self._pump()

    # Sockets of relayed addresses.

    def _pump(self) -> None:
        """Do what the machine wants done, until it wants nothing more."""
        machine = self.machine
        while True:
            event = machine.poll_event()
            if isinstance(event, OpenRelay):
                opened = self._open_relays(event)
                machine.relay_opened(event.ticket, opened, asyncio.get_running_loop().time())
            elif isinstance(event, CloseRelay):
                self._close_relay(event.relayed)
            elif (out := machine.poll_transmit()) is None:
                break
            elif isinstance(out, ToClient):
                self._to_client(out.flow, out.data)
            else:
                self._to_peer(out.relayed, out.peer, out.data)
        due = machine.next_timeout()
        if due is not None and self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.machine.handle_timeout(asyncio.get_running_loop().time())
        self._pump()

    def _open_relays(self, wish: OpenRelay) -> list[Endpoint]:
        opened: list[Endpoint] = []
        for family in wish.families:
            relay = self._relays.get(family)
            sockets = [] if relay is None else self._bind(relay, wish.even, wish.reserve)
            for sock in sockets:
                assert relay is not None
                relayed = Endpoint(relay.advertised, sock.getsockname()[1])
                self._sockets[relayed] = sock
                asyncio.get_running_loop().add_reader(sock, self._readable, relayed, sock)
                opened.append(relayed)
        return opened

    def _bind(self, relay: RelayAddress, even: bool, pair: bool) -> list[socket.socket]:
        """Return a socket on a random port, and with `pair` one on the next; else nothing."""
        first, last = self._ports
        for _ in range(_PORT_TRIES):
            port = first + int.from_bytes(self._entropy(4), "big") % (last - first + 1)
            port -= port % 2 if even else 0
            wanted = [port, port + 1] if pair else [port]
            if not all(first <= one <= last for one in wanted):
                continue
            made: list[socket.socket] = []
            try:
                for one in wanted:
                    made.append(_udp_socket(relay.bind, one))
            except OSError:
                for sock in made:
                    sock.close()
            else:
                return made
        _log.warning("no port is free for a relayed address", first=first, last=last)
        return []

    def _close_relay(self, relayed: Endpoint) -> None:
        sock = self._sockets.pop(relayed, None)
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    def _readable(self, relayed: Endpoint, sock: socket.socket) -> None:
        now = asyncio.get_running_loop().time()
        for _ in range(_BATCH):
            try:
                data, source = sock.recvfrom(_MAX_DATAGRAM_BYTES)
            except OSError:
                break  # nothing more; or an ICMP error, which the client can do nothing about
            peer = _endpoint(source)
            self.machine.receive_from_peer(relayed, peer, data, now)
            if self._sockets.get(relayed) is not sock:
                break
        self._pump()

    def _client_readable(self, listener: int, sock: socket.socket) -> None:
        now = asyncio.get_running_loop().time()
        for _ in range(_BATCH):
            try:
                data, source = sock.recvfrom(_MAX_DATAGRAM_BYTES)
            except OSError:
                break
            flow = Flow(Transport.UDP, _endpoint(source), listener)
            self.machine.receive(flow, data, now)
        self._pump()

    def _to_peer(self, relayed: Endpoint, peer: Endpoint, data: bytes) -> None:
        self._send(self._sockets.get(relayed), peer, data)

    def _to_client(self, flow: Flow, data: bytes) -> None:
        if flow.transport is Transport.UDP:
            self._send(self._datagrams.get(flow.listener), flow.client, data)
        elif flow in self._writers:
            self._writers[flow](data)

    def _send(self, sock: socket.socket | None, to: Endpoint, data: bytes) -> None:
        try:
            if sock is not None:
                sock.sendto(data, (str(to.ip), to.port))
        except OSError:
            self.machine.counters.dropped_full += 1  # no room, too long, or no way there


class _Stream(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, service: TurnService, kind: Transport, number: int) -> None:
        self._service = service
        self._kind = kind
        self._number = number
        self._messages = TurnStream()
        self._transport: asyncio.Transport | None = None
        self._flow: Flow | None = None
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is room."""
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        if not name:
            self._transport.abort()  # it is gone already
            return
        client = _endpoint(name)
        flow = Flow(self._kind, client, self._number)
        if not self._service.joined(flow, self._write):
            self._transport.abort()
            return
        self._flow = flow
        self._look_later()

    def data_received(self, data: bytes) -> None:
        """Cut the stream into messages; one that is neither STUN nor ChannelData ends it."""
        if self._flow is None or self._transport is None:
            return
        try:
            found = self._messages.receive(data)
        except MalformedStun:
            self._service.machine.counters.malformed += 1
            self._transport.abort()
            return
        for message in found:
            self._service.receive(self._flow, message)

    def eof_received(self) -> bool:
        """A stream that ends is over in both directions."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The allocation goes with its connection."""
        self._transport = None
        if self._idle is not None:
            self._idle.cancel()
        if self._flow is not None:
            self._service.left(self._flow)

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > CLIENT_BUFFER_BYTES:
            self._service.machine.counters.dropped_full += 1
            return
        transport.write(data)

    def _look_later(self) -> None:
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._look)

    def _look(self) -> None:
        if self._flow is not None and self._flow not in self._service.machine:
            if self._transport is not None:
                self._transport.abort()
            return
        self._look_later()


def _endpoint(source: tuple[Any, ...]) -> Endpoint:
    return Endpoint.of(ip_address(str(source[0]).partition("%")[0]), int(source[1]))


def _udp_socket(ip: IPAddress, port: int) -> socket.socket:
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if ip.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RELAY_BUFFER_BYTES)
        sock.bind((str(ip), port))
    except OSError:
        sock.close()
        raise
    return sock
