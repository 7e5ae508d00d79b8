"""A datagram's way: a tour of the house in the order in which a packet meets its rooms.

Two real engines (Rust) on loopback, without privileges. Read it from top to bottom.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from warren.disco import messages, sealed
from warren.engine.commands import (
    AnyCommand,
    DstSpan,
    FilterRule,
    Peer,
    SendDatagram,
    SendPacket,
    SetFilter,
    SetIdentity,
    SetPath,
    SetPeers,
    Span,
)
from warren.engine.events import AnyEvent, Datagram, Handshake, ProbeReply
from warren.engine.native import NativeEngine
from warren.engine.protocol import EngineConfig
from warren.keys import DiscoPrivate, NodePrivate
from warren.netmap.endpoint import Endpoint
from warren.node import probes

PATIENCE_S = 10.0
EVERYBODY = Span(first="100.64.0.0", last="100.127.255.255")
LET_ALL_IN = FilterRule(
    sources=[EVERYBODY],
    destinations=[DstSpan(span=EVERYBODY, first_port=0, last_port=65535)],
    protocols=[1, 6, 17],
)


class Machine:
    """A node without its brain: an engine, its keys and its address."""

    def __init__(self, number: int) -> None:
        self.key = NodePrivate.from_entropy(os.urandom(32))
        self.disco = DiscoPrivate.from_entropy(os.urandom(32))
        self.address = IPv4Address(f"100.64.0.{number}")
        self.engine = NativeEngine(EngineConfig(tun=None))
        self.heard: list[AnyEvent] = []
        self.apply(
            SetIdentity(private_key=self.key.reveal(), addresses=[f"{self.address}/32"]),
            SetFilter(rules=[]),
        )

    @property
    def at(self) -> str:
        """Where its UDP socket is."""
        return f"127.0.0.1:{self.engine.snapshot().port4}"

    def apply(self, *commands: AnyCommand) -> None:
        """Tell the engine."""
        self.engine.apply(commands)

    def knows(self, other: Machine) -> None:
        """Put another machine into the tables: its key may bring its address, and only that."""
        peer = Peer(key=other.key.public().raw, allowed_ips=[f"{other.address}/32"])
        self.apply(SetPeers(upsert=[peer]))

    def ping(self, other: Machine, nonce: bytes) -> None:
        """Send an ICMP echo request into the tunnel."""
        self.apply(SendPacket(packet=probes.icmp_echo(self.address, other.address, nonce)))

    def hear(self, kind: type[AnyEvent], within_s: float = PATIENCE_S) -> AnyEvent | None:
        """Wait for an event of a kind; None when there is none in time."""
        deadline = time.monotonic() + within_s
        while True:
            for event in self.heard:
                if isinstance(event, kind):
                    self.heard.remove(event)
                    return event
            if (left := deadline - time.monotonic()) <= 0:
                return None
            select.select([self.engine], [], [], left)
            self.heard += self.engine.poll()


@pytest.fixture
def pair() -> Iterator[tuple[Machine, Machine]]:
    ada, bob = Machine(1), Machine(2)
    ada.knows(bob)
    bob.knows(ada)
    yield ada, bob
    ada.engine.close()
    bob.engine.close()


def test_disco_goes_up_to_python(pair: tuple[Machine, Machine]) -> None:
    """UDP in → demux → token bucket → queue → eventfd → `disco.open`.

    The engine knows a disco packet by its first bytes and hands it up unopened.
    """
    ada, bob = pair
    ping = messages.Ping(messages.TxId(os.urandom(12)), ada.key.public())
    packet = sealed.seal(
        messages.encode_message(ping), ada.disco, bob.disco.public(), os.urandom(24)
    )
    ada.apply(SendDatagram(to=bob.at, data=packet))

    event = bob.hear(Datagram)

    assert isinstance(event, Datagram)
    assert Endpoint.parse(event.src) == Endpoint.parse(ada.at)
    assert sealed.sender_of_untrusted(event.data) == ada.disco.public()
    opened = sealed.open_untrusted(event.data, bob.disco, ada.disco.public())
    assert messages.parse_message_untrusted(opened) == ping


def test_a_packet_goes_through_the_tunnel(pair: tuple[Machine, Machine]) -> None:
    """IP packet → peer by longest prefix → handshake, seal → lease → UDP → open → filter → up."""
    ada, bob = pair
    bob.apply(SetFilter(rules=[LET_ALL_IN]))
    ada.apply(SetPath(peer=bob.key.public().raw, addr=bob.at, lease_ms=60_000))
    bob.apply(SetPath(peer=ada.key.public().raw, addr=ada.at, lease_ms=60_000))
    nonce = os.urandom(8)

    ada.ping(bob, nonce)

    assert ada.hear(Handshake) is not None
    # The reply passes Ada's empty filter: she asked for it, and the engine remembers that.
    reply = ada.hear(ProbeReply)
    assert isinstance(reply, ProbeReply)
    answer = probes.parse_answer_untrusted(reply.packet)
    assert answer is not None
    assert answer.nonce == nonce
    assert ada.engine.snapshot().peers[0].direct == bob.at


def test_a_packet_that_the_filter_does_not_let_in(pair: tuple[Machine, Machine]) -> None:
    """The same way, but Bob lets nothing in: opened, counted, dropped."""
    ada, bob = pair
    ada.apply(SetPath(peer=bob.key.public().raw, addr=bob.at, lease_ms=60_000))
    bob.apply(SetPath(peer=ada.key.public().raw, addr=ada.at, lease_ms=60_000))

    ada.ping(bob, os.urandom(8))

    assert bob.hear(Handshake) is not None
    assert ada.hear(ProbeReply, within_s=1.0) is None
    assert any("filter" in reason for reason in bob.engine.snapshot().drops)


def test_garbage_is_counted(pair: tuple[Machine, Machine]) -> None:
    """What is neither STUN, disco nor WireGuard is never guessed at."""
    ada, bob = pair
    ada.apply(SendDatagram(to=bob.at, data=b"not of this house"))
    deadline = time.monotonic() + PATIENCE_S
    while not bob.engine.snapshot().drops and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sum(bob.engine.snapshot().drops.values()) == 1
