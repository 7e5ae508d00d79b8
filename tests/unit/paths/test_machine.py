"""Single steps of the path machine."""

from __future__ import annotations

import itertools
import random
from ipaddress import IPv4Address

import pytest

from warren.disco.messages import CallMeMaybe, Message, Ping, Pong, TxId
from warren.keys import NodePrivate, NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths import timing
from warren.paths.candidates import CANDIDATES_MAX, CandidateTable, Source, is_usable
from warren.paths.machine import (
    FLIGHTS_MAX,
    EndpointsWanted,
    Lease,
    PathEvent,
    PeerPaths,
    Ponged,
    Relay,
    Transmit,
)
from warren.paths.scoring import advantage, nearness, worth_a_switch

OWN: NodePublic = NodePrivate.from_entropy(bytes(32)).public()
PUBLIC = Endpoint.parse("198.51.100.7:41641")
LAN = Endpoint.parse("192.168.1.7:41641")
HERE = Endpoint.parse("203.0.113.1:41641")
RELAY = Relay(900)


class Driver:
    """A machine with a counting entropy."""

    def __init__(self) -> None:
        counter = itertools.count(1)
        self.paths = PeerPaths(OWN, lambda size: next(counter).to_bytes(size, "big"))
        self.paths.set_own_endpoints([HERE], 0.0)
        self.paths.set_peer([PUBLIC, LAN], 900, 0.0)

    def sent(self) -> list[Transmit]:
        found = []
        while (transmit := self.paths.poll_transmit()) is not None:
            found.append(transmit)
        return found

    def events(self) -> list[PathEvent]:
        found = []
        while (event := self.paths.poll_event()) is not None:
            found.append(event)
        return found

    def pong(self, to: Transmit, now: float, via: Endpoint | Relay | None = None) -> None:
        assert isinstance(to.message, Ping)
        self.paths.receive(Pong(to.message.tx_id, HERE), via or to.to, now)


def pings(sent: list[Transmit]) -> dict[object, Transmit]:
    return {t.to: t for t in sent if isinstance(t.message, Ping)}


def test_first_traffic_pings_everywhere_and_calls() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    sent = driver.sent()
    assert set(pings(sent)) == {PUBLIC, LAN}
    assert Transmit(RELAY, CallMeMaybe((HERE,))) in sent
    assert driver.events() == []


def test_stale_endpoints_are_measured_before_the_call() -> None:
    driver = Driver()
    now = timing.ENDPOINTS_FRESH_S + 1
    driver.paths.note_active(now)
    assert not any(isinstance(t.message, CallMeMaybe) for t in driver.sent())
    assert driver.events() == [EndpointsWanted()]
    driver.paths.set_own_endpoints([HERE], now + 0.1)
    assert driver.sent() == [Transmit(RELAY, CallMeMaybe((HERE,)))]


def test_a_call_does_not_wait_for_a_measuring_that_never_ends() -> None:
    driver = Driver()
    now = timing.ENDPOINTS_FRESH_S + 1
    driver.paths.note_active(now)
    driver.sent()
    driver.paths.handle_timeout(now + timing.ENDPOINTS_WAIT_S)
    assert Transmit(RELAY, CallMeMaybe((HERE,))) in driver.sent()


def test_pong_gives_a_lease_and_a_better_one_replaces_it() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    sent = pings(driver.sent())
    driver.pong(sent[PUBLIC], 1.020)
    assert driver.events() == [Lease(PUBLIC, 6500)]
    driver.pong(sent[LAN], 1.0205)
    assert driver.events() == [Lease(LAN, 6500)]
    assert driver.paths.path(1.1) is driver.paths.candidates.get(LAN)


def test_lease_is_not_prolonged_without_a_pong() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    driver.pong(pings(driver.sent())[PUBLIC], 1.02)
    assert driver.paths.is_trusted(1.02 + timing.TRUST_S - 0.01)
    assert not driver.paths.is_trusted(1.02 + timing.TRUST_S)


def test_pong_from_elsewhere_must_answer_for_itself() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    other = Endpoint.parse("198.51.100.7:5000")
    driver.pong(pings(driver.sent())[PUBLIC], 1.02, via=other)
    assert driver.events() == []
    assert set(pings(driver.sent())) == {other}


def test_pong_over_the_relay_gives_no_lease() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    driver.pong(pings(driver.sent())[PUBLIC], 1.02, via=RELAY)
    assert driver.events() == []


def test_unknown_pong_is_counted() -> None:
    driver = Driver()
    driver.paths.receive(Pong(TxId(bytes(12)), HERE), PUBLIC, 1.0)
    assert driver.paths.dropped == {"pong to no ping": 1}
    assert driver.sent() == []


def test_ping_is_answered_and_its_source_pinged() -> None:
    driver = Driver()
    other = Endpoint.parse("198.51.100.9:999")
    driver.paths.receive(Ping(TxId(b"x" * 12), OWN), other, 1.0)
    sent = driver.sent()
    assert Transmit(other, Pong(TxId(b"x" * 12), other)) in sent
    assert set(pings(sent)) == {other}


def test_ping_over_the_relay_is_answered_there() -> None:
    driver = Driver()
    driver.paths.receive(Ping(TxId(b"x" * 12), OWN), RELAY, 1.0)
    (sent,) = driver.sent()
    assert sent.to == RELAY
    assert isinstance(sent.message, Pong)


def test_answers_are_limited() -> None:
    driver = Driver()
    for number in range(1000):
        driver.paths.receive(Ping(TxId(number.to_bytes(12, "big")), OWN), PUBLIC, 1.0)
    pongs = [t for t in driver.sent() if isinstance(t.message, Pong)]
    assert len(pongs) == 300
    assert driver.paths.dropped == {"ping over the rate": 700}


def test_call_is_only_taken_over_the_relay() -> None:
    driver = Driver()
    call: Message = CallMeMaybe((Endpoint.parse("198.51.100.20:1"),))
    driver.paths.receive(call, PUBLIC, 1.0)
    assert driver.sent() == []
    driver.paths.receive(call, RELAY, 1.0)
    assert set(pings(driver.sent())) == {Endpoint.parse("198.51.100.20:1")}


def test_a_new_call_replaces_the_old_ones_addresses() -> None:
    driver = Driver()
    first, second = (Endpoint.parse(f"198.51.100.{n}:1") for n in (20, 21))
    driver.paths.receive(CallMeMaybe((first,)), RELAY, 1.0)
    driver.paths.receive(CallMeMaybe((second,)), RELAY, 2.0)
    known = {candidate.endpoint for candidate in driver.paths.candidates}
    assert first not in known
    assert second in known


def test_a_call_to_addresses_that_nobody_has_pings_none_of_them() -> None:
    driver = Driver()
    nowhere = ("0.0.0.0:1", "0.1.2.3:1", "224.0.0.1:1", "255.255.255.255:1", "198.51.100.7:0")
    nowhere += ("[::]:1", "[ff02::1]:1", "[fe80::1]:1")
    said = tuple(Endpoint.parse(text) for text in (*nowhere, "198.51.100.9:9"))
    driver.paths.receive(CallMeMaybe(said), RELAY, 1.0)
    assert set(pings(driver.sent())) == {Endpoint.parse("198.51.100.9:9")}
    assert driver.paths.dropped == {"called to an address that nobody has": len(nowhere)}


def test_a_huge_call_stays_bounded() -> None:
    driver = Driver()
    many = tuple(Endpoint(IPv4Address(0xC6336400 + n // 60000), 1 + n % 60000) for n in range(3000))
    for now in range(10):
        driver.paths.receive(CallMeMaybe(many), RELAY, float(now))
    assert len(driver.paths.candidates) <= CANDIDATES_MAX
    assert len(driver.paths._flights) <= FLIGHTS_MAX


def test_ping_for_a_person_tells_how_it_came() -> None:
    driver = Driver()
    asked = driver.paths.ping(1.0)
    relayed = next(t for t in driver.sent() if t.to == RELAY and isinstance(t.message, Ping))
    driver.pong(relayed, 1.05)
    assert isinstance(relayed.message, Ping)
    (event,) = driver.events()
    assert isinstance(event, Ponged)
    assert event.via == RELAY
    assert event.tx_id in asked
    assert event.rtt_s == pytest.approx(0.05)


def test_network_change_takes_the_lease_away() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    driver.pong(pings(driver.sent())[PUBLIC], 1.02)
    driver.events()
    driver.paths.network_changed(2.0)
    assert driver.events() == [Lease(None, 0), EndpointsWanted()]
    assert set(pings(driver.sent())) == {PUBLIC, LAN}


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("198.51.100.1:1", True),
        ("198.51.100.1:0", False),
        ("0.0.0.0:1", False),
        ("0.1.2.3:1", False),
        ("255.255.255.255:1", False),
        ("224.0.0.1:1", False),
        ("169.254.1.1:1", True),
        ("[fe80::1]:1", False),
        ("[2001:db8::1]:1", True),
        ("[::]:1", False),
    ],
)
def test_usable(text: str, usable: bool) -> None:
    assert is_usable(Endpoint.parse(text)) is usable


def test_the_table_forgets_the_one_unheard_of_for_longest() -> None:
    table = CandidateTable()
    for number in range(CANDIDATES_MAX + 1):
        table.add(Endpoint(IPv4Address("198.51.100.1"), 1000 + number), Source.PING, float(number))
    assert len(table) == CANDIDATES_MAX
    assert table.get(Endpoint.parse("198.51.100.1:1000")) is None


@pytest.mark.parametrize(
    ("a", "a_ms", "b", "b_ms", "switch"),
    [
        ("198.51.100.1:1", 10, "198.51.100.2:1", 11, False),
        ("198.51.100.1:1", 10, "198.51.100.2:1", 20, True),
        ("192.168.0.1:1", 10, "198.51.100.2:1", 10, True),
        ("198.51.100.1:1", 0.1, "198.51.100.2:1", 1.9, False),
        ("[2001:db8::1]:1", 10, "198.51.100.2:1", 10, False),
        ("[2001:db8::1]:1", 10, "198.51.100.2:1", 12, True),
    ],
)
def test_scores(a: str, a_ms: float, b: str, b_ms: float, switch: bool) -> None:
    points = advantage(Endpoint.parse(a), a_ms / 1000, Endpoint.parse(b), b_ms / 1000)
    back = advantage(Endpoint.parse(b), b_ms / 1000, Endpoint.parse(a), a_ms / 1000)
    assert worth_a_switch(points) is switch
    assert points == pytest.approx(-back)


def test_nearness() -> None:
    texts = ("127.0.0.1:1", "169.254.0.1:1", "10.0.0.1:1", "8.8.8.8:1", "[fd00::1]:1", "[::1]:1")
    assert [nearness(Endpoint.parse(t)) for t in texts] == [50, 30, 20, 0, 30, 60]


def called_and_answered(now: float) -> Driver:
    """A peer called, and answers our ping, but has not pinged itself."""
    driver = Driver()
    driver.paths.receive(CallMeMaybe((PUBLIC,)), RELAY, now)
    driver.pong(pings(driver.sent())[PUBLIC], now + 0.02)
    return driver


def calls(sent: list[Transmit]) -> list[Transmit]:
    return [t for t in sent if isinstance(t.message, CallMeMaybe)]


def test_a_peer_that_called_and_does_not_ping_is_called_back_once() -> None:
    driver = called_and_answered(1.0)
    assert not calls(driver.sent())
    driver.paths.handle_timeout(1.02 + timing.NUDGE_AFTER_S)
    assert calls(driver.sent()) == [Transmit(RELAY, CallMeMaybe((HERE,)))]
    for step in range(20):
        now = 1.2 + step * 0.3
        driver.paths.receive(CallMeMaybe((PUBLIC, LAN)), RELAY, now)
        for ping in pings(driver.sent()).values():
            driver.pong(ping, now + 0.02)
        driver.paths.handle_timeout(now + 0.2)
        assert not calls(driver.sent())


def test_a_peer_that_pings_is_not_called_back() -> None:
    driver = called_and_answered(1.0)
    driver.paths.receive(Ping(TxId(b"x" * 12), OWN), PUBLIC, 1.05)
    driver.paths.handle_timeout(1.02 + timing.NUDGE_AFTER_S)
    assert not calls(driver.sent())


def test_a_relay_that_is_back_gets_the_call_again() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    assert calls(driver.sent())
    driver.paths.relay_connected(7, 1.1)
    assert not driver.sent()
    driver.paths.relay_connected(900, 1.1)
    assert calls(driver.sent())


def test_the_next_best_path_is_kept_warm() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    sent = pings(driver.sent())
    driver.pong(sent[LAN], 1.001)
    driver.pong(sent[PUBLIC], 1.02)
    now, asked = 1.02, []
    while now < 50.0:
        now += 0.4
        driver.paths.note_active(now)
        driver.paths.handle_timeout(now)
        for ping in driver.sent():
            if isinstance(ping.message, Ping):
                asked += [now] if ping.to == PUBLIC else []
                driver.pong(ping, now + 0.001 if ping.to == LAN else now + 0.02)
    assert driver.paths.path(now) is driver.paths.candidates.get(LAN)
    gaps = [b - a for a, b in zip([1.02, *asked], [*asked, now], strict=True)]
    assert max(gaps) < 20


def test_another_network_forgets_what_was_measured() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    driver.pong(pings(driver.sent())[PUBLIC], 1.02)
    driver.paths.network_changed(2.0)
    candidate = driver.paths.candidates.get(PUBLIC)
    assert candidate is not None
    assert (candidate.pongs, candidate.latency_s, candidate.ponged_at) == (0, None, None)


def test_a_call_to_a_trusted_path_asks_it_at_once() -> None:
    driver = Driver()
    driver.paths.note_active(1.0)
    driver.pong(pings(driver.sent())[PUBLIC], 1.02)
    driver.paths.receive(CallMeMaybe((LAN,)), RELAY, 1.1)
    driver.sent()
    driver.paths.handle_timeout(1.1)
    assert PUBLIC in pings(driver.sent())


def test_a_ping_replayed_from_many_addresses_is_dropped_and_counted() -> None:
    paths = PeerPaths(OWN, random.Random(1).randbytes)
    told = Endpoint.parse("203.0.113.9:41641")
    paths.set_peer([told], 1, 0.0)
    ping = Ping(TxId(bytes(12)), OWN)
    sent = 0
    for number in range(2000):
        src = Endpoint.parse(f"198.51.100.{number % 250 + 1}:{1000 + number}")
        paths.receive(ping, src, number / 100)
        while paths.poll_transmit() is not None:
            sent += 1
    assert sent <= 20 and paths.dropped["ping from too many addresses"] > 1900
    assert paths.candidates.get(told) is not None


def test_addresses_that_only_pinged_make_room_before_those_of_the_map() -> None:
    paths = PeerPaths(OWN, random.Random(1).randbytes)
    told = Endpoint.parse("203.0.113.9:41641")
    paths.set_peer([told], 1, 0.0)
    for number in range(3000):
        src = Endpoint.parse(f"198.51.100.{number % 250 + 1}:{1000 + number}")
        paths.receive(Ping(TxId(number.to_bytes(12, "big")), OWN), src, number / 10)
        while paths.poll_transmit() is not None:
            pass
    assert len(paths.candidates) <= CANDIDATES_MAX
    assert paths.candidates.get(told) is not None
