"""A TURN server in the twin's network: the real state machine, with addresses for sockets."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from ipaddress import ip_network

from warren.engine.memory import MemoryNetwork
from warren.nat.turn.allocation import (
    CloseRelay,
    Flow,
    OpenRelay,
    ToPeer,
    Transport,
    TurnSettings,
)
from warren.nat.turn.credentials import Credentials, StaticAccounts
from warren.nat.turn.reach import Reach
from warren.nat.turn.server import TurnServer
from warren.netmap.endpoint import Endpoint

TURN = Endpoint.parse("203.0.113.7:3478")
USER = Credentials("alice", "wonderland")


class TurnHost:
    """Serves at `TURN` while `alive`; `relayed` counts what it passed on, both ways."""

    def __init__(self, network: MemoryNetwork, now: Callable[[], float], **settings: int) -> None:
        self._network = network
        self._now = now
        self.alive = True
        self.relayed = 0
        self.machine = TurnServer(
            TurnSettings("warren", frozenset({TURN.ip}), **settings),
            StaticAccounts(dict((USER,))),
            Reach(own=[], allow=[ip_network("198.51.100.0/24")]),
            os.urandom,
            now(),
        )
        self._port = 50_000
        network.servers[TURN] = self._take

    def _take(self, data: bytes, src: Endpoint) -> None:
        if self.alive:
            self.machine.receive(Flow(Transport.UDP, src, 1), data, self._now())
            self._carry()

    def _take_relayed(self, at: Endpoint, data: bytes, src: Endpoint) -> None:
        if self.alive:
            self.relayed += 1
            self.machine.receive_from_peer(at, src, data, self._now())
            self._carry()

    def _carry(self) -> None:
        while (change := self.machine.poll_event()) is not None:
            if isinstance(change, OpenRelay):
                self._port += 1
                at = Endpoint(TURN.ip, self._port)
                self._network.servers[at] = partial(self._take_relayed, at)
                self.machine.relay_opened(change.ticket, [at], self._now())
            elif isinstance(change, CloseRelay):
                del self._network.servers[change.relayed]
        while (out := self.machine.poll_transmit()) is not None:
            if isinstance(out, ToPeer):
                self.relayed += 1
                self._network.deliver(out.data, out.relayed, out.peer)
            else:
                self._network.deliver(out.data, TURN, out.flow.client)
