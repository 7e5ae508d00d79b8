"""Attributes of RFC 5780: what goes in comes out, and nothing else comes in."""

from __future__ import annotations

import random

import pytest

from warren.nat.stun import MalformedStun, TxId, binding_request, parse_binding_request_untrusted
from warren.nat.stun5780 import (
    MAX_REQUEST_BYTES,
    discovery_request,
    discovery_response,
    parse_discovery_request_untrusted,
    parse_discovery_response_untrusted,
)
from warren.netmap.endpoint import Endpoint

TX = TxId(b"abcdefghijkl")
MAPPED = Endpoint.parse("203.0.113.7:41641")


def test_a_plain_request_is_the_stock_client_s() -> None:
    assert discovery_request(TX) == binding_request(TX)
    assert parse_binding_request_untrusted(discovery_request(TX), plain=False) == TX


@pytest.mark.parametrize("size", [64, 100, 1252, MAX_REQUEST_BYTES])
def test_a_request_of_any_size(size: int) -> None:
    data = discovery_request(TX, change_ip=True, size_bytes=size)
    assert len(data) == size
    assert parse_discovery_request_untrusted(data) == (TX, True, False)


@pytest.mark.parametrize("size", [4, 40, 66, MAX_REQUEST_BYTES + 4])
def test_sizes_that_cannot_be_had(size: int) -> None:
    with pytest.raises(ValueError, match="bytes long"):
        discovery_request(TX, size_bytes=size)


@pytest.mark.parametrize("other", ["198.51.100.20:3479", "[2001:db8::2]:3479", None])
def test_response(other: str | None) -> None:
    endpoint = Endpoint.parse(other) if other else None
    data = discovery_response(TX, MAPPED, Endpoint.parse("198.51.100.10:3478"), endpoint)
    found = parse_discovery_response_untrusted(data)
    assert (found.tx_id, found.mapped, found.other) == (TX, MAPPED, endpoint)
    assert len(data) <= 104


def test_bytes_as_the_rfc_has_them() -> None:
    data = discovery_response(TX, MAPPED, Endpoint.parse("1.2.3.4:5"), Endpoint.parse("6.7.8.9:10"))
    assert data.endswith(
        bytes.fromhex("802b0008 0001 0005 01020304 802c0008 0001 000a 06070809".replace(" ", ""))
    )
    assert bytes.fromhex("0003000400000006") in discovery_request(
        TX, change_ip=True, change_port=True
    )


def test_bad_bytes_are_malformed_and_nothing_worse() -> None:
    rng = random.Random(3)
    whole = [
        discovery_request(TX, change_port=True, size_bytes=64),
        discovery_response(TX, MAPPED, MAPPED, MAPPED),
    ]
    for data in whole:
        for cut in range(len(data)):
            _refused(data[:cut])
        for _ in range(2000):
            mutated = bytearray(data)
            for _ in range(rng.randint(1, 4)):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            for parse in (parse_discovery_request_untrusted, parse_discovery_response_untrusted):
                try:
                    parse(bytes(mutated))
                except MalformedStun:
                    continue
    _refused(bytes(70000))
    # RESPONSE-PORT would aim the answer at a port that did not ask.
    body = bytes.fromhex("00270004") + bytes([0x10, 0, 0, 0])
    _refused(bytes.fromhex("000100082112a442") + TX + body)
    _refused(bytes.fromhex("000100082112a442") + TX + bytes.fromhex("0003000200000000"))


def _refused(data: bytes) -> None:
    for parse in (parse_discovery_request_untrusted, parse_discovery_response_untrusted):
        with pytest.raises(MalformedStun):
            parse(data)
