from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.coordinator.addresses import (
    V4_POOL,
    V4_RESERVED,
    V6_POOL,
    PoolExhausted,
    allocate,
    v6_beside,
)
from warren.coordinator.config import BadConfig, Config, check, load, parse_address, relay_address
from warren.coordinator.dns import DnsChoice, dns_config
from warren.coordinator.durations import parse_duration
from warren.coordinator.names import dns_label, is_tag, is_user_name, unique_label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("laptop", "laptop"),
        ("Ann's MacBook Pro.local", "anns-macbook-pro"),
        ("WIN-7F2", "win-7f2"),
        ("münchen", "munchen"),
        ("a..b", "a"),
        ("--x--", "x"),
        ("", "node"),
        ("東京", "node"),
        ("x" * 100, "x" * 63),
        ("x" * 62 + "-y", "x" * 62),
    ],
)
def test_dns_label(text: str, label: str) -> None:
    assert dns_label(text) == label


@given(st.text(max_size=200))
def test_every_label_is_fit_for_dns(text: str) -> None:
    label = dns_label(text)
    assert 0 < len(label) <= 63 and label.strip("-") == label
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert dns_label(label) == label


@given(st.text(alphabet="ab-", min_size=1, max_size=70), st.integers(0, 12))
def test_unique_labels(text: str, others: int) -> None:
    taken: set[str] = set()
    for _ in range(others + 1):
        label = unique_label(dns_label(text), taken)
        assert label not in taken and dns_label(label) == label
        taken.add(label)


@pytest.mark.parametrize("name", ["alice", "alice@example.com", "ä", "x" * 254])
def test_user_names(name: str) -> None:
    assert is_user_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a\n", "a/b", "<b>", "a\x00", "x" * 255, "a:b", "a\u202e", "a\u200bb"],
)
def test_bad_user_names(name: str) -> None:
    assert not is_user_name(name)


def test_tags() -> None:
    assert is_tag("tag:a-1") and not any(map(is_tag, ["a", "tag:", "tag:1", "tag:a b", "tag:a\n"]))


def test_addresses_skip_what_is_reserved() -> None:
    last = IPv4Address("100.100.99.255")
    assert allocate(set(), last) == IPv4Address("100.100.101.0")
    assert allocate(set(), IPv4Address("100.115.91.255")) == IPv4Address("100.115.94.0")
    assert allocate(set(), None) == IPv4Address("100.64.0.1")


def test_addresses_go_round() -> None:
    end = IPv4Address("100.127.255.254")
    assert allocate({IPv4Address("100.64.0.1")}, end) == IPv4Address("100.64.0.2")
    assert allocate(set(), IPv4Address("10.0.0.1")) == IPv4Address("100.64.0.1")


def test_exhaustion() -> None:
    class Everything:
        def __contains__(self, _: object) -> bool:
            return True

    pool = IPv4Network("100.64.0.0/20")
    with pytest.raises(PoolExhausted):
        allocate(Everything(), IPv4Address("100.64.8.0"), pool)  # type: ignore[arg-type]


@given(st.integers(int(V4_POOL.network_address), int(V4_POOL.broadcast_address)))
def test_v6_beside(number: int) -> None:
    address = v6_beside(IPv4Address(number))
    assert address in V6_POOL and address != IPv6Address("fd7a:115c:a1e0::53")
    assert int(address) & 0xFFFFFFFF == number
    assert len(V4_RESERVED) == 2


def test_reverse_zones() -> None:
    routes = dns_config("warren.internal", DnsChoice()).routes
    assert "64.100.in-addr.arpa" in routes and "127.100.in-addr.arpa" in routes
    assert "63.100.in-addr.arpa" not in routes and "128.100.in-addr.arpa" not in routes
    assert "0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa" in routes and len(routes) == 66


@pytest.mark.parametrize(
    ("text", "length"),
    [("90s", 90), ("30m", 1800), ("24h", 86400), ("180d", 15552000), ("2w", 1209600)],
)
def test_durations(text: str, length: int) -> None:
    assert parse_duration(text) == timedelta(seconds=length)


@pytest.mark.parametrize("text", ["", "5", "-5s", "5 h", "1y", "5h5m", "99999999d", "٣s" * 9])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"length of time|longer than"):
        parse_duration(text)


def test_never() -> None:
    assert parse_duration("never") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":443", (None, 443)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:8443", ("::1", 8443)),
    ],
)
def test_listen_addresses(text: str, expected: tuple[str | None, int]) -> None:
    assert parse_address("listen", text) == expected


@pytest.mark.parametrize("text", ["443", "host:443", ":", ":x", ":65536", "1.2.3:4"])
def test_bad_listen_addresses(text: str) -> None:
    with pytest.raises(BadConfig):
        parse_address("listen", text)


def test_where_the_relay_is() -> None:
    def place(**settings: object) -> tuple[str, int] | None:
        config = Config(**settings)  # type: ignore[arg-type]
        check(config)
        return relay_address(config)

    assert place(url="http://192.0.2.1:8080", listen=":8443") == ("192.0.2.1", 8443)
    assert place(url="https://vpn.example.com") == ("vpn.example.com", 443)
    behind = {"tls": "off", "http": "127.0.0.1:8080"}
    assert place(url="https://vpn.example.com", **behind) == ("vpn.example.com", 443)
    assert place(url="http://vpn.example.com", **behind) is None
    assert place(url="https://vpn.example.com", relay=False) is None
    assert place(url="http://x.test", relay_host="r.test", relay_port=444) == ("r.test", 444)


@pytest.mark.parametrize(
    ("url", "http", "becomes"),
    [
        ("http://192.0.2.7", None, ":80"),
        ("http://[2001:db8::1]:8080", None, ":8080"),
        ("http://192.0.2.7", "127.0.0.1:81", "127.0.0.1:81"),
        ("https://vpn.example.com", None, ""),
        (None, None, ""),
    ],
)
def test_a_url_of_plain_http_is_answered(url: str | None, http: str | None, becomes: str) -> None:
    assert load(None, {"url": url, "http": http}).http == becomes


def test_a_url_without_a_sensible_port_is_refused() -> None:
    with pytest.raises(BadConfig, match="url"):
        load(None, {"url": "http://192.0.2.7:99999"})
