"""The early payload, whole, cut, absent and wrong."""

from __future__ import annotations

import pytest

from warren.control.early import MAX_JSON_BYTES, EarlyReader, MalformedEarly, encode_early
from warren.keys import ChallengePublic

CHALLENGE = ChallengePublic(bytes(range(32)))
SETTINGS = bytes.fromhex("000000040000000000")
MAGIC = b"\xff\xff\xffTS"


def test_the_bytes() -> None:
    json = b'{"nodeKeyChallenge":"chalpub:' + bytes(range(32)).hex().encode() + b'"}'
    assert encode_early(CHALLENGE) == MAGIC + len(json).to_bytes(4, "big") + json


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_it_is_peeled_off_however_it_comes(size: int) -> None:
    stream, reader = encode_early(CHALLENGE) + SETTINGS, EarlyReader()
    found, rest = [], b""
    for at in range(0, len(stream), size):
        early, more = reader.receive(stream[at : at + size])
        rest += more
        if early:
            found.append(early.challenge)
    assert (found, rest, reader.done) == ([CHALLENGE], SETTINGS, True)
    assert reader.receive(MAGIC) == (None, MAGIC), "later bytes are HTTP/2's"


def test_a_server_may_say_nothing_early() -> None:
    for size in (1, 9):
        reader = EarlyReader()
        pieces = [reader.receive(SETTINGS[at : at + size]) for at in range(0, 9, size)]
        assert b"".join(rest for _, rest in pieces) == SETTINGS
        assert not any(early for early, _ in pieces)


def test_unknown_members_and_no_challenge() -> None:
    for json in (b'{"new":1}', b'{"nodeKeyChallenge":null}', b'{"nodeKeyChallenge":""}'):
        early, _ = EarlyReader().receive(MAGIC + len(json).to_bytes(4, "big") + json)
        assert early is not None
        assert early.challenge.is_zero


@pytest.mark.parametrize(
    "json", [b"", b"{", b"[]", b"\xff", b'{"nodeKeyChallenge":"chalpub:00"}', b"[" * 100_000]
)
def test_what_is_not_the_json(json: bytes) -> None:
    with pytest.raises(MalformedEarly):
        EarlyReader().receive(MAGIC + len(json).to_bytes(4, "big") + json)


def test_an_oversized_payload_is_refused_by_its_length() -> None:
    with pytest.raises(MalformedEarly, match="too long"):
        EarlyReader().receive(MAGIC + (MAX_JSON_BYTES + 1).to_bytes(4, "big"))
