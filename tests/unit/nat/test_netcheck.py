"""The measuring, on a virtual clock against servers that answer as they are told."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from warren.nat.netcheck import LIMIT_S, Netcheck, plan_full, plan_incremental
from warren.nat.rejected import Rejected
from warren.nat.report import Report
from warren.nat.stun import binding_response, parse_binding_request_untrusted
from warren.nat.targets import Target
from warren.netmap.endpoint import Endpoint

OWN_V4, OWN_V6 = Endpoint.parse("203.0.113.7:41641"), Endpoint.parse("[2001:db8::7]:41641")
START = 1000.0


def _entropy() -> Callable[[int], bytes]:
    counter = itertools.count(1)
    return lambda size: next(counter).to_bytes(size, "big")


def _target(region: int, address: str, node: str = "a") -> Target:
    return Target(region, f"{region}{node}", Endpoint.parse(address))


@dataclass
class World:
    """Servers with a round trip in seconds, and how our NAT shows us to each."""

    round_trip_s: Mapping[Endpoint, float]
    seen_as: Mapping[Endpoint, Endpoint] = field(default_factory=dict)
    lost: int = 0
    asked: list[tuple[float, Endpoint]] = field(default_factory=list)

    def run(self, check: Netcheck) -> Report:
        """Let the measuring run to its end; return its report."""
        replies: list[tuple[float, int, Endpoint, bytes]] = []
        now, number = START, itertools.count()
        while True:
            while (sent := check.poll_transmit()) is not None:
                self.asked.append((now - START, sent.to))
                if len(self.asked) > self.lost and sent.to in self.round_trip_s:
                    tx_id = parse_binding_request_untrusted(sent.data, plain=False)
                    own = self.seen_as.get(sent.to, OWN_V4 if sent.to.is_v4 else OWN_V6)
                    answer = binding_response(tx_id, own)
                    due = now + self.round_trip_s[sent.to]
                    heapq.heappush(replies, (due, next(number), sent.to, answer))
            report = check.poll_event()
            if report is not None:
                assert check.next_timeout() is None
                return report
            timeout = check.next_timeout()
            assert timeout is not None
            if replies and replies[0][0] <= timeout[0]:
                now, _, source, answer = heapq.heappop(replies)
                assert check.receive(answer, source, now) is None
            else:
                now = max(now, timeout[0])
                check.handle_timeout(now)


def _run(targets: Sequence[Target], round_trips_s: Sequence[float | None]) -> Report:
    world = World(
        {
            target.endpoint: seconds
            for target, seconds in zip(targets, round_trips_s, strict=True)
            if seconds is not None
        }
    )
    return world.run(Netcheck(targets, _entropy(), START))


def test_three_regions_are_measured() -> None:
    targets = [_target(region, f"198.18.0.{region}:3478") for region in (1, 2, 3)]
    report = _run(targets, [0.03, 0.01, 0.02])
    assert report.latency_v4 == pytest.approx({1: 0.03, 2: 0.01, 3: 0.02})
    assert report.udp
    assert report.global_v4 == OWN_V4
    assert report.mapping_varies is False
    assert report.finished - report.started == pytest.approx(0.03), "nothing more to learn"


def test_one_region_with_one_server_is_done_with_its_answer() -> None:
    report = _run([_target(900, "198.18.0.1:3478")], [0.004])
    assert report.latency_v4 == pytest.approx({900: 0.004})
    assert report.mapping_varies is None, "one server cannot tell"
    assert report.finished == pytest.approx(START + 0.004)


def test_a_second_server_of_one_region_is_asked_about_the_mapping() -> None:
    one, two = _target(900, "198.18.0.1:3478"), _target(900, "198.18.0.2:3478", "b")
    other = Endpoint.parse("203.0.113.7:50001")
    world = World({one.endpoint: 0.002, two.endpoint: 0.003}, {two.endpoint: other})
    report = world.run(Netcheck([one, two], _entropy(), START))
    assert report.mapping_varies is True
    assert report.mapped_v4 == (OWN_V4, other)
    assert report.finished - START < 0.05


@pytest.mark.parametrize(
    ("net", "own", "lie"),
    [
        ("198.18.0.{}:3478", OWN_V4, "192.0.2.66:6666"),
        ("[2001:db8:1::{}]:3478", OWN_V6, "[2001:db8:bad::6]:6666"),
    ],
)
def test_of_two_that_disagree_a_third_one_tells_who_lies(net: str, own: Endpoint, lie: str) -> None:
    targets = [_target(region, net.format(region)) for region in (1, 2, 3)]
    said = Endpoint.parse(lie)
    for liar in targets:
        world = World({t.endpoint: 0.01 * t.region for t in targets}, {liar.endpoint: said})
        report = world.run(Netcheck(targets, _entropy(), START))
        assert report.liars == {liar.endpoint: said}
        assert report.mapping_varies is (False if own.is_v4 else None)
        assert (report.mapped_v4 or report.mapped_v6) == (own,)


def test_a_lie_in_one_family_is_none_in_the_other() -> None:
    servers = [text.format(n) for n in (1, 2, 3) for text in ("198.18.0.{}:1", "[2001:db8::{}]:1")]
    targets = [_target(n // 2 + 1, server) for n, server in enumerate(servers)]
    lies = {targets[1].endpoint: Endpoint.parse("[2001:db8:bad::6]:6")}
    report = World({t.endpoint: 0.01 for t in targets}, lies).run(
        Netcheck(targets, _entropy(), START)
    )
    assert report.liars == lies
    assert (report.mapped_v4, report.mapped_v6) == ((OWN_V4,), (OWN_V6,))


def test_three_ports_are_a_symmetric_nat_and_no_lie() -> None:
    targets = [_target(region, f"198.18.0.{region}:3478") for region in (1, 2, 3, 4)]
    seen = {t.endpoint: Endpoint(OWN_V4.ip, 5000 + t.region) for t in targets}
    report = World({t.endpoint: 0.01 for t in targets}, seen).run(
        Netcheck(targets, _entropy(), START)
    )
    assert report.mapping_varies is True
    assert report.liars == {}


def test_an_address_that_nobody_has_is_no_answer() -> None:
    target = _target(1, "198.18.0.1:3478")
    check = Netcheck([target], _entropy(), START)
    sent = check.poll_transmit()
    assert sent is not None
    tx_id = parse_binding_request_untrusted(sent.data)
    for text in ("0.0.0.0:1", "127.0.0.1:1", "224.0.0.1:1", "203.0.113.7:0", "[2001:db8::7]:1"):
        answer = binding_response(tx_id, Endpoint.parse(text))
        assert check.receive(answer, target.endpoint, START) is Rejected.RESERVED
    answer = binding_response(tx_id, OWN_V4)
    assert check.receive(answer, target.endpoint, START + 0.01) is None


def test_both_families() -> None:
    targets = [_target(1, "198.18.0.1:3478"), _target(1, "[2001:db8::1]:3478")]
    report = _run(targets, [0.01, 0.02])
    assert (report.latency_v4, report.latency_v6) == (
        pytest.approx({1: 0.01}),
        pytest.approx({1: 0.02}),
    )
    assert report.latency == pytest.approx({1: 0.01})
    assert report.global_v6 == OWN_V6


def test_ipv6_that_leads_nowhere_does_not_hold_up() -> None:
    targets = [_target(1, "198.18.0.1:3478"), _target(1, "[2001:db8::1]:3478")]
    report = _run(targets, [0.01, None])
    assert report.latency_v6 == {}
    assert report.finished - START < 0.1


def test_ipv6_that_leads_nowhere_does_not_hide_the_mapping() -> None:
    """One relay with a name for both families, and its second address: a NAT is still told."""
    servers = ("198.18.0.1:3478", "[2001:db8::1]:3478", "198.18.0.2:3478")
    targets = [_target(1, server) for server in servers]
    world = World(
        {targets[0].endpoint: 0.01, targets[2].endpoint: 0.01},
        seen_as={targets[2].endpoint: Endpoint.of(OWN_V4.ip, OWN_V4.port + 1)},
    )
    report = world.run(Netcheck(targets, _entropy(), START))
    assert report.mapping_varies is True
    assert report.finished - START < 0.1


def test_a_slow_region_is_not_waited_for_once_three_have_answered() -> None:
    targets = [_target(region, f"198.18.0.{region}:3478") for region in range(1, 6)]
    report = _run(targets, [0.01, 0.02, 0.03, 2.0, None])
    assert set(report.latency_v4) == {1, 2, 3}
    assert report.finished - START == pytest.approx(0.03 + 2 * 0.03)


def test_lost_datagrams_are_sent_again() -> None:
    target = _target(1, "198.18.0.1:3478")
    world = World({target.endpoint: 0.01}, lost=2)
    report = world.run(Netcheck([target], _entropy(), START))
    assert [round(at, 3) for at, _ in world.asked] == [0.0, 0.1, 0.2]
    assert report.latency_v4 == pytest.approx({1: 0.01})


def test_no_udp_ends_after_its_time() -> None:
    report = _run([_target(1, "198.18.0.1:3478")], [None])
    assert not report.udp
    assert report.finished == START + LIMIT_S
    assert report.global_v4 is None


def test_nothing_to_ask_ends_at_once() -> None:
    check = Netcheck([], _entropy(), START)
    report = check.poll_event()
    assert report is not None
    assert not report.udp
    assert check.poll_event() is None
    assert check.next_timeout() is None


def test_what_is_not_an_answer_is_left_alone() -> None:
    target = _target(1, "198.18.0.1:3478")
    check = Netcheck([target], _entropy(), START)
    sent = check.poll_transmit()
    assert sent is not None
    tx_id = parse_binding_request_untrusted(sent.data)
    answer = binding_response(tx_id, OWN_V4)
    for data in (b"", b"garbage", sent.data, answer[:-1], answer + b"x"):
        assert check.receive(data, target.endpoint, START) is Rejected.MALFORMED
    guessed = binding_response(type(tx_id)(b"x" * 12), OWN_V4)
    assert check.receive(guessed, target.endpoint, START) is Rejected.WRONG_ID
    assert check.receive(guessed, OWN_V4, START) is Rejected.FOREIGN
    assert check.receive(answer, target.endpoint, START + 0.01) is None
    assert check.receive(answer, target.endpoint, START + 0.01) is Rejected.WRONG_ID, "a replay"
    assert check.poll_event() is not None


def test_the_full_plan_turns_over_the_servers() -> None:
    one, two = _target(1, "198.18.0.1:3478"), _target(1, "198.18.0.2:3478", "b")
    plan = plan_full([one, two])
    assert [(probe.after_s, probe.target) for probe in plan] == [
        (0.0, one),
        (pytest.approx(0.1), two),
        (pytest.approx(0.2), one),
    ]


def test_the_incremental_plan_asks_the_fastest_and_home() -> None:
    targets = [_target(region, f"198.18.0.{region}:3478") for region in range(1, 7)]
    fastest = {1: 0.05, 2: 0.01, 3: 0.02, 4: 0.03, 6: 0.9}
    plan = plan_incremental(targets, fastest, home=6)
    tries = [probe.target.region for probe in plan]
    assert {region: tries.count(region) for region in tries} == {2: 2, 3: 2, 4: 1, 6: 4}
    second = [probe.after_s for probe in plan if probe.target.region == 2][1]
    assert second == pytest.approx(0.01 * 1.2 + 0.05)
    unmeasured = plan_incremental(targets, {2: 0.01}, home=5)
    spaced = [probe.after_s for probe in unmeasured if probe.target.region == 5]
    assert spaced == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert plan_incremental(targets, {99: 0.01}, home=0) == plan_full(targets)


def test_an_incremental_measuring_settles_sooner() -> None:
    targets = [_target(region, f"198.18.0.{region}:3478") for region in range(1, 6)]
    world = World({target.endpoint: 0.08 for target in targets[:3]})
    fastest = dict.fromkeys((1, 2, 3), 0.08)
    report = world.run(Netcheck(targets, _entropy(), START, fastest, home=5))
    assert set(report.latency_v4) == {1, 2, 3}
    assert report.finished - START == pytest.approx(0.16)
