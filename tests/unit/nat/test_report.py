"""Which region becomes home, and what is told to the coordinator."""

from __future__ import annotations

import pytest

from warren.nat.report import History, Report, fallback_region, net_info, preferred_region
from warren.netmap.endpoint import Endpoint


def _report(latency: dict[int, float], at: float = 1000.0) -> Report:
    return Report(started=at - 1, finished=at, latency_v4=latency)


def _choose(
    latency: dict[int, float],
    home: int = 0,
    heard_s_ago: float | None = None,
    scores: dict[int, float] | None = None,
    earlier: dict[int, float] | None = None,
    earlier_s_ago: float = 60.0,
) -> int:
    report, history = _report(latency), History()
    if earlier is not None:
        history.add(_report(earlier, at=1000.0 - earlier_s_ago))
    history.add(report)
    heard = None if heard_s_ago is None else 1000.0 - heard_s_ago
    return preferred_region(report, history, home, heard, scores)


def test_the_fastest_wins_at_first() -> None:
    assert _choose({1: 0.05, 2: 0.02, 3: 0.03}) == 2
    assert _choose({1: 0.02, 2: 0.02}) == 1


def test_home_is_left_only_for_a_clear_gain() -> None:
    assert _choose({1: 0.100, 2: 0.091}, home=1) == 1, "9 ms are too little"
    assert _choose({1: 0.100, 2: 0.070}, home=1) == 1, "more than two thirds"
    assert _choose({1: 0.100, 2: 0.060}, home=1) == 2
    assert _choose({1: 0.012, 2: 0.001}, home=1) == 2


def test_the_lowest_of_five_minutes_counts() -> None:
    assert _choose({1: 0.2, 2: 0.05}, home=1, earlier={1: 0.05}) == 1
    assert _choose({1: 0.2, 2: 0.05}, home=1, earlier={1: 0.05}, earlier_s_ago=306) == 2
    assert _choose({2: 0.05}, earlier={1: 0.01}) == 2, "only what answers now can be chosen"


def test_scores_weigh_the_latency() -> None:
    assert _choose({1: 0.02, 2: 0.03}, scores={1: 2.0}) == 2
    assert _choose({1: 0.02, 2: 0.03}, scores={2: 0.5}) == 2


def test_a_home_that_did_not_answer_stays_while_its_relay_speaks() -> None:
    assert _choose({2: 0.01}, home=1) == 2
    assert _choose({2: 0.01}, home=1, heard_s_ago=7.9) == 1
    assert _choose({2: 0.01}, home=1, heard_s_ago=8.1) == 2
    late = Report(started=980.0, finished=1000.0, latency_v4={2: 0.01})
    history = History()
    history.add(late)
    assert preferred_region(late, history, 1, 981.0) == 1, "heard since the measuring began"


def test_without_any_data_home_stays_for_two_minutes() -> None:
    assert _choose({}, home=1, heard_s_ago=119.0) == 1
    assert _choose({}, home=1, heard_s_ago=121.0) == 0
    assert _choose({}, home=1) == 0
    assert _choose({}) == 0


def test_latency_over_https_counts_where_udp_is_blocked() -> None:
    report = _report({}).with_relay_latency({3: 0.2, 4: 0.1})
    assert not report.udp
    history = History()
    history.add(report)
    assert preferred_region(report, history) == 4
    info = net_info(report, 4)
    assert info.derp_latency == {"3-v4": 0.2, "4-v4": 0.1}
    assert info.working_udp is False


def test_the_history_is_bounded() -> None:
    history = History()
    for second in range(10_000):
        history.add(_report({1: 1.0 + second}, at=float(second)))
    assert history.fastest(9_999.0)[1] >= 9_600.0
    assert history.fastest(99_999.0) == {}


def test_the_fallback_is_the_same_every_time_and_spreads() -> None:
    assert fallback_region([], b"x") == 0
    assert fallback_region([3, 1, 2], b"x") == fallback_region([1, 2, 3], b"x")
    assert {fallback_region([1, 2, 3], bytes([seed])) for seed in range(50)} == {1, 2, 3}


def test_net_info() -> None:
    report = Report(
        started=0.0,
        finished=1.0,
        latency_v4={900: 0.01},
        latency_v6={900: 0.02},
        mapped_v4=(Endpoint.parse("1.2.3.4:5"),),
        mapping_varies=False,
    )
    info = net_info(report, 900, os_has_ipv6=True)
    assert info.preferred_derp == 900
    assert info.derp_latency == pytest.approx({"900-v4": 0.01, "900-v6": 0.02})
    assert (info.working_udp, info.working_ipv6, info.os_has_ipv6) == (True, True, True)
    assert info.mapping_varies_by_dest_ip is False
