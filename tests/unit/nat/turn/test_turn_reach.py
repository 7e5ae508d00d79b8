"""What a TURN server reaches, and what keeps it quiet."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from warren.nat.turn.limits import MAX_SOURCES, AnswerRate, Bucket
from warren.nat.turn.reach import Reach


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "224.0.0.251"),
        *("239.255.255.250", "255.255.255.255", "240.0.0.1", "192.0.0.9", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd7a:115c:a1e0::1", "ff02::1"),
        *("::127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::"),
        *("2001::1", "2001:db8::1", "4000::1", "100::1"),
    ],
)
def test_what_is_not_public_is_out_of_reach(text: str) -> None:
    assert not Reach().permits(ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "100.63.0.1", "172.32.0.1", "2606:4700::1111"])
def test_the_world_is_in_reach(text: str) -> None:
    assert Reach().permits(ip_address(text))


def test_own_networks_are_out_of_reach_unless_allowed_and_denials_win() -> None:
    own = [ip_network("8.8.8.0/24"), ip_network("2606:4700::/64")]
    assert not Reach(own).permits(ip_address("8.8.8.9"))
    assert not Reach(own).permits(ip_address("2606:4700::9"))
    assert Reach(own).permits(ip_address("8.8.9.9"))
    allow = [ip_network("8.8.8.8/32"), ip_network("192.168.7.0/24")]
    reach = Reach(own, allow, deny=[ip_network("192.168.7.1/32")])
    assert reach.permits(ip_address("8.8.8.8")) and not reach.permits(ip_address("8.8.8.9"))
    assert reach.permits(ip_address("192.168.7.2"))
    assert not reach.permits(ip_address("192.168.7.1"))


def test_some_things_cannot_be_allowed() -> None:
    reach = Reach(allow=[ip_network("0.0.0.0/0"), ip_network("::/0")])
    assert reach.permits(ip_address("127.0.0.1"))
    for text in ("0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"):
        assert not reach.permits(ip_address(text))


def test_a_bucket_fills_again_but_not_beyond_its_brim() -> None:
    bucket = Bucket(rate=10, burst=20, level=20, at=0.0)
    assert bucket.take(20, 0.0) and not bucket.take(1, 0.0)
    assert bucket.take(10, 1.0) and not bucket.take(1, 1.0)
    assert bucket.take(20, 100.0) and not bucket.take(1, 100.0)


def test_a_source_gets_so_many_answers_a_second() -> None:
    rate = AnswerRate(0.0, per_source=5, burst=30)
    victim = ip_address("203.0.113.7")
    asked = [rate.may_answer(victim, n / 1000) for n in range(10_000)]
    assert 75 <= sum(asked) <= 82
    assert rate.may_answer(ip_address("203.0.113.8"), 10.0)


def test_a_whole_v6_network_is_one_source_and_sources_are_bounded() -> None:
    rate = AnswerRate(0.0, per_source=0.001, burst=3, in_all=1e9)
    block = ip_network("2001:db8::/64")
    assert sum(rate.may_answer(block[n], 0.0) for n in range(1000)) == 3
    for n in range(MAX_SOURCES * 2):
        rate.may_answer(ip_address(n), 0.0)
    assert len(rate) == MAX_SOURCES


def test_all_sources_together_have_a_limit() -> None:
    rate = AnswerRate(0.0, in_all=100)
    assert sum(rate.may_answer(ip_address(n), 0.0) for n in range(10_000)) == 100
