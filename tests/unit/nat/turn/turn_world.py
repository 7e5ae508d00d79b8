"""A TURN server, its sockets and its clients in one process, with a clock that tests turn."""

from __future__ import annotations

import random
from ipaddress import ip_address

from warren.nat.turn.allocation import (
    CloseRelay,
    Flow,
    OpenRelay,
    ToClient,
    ToPeer,
    Transport,
    TurnSettings,
)
from warren.nat.turn.client import TurnClient
from warren.nat.turn.credentials import Accounts, Credentials, StaticAccounts
from warren.nat.turn.events import Event
from warren.nat.turn.reach import Reach
from warren.nat.turn.server import TurnServer
from warren.netmap.endpoint import Endpoint

ALICE = Credentials("alice", "wonderland")
BOB = Credentials("bob", "builder")
RELAY_V4, RELAY_V6 = ip_address("8.8.4.4"), ip_address("2600::4")
PEER = Endpoint.parse("9.9.9.9:99")
PEER_V6 = Endpoint.parse("[2606:4700::9]:99")


def flow_of(number: int = 1, transport: Transport = Transport.UDP) -> Flow:
    """Return a client's way to the server."""
    return Flow(transport, Endpoint.parse(f"7.7.7.{number}:{1000 + number}"), 1)


class World:
    """The server and its owner."""

    def __init__(self, accounts: Accounts | None = None, **settings: int) -> None:
        self.now = 1000.0
        generator = random.Random(1)
        self.entropy = generator.randbytes
        self.server = TurnServer(
            TurnSettings("warren", frozenset({RELAY_V4, RELAY_V6}), **settings),
            accounts or StaticAccounts(dict((ALICE, BOB))),
            Reach(own=[]),
            self.entropy,
            self.now,
        )
        self.clients: dict[Flow, TurnClient] = {}
        self.events: dict[Flow, list[Event]] = {}
        self.answers: list[ToClient] = []
        """What went to flows without a client."""
        self.to_peers: list[ToPeer] = []
        self.open: set[Endpoint] = set()
        self.ports_left = 10_000
        self._port = 50_000

    def client(self, flow: Flow, credentials: Credentials = ALICE, family: int = 4) -> TurnClient:
        """Start a client."""
        reliable = flow.transport is not Transport.UDP
        made = TurnClient(credentials, self.entropy, self.now, reliable=reliable, family=family)
        self.clients[flow], self.events[flow] = made, []
        self.run()
        return made

    def run(self) -> None:
        """Carry everything to where it goes, until nothing moves."""
        moved = True
        while moved:
            moved = False
            for flow, client in self.clients.items():
                while (data := client.poll_transmit()) is not None:
                    self.server.receive(flow, data, self.now)
                    moved = True
                while (event := client.poll_event()) is not None:
                    self.events[flow].append(event)
            while (change := self.server.poll_event()) is not None:
                moved = True
                self._sockets(change)
            while (out := self.server.poll_transmit()) is not None:
                moved = True
                if isinstance(out, ToPeer):
                    assert out.relayed in self.open
                    self.to_peers.append(out)
                elif out.flow in self.clients:
                    self.clients[out.flow].receive(out.data, self.now)
                else:
                    self.answers.append(out)

    def after(self, seconds: float) -> None:
        """Let time go by, in steps of a quarter of a second."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            for client in self.clients.values():
                client.handle_timeout(self.now)
            self.server.handle_timeout(self.now)
            self.run()

    def told(self, flow: Flow) -> list[Event]:
        """Return and forget what a client told."""
        found, self.events[flow] = self.events[flow], []
        return found

    def ask(self, flow: Flow, data: bytes) -> list[bytes]:
        """Send bytes from a flow without a client; return the answers."""
        self.answers.clear()
        self.server.receive(flow, data, self.now)
        self.run()
        return [answer.data for answer in self.answers]

    def _sockets(self, change: OpenRelay | CloseRelay) -> None:
        if isinstance(change, CloseRelay):
            self.open.remove(change.relayed)
            return
        count = len(change.families) + change.reserve
        relayed: list[Endpoint] = []
        if self.ports_left >= count:
            self.ports_left -= count
            self._port += self._port % 2 if change.even else 0
            for family in (*change.families, *change.families[:1] * change.reserve):
                relayed.append(Endpoint(RELAY_V4 if family == 4 else RELAY_V6, self._port))
                self._port += 1
        self.open.update(relayed)
        self.server.relay_opened(change.ticket, relayed, self.now)
