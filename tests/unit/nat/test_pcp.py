"""PCP: the layouts of RFC 6887 §7 and §11.1 by hand, and what is none."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from warren.nat.epoch import EpochWatch
from warren.nat.pcp import (
    Announced,
    MalformedPcp,
    Nonce,
    PcpMapped,
    PcpRefused,
    announce_request,
    parse_pcp_response_untrusted,
    pcp_map_request,
)

CLIENT = IPv4Address("192.168.1.2")
NONCE = Nonce(bytes(range(12)))
HEAD = bytes.fromhex("0281 0000 00001c20 00000e10") + bytes(12)
MAP = NONCE + bytes.fromhex("11000000 a2a9 a2aa") + bytes(10) + b"\xff\xff\xcb\x00\x71\x0a"
ANNOUNCE = bytes.fromhex("0280 0000 00000000 00000e10") + bytes(12)
OPTION = bytes.fromhex("80 00 0005 0102030405000000")


def test_requests() -> None:
    mapped = bytes(10) + b"\xff\xff\xc0\xa8\x01\x02"
    assert announce_request(CLIENT) == bytes.fromhex("02000000 00000000") + mapped
    request = pcp_map_request(CLIENT, NONCE, 41641, 7200, 41642, IPv4Address("203.0.113.10"))
    assert request == bytes.fromhex("02010000 00001c20") + mapped + MAP
    assert len(request) == 60
    six = IPv6Address("2001:db8::2")
    assert announce_request(six)[8:] == six.packed


def test_responses() -> None:
    assert parse_pcp_response_untrusted(ANNOUNCE) == Announced(0, 3600)
    mapped = PcpMapped(0, 3600, 7200, NONCE, 41641, 41642, IPv4Address("203.0.113.10"))
    assert parse_pcp_response_untrusted(HEAD + MAP) == mapped
    assert parse_pcp_response_untrusted(HEAD + MAP + OPTION) == mapped
    refused = bytes.fromhex("0281 0002 00001c20 00000e10") + bytes(12)
    assert parse_pcp_response_untrusted(refused) == PcpRefused(2, 3600, 1)


@pytest.mark.parametrize("good", [HEAD + MAP, HEAD + MAP + OPTION, ANNOUNCE])
def test_cut(good: bytes) -> None:
    for size in range(len(good)):
        if size != len(HEAD + MAP):
            with pytest.raises(MalformedPcp):
                parse_pcp_response_untrusted(good[:size])


@pytest.mark.parametrize(
    "bad",
    [
        HEAD + MAP + OPTION * 200,
        HEAD + MAP + bytes.fromhex("8000 ffff"),
        HEAD + NONCE + b"\x06" + MAP[13:],
        b"\x01" + (HEAD + MAP)[1:],
        b"\x02\x01" + (HEAD + MAP)[2:],
        b"\x02\x82" + (HEAD + MAP)[2:],
    ],
    ids=["huge", "option", "TCP", "version", "request", "PEER"],
)
def test_bad(bad: bytes) -> None:
    with pytest.raises(MalformedPcp):
        parse_pcp_response_untrusted(bad)


def test_epoch() -> None:
    watch = EpochWatch()
    assert not watch.lost(1000, 10.0)
    assert not watch.lost(1060, 70.0)
    assert not watch.lost(1059, 70.1), "answers may overtake each other"
    assert not watch.lost(1960, 1000.0), "clocks need not be exact"
    assert watch.lost(5, 1010.0), "restarted"
    assert not watch.lost(10, 1015.0)
    assert watch.lost(700, 1075.0), "this machine slept, or another router answers"
    assert watch.lost(720, 1675.0), "a clock that stood still"
