"""Keeps one allocation at one of several TURN servers for a node.

Servers are tried in the order given; one that refuses is left alone for a while. New credentials
are used on the allocation that is there, and on a new one where the server insists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from warren.nat.turn.allocation import Transport
from warren.nat.turn.client import TurnClient
from warren.nat.turn.credentials import Credentials
from warren.nat.turn.events import Allocated, Cause, Event, Failed, IPAddress, Lost, Released
from warren.netmap.endpoint import Endpoint

MAX_SERVERS = 16
RETRY_S = 60.0
"""How long a server is left alone that did not serve us."""
MAX_RETRY_S = 900.0


class Server(NamedTuple):
    """One way to a TURN server. `name`: what its TLS certificate must be for."""

    at: Endpoint
    transport: Transport = Transport.UDP
    name: str = ""

    def __str__(self) -> str:
        return f"{self.at} ({self.transport})"


class Transmit(NamedTuple):
    """A datagram for a server, or one message of its stream."""

    to: Server
    data: bytes


class Using(NamedTuple):
    """The server that is spoken to from now on, None for none: let its datagrams in."""

    server: Server | None


KeeperEvent = Event | Using


class TurnKeeper:
    """Verbs: receive, handle_timeout, poll_transmit, poll_event, next_timeout.

    What its client tells is passed on, so that `Allocated` says where peers reach us, and `Lost`
    and `Failed` that they don't any more.
    """

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._servers: dict[Server, Credentials] = {}
        self._using: Server | None = None
        self._client: TurnClient | None = None
        self._retry_at: dict[Server, float] = {}
        self._tries: dict[Server, int] = {}
        self._out: deque[Transmit] = deque()
        self._events: deque[KeeperEvent] = deque()

    @property
    def client(self) -> TurnClient | None:
        """The client of the server in use, to ask for permissions and channels; then `settle`."""
        return self._client

    @property
    def server(self) -> Server | None:
        """The server in use."""
        return self._using

    def set_servers(self, servers: Mapping[Server, Credentials], now: float) -> None:
        """Take what the coordinator says, in the order of preference; nothing ends all."""
        before = self._servers
        self._servers = dict(list(servers.items())[:MAX_SERVERS])
        for server in before:
            if self._servers.get(server) != before[server]:
                self._retry_at.pop(server, None)
                self._tries.pop(server, None)
        if self._using is not None:
            credentials = self._servers.get(self._using)
            if credentials is None:
                self._leave(now)
            elif credentials != before.get(self._using) and self._client is not None:
                self._client.renew(credentials, now)
        self.settle(now)

    def check(self, now: float) -> None:
        """Find out whether the server in use is still there; `Lost` or `Failed` follow if not."""
        if self._client is not None:
            self._client.check(now)
            self.settle(now)

    def network_changed(self, now: float) -> None:
        """Our own address may be another: the server knows the allocation by it, so begin anew."""
        self._retry_at.clear()
        self._tries.clear()
        self._leave(now)
        self.settle(now)

    def permit(self, ip: IPAddress, now: float) -> bool:
        """As `TurnClient.permit`; False while there is no allocation."""
        asked = self._client is not None and self._client.permit(ip, now)
        self.settle(now)
        return asked

    def open_channel(self, peer: Endpoint, now: float) -> bool:
        """As `TurnClient.open_channel`; False while there is no allocation."""
        asked = self._client is not None and self._client.open_channel(peer, now)
        self.settle(now)
        return asked

    def receive(self, data: bytes, src: Server, now: float) -> bool:
        """Take a datagram or stream bytes; return whether the server in use sent them.

        Never raises.
        """
        if self._client is None or src != self._using:
            return False
        self._client.receive(data, now)
        self.settle(now)
        return True

    def end_stream(self, server: Server, reason: str, now: float) -> None:
        """Take that the stream to the server in use is not open; another server is tried."""
        if self._client is not None and server == self._using:
            self._client.end_stream(reason)
            self.settle(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        if self._client is not None:
            self._client.handle_timeout(now)
        self.settle(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> KeeperEvent | None:
        """Return what happened next."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is to be called; None: not until something comes."""
        if self._client is not None:
            return self._client.next_timeout()
        return min((self._retry_at.get(server, 0.0) for server in self._servers), default=None)

    def settle(self, now: float) -> None:
        """Collect what the client wants, and go on to another server where it has come to an end.

        Call it after anything that was asked of `client` itself.
        """
        while True:
            ended = self._collect(now)
            if self._client is None:
                self._try_next(now)
            if not ended or self._client is None:
                break
        self._collect(now)

    def _collect(self, now: float) -> bool:
        client, server = self._client, self._using
        if client is None or server is None:
            return False
        while (data := client.poll_transmit()) is not None:
            self._out.append(Transmit(server, data))
        ended = False
        while (event := client.poll_event()) is not None:
            self._events.append(event)
            if isinstance(event, Allocated):
                self._tries.pop(server, None)
            elif isinstance(event, Failed):
                self._note_failure(server, event, now)
            ended = ended or isinstance(event, Failed | Released)
        if ended:
            self._client = self._using = None
        return ended

    def _note_failure(self, server: Server, failed: Failed, now: float) -> None:
        tries = self._tries[server] = self._tries.get(server, 0) + 1
        wait_s = max(failed.retry_after_s or 0.0, min(RETRY_S * 2 ** (tries - 1), MAX_RETRY_S))
        self._retry_at[server] = now + wait_s
        alternate = failed.alternate
        full = len(self._servers) >= MAX_SERVERS
        if failed.cause is Cause.ALTERNATE and alternate is not None and not full:
            self._servers.setdefault(server._replace(at=alternate), self._servers[server])

    def _try_next(self, now: float) -> None:
        for server, credentials in self._servers.items():
            if self._retry_at.get(server, now) <= now:
                self._using = server
                self._client = TurnClient(
                    credentials,
                    self._entropy,
                    now,
                    reliable=server.transport is not Transport.UDP,
                    family=4 if server.at.is_v4 else 6,
                )
                self._events.append(Using(server))
                return
        if self._events and isinstance(self._events[-1], Failed | Released):
            self._events.append(Using(None))

    def _leave(self, now: float) -> None:
        """Give the allocation back as far as one datagram can, without waiting for an answer."""
        client, server = self._client, self._using
        if client is None or server is None:
            return
        allocated = client.relayed is not None
        client.close(now)
        while (data := client.poll_transmit()) is not None:
            self._out.append(Transmit(server, data))
        self._client = self._using = None
        if allocated:
            self._events.append(Lost())
        self._events.append(Using(None))
