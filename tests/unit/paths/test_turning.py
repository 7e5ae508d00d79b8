"""Ways through TURN servers for one peer, in virtual time: found, compared, kept and left."""

from __future__ import annotations

import random

from warren.disco.messages import Message, Ping, Pong, TurnOffer, TxId
from warren.keys import NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths.turning import (
    ALLOCATE_AFTER_S,
    ALLOCATE_LATER_S,
    OFFER_LIFE_S,
    WAYS_MAX,
    ChannelWanted,
    ToWay,
    TurnEvent,
    TurnLease,
    TurnPaths,
    TurnPonged,
    Way,
    WayDead,
)

KEY = NodePublic(bytes([11]) * 32)
RELAYED, OTHER = Endpoint.parse("203.0.113.7:50001"), Endpoint.parse("203.0.113.8:50002")
PEER = Endpoint.parse("198.51.100.2:7777")
THROUGH_OURS, TO_THEIRS = Way(PEER, own=True), Way(RELAYED, own=False)


class World:
    """One machine; the peer answers by the ways that live, after their round trip."""

    def __init__(self, *, first: bool = True, offers: bool = True) -> None:
        self.now = 100.0
        self.machine = TurnPaths(KEY, random.Random(3).randbytes, first=first, offers=offers)
        self.rtt_s: dict[Way | None, float | None] = {None: 0.030}
        self.answers: list[tuple[float, Way | None, Message]] = []
        self.sent: list[tuple[Way | None, Message]] = []
        self.told: list[TurnEvent] = []

    def settle(self) -> None:
        while (said := self.machine.poll_transmit()) is not None:
            way = said.way if isinstance(said, ToWay) else None
            self.sent.append((way, said.message))
            rtt_s = self.rtt_s.get(way)
            if isinstance(said.message, Ping) and rtt_s is not None:
                pong = Pong(said.message.tx_id, RELAYED)
                self.answers.append((self.now + rtt_s, way, pong))
        while (event := self.machine.poll_event()) is not None:
            self.told.append(event)

    def after(self, seconds: float, *, traffic: bool = True) -> list[TurnEvent]:
        """Let time go by; return what was told in it."""
        self.told.clear()
        end = self.now + seconds
        while self.now < end:
            if traffic:
                self.machine.note_active(self.now)
            self.settle()
            self.now += 0.05
            for at, way, message in [each for each in self.answers if each[0] <= self.now]:
                self.answers.remove((at, way, message))
                assert isinstance(message, Pong)
                self.machine.receive_pong(message, way, self.now)
            due = self.machine.next_timeout()
            if due is not None and due <= self.now:
                self.machine.handle_timeout(self.now)
            self.settle()
        return list(self.told)

    def offer(self, *relayed: Endpoint) -> None:
        self.machine.receive_offer(TurnOffer(relayed), self.now)

    def used(self) -> Way | None:
        found = self.machine.path(self.now)
        return found[0] if found else None


def test_one_side_asks_first_and_only_without_a_better_path() -> None:
    for first, wait_s in ((True, ALLOCATE_AFTER_S), (False, ALLOCATE_LATER_S)):
        world = World(first=first)
        assert world.machine.allocate_at(world.now) is None
        world.after(0.1)
        assert world.machine.allocate_at(world.now) == 100.0 + wait_s
        assert not world.machine.uses_own(world.now)
        world.after(wait_s)
        assert world.machine.uses_own(world.now)
        assert world.machine.set_better(True, world.now)
        assert world.machine.allocate_at(world.now) is None
        assert not world.machine.uses_own(world.now)


def test_both_families_are_offered_and_a_peer_of_either_is_taken() -> None:
    six, peer_six = Endpoint.parse("[2600::4]:50000"), Endpoint.parse("[2606:4700::9]:9")
    for own, taken in (((RELAYED, six), [PEER, peer_six]), ((six,), [peer_six]), ((), [])):
        world = World()
        world.after(0.2)
        world.machine.set_own(own, world.now)
        world.settle()
        assert ((None, TurnOffer(own)) in world.sent) is bool(own)
        for at in (PEER, peer_six):
            ping = Ping(TxId(bytes(12)), KEY)
            world.machine.receive(ping, Way(at, own=True), world.now)
        world.settle()
        assert [e.peer for e in world.told if isinstance(e, ChannelWanted)] == taken


def test_a_peer_that_pings_our_address_gets_a_channel_and_then_its_answer() -> None:
    world = World()
    world.after(0.2)
    world.machine.set_own((RELAYED,), world.now)
    world.settle()
    assert (None, TurnOffer((RELAYED,))) in world.sent
    ping = Ping(TxId(bytes(12)), KEY)
    world.machine.receive(ping, THROUGH_OURS, world.now)
    world.sent.clear()
    world.settle()
    assert ChannelWanted(PEER) in world.told and not world.sent
    world.rtt_s[THROUGH_OURS] = 0.020
    world.machine.channel_open(PEER, world.now)
    told = world.after(0.5)
    assert world.sent[0] == (THROUGH_OURS, Pong(ping.tx_id, PEER))
    assert TurnLease(THROUGH_OURS, 6500) in told and world.used() == THROUGH_OURS
    assert world.machine.uses_own(world.now) and 0 < world.machine.left_ms(world.now) <= 6500
    # A person's ping goes the same way.
    tx_id = world.machine.ping(world.now)
    assert tx_id is not None
    assert [e.tx_id for e in world.after(0.2) if isinstance(e, TurnPonged)] == [tx_id]


def test_the_peers_address_is_pinged_when_it_is_told_and_no_own_one_is_needed() -> None:
    world = World(first=False)
    world.rtt_s[TO_THEIRS] = 0.020
    world.after(0.2)
    world.offer(RELAYED)
    assert TurnLease(TO_THEIRS, 6500) in world.after(0.5)
    world.after(30)
    assert world.used() == TO_THEIRS and not world.machine.uses_own(world.now)
    assert not any(isinstance(message, TurnOffer) for _, message in world.sent)
    # The offer is not forgotten while it is used, and then it is.
    world.after(OFFER_LIFE_S + 10)
    assert world.used() == TO_THEIRS
    world.rtt_s.clear()
    world.after(OFFER_LIFE_S + 60, traffic=False)
    assert not world.machine.theirs(RELAYED) and world.machine.is_idle(world.now)
    assert world.machine.next_timeout() is None


def test_derp_that_is_faster_keeps_the_traffic() -> None:
    world = World()
    world.rtt_s |= {None: 0.030, TO_THEIRS: 0.120}
    world.after(0.2)
    world.offer(RELAYED)
    told = world.after(20)
    assert not any(isinstance(event, TurnLease) for event in told)
    state = world.machine.ways[TO_THEIRS]
    assert state.latency_s is not None and world.machine.derp_latency_s is not None
    assert world.used() is None
    # DERP's way grows long, and then short again: one change each, no more.
    world.rtt_s[None] = 0.300
    leases = [e for e in world.after(120) if isinstance(e, TurnLease)]
    assert world.used() == TO_THEIRS and all(e.way == TO_THEIRS for e in leases)
    world.rtt_s[None] = 0.010
    leases = [e for e in world.after(240) if isinstance(e, TurnLease)]
    assert world.used() is None
    assert sum(e.way is None for e in leases) == 1 and leases[-1].way is None


def test_nothing_is_switched_between_near_equals() -> None:
    world = World()
    world.rtt_s |= {None: 0.030, TO_THEIRS: 0.032, Way(OTHER, own=False): 0.031}
    world.after(0.2)
    world.offer(RELAYED, OTHER)
    leases = [e.way for e in world.after(200) if isinstance(e, TurnLease)]
    assert leases and len(set(leases)) == 1


def test_derp_that_does_not_answer_is_no_rival() -> None:
    world = World()
    world.rtt_s = {None: None, TO_THEIRS: 0.120}
    world.after(0.2)
    world.offer(RELAYED)
    world.after(1)
    assert world.used() is None
    world.after(3)
    assert world.used() == TO_THEIRS


def test_a_way_that_dies_is_left_within_three_seconds() -> None:
    world = World()
    world.rtt_s[TO_THEIRS] = 0.020
    world.after(0.2)
    world.offer(RELAYED)
    world.after(7.3)
    assert world.used() == TO_THEIRS
    world.rtt_s[TO_THEIRS] = None
    told = world.after(3)
    assert TurnLease(None, 0) in told and WayDead(TO_THEIRS) in told and world.used() is None
    # It comes back, and is used again.
    world.rtt_s[TO_THEIRS] = 0.020
    world.after(8)
    assert world.used() == TO_THEIRS


def test_the_second_way_takes_over_from_one_that_dies() -> None:
    world = World()
    other = Way(OTHER, own=False)
    world.rtt_s |= {TO_THEIRS: 0.010, other: 0.025}
    world.after(0.2)
    world.offer(RELAYED, OTHER)
    world.after(10)
    assert world.used() == TO_THEIRS
    world.rtt_s[TO_THEIRS] = None
    world.after(5)
    assert world.used() == other


def test_without_udp_a_peers_address_is_reached_from_ours() -> None:
    world = World()
    world.machine.set_udp(False, world.now)
    world.after(0.2)
    world.offer(OTHER)
    assert not world.machine.ways
    world.machine.set_own((RELAYED,), world.now)
    assert ChannelWanted(OTHER) in world.after(0.1)
    way = Way(OTHER, own=True)
    world.rtt_s[way] = 0.020
    world.machine.channel_open(OTHER, world.now)
    world.after(1)
    assert world.used() == way
    # The server is gone: everything that went by it is void.
    world.machine.set_own((), world.now)
    world.settle()
    assert TurnLease(None, 0) in world.told and world.used() is None and not world.machine.ways


def test_what_a_peer_can_make_us_keep_is_bounded() -> None:
    world = World()
    world.after(0.2)
    world.machine.set_own((RELAYED,), world.now)
    for port in range(1, 2000):
        ping = Ping(TxId(port.to_bytes(12, "big")), KEY)
        world.machine.receive(ping, Way(Endpoint(PEER.ip, port), own=True), world.now)
        world.now += 0.2
    world.settle()
    assert len(world.machine.ways) <= WAYS_MAX
    assert sum(isinstance(event, ChannelWanted) for event in world.told) < 250
    assert world.machine.dropped["ping by no way"] > 1000
    pong = Pong(TxId(bytes(12)), PEER)
    assert not world.machine.receive_pong(pong, THROUGH_OURS, world.now)
    world.machine.receive(pong, THROUGH_OURS, world.now)
    assert world.machine.dropped["message not for a TURN server"] == 1


def test_a_pong_by_another_way_proves_nothing() -> None:
    world = World()
    world.after(0.2)
    world.offer(RELAYED, OTHER)
    world.settle()
    ping = next(m for way, m in world.sent if way == TO_THEIRS and isinstance(m, Ping))
    elsewhere = Way(OTHER, own=False)
    assert world.machine.receive_pong(Pong(ping.tx_id, PEER), elsewhere, world.now)
    assert world.machine.dropped["pong from elsewhere"] == 1
    assert world.machine.ways[elsewhere].ponged_at is None


def test_another_network_begins_anew() -> None:
    world = World()
    world.rtt_s[TO_THEIRS] = 0.020
    world.after(0.2)
    world.offer(RELAYED)
    world.after(1)
    assert world.used() == TO_THEIRS
    world.machine.network_changed(world.now)
    assert world.used() is None
    world.after(1)
    assert world.used() == TO_THEIRS
