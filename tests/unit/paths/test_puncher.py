"""When attempts begin and end, and what a node does at a peer's word."""

from __future__ import annotations

import random

import pytest

from warren.disco.messages import CallMeMaybe, Message, Ping, Pong, PunchEnd, PunchInvite, TxId
from warren.disco.punching import PunchReason
from warren.keys import NodePrivate
from warren.netmap.endpoint import Endpoint
from warren.paths.machine import Lease, Ponged, Relay, Transmit
from warren.paths.punching.attempt import Outcome
from warren.paths.punching.ports import Sample
from warren.paths.punching.puncher import BACKOFF_S, LAG_S, SCAN_AFTER_S, PunchingPaths
from warren.paths.punching.roles import OwnSide, PeerSide
from warren.paths.punching.sockets import (
    Aside,
    AsideLease,
    AsideTransmit,
    CloseSockets,
    OpenSockets,
)

KEY = NodePrivate.from_entropy(bytes(range(32))).public()
OWN = Endpoint.parse("198.51.100.1:41641")
PEER = Endpoint.parse("198.51.100.2:41641")
INVITE = PunchInvite(7, 256, OWN, Endpoint(PEER.ip, 0), (2000,), ())


class Rig:
    """One `PunchingPaths`, driven by hand."""

    def __init__(self, hard: bool | None, understands: bool = True) -> None:
        self.own = OwnSide(entropy=random.Random(1).randbytes, hard=hard)
        self.own.memory.note(Sample(PEER, OWN, 0.0))
        self.paths = PunchingPaths(KEY, self.own)
        self.now = 0.0
        self.sent: list[tuple[float, object]] = []
        self.events: list[object] = []
        self.paths.set_own_endpoints([OWN], 0.0)
        self.paths.set_peer([PEER], 900, PeerSide(understands), 0.0)
        self.drain()

    def drain(self) -> None:
        while (item := self.paths.poll_transmit()) is not None:
            self.sent.append((self.now, item))
        while (event := self.paths.poll_event()) is not None:
            self.events.append(event)

    def run(self, until: float) -> None:
        for _ in range(200_000):
            due = self.paths.next_timeout()
            if due is None or due[0] > until:
                self.now = until
                return
            self.now = max(self.now, due[0])
            self.paths.handle_timeout(self.now)
            self.drain()
        raise AssertionError("timeouts without end")

    def give(self, message: Message, via: Endpoint | Relay | Aside) -> None:
        self.paths.receive(message, via, self.now)
        self.drain()

    def said(self, kind: type) -> list[Message]:
        return [
            item.message
            for _, item in self.sent
            if isinstance(item, Transmit) and isinstance(item.message, kind)
        ]

    def count(self, kind: type) -> int:
        return sum(isinstance(item, kind) for _, item in self.sent)


def plain_pings(rig: Rig) -> list[Ping]:
    """Without those that ask how large a packet may be."""
    return [m for m in rig.said(Ping) if isinstance(m, Ping) and not m.padding]


def test_nothing_begins_without_traffic() -> None:
    rig = Rig(hard=True)
    rig.run(100.0)
    assert not rig.count(OpenSockets)


def test_a_call_is_a_wish() -> None:
    rig = Rig(hard=True)
    rig.give(CallMeMaybe((PEER,)), Relay(900))
    rig.run(1.0)
    assert rig.count(OpenSockets) == 1


def test_an_unknown_own_nat_waits_until_it_is_known() -> None:
    rig = Rig(hard=None)
    rig.paths.note_active(0.0)
    rig.run(5.0)
    assert not rig.count(OpenSockets) and "not known" in rig.paths.why
    rig.own.hard = True
    rig.run(7.0)
    assert rig.count(OpenSockets) == 1


def test_failures_make_pauses_of_minutes_that_grow() -> None:
    rig = Rig(hard=True)
    for second in range(1500):
        rig.run(float(second))
        rig.paths.note_active(rig.now)
    opened = [attempt.began for attempt in rig.paths.attempts]
    assert opened[1] - opened[0] > BACKOFF_S and opened[2] - opened[1] > 2 * BACKOFF_S
    assert rig.count(CloseSockets) == rig.count(OpenSockets) == 2 * len(opened)
    assert rig.own.sockets.open == 0


def test_exchanged_sockets_are_accounted_for() -> None:
    rig = Rig(hard=True)
    rig.paths.note_active(0.0)
    rig.run(9.0)
    assert rig.count(OpenSockets) == 2 and rig.own.sockets.open == 256
    rig.run(60.0)
    assert rig.own.sockets.open == 0


def test_a_peer_whose_view_lags_is_asked_once_more_soon() -> None:
    rig = Rig(hard=True)
    rig.paths.note_active(0.0)
    for number in range(3):
        rig.run(rig.now + 1.5 if number == 0 else rig.now + LAG_S + 1)
        invites = rig.said(PunchInvite)
        last = invites[-1]
        assert isinstance(last, PunchInvite)
        rig.give(PunchEnd(last.attempt, PunchReason.BUSY), Relay(900))
    assert len({m.attempt for m in rig.said(PunchInvite) if isinstance(m, PunchInvite)}) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"enabled": False}, PunchReason.SWITCHED_OFF),
        ({"hard": True}, PunchReason.BOTH_HARD),
        ({"udp": False}, PunchReason.NO_UDP),
    ],
)
def test_invitations_that_are_refused(change: dict[str, bool], reason: int) -> None:
    rig = Rig(hard=False)
    for name, value in change.items():
        setattr(rig.own, name, value)
    rig.give(INVITE, Relay(900))
    rig.run(1.0)
    assert rig.said(PunchEnd) == [PunchEnd(7, reason)] and not rig.said(Ping)


def test_nobody_else_is_probed_at_a_peers_word() -> None:
    rig = Rig(hard=False)
    rig.give(INVITE._replace(address=Endpoint.parse("203.0.113.66:0")), Relay(900))
    rig.run(5.0)
    assert rig.said(PunchEnd) == [PunchEnd(7, PunchReason.ADDRESS_NOT_YOURS)]
    assert not rig.said(Ping)


def test_invitations_only_over_a_relay() -> None:
    rig = Rig(hard=False)
    rig.give(INVITE, PEER)
    rig.run(5.0)
    assert not rig.said(Ping) and not rig.said(PunchEnd)
    assert rig.paths.paths.dropped["punching message not over a relay"] == 1


def test_a_flood_of_invitations_is_one_attempt_and_then_none() -> None:
    rig = Rig(hard=False)
    for number in range(400):
        rig.give(INVITE._replace(attempt=number), Relay(900))
        rig.run(rig.now + 0.05)
    rig.run(40.0)
    probes = len(rig.said(Ping))
    assert probes == 1024
    rig.give(INVITE._replace(attempt=9999), Relay(900))
    rig.run(45.0)
    assert len(rig.said(Ping)) == probes
    rig.run(40.0 + BACKOFF_S)
    rig.give(INVITE._replace(attempt=10000), Relay(900))
    rig.run(rig.now + 1.0)
    assert len(rig.said(Ping)) > probes


def test_probing_stops_when_another_path_is_found() -> None:
    rig = Rig(hard=False)
    rig.give(INVITE, Relay(900))
    rig.run(0.5)
    rig.paths.note_active(rig.now)
    rig.drain()
    pings = [
        item
        for _, item in rig.sent
        if isinstance(item, Transmit) and isinstance(item.message, Ping) and item.to == PEER
    ]
    assert isinstance(pings[-1].message, Ping)
    rig.give(Pong(pings[-1].message.tx_id, OWN), PEER)
    assert rig.paths.path(rig.now) == PEER
    before = len(plain_pings(rig))
    rig.run(rig.now + 1.0)
    assert len(plain_pings(rig)) == before
    assert rig.paths.attempts[-1].outcome is Outcome.SUPERSEDED


def punched() -> Rig:
    rig = Rig(hard=True)
    rig.paths.note_active(0.0)
    rig.run(1.0)
    at = Aside(1, 17, PEER)
    rig.give(Ping(TxId(b"p" * 12), KEY), at)
    ping = next(
        item.message
        for _, item in reversed(rig.sent)
        if isinstance(item, AsideTransmit) and item.to == at and isinstance(item.message, Ping)
    )
    rig.give(Pong(ping.tx_id, Endpoint(OWN.ip, 5000)), at)
    assert rig.paths.path(rig.now) == at
    return rig


def test_a_punched_path_is_leased_and_told_in_calls() -> None:
    rig = punched()
    assert any(isinstance(event, AsideLease) and event.lease_ms for event in rig.events)
    assert rig.own.sockets.open == 1
    rig.run(5.2)
    calls = rig.said(CallMeMaybe)
    assert isinstance(calls[-1], CallMeMaybe)
    assert Endpoint(OWN.ip, 5000) in calls[-1].endpoints


def test_a_persons_ping_takes_the_punched_path() -> None:
    rig = punched()
    sent = rig.paths.ping(rig.now)
    rig.drain()
    assert len(sent) == 1
    item = rig.sent[-1][1]
    assert isinstance(item, AsideTransmit) and isinstance(item.message, Ping)
    assert item.message.tx_id == sent[0]
    rig.now += 0.03
    rig.give(Pong(sent[0], Endpoint(OWN.ip, 5000)), item.to)
    answers = [event for event in rig.events if isinstance(event, Ponged)]
    assert answers == [Ponged(sent[0], PEER, pytest.approx(0.03))]


def test_the_punched_path_takes_over_when_the_ordinary_one_goes() -> None:
    rig = punched()
    rig.run(1.5)
    ping = next(
        item.message
        for _, item in reversed(rig.sent)
        if isinstance(item, Transmit) and item.to == PEER and isinstance(item.message, Ping)
    )
    rig.give(Pong(ping.tx_id, OWN), PEER)
    assert rig.paths.path(rig.now) == PEER
    rig.events.clear()
    # The ordinary path falls silent; the punched one still answers.
    for step in range(60):
        rig.run(1.5 + step / 10)
        for _, item in rig.sent:
            if isinstance(item, AsideTransmit) and isinstance(item.message, Ping):
                rig.give(Pong(item.message.tx_id, Endpoint(OWN.ip, 5000)), item.to)
        rig.sent.clear()
    leases = [event for event in rig.events if isinstance(event, Lease | AsideLease)]
    assert isinstance(leases[-1], AsideLease) and leases[-1].lease_ms > 0
    assert not any(isinstance(e, Lease) and e.endpoint is None for e in leases)


def test_closing_leaves_no_socket() -> None:
    for rig in (punched(), Rig(hard=True)):
        rig.paths.note_active(rig.now)
        rig.run(rig.now + 0.6)
        rig.paths.close(rig.now)
        rig.drain()
        assert rig.own.sockets.open == 0 and rig.count(CloseSockets) == 1


def test_turned_off_in_the_middle() -> None:
    rig = Rig(hard=True)
    rig.paths.note_active(0.0)
    rig.run(2.0)
    rig.own.enabled = False
    rig.run(4.0)
    assert rig.own.sockets.open == 0


def test_a_caller_cannot_make_us_flood_an_address() -> None:
    rig = Rig(hard=False)
    victim = Endpoint.parse("203.0.113.77:1").ip
    for number in range(1000):
        rig.now = number / 1000
        first = 1024 + 96 * (number % 600)
        call = CallMeMaybe(tuple(Endpoint(victim, first + n) for n in range(96)))
        rig.paths.receive(call, Relay(900), rig.now)
        rig.drain()
    sent = [item for _, item in rig.sent if isinstance(item, Transmit)]
    to_victim = [t for t in sent if isinstance(t.to, Endpoint) and t.to.ip == victim]
    assert 0 < len(to_victim) <= 100
    assert rig.paths.paths.dropped["ping over the rate to one address"] > 0
    assert rig.paths.paths.dropped["call over the rate"] > 900


LAN = Endpoint.parse("192.168.1.2:41641")
CHANGED = Endpoint(PEER.ip, 20716)


def stock(*endpoints: Endpoint, hard: bool | None = None) -> Rig:
    """A stock peer that tells these endpoints and answers over the relay; this side is easy."""
    rig = Rig(hard=False, understands=False)
    rig.paths.set_peer(endpoints, 900, PeerSide(False, hard), 0.0)
    rig.paths.note_active(0.0)
    rig.give(CallMeMaybe(endpoints), Relay(900))
    return rig


def scanned(rig: Rig) -> list[tuple[float, int]]:
    """When which other ports of the peer's address were probed than those that it told."""
    return [
        (at, item.to.port)
        for at, item in rig.sent
        if isinstance(item, Transmit)
        and isinstance(item.to, Endpoint)
        and item.to.ip == PEER.ip
        and item.to not in (PEER, CHANGED)
    ]


@pytest.mark.parametrize("told", [(CHANGED, LAN), (CHANGED, PEER, LAN)])
@pytest.mark.parametrize(("hard", "after_s"), [(None, SCAN_AFTER_S), (True, 0.5)])
def test_a_stock_peer_whose_port_was_changed_is_scanned_for(
    told: tuple[Endpoint, ...], hard: bool | None, after_s: float
) -> None:
    """With the guess of its own port among what it tells, or without it."""
    rig = stock(*told, hard=hard)
    rig.run(40.0)
    probes = scanned(rig)
    assert after_s <= probes[0][0] < after_s + 0.2
    assert set(range(20480, 22528)) - {CHANGED.port} <= {port for _, port in probes}
    ordinary = [at for at, item in rig.sent if isinstance(item, Transmit) and item.to != LAN
                and isinstance(item.to, Endpoint)]  # fmt: skip
    assert all(sum(at <= t < at + 1.0 for t in ordinary) <= 100 for at in ordinary)


def test_a_failed_scan_is_not_repeated_for_minutes() -> None:
    rig = stock(CHANGED, LAN)
    for second in range(900):
        rig.run(float(second))
        rig.give(CallMeMaybe((CHANGED, LAN)), Relay(900))
        rig.paths.note_active(rig.now)
    began = [attempt.began for attempt in rig.paths.attempts]
    assert len(began) == 3
    assert began[1] - began[0] > BACKOFF_S and began[2] - began[1] > 2 * BACKOFF_S
    assert all(attempt.outcome is Outcome.EXHAUSTED for attempt in rig.paths.attempts)


@pytest.mark.parametrize(
    ("told", "hard"),
    [((PEER, LAN), None), ((CHANGED,), None), ((CHANGED, LAN), False), ((LAN,), None)],
    ids=["a kept port", "no NAT", "known to be easy", "no address outside"],
)
def test_a_stock_peer_that_is_not_scanned_for(
    told: tuple[Endpoint, ...], hard: bool | None
) -> None:
    rig = stock(*told, hard=hard)
    rig.run(20.0)
    assert not scanned(rig) and not rig.paths.attempts


def test_who_does_not_answer_over_the_relay_is_not_scanned_for() -> None:
    rig = Rig(hard=False, understands=False)
    rig.paths.set_peer([CHANGED, LAN], 900, PeerSide(False), 0.0)
    rig.paths.note_active(0.0)
    rig.run(15.0)
    assert not scanned(rig) and "not answered" in rig.paths.why
    rig.give(Pong(TxId(b"q" * 12), OWN), Relay(900))
    rig.run(17.0)
    assert scanned(rig)


def test_a_hit_of_a_scan_makes_the_stock_peer_ping_at_once() -> None:
    rig = stock(CHANGED, LAN)
    rig.run(4.9)
    at, item = rig.sent[-1]
    assert isinstance(item, Transmit) and isinstance(item.message, Ping)
    calls = len(rig.said(CallMeMaybe))
    assert isinstance(item.to, Endpoint)
    rig.give(Pong(item.message.tx_id, OWN), item.to)
    assert rig.paths.path(rig.now) == item.to and rig.now - at < 0.1
    assert rig.said(CallMeMaybe)[calls:] == [CallMeMaybe((OWN,))]
    before = len(scanned(rig))
    rig.run(7.0)
    assert {port for _, port in scanned(rig)[before:]} <= {item.to.port}
