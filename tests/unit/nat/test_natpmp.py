"""NAT-PMP: the examples of RFC 6886 by hand, and what is none."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from warren.nat.natpmp import (
    ExternalAddress,
    MalformedNatPmp,
    NatPmpMapped,
    external_address_request,
    map_request,
    parse_natpmp_response_untrusted,
)

ADDRESS = bytes.fromhex("00800000 00000e10 cb00710a")
MAPPED = bytes.fromhex("00810000 00000e10 a2a9 a2aa 00001c20")


def test_requests() -> None:
    assert external_address_request() == b"\0\0"
    request = map_request(41641, 41642, 7200)
    assert request == bytes.fromhex("0001 0000 a2a9 a2aa 00001c20")


def test_responses() -> None:
    assert parse_natpmp_response_untrusted(ADDRESS) == ExternalAddress(
        0, 3600, IPv4Address("203.0.113.10")
    )
    assert parse_natpmp_response_untrusted(MAPPED) == NatPmpMapped(0, 3600, 41641, 41642, 7200)
    refused = bytes.fromhex("00810002 00000e10")
    assert parse_natpmp_response_untrusted(refused).result == 2
    assert parse_natpmp_response_untrusted(bytes.fromhex("00800003 00000e10 00000000")) == (
        ExternalAddress(3, 3600, None)
    )


@pytest.mark.parametrize("good", [ADDRESS, MAPPED])
def test_cut_and_long(good: bytes) -> None:
    for size in range(len(good)):
        with pytest.raises(MalformedNatPmp):
            parse_natpmp_response_untrusted(good[:size])
    with pytest.raises(MalformedNatPmp):
        parse_natpmp_response_untrusted(good + b"\0")


@pytest.mark.parametrize("head", ["0280", "0000", "0001", "0082", "00ff", "ff80"])
def test_other_versions_and_operations(head: str) -> None:
    with pytest.raises(MalformedNatPmp):
        parse_natpmp_response_untrusted(bytes.fromhex(head) + ADDRESS[2:])
