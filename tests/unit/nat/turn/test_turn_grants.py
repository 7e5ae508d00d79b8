"""What a coordinator tells a node about TURN."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from warren.nat.turn.allocation import Transport
from warren.nat.turn.credentials import TimedAccounts, long_term_key
from warren.nat.turn.grants import (
    MAX_SERVERS,
    Grant,
    MalformedGrant,
    TurnPlace,
    encode,
    issue,
    parse_grant_untrusted,
)
from warren.nat.turn.numbers import Algorithm

WALL = datetime(2026, 1, 1, 7, tzinfo=UTC)
PLACES = [
    TurnPlace(Transport.UDP, "192.0.2.1", 3478),
    TurnPlace(Transport.TCP, "2001:db8::1", 3478),
    TurnPlace(Transport.TLS, "turn.example.com", 443),
    TurnPlace(Transport.TLS, "192.0.2.1", 443, bytes(range(32))),
]


def wire(**changes: object) -> bytes:
    value = {"urls": ["turn:192.0.2.1"], "username": "1:n5", "credential": "x", "ends": 1}
    return json.dumps(value | changes).encode()


def test_a_grant_arrives_as_it_was_issued() -> None:
    grant = issue(b"secret", "n5", PLACES, WALL)
    assert parse_grant_untrusted(encode(grant)) == grant
    assert json.loads(encode(grant))["urls"] == [
        "turn:192.0.2.1:3478?transport=udp",
        "turn:[2001:db8::1]:3478?transport=tcp",
        "turns:turn.example.com:443?transport=tcp",
        f"turns:192.0.2.1:443?transport=tcp#sha256-raw:{bytes(range(32)).hex()}",
    ]


def test_a_grant_is_the_same_for_half_a_day_and_good_for_as_long_at_least() -> None:
    def at(hours: float) -> Grant:
        return issue(b"secret", "n5", PLACES, WALL + timedelta(hours=hours))

    assert at(0) == at(4.99) != at(5.01)
    for hours in range(48):
        left_s = at(hours).ends_unix_s - (WALL + timedelta(hours=hours)).timestamp()
        assert 12 * 3600 < left_s <= 24 * 3600


def test_the_server_lets_the_grant_in_until_it_ends() -> None:
    name, password = (grant := issue(b"secret", "n5", PLACES, WALL)).credentials
    wall = [WALL]
    accounts = TimedAccounts([b"secret"], lambda: wall[0])
    (account,) = accounts.find(name, "r", Algorithm.SHA256)
    assert account.owner == "n5"
    assert account.key == long_term_key(name, "r", password, Algorithm.SHA256)
    wall[0] = datetime.fromtimestamp(grant.ends_unix_s, UTC)
    assert not accounts.find(name, "r", Algorithm.SHA256)


def test_servers_of_unknown_kinds_are_left_out() -> None:
    urls = [
        "turns:a.example:5?transport=udp",
        "turns:a.example#sha256-raw:00",
        "turn:a.example#sha256-raw:" + "00" * 32,
        "turn:b.example:0",
        "turn:b.example:70000",
        "stun:c.example",
        "turn:d.example?transport=sctp",
        "turn:bad host",
        "turn:e.example",
        "turns:[2001:db8::2]",
    ]
    found = parse_grant_untrusted(wire(urls=urls)).places
    assert found == (
        TurnPlace(Transport.UDP, "e.example", 3478),
        TurnPlace(Transport.TLS, "2001:db8::2", 5349),
    )
    assert len(parse_grant_untrusted(wire(urls=["turn:x"] * 99)).places) == MAX_SERVERS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"\xff",
        wire(urls=[]),
        wire(urls=["http://x"]),
        wire(urls="turn:x"),
        wire(username=""),
        wire(username="a\nb"),
        wire(username="x" * 600),
        wire(credential=""),
        wire(ends="soon"),
        wire(urls=["turn:x" * 4000]),
    ],
)
def test_what_is_no_grant(data: bytes) -> None:
    with pytest.raises(MalformedGrant):
        parse_grant_untrusted(data)
