"""Keeps one allocation at one of several TURN servers for a node.

Servers are tried in the order given, each with a short head start on the next, as addresses are in
RFC 8305: the first one that serves is used, and the others are left. One that refuses is left alone
for a while. New credentials are used on the allocation that is there, and on a new one where the
server insists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from warren.nat.turn.allocation import Transport
from warren.nat.turn.client import TurnClient
from warren.nat.turn.credentials import Credentials
from warren.nat.turn.events import Allocated, Cause, Event, Failed, IPAddress, Lost, Released
from warren.nat.votes import is_plausible
from warren.netmap.endpoint import Endpoint

MAX_SERVERS = 16
RETRY_S = 60.0
"""How long a server is left alone that did not serve us."""
MAX_RETRY_S = 900.0
HEAD_START_S = 0.5
"""The next server is asked as well when those before it have not served us for so long."""
MAX_ASKED, MAX_STREAMS_ASKED = 8, 3
"""Servers that are asked at the same time, and streams among them."""


class Server(NamedTuple):
    """One way to a TURN server.

    name: what its TLS certificate must be for. pin: SHA-256 of that certificate instead.
    """

    at: Endpoint
    transport: Transport = Transport.UDP
    name: str = ""
    pin: bytes | None = None

    def __str__(self) -> str:
        return f"{self.at} ({self.transport})"


class Transmit(NamedTuple):
    """A datagram for a server, or one message of its stream."""

    to: Server
    data: bytes


@dataclass(frozen=True)
class Trying:
    """A server is spoken to from now on: open its stream, let its datagrams in."""

    server: Server


@dataclass(frozen=True)
class Left:
    """A server is not spoken to any more: close its stream. What it relayed is lost before."""

    server: Server


@dataclass(frozen=True)
class Unserved:
    """A server does not serve us, or no longer; another one is tried."""

    server: Server
    failed: Failed


KeeperEvent = Event | Trying | Left | Unserved


class TurnKeeper:
    """Verbs: receive, handle_timeout, poll_transmit, poll_event, next_timeout.

    What the client of the server in use tells is passed on, so that `Allocated` says where peers
    reach us, and `Lost` that they don't any more; `Failed` comes inside `Unserved`.
    """

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._servers: dict[Server, Credentials] = {}
        self._alternates: dict[Server, Server] = {}
        """Servers that a server named in its stead, and which one that was."""
        self._using: Server | None = None
        self._clients: dict[Server, TurnClient] = {}
        self._next_at = 0.0
        """When another server is asked beside those that are."""
        self._retry_at: dict[Server, float] = {}
        self._tries: dict[Server, int] = {}
        self._out: deque[Transmit] = deque()
        self._events: deque[KeeperEvent] = deque()

    @property
    def client(self) -> TurnClient | None:
        """The client of the server in use, to ask for permissions and channels; then `settle`."""
        return self._clients.get(self._using) if self._using is not None else None

    @property
    def server(self) -> Server | None:
        """The server in use: the one that relays for us."""
        return self._using

    @property
    def asked(self) -> tuple[Server, ...]:
        """The servers that are spoken to."""
        return tuple(self._clients)

    def set_servers(self, servers: Mapping[Server, Credentials], now: float) -> None:
        """Take what the coordinator says, in the order of preference; nothing ends all."""
        before = self._servers
        self._servers = dict(list(servers.items())[:MAX_SERVERS])
        for alternate, named_by in list(self._alternates.items()):
            if named_by in servers and len(self._servers) < MAX_SERVERS:
                self._servers.setdefault(alternate, servers[named_by])
            else:
                del self._alternates[alternate]
        for server in before:
            if self._servers.get(server) != before[server]:
                self._retry_at.pop(server, None)
                self._tries.pop(server, None)
        for server, client in list(self._clients.items()):
            credentials = self._servers.get(server)
            if credentials is not None and server == self._using:
                if credentials != before.get(server):
                    client.renew(credentials, now)
            elif credentials is None or credentials != before.get(server):
                self._leave(server, now)
        self.settle(now)

    def check(self, now: float) -> None:
        """Find out whether the server in use is still there; `Lost` follows if not."""
        if self.client is not None:
            self.client.check(now)
            self.settle(now)

    def network_changed(self, now: float) -> None:
        """Our own address may be another: the server knows the allocation by it, so begin anew."""
        self._retry_at.clear()
        self._tries.clear()
        for server in self.asked:
            self._leave(server, now)
        self.settle(now)

    def permit(self, ip: IPAddress, now: float) -> bool:
        """As `TurnClient.permit`; False while there is no allocation."""
        asked = self.client is not None and self.client.permit(ip, now)
        self.settle(now)
        return asked

    def open_channel(self, peer: Endpoint, now: float) -> bool:
        """As `TurnClient.open_channel`; False while there is no allocation."""
        asked = self.client is not None and self.client.open_channel(peer, now)
        self.settle(now)
        return asked

    def receive(self, data: bytes, src: Server, now: float) -> bool:
        """Take a datagram or stream bytes; return whether a server that is spoken to sent them.

        Never raises.
        """
        client = self._clients.get(src)
        if client is None:
            return False
        client.receive(data, now)
        self.settle(now)
        return True

    def end_stream(self, server: Server, reason: str, now: float) -> None:
        """Take that the stream to a server is not open; another server is tried."""
        client = self._clients.get(server)
        if client is not None:
            client.end_stream(reason)
            self.settle(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for client in self._clients.values():
            client.handle_timeout(now)
        self.settle(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> KeeperEvent | None:
        """Return what happened next."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is to be called; None: not until something comes."""
        due = [client.next_timeout() for client in self._clients.values()]
        if self._using is None and len(self._clients) < MAX_ASKED:
            head_start = self._next_at if self._clients else 0.0
            due += [max(head_start, at) for _, at in self._candidates()]
        return min((at for at in due if at is not None), default=None)

    def settle(self, now: float) -> None:
        """Collect what clients want, and go on to another server where one has come to an end.

        Call it after anything that was asked of `client` itself.
        """
        while self._collect(now) or (self._using is None and self._try_next(now)):
            pass

    def _collect(self, now: float) -> bool:
        """Take what clients say; return whether one has come to an end."""
        ended = False
        for server, client in list(self._clients.items()):
            while (data := client.poll_transmit()) is not None:
                self._out.append(Transmit(server, data))
            while server in self._clients and (event := client.poll_event()) is not None:
                self._take(server, event, now)
            ended = ended or client.ended
        return ended

    def _take(self, server: Server, event: Event, now: float) -> None:
        if isinstance(event, Allocated):
            self._using = server
            self._tries.pop(server, None)
            self._events.append(event)
            for other in self.asked:
                if other != server:
                    self._leave(other, now)
        elif isinstance(event, Failed | Released):
            self._forget(server)
            if isinstance(event, Failed):
                self._note_failure(server, event, now)
                self._events.append(Unserved(server, event))
        elif isinstance(event, Lost):
            # It is asked again, and the others are as well if that takes long.
            self._lose(server)
            self._next_at = now + HEAD_START_S
        elif server == self._using:
            self._events.append(event)

    def _note_failure(self, server: Server, failed: Failed, now: float) -> None:
        tries = self._tries[server] = self._tries.get(server, 0) + 1
        wait_s = max(failed.retry_after_s or 0.0, min(RETRY_S * 2 ** (tries - 1), MAX_RETRY_S))
        self._retry_at[server] = now + wait_s
        self._next_at = now
        if failed.cause is not Cause.ALTERNATE or failed.alternate is None:
            return
        if not is_plausible(failed.alternate, server.at) or len(self._servers) >= MAX_SERVERS:
            return
        alternate = server._replace(at=failed.alternate)
        if alternate not in self._servers:
            self._servers[alternate] = self._servers[server]
            self._alternates[alternate] = self._alternates.get(server, server)

    def _candidates(self) -> list[tuple[Server, float]]:
        """The servers that may be asked beside those that are, and from when on."""
        streams = sum(server.transport is not Transport.UDP for server in self._clients)
        return [
            (server, self._retry_at.get(server, 0.0))
            for server in self._servers
            if server not in self._clients
            and (server.transport is Transport.UDP or streams < MAX_STREAMS_ASKED)
        ]

    def _try_next(self, now: float) -> bool:
        """Ask one more server if it is time to; return whether one was asked."""
        if self._clients and (now < self._next_at or len(self._clients) >= MAX_ASKED):
            return False
        for server, at in self._candidates():
            if at <= now:
                self._clients[server] = TurnClient(
                    self._servers[server],
                    self._entropy,
                    now,
                    reliable=server.transport is not Transport.UDP,
                    family=0,
                )
                self._events.append(Trying(server))
                self._next_at = now + HEAD_START_S
                return True
        return False

    def _leave(self, server: Server, now: float) -> None:
        """Give the allocation back as far as one datagram can, without waiting for an answer."""
        client = self._clients[server]
        client.close(now)
        while (data := client.poll_transmit()) is not None:
            self._out.append(Transmit(server, data))
        self._forget(server)

    def _forget(self, server: Server) -> None:
        del self._clients[server]
        self._lose(server)
        self._events.append(Left(server))

    def _lose(self, server: Server) -> None:
        if server == self._using:
            self._using = None
            self._events.append(Lost())
