"""TCP and TLS on one port for TURN: the first byte of a connection tells which it is.

A TLS connection begins with a handshake record (22), a TURN one with a STUN message (0 to 3).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from warren.edge.entropy import Entropy
from warren.edge.listen import PortProblem, listen_tcp, listen_udp
from warren.nat.turn.allocation import Transport, TurnSettings
from warren.nat.turn.credentials import Accounts
from warren.nat.turn.reach import Reach
from warren.nat.turn.server import TurnServer
from warren.netmap.endpoint import Endpoint
from warren.relay.turn_server import RelayAddress, TurnService

_log = structlog.get_logger("turn")

FIRST_BYTE_S = 10.0
TLS_HANDSHAKE_S = 10.0
# Connections that have not said yet what they are.
MAX_ARRIVING = 500
_TLS_HANDSHAKE = 0x16
_LAST_STUN = 0x03
# When the process has no file descriptor left, accepting is tried again so much later.
_PAUSE_S = 0.2


class TurnDoors:
    """The listening TCP sockets of a TURN server. `run` serves them until it is cancelled."""

    def __init__(
        self, service: TurnService, sockets: Sequence[socket.socket], context: ssl.SSLContext | None
    ) -> None:
        self._service = service
        self._sockets = tuple(sockets)
        self._context = context
        self._arriving = 0

    async def run(self) -> None:
        """Accept connections, and hand each to the service; close the sockets at the end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for sock in self._sockets:
                    tasks.create_task(self._accept(sock, tasks))
        finally:
            for sock in self._sockets:
                sock.close()

    async def _accept(self, sock: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(sock)
            except OSError as error:
                _log.warning("a connection could not be accepted", error=str(error))
                await asyncio.sleep(_PAUSE_S)
                continue
            if self._arriving >= MAX_ARRIVING:
                connection.close()
                continue
            self._arriving += 1
            tasks.create_task(self._welcome(connection))

    async def _welcome(self, connection: socket.socket) -> None:
        taken = False
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(FIRST_BYTE_S):
                first = await _peek(connection)
            tls = first == _TLS_HANDSHAKE and self._context is not None
            if not tls and (first is None or first > _LAST_STUN):
                self._service.machine.counters.malformed += first is not None
                return
            kind = Transport.TLS if tls else Transport.TCP
            taken = True
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._service.stream(kind),
                connection,
                ssl=self._context if tls else None,
                ssl_handshake_timeout=TLS_HANDSHAKE_S if tls else None,
            )
        except (OSError, TimeoutError):
            pass  # it went away, or its TLS is none; ssl.SSLError is an OSError
        finally:
            self._arriving -= 1
            if not taken:
                connection.close()


async def _peek(connection: socket.socket) -> int | None:
    """Return the first byte without taking it; None where the connection ends before."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    data = connection.recv(1, socket.MSG_PEEK)
    return data[0] if data else None


class TurnSite(NamedTuple):
    """A TURN server that listens: close its service, and run its doors, at most once each."""

    service: TurnService
    doors: TurnDoors

    def counts(self) -> dict[str, int]:
        """Return the counters by name, with `turn_` before them."""
        machine = self.service.machine
        found = {f"turn_{name}": count for name, count in machine.counters.as_dict().items()}
        return found | {"turn_allocations": len(machine)}


def open_turn(
    places: Sequence[Endpoint],
    realm: str,
    accounts: Accounts,
    reach: Reach,
    context: ssl.SSLContext | None,
    entropy: Entropy,
) -> TurnSite:
    """Listen at public addresses of this machine, one of a family; relay from the same ones.

    Raises PortProblem.
    """
    ips = {place.ip.version: place.ip for place in places}
    settings = TurnSettings(realm, frozenset(ips.values()))
    now = asyncio.get_running_loop().time()
    machine = TurnServer(settings, accounts, reach, entropy, now)
    relays: dict[int, RelayAddress] = {version: RelayAddress(ip, ip) for version, ip in ips.items()}
    service = TurnService(machine, relays, entropy)
    streams: list[socket.socket] = []
    try:
        for place in places:
            for sock in listen_udp(str(place.ip), place.port, "--turn"):
                service.serve_datagrams(sock)
            streams += listen_tcp(str(place.ip), place.port, "--turn")
    except PortProblem:
        service.close()
        for sock in streams:
            sock.close()
        raise
    return TurnSite(service, TurnDoors(service, streams, context))
