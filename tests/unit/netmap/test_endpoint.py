"""An address and a port, as text and as 18 bytes."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from warren.netmap.endpoint import Endpoint, MalformedEndpoint

CASES = [
    ("1.2.3.4:567", "00000000000000000000ffff010203040237"),
    ("[2001:db8::9]:3456", "20010db80000000000000000000000090d80"),
    ("0.0.0.0:0", "00000000000000000000ffff000000000000"),
    ("[::]:65535", "00000000000000000000000000000000ffff"),
]


@pytest.mark.parametrize(("text", "packed"), CASES)
def test_both_forms_both_ways(text: str, packed: str) -> None:
    endpoint = Endpoint.parse(text)
    assert str(endpoint) == text
    assert endpoint.pack().hex() == packed
    assert Endpoint.unpack(bytes.fromhex(packed)) == endpoint


def test_an_ipv4_mapped_address_is_the_ipv4_one() -> None:
    assert Endpoint.parse("[::ffff:1.2.3.4]:5") == Endpoint(IPv4Address("1.2.3.4"), 5)
    assert Endpoint.parse("1.2.3.4:5").is_v4


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "1.2.3.4",
        "1.2.3.4:",
        ":5",
        "1.2.3.4:-1",
        "1.2.3.4:65536",
        "1.2.3.4:999999",
        "1.2.3.4:٣",
        "1.2.3.4: 5",
        "[1.2.3.4]:5",
        "2001:db8::9:5",
        "[fe80::1%eth0]:5",
        "[2001:db8::9:5",
        "name:5",
        "1.2.3.4:5:6",
        "x" * 100_000 + ":5",
    ],
)
def test_text_that_is_none(text: str) -> None:
    with pytest.raises(MalformedEndpoint) as caught:
        Endpoint.parse(text)
    assert len(str(caught.value)) < 200


def test_bytes_and_values_that_are_none() -> None:
    for size in (0, 17, 19, 1000):
        with pytest.raises(MalformedEndpoint):
            Endpoint.unpack(bytes(size))
    for port in (-1, 65_536):
        with pytest.raises(MalformedEndpoint):
            Endpoint.of(ip_address("1.2.3.4"), port)
