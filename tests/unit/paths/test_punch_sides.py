"""Each side of an attempt alone: what it sends, at what rate, and that it ends."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.disco.messages import CallMeMaybe, Ping, Pong, PunchEnd, PunchInvite, TxId
from warren.disco.punching import PunchReason
from warren.keys import NodePrivate
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import Hostinfo, NetInfo
from warren.paths import timing
from warren.paths.punching.attempt import Attempt, Method, Outcome
from warren.paths.punching.budget import ProbeBudget, SocketBudget
from warren.paths.punching.easy import PROBES_MAX, SCAN_MAX, EasySide
from warren.paths.punching.hard import (
    CALL_PORTS_TOTAL,
    FRESH_AFTER_S,
    SOCKETS,
    HardSide,
    Punched,
)
from warren.paths.punching.kept import IDLE_MAX_S, KeptPath
from warren.paths.punching.ports import Allocation, GuessPlan, Pattern, PortMemory, Sample, Span
from warren.paths.punching.roles import OwnSide, PeerSide, Role, choose
from warren.paths.punching.shown import ShownPorts, targets
from warren.paths.punching.sockets import (
    Aside,
    AsideLease,
    AsideTransmit,
    CloseSockets,
    KeepSocket,
    OpenSockets,
    OverRelay,
    StunAsk,
)

KEY = NodePrivate.from_entropy(bytes(range(32))).public()
TARGET = Endpoint.parse("198.51.100.2:41641")
OUTSIDE = Endpoint.parse("198.51.100.1:5555")
STUN = Endpoint.parse("192.0.2.1:3478")


def most_in_a_second(times: Iterable[float]) -> int:
    """Return the largest number in any window [t, t + 1)."""
    ordered = sorted(times)
    first = most = 0
    for last, at in enumerate(ordered):
        while ordered[first] + 1.0 <= at:
            first += 1
        most = max(most, last - first + 1)
    return most


class Bench:
    """Runs one hard side until it is over or nothing is due before `until`."""

    def __init__(self, understands: bool, samples: bool = True, stun: bool = False) -> None:
        self.memory = PortMemory()
        if samples:
            self.memory.note(Sample(STUN, OUTSIDE, 0.0))
        self.budget = ProbeBudget()
        self.side = HardSide(
            group=1,
            sockets=SOCKETS,
            target=TARGET,
            understands=understands,
            memory=self.memory,
            stun_servers=[STUN] if stun else [],
            own_key=KEY,
            budget=self.budget,
            entropy=random.Random(1).randbytes,
            now=0.0,
        )
        self.now = 0.0
        self.sent: list[tuple[float, object]] = []

    def run(self, until: float) -> None:
        for _ in range(100_000):
            while (item := self.side.poll_transmit()) is not None:
                self.sent.append((self.now, item))
            due = self.side.next_timeout()
            if due is None or due[0] > until:
                self.now = until
                return
            self.now = max(self.now, due[0])
            self.side.handle_timeout(self.now)
        raise AssertionError("it has no end")

    def of(self, kind: type) -> list[object]:
        return [item for _, item in self.sent if isinstance(item, kind)]

    def pings(self) -> list[AsideTransmit]:
        asides = [item for item in self.of(AsideTransmit) if isinstance(item, AsideTransmit)]
        return [item for item in asides if isinstance(item.message, Ping)]

    def calls(self) -> list[tuple[float, CallMeMaybe]]:
        return [
            (at, item.message)
            for at, item in self.sent
            if isinstance(item, OverRelay) and isinstance(item.message, CallMeMaybe)
        ]


def test_every_socket_opens_one_way_to_the_target() -> None:
    bench = Bench(understands=True)
    bench.run(1.0)
    assert bench.sent[0][1] == OpenSockets(1, SOCKETS)
    assert {item.to.index for item in bench.pings()} == set(range(SOCKETS))
    assert {item.to.endpoint for item in bench.pings()} == {TARGET}
    assert len(bench.pings()) == SOCKETS


def test_the_invitation_says_where_to_look() -> None:
    bench = Bench(understands=True)
    bench.run(1.0)
    invites = [item.message for item in bench.of(OverRelay) if isinstance(item, OverRelay)]
    assert len(invites) == 1 and isinstance(invites[0], PunchInvite)
    assert invites[0].target == TARGET and invites[0].address.ip == OUTSIDE.ip
    assert OUTSIDE.port in invites[0].ports


def test_stun_answers_end_the_wait_and_shape_the_guesses() -> None:
    bench = Bench(understands=True, stun=True)
    bench.run(0.141)
    asks = [
        item.message.tx_id
        for item in bench.of(AsideTransmit)
        if isinstance(item, AsideTransmit) and isinstance(item.message, StunAsk)
    ]
    assert len(asks) == 6
    for number, tx_id in enumerate(asks):
        mapped = Endpoint(OUTSIDE.ip, 30000 + number)
        bench.side.receive_stun(tx_id, mapped, 0.15)
    bench.now = 0.15
    bench.run(0.16)
    assert bench.side.attempt.allocation.startswith("sequential")
    assert bench.of(OverRelay)


def test_sockets_are_exchanged_once_for_fresh_ones() -> None:
    bench = Bench(understands=True)
    bench.run(12.0)
    assert bench.of(OpenSockets) == [OpenSockets(1, SOCKETS)] * 2
    assert bench.of(CloseSockets) == [CloseSockets(1)]
    assert len(bench.pings()) == 2 * SOCKETS
    fresh = [at for at, item in bench.sent if isinstance(item, OpenSockets)][1]
    assert fresh == pytest.approx(FRESH_AFTER_S, abs=0.5)


def test_without_an_address_nothing_is_asked_of_the_peer() -> None:
    bench = Bench(understands=True, samples=False)
    bench.run(20.0)
    assert bench.side.attempt.outcome is Outcome.ADDRESS_UNKNOWN
    assert bench.sent[-1][1] == CloseSockets(1) and not bench.of(OverRelay)


def test_it_ends_and_closes_when_nobody_answers() -> None:
    for understands in (True, False):
        bench = Bench(understands)
        bench.run(100.0)
        assert bench.side.attempt.outcome is Outcome.EXHAUSTED
        assert bench.side.next_timeout() is None
        assert bench.sent[-1][1] == CloseSockets(1)
        assert "hit no port" in bench.side.attempt.sentence()


def test_a_stock_peer_is_given_a_hundred_ports_a_second_at_most() -> None:
    bench = Bench(understands=False)
    bench.run(100.0)
    times = [at for at, call in bench.calls() for _ in call.endpoints]
    ports = [endpoint.port for _, call in bench.calls() for endpoint in call.endpoints]
    assert most_in_a_second(times) <= 100
    assert len(ports) == len(set(ports)) == CALL_PORTS_TOTAL
    assert {endpoint.ip for _, call in bench.calls() for endpoint in call.endpoints} == {OUTSIDE.ip}


def test_two_stock_peers_share_the_rate_towards_the_own_address() -> None:
    """Both probe the same NAT address: ours."""
    first, second = Bench(understands=False), Bench(understands=False)
    second.side._budget = first.budget
    for step in range(1, 400):
        first.run(step / 10)
        second.run(step / 10)
    times = [at for b in (first, second) for at, call in b.calls() for _ in call.endpoints]
    assert most_in_a_second(times) <= 100


def test_the_first_ping_decides_which_socket_stays() -> None:
    bench = Bench(understands=False)
    bench.run(1.5)
    source = Endpoint.parse("198.51.100.2:41641")
    bench.side.receive(Ping(TxId(b"a" * 12), KEY), Aside(1, 77, source), 1.5)
    bench.side.receive(Ping(TxId(b"b" * 12), KEY), Aside(1, 78, source), 1.5)
    bench.run(1.5)
    after = [item for at, item in bench.sent if at == 1.5]
    assert KeepSocket(1, 77) in after
    sent_from = {item.to.index for item in after if isinstance(item, AsideTransmit)}
    assert sent_from == {77}
    assert AsideTransmit(Aside(1, 77, source), Pong(TxId(b"a" * 12), source)) in after
    ping = next(i for i in after if isinstance(i, AsideTransmit) and isinstance(i.message, Ping))
    assert isinstance(ping.message, Ping)
    bench.side.receive(Pong(ping.message.tx_id, OUTSIDE), Aside(1, 77, source), 1.54)
    assert bench.side.punched == Punched(1, 77, source, OUTSIDE, pytest.approx(0.04))
    assert bench.side.attempt.succeeded
    calls = len(bench.calls())
    bench.run(60.0)
    assert len(bench.calls()) == calls, "it stops the moment a path is found"
    assert not bench.of(CloseSockets)


def test_a_hit_that_stays_silent_ends_in_closed_sockets() -> None:
    bench = Bench(understands=True)
    bench.run(1.0)
    bench.side.receive(Ping(TxId(b"a" * 12), KEY), Aside(1, 5, TARGET), 1.0)
    bench.run(30.0)
    assert bench.side.attempt.outcome is Outcome.UNCONFIRMED
    assert bench.sent[-1][1] == CloseSockets(1)


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (PunchReason.EXHAUSTED, Outcome.EXHAUSTED),
        (PunchReason.BOTH_HARD, Outcome.REFUSED),
        (200, Outcome.REFUSED),
    ],
)
def test_the_peers_word_ends_it(reason: int, outcome: Outcome) -> None:
    bench = Bench(understands=True)
    bench.run(1.0)
    invite = bench.of(OverRelay)[0]
    assert isinstance(invite, OverRelay) and isinstance(invite.message, PunchInvite)
    bench.side.receive_end(PunchEnd(invite.message.attempt ^ 1, reason), 1.0)
    assert bench.side.attempt.ended is None, "another attempt's end"
    bench.side.receive_end(PunchEnd(invite.message.attempt, reason), 1.0)
    bench.run(1.0)
    assert bench.side.attempt.outcome is outcome
    assert bench.sent[-1][1] == CloseSockets(1)


def easy(
    plan: GuessPlan, seed: int, scan: bool = False, budget: ProbeBudget | None = None
) -> EasySide:
    return EasySide(
        address=OUTSIDE.ip,
        plan=plan,
        own_key=KEY,
        budget=budget or ProbeBudget(),
        entropy=random.Random(seed).randbytes,
        now=0.0,
        scan=scan,
    )


def probes_of(side: EasySide, late: random.Random | None = None) -> list[tuple[float, Endpoint]]:
    """Run a side to its end; `late` makes timers fire late now and then."""
    sent: list[tuple[float, Endpoint]] = []
    now = 0.0
    while (due := side.next_timeout()) is not None:
        now = max(now, due[0])
        if late is not None and late.random() < 0.05:
            now += late.uniform(0, 0.7)
        side.handle_timeout(now)
        while (probe := side.poll_transmit()) is not None:
            sent.append((now, probe[0]))
        assert len(sent) < 5000
    return sent


@given(seed=st.integers(0, 2**32), scan=st.booleans())
def test_the_easy_side_never_exceeds_its_rate_and_always_ends(seed: int, scan: bool) -> None:
    side = easy(GuessPlan((2000, 2001), (Span(4096, 6143),), 256), seed, scan)
    sent = probes_of(side, random.Random(seed))
    assert most_in_a_second(at for at, _ in sent) <= 100
    assert len(sent) == len(set(sent)) and len(sent) <= (SCAN_MAX if scan else PROBES_MAX)
    assert side.attempt.outcome is Outcome.EXHAUSTED


def test_a_thousand_probes_take_ten_seconds() -> None:
    sent = probes_of(easy(GuessPlan((), (), 256), 1))
    assert len(sent) == PROBES_MAX and sent[-1][0] == pytest.approx(10.23, abs=0.05)


def test_two_attempts_at_one_address_share_the_rate() -> None:
    budget = ProbeBudget()
    sides = [easy(GuessPlan((), (), 256), seed, budget=budget) for seed in (1, 2)]
    times = []
    for tick in range(30_000):
        now = tick / 1000
        for side in sides:
            side.handle_timeout(now)
            while side.poll_transmit() is not None:
                times.append(now)
    assert most_in_a_second(times) <= 100 and len(times) == 2 * PROBES_MAX


def test_a_pong_ends_the_probing_at_once() -> None:
    side = easy(GuessPlan((2000,), (), 256), 1)
    side.handle_timeout(0.0)
    probe = side.poll_transmit()
    assert probe is not None and probe[0].port == 2000
    side.receive(Pong(probe[1].tx_id, TARGET), Endpoint.parse("203.0.113.9:2000"), 0.02)
    assert side.hit is None, "an answer from elsewhere"
    side.receive(Pong(probe[1].tx_id, TARGET), probe[0], 0.02)
    assert side.hit is not None and side.hit.endpoint == probe[0]
    assert side.next_timeout() is None and side.poll_transmit() is None


def test_a_port_that_pings_is_probed_next_within_the_rate() -> None:
    side = easy(GuessPlan((), (), 256), 1)
    times = []
    for tick in range(200_000):
        now = tick / 10_000
        side.handle_timeout(now)
        if 1.0 <= now < 4.0 and tick % 100 == 0:
            side.hint(Endpoint(OUTSIDE.ip, 5000 + tick % 7), now)
            side.hint(Endpoint.parse("203.0.113.9:1"), now)
        while (probe := side.poll_transmit()) is not None:
            times.append(now)
            assert probe[0].ip == OUTSIDE.ip
    assert most_in_a_second(times) <= 100 and len(times) <= PROBES_MAX + 16
    late = easy(GuessPlan((), (), 256), 2)
    sent = probes_of(late)
    late.hint(OUTSIDE, sent[-1][0])
    assert late.poll_transmit() is None, "it is over"


@given(st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 100)), max_size=60))
def test_the_budget_counts_exactly(steps: list[tuple[float, int]]) -> None:
    budget, now, times = ProbeBudget(), 0.0, []
    for pause, count in steps:
        now += pause
        if budget.take(OUTSIDE.ip, count, now):
            times += [now] * count
        else:
            free = budget.next_free(OUTSIDE.ip, count, now)
            assert free > now
            assert budget.take(OUTSIDE.ip, count, free)
            now = free
            times += [now] * count
    assert most_in_a_second(times) <= 100


def test_the_budget_is_bounded_in_addresses() -> None:
    budget = ProbeBudget()
    for number in range(5000):
        budget.take(Endpoint.parse(f"10.0.{number // 250}.{number % 250}:1").ip, 1, 0.0)
    assert len(budget._sent) <= 1024
    assert budget.take(OUTSIDE.ip, 1, 5.0), "old ones make room"


def test_sockets_are_bounded_over_all_peers() -> None:
    sockets = SocketBudget(limit=512)
    first, second = sockets.open_group(256), sockets.open_group(256)
    assert first and second and first != second
    assert sockets.open_group(256) == 0
    sockets.keep_one(first)
    sockets.close(second)
    assert sockets.open == 1 and sockets.open_group(256)


class TestKeptPath:
    def path(self) -> KeptPath:
        punched = Punched(3, 9, TARGET, OUTSIDE, 0.04)
        return KeptPath(punched, KEY, random.Random(1).randbytes, 0.0)

    def test_pongs_prolong_the_lease(self) -> None:
        path, now = self.path(), 0.0
        leases = 0
        for _ in range(20):
            due = path.next_timeout()
            assert due is not None
            now = due[0]
            path.note_active(now)
            path.handle_timeout(now)
            while (item := path.poll_transmit()) is not None:
                assert isinstance(item, AsideTransmit) and isinstance(item.message, Ping)
                path.receive(Pong(item.message.tx_id, OUTSIDE), path.at, now + 0.04)
            assert path.is_trusted(now + 0.04)
            while (lease := path.poll_event()) is not None:
                assert isinstance(lease, AsideLease)
                leases += 1
                assert lease.lease_ms == int(timing.TRUST_S * 1000)
        assert leases >= 20

    def test_silence_ends_the_lease_and_closes_the_socket(self) -> None:
        path = self.path()
        path.poll_event()
        ended_at = closed_at = None
        for _ in range(100):
            due = path.next_timeout()
            if due is None:
                break
            path.handle_timeout(due[0])
            while (lease := path.poll_event()) is not None:
                if isinstance(lease, AsideLease) and lease.lease_ms == 0 and ended_at is None:
                    ended_at = due[0]
            while (item := path.poll_transmit()) is not None:
                if isinstance(item, CloseSockets):
                    closed_at = due[0]
        assert ended_at is not None and ended_at < 6.0
        assert closed_at is not None and closed_at < 8.0 and not path.alive

    def test_nobody_uses_it(self) -> None:
        """Answered, but idle: pinged seldom, closed after two minutes."""
        path, pings, now = self.path(), 0, 0.0
        while (due := path.next_timeout()) is not None:
            now = due[0]
            path.handle_timeout(now)
            while (item := path.poll_transmit()) is not None:
                if isinstance(item, AsideTransmit) and isinstance(item.message, Ping):
                    pings += 1
                    path.receive(Pong(item.message.tx_id, OUTSIDE), path.at, now)
        assert IDLE_MAX_S <= now < IDLE_MAX_S + 25 and pings < 25

    def test_foreign_pongs_and_sockets_count_for_nothing(self) -> None:
        path = self.path()
        path.handle_timeout(3.0)
        item = path.poll_transmit()
        assert isinstance(item, AsideTransmit) and isinstance(item.message, Ping)
        while path.poll_event() is not None:
            pass
        elsewhere = Aside(3, 9, Endpoint.parse("203.0.113.9:1"))
        path.receive(Pong(TxId(b"x" * 12), OUTSIDE), path.at, 3.01)
        path.receive(Pong(item.message.tx_id, OUTSIDE), Aside(3, 8, TARGET), 3.01)
        path.receive(Pong(item.message.tx_id, OUTSIDE), elsewhere, 3.01)
        assert path.poll_event() is None


def own_side(hard: bool | None, **facts: bool) -> OwnSide:
    return OwnSide(entropy=random.Random(1).randbytes, hard=hard, **facts)


BLOCK = Allocation(Pattern.BLOCK, (2000, 2100, 2050), block=Span(1900, 2200))
ONE = Allocation(Pattern.UNKNOWN, (2000,))


@pytest.mark.parametrize(
    ("own", "peer", "ports", "role"),
    [
        (own_side(True), PeerSide(True), ONE, Role.OPEN),
        (own_side(True), PeerSide(False), ONE, Role.OPEN),
        (own_side(True), PeerSide(True, hard=True), ONE, Role.NOTHING),
        (own_side(True), PeerSide(False), BLOCK, Role.NOTHING),
        (own_side(True), PeerSide(True, udp=False), ONE, Role.NOTHING),
        (own_side(True, enabled=False), PeerSide(True), ONE, Role.NOTHING),
        (own_side(True, udp=False), PeerSide(True), ONE, Role.NOTHING),
        (own_side(None), PeerSide(True), ONE, Role.NOTHING),
        (own_side(False), PeerSide(True), ONE, Role.GUESS),
        (own_side(False), PeerSide(False), ONE, Role.NOTHING),
        (own_side(False), PeerSide(False), BLOCK, Role.SCAN),
        (own_side(False), PeerSide(False, hard=True), ONE, Role.SCAN),
        (own_side(False), PeerSide(False, hard=False), ONE, Role.NOTHING),
        (
            own_side(False),
            PeerSide(False, hard=True),
            Allocation(Pattern.RANDOM, (1,)),
            Role.NOTHING,
        ),
    ],
)
def test_roles(own: OwnSide, peer: PeerSide, ports: Allocation, role: Role) -> None:
    found, why = choose(own, peer, ports)
    assert found is role and why


@pytest.mark.parametrize(
    ("peer", "ports", "role"),
    [
        (PeerSide(False), ONE, Role.SCAN),
        (PeerSide(False, hard=False), ONE, Role.NOTHING),
        (PeerSide(True), ONE, Role.GUESS),
        (PeerSide(False), Allocation(Pattern.RANDOM, (2000, 50000)), Role.NOTHING),
        (PeerSide(False, udp=False), ONE, Role.NOTHING),
    ],
)
def test_a_port_that_was_changed_may_be_changed_anew(
    peer: PeerSide, ports: Allocation, role: Role
) -> None:
    found, _ = choose(own_side(False), peer, ports, changed=True)
    assert found is role


def test_one_server_makes_likely_what_two_know() -> None:
    own, kept, moved = own_side(None), Endpoint.parse("1.2.3.4:5"), Endpoint.parse("1.2.3.4:6")
    own.learn(None, None, 5)
    assert own.hard is None
    for seen, hard in ((kept, False), (moved, True), (kept, False)):
        own.learn(None, seen, 5)
        assert (own.hard, own.certain) == (hard, False)
    own.learn(True, kept, 5)
    own.learn(None, kept, 5)  # a later measuring asked one server only
    assert (own.hard, own.certain) == (True, True)
    own.forget()
    assert (own.hard, own.certain) == (None, False)
    own.learn(None, moved, 0)  # the engine has no port yet
    assert own.hard is None


def test_a_stock_client_that_asks_one_region_cannot_say_no() -> None:
    """It takes a second answer of one server for another's (PROTOCOL §5.9)."""
    for varies, regions, stock, ours in (
        (False, 1, None, False),
        (False, 2, False, False),
        (True, 1, True, True),
        (None, 2, None, None),
    ):
        info = NetInfo(mapping_varies_by_dest_ip=varies, working_udp=True)
        told = Hostinfo(ipn_version="1.90.0", net_info=info)
        assert PeerSide.of(told, regions) == PeerSide(False, stock, True)
        told = Hostinfo(ipn_version="0.1.0-warren", net_info=info)
        assert PeerSide.of(told, regions) == PeerSide(True, ours, True)


def endpoints(*texts: str) -> list[Endpoint]:
    return [Endpoint.parse(text) for text in texts]


def test_attempts_in_words() -> None:
    scan = Attempt(Method.SCAN, Endpoint.parse("198.51.100.2:0"), 10.0, probes=1729)
    assert scan.sentence() == (
        "Punching towards 198.51.100.2 is under way: a scan of the ports of the peer's NAT "
        "(1729 ports tried)."
    )
    scan.found = Endpoint.parse("198.51.100.2:20500")
    scan.end(Outcome.FOUND, 12.5)
    assert "found a path at 198.51.100.2:20500 after 2.5 s: a scan" in scan.sentence()
    ours = Attempt(Method.SOCKETS, TARGET, 10.0, sockets=256, allocation="sequential, step 2")
    ours.refusal = PunchReason.BOTH_HARD
    ours.end(Outcome.REFUSED, 10.1)
    assert ours.sentence() == (
        "Punching towards 198.51.100.2:41641 was refused by the peer after 0.1 s, because its "
        "ports vary too: many sockets here, the peer guessed (256 sockets); our NAT's ports are "
        "sequential, step 2."
    )
    for outcome in Outcome:
        each = Attempt(Method.PROBES, TARGET, 10.0, sockets=256, probes=1)
        each.end(outcome, 11.0)
        assert each.sentence().count(":") == 2 and "1 port tried)." in each.sentence()


def test_a_stock_clients_guess_is_no_port_of_its_nat() -> None:
    shown = ShownPorts()
    shown.note(endpoints("198.51.100.2:20716", "198.51.100.2:41641", "192.168.1.2:41641"), 0.0)
    assert shown.allocation() == Allocation(Pattern.UNKNOWN, (20716,))
    assert str(shown.moved_to) == "198.51.100.2:20716"
    assert str(shown.address()) == "198.51.100.2"
    # A call need not repeat the inside address.
    shown.note(endpoints("198.51.100.2:20900", "198.51.100.2:41641"), 1.0)
    assert shown.allocation().ports == (20900, 20716)


def test_a_kept_port_is_not_a_changed_one() -> None:
    shown = ShownPorts()
    assert shown.moved_to is None and shown.address() is None
    shown.note(endpoints("198.51.100.2:41641", "192.168.1.2:41641", "[2001:db8::1]:41641"), 0.0)
    assert shown.allocation() == Allocation(Pattern.PRESERVED, (41641,))
    assert shown.moved_to is None and str(shown.address()) == "198.51.100.2"


def test_a_machine_without_a_nat_has_no_changed_port() -> None:
    shown = ShownPorts()
    shown.note(endpoints("198.51.100.2:41641"), 0.0)
    assert shown.moved_to is None


def test_what_was_seen_at_another_address_is_forgotten() -> None:
    shown = ShownPorts()
    shown.note(endpoints("198.51.100.2:20716", "192.168.1.2:41641"), 0.0)
    shown.note(endpoints("198.51.100.3:41641", "100.64.7.7:41641"), 1.0)
    assert shown.moved_to is None and str(shown.address()) == "198.51.100.3"
    shown.note(endpoints("198.51.100.3:5000", "100.64.7.7:41641"), 2.0)
    assert shown.allocation() == Allocation(Pattern.UNKNOWN, (5000,)) and shown.moved_to


def test_what_a_peer_says_of_itself() -> None:
    info = NetInfo(mapping_varies_by_dest_ip=True, working_udp=True)
    said = Hostinfo(ipn_version="0.1.0-warren", net_info=info)
    assert PeerSide.of(said, 1) == PeerSide(True, True, True)
    assert PeerSide.of(Hostinfo(ipn_version="1.98.0-t1"), 1) == PeerSide(False, None, None)


def test_only_outside_ipv4_endpoints_are_targets() -> None:
    texts = ("192.168.1.2:1", "[2001:db8::1]:1", "10.0.0.1:1", "198.51.100.2:7", "198.51.100.2:7")
    assert targets(Endpoint.parse(text) for text in texts) == [Endpoint.parse("198.51.100.2:7")]
