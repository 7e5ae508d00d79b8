"""TURN on the node without the node: whom a server lets in, and how it is dialled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from turn_host import TURN, USER, TurnHost

from warren.disco.messages import Message, TxId
from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.engine.commands import OpenStream
from warren.engine.events import Datagram, StreamState
from warren.engine.memory import MemoryEngine, MemoryNetwork
from warren.engine.protocol import EngineConfig
from warren.keys import DiscoPublic, NodePublic
from warren.nat.turn.allocation import Transport
from warren.nat.turn.grants import CAPABILITY, Grant, TurnPlace, encode
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import Node
from warren.netmap.view import View
from warren.node import turning
from warren.node.turn_peers import TurnPath, TurnPeer
from warren.node.turning import Turns
from warren.paths import turning as machine

PIN = bytes(range(32))
ALICE, BOB, FAR = (NodePublic(bytes([n]) * 32) for n in (1, 2, 3))
AT = {ALICE: "198.51.100.1", BOB: "198.51.100.2", FAR: "192.0.2.9"}


class Peers:
    """A data plane that has nothing better."""

    def __init__(self) -> None:
        self.known = set(AT)

    def turn_peer(self, key: NodePublic) -> TurnPeer | None:
        if key not in self.known:
            return None
        return TurnPeer(DiscoPublic(key.raw), True, (ip_address(AT[key]),))

    def has_better(self, key: NodePublic, now: float) -> bool:
        return False

    def seal(self, key: NodePublic, message: Message) -> bytes | None:
        return None

    def send_relayed(self, key: NodePublic, message: Message) -> None:
        pass

    def note_pong(self, tx_id: TxId, via: TurnPath, rtt_s: float) -> None:
        pass

    def announce(self, key: NodePublic) -> None:
        pass


class Seat:
    """`Turns`, a twin of the engine, and a TURN server with a clock of its own."""

    def __init__(self, *places: TurnPlace) -> None:
        self.clock, self.later_s = SystemClock(), 0.0
        network = MemoryNetwork(self.clock.now)
        self.host = TurnHost(network, lambda: self.clock.now() + self.later_s, max_permissions=1)
        own = Endpoint.parse("198.51.100.9:41641")
        self.engine = MemoryEngine(EngineConfig(tun=None), network, own)
        self.peers = Peers()
        self.turns = Turns(
            self.engine,
            self.clock,
            system_entropy,
            self.peers,
            proxy_of=lambda host: "192.0.2.80:8080" if host == str(TURN.ip) else None,
        )
        granted = json.loads(encode(Grant(places, USER, 0)))
        self.view = View(node=Node(id=1, cap_map={CAPABILITY: [granted]}))
        self.look()

    def look(self) -> None:
        self.turns.set_view(self.view, NodePublic(bytes([9]) * 32))

    async def until(self, condition: Callable[[], object], *active: NodePublic) -> None:
        """Carry traffic to some peers until something is so."""
        async with asyncio.timeout(10):
            while not condition():
                now = self.clock.now()
                for key in active:
                    self.turns.note_active(key, now)
                for event in self.engine.poll():
                    if isinstance(event, Datagram):
                        self.turns.take(event, Endpoint.parse(event.src), now)
                    elif isinstance(event, StreamState):
                        self.turns.take_stream(event, now)
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ALLOCATE_AFTER_S", 0.05)
    monkeypatch.setattr(machine, "ALLOCATE_LATER_S", 0.05)
    monkeypatch.setattr(turning, "LINGER_S", 0.4)
    monkeypatch.setattr(turning, "ASK_AGAIN_S", 0.2)


async def test_a_permission_ends_with_its_peer_and_a_refusal_may_be_for_now() -> None:
    """The server has room for one permission (508), and never lets `FAR` in (403)."""
    seat = Seat(TurnPlace(Transport.UDP, str(TURN.ip), TURN.port))
    alice, bob, far = (ip_address(AT[key]) for key in (ALICE, BOB, FAR))
    await seat.until(lambda: alice in seat.turns.permitted, ALICE)
    await seat.until(lambda: {bob, far} <= seat.turns.refused.keys(), ALICE, BOB, FAR)
    assert seat.turns.refused[bob] is not None, "508 is of the moment"
    assert seat.turns.refused[far] is None, "403 is not"
    assert any("198.51.100.2 (error 508)" in text for _, text in seat.turns.troubles)
    seat.peers.known.discard(ALICE)
    seat.look()
    await seat.until(lambda: alice not in seat.turns.permitted, BOB)
    assert seat.turns.allocated is not None, "the others still use it"
    seat.later_s = 301.0  # longer than a permission lives that is not renewed
    seat.host.machine.handle_timeout(seat.clock.now() + seat.later_s)
    await seat.until(lambda: bob in seat.turns.permitted, BOB)
    assert seat.turns.refused.get(far, 0.0) is None
    seat.turns.close()


async def test_a_stream_is_dialled_through_the_proxy_and_with_its_pin() -> None:
    seat = Seat(TurnPlace(Transport.TLS, str(TURN.ip), 5349, PIN))
    await seat.until(lambda: seat.turns.troubles, ALICE)
    (opened,) = (c for c in seat.engine.commands if isinstance(c, OpenStream))
    assert (opened.to.addrs, opened.to.server_name) == ([f"{TURN.ip}:5349"], str(TURN.ip))
    assert (opened.to.cert_sha256, opened.to.proxy) == (PIN, "192.0.2.80:8080")
    assert not opened.to.plain
    seat.turns.close()


async def test_where_udp_gets_lost_the_stream_is_tried_beside_it() -> None:
    """The server's UDP port is blocked: TLS is dialled after the head start, not after 40 s."""
    places = (
        TurnPlace(Transport.UDP, str(TURN.ip), TURN.port),
        TurnPlace(Transport.TLS, str(TURN.ip), 5349),
    )
    seat = Seat(*places)
    seat.host.alive = False
    began = seat.clock.now()
    dialled = lambda: [c for c in seat.engine.commands if isinstance(c, OpenStream)]  # noqa: E731
    await seat.until(dialled, ALICE)
    assert 0.4 < seat.clock.now() - began < 5
    # That the twin has no streams does not end the asking by UDP.
    await seat.until(lambda: seat.turns.troubles, ALICE)
    seat.host.alive = True
    await seat.until(lambda: seat.turns.allocated, ALICE)
    assert seat.turns.keeper.server is not None
    assert seat.turns.keeper.server.transport is Transport.UDP
    seat.turns.close()
