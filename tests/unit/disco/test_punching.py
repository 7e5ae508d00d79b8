"""The project's own messages: there and back, and everything that is no message."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.disco.malformed import MalformedDisco
from warren.disco.messages import Message, encode_message, parse_message_untrusted
from warren.disco.punching import PunchEnd, PunchInvite
from warren.disco.turning import TurnOffer
from warren.netmap.endpoint import Endpoint, MalformedEndpoint

INVITE = PunchInvite(
    attempt=0x01020304,
    sockets=256,
    target=Endpoint.parse("198.51.100.2:41641"),
    address=Endpoint.parse("198.51.100.1:0"),
    ports=(2000, 65535),
    spans=((2048, 4095), (1024, 65535)),
)
OFFER = TurnOffer((Endpoint.parse("203.0.113.7:50000"), Endpoint.parse("[2001:db8::7]:9")))


@pytest.mark.parametrize(
    "message",
    [INVITE, INVITE._replace(ports=(), spans=()), PunchEnd(7, 1), OFFER, TurnOffer(())],
)
def test_there_and_back(message: Message) -> None:
    data = encode_message(message)
    assert parse_message_untrusted(data) == message
    assert parse_message_untrusted(data + b"later") == message


def test_every_cut_is_refused() -> None:
    for message in (INVITE, PunchEnd(7, 1), OFFER):
        data = encode_message(message)
        for length in range(len(data)):
            with pytest.raises(MalformedDisco):
                parse_message_untrusted(data[:length])


def test_too_many_ports_are_refused() -> None:
    many = encode_message(INVITE._replace(ports=tuple(range(2000, 2129))))
    with pytest.raises(MalformedDisco):
        parse_message_untrusted(many)


def test_too_many_relayed_addresses_are_refused() -> None:
    data = bytearray(encode_message(OFFER) + bytes(18 * 5))
    data[2] = 5
    with pytest.raises(MalformedDisco):
        parse_message_untrusted(bytes(data))


def test_spans_that_end_before_they_begin_are_left_out() -> None:
    parsed = parse_message_untrusted(encode_message(INVITE._replace(spans=((9, 8), (8, 9)))))
    assert isinstance(parsed, PunchInvite) and parsed.spans == ((8, 9),)


@given(kind=st.sampled_from([0xE0, 0xE1, 0xE2]), body=st.binary(max_size=400))
def test_garbage_never_raises_anything_else(kind: int, body: bytes) -> None:
    with contextlib.suppress(MalformedDisco, MalformedEndpoint):
        parse_message_untrusted(bytes([kind, 0]) + body)
