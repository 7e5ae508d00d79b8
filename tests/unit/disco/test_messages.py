"""Disco messages as hex, both ways, and what is not one."""

from __future__ import annotations

from contextlib import suppress

import pytest

from warren.disco.malformed import MalformedDisco, UnknownMessage
from warren.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    AllocateUDPRelayEndpointResponse,
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    BindUDPRelayEndpointChallenge,
    CallMeMaybe,
    CallMeMaybeVia,
    Message,
    Ping,
    Pong,
    TxId,
    UDPRelayEndpoint,
    encode_message,
    parse_message_untrusted,
)
from warren.keys import DiscoPublic, NodePublic
from warren.netmap.endpoint import Endpoint

TX = TxId(bytes(range(1, 13)))
TX_HEX = "0102030405060708090a0b0c"
NODE = NodePublic(b"\xaa" * 32)
ONE, TWO, RELAY = (DiscoPublic(bytes([n]) * 32) for n in (0x11, 0x22, 0x33))
V4, V6 = Endpoint.parse("1.2.3.4:567"), Endpoint.parse("[2001:db8::9]:3456")
V4_HEX = "00000000000000000000ffff010203040237"
V6_HEX = "20010db80000000000000000000000090d80"
ENDPOINT = UDPRelayEndpoint(
    server=RELAY,
    clients=(ONE, TWO),
    lamport_id=0x0102030405060708,
    vni=0x00ABCDEF,
    bind_lifetime_ns=30_000_000_000,
    steady_state_lifetime_ns=300_000_000_000,
    endpoints=(V4, V6),
)
ENDPOINT_HEX = (
    "33" * 32 + "11" * 32 + "22" * 32 + "0102030405060708" + "00abcdef"
    "00000006fc23ac00" + "00000045d964b800" + V4_HEX + V6_HEX
)
BIND_HEX = "00abcdef" + "00000007" + "11" * 32

CASES: list[tuple[str, Message]] = [
    ("0100" + TX_HEX + "aa" * 32, Ping(TX, NODE)),
    ("0100" + TX_HEX + "aa" * 32 + "00" * 5, Ping(TX, NODE, padding=5)),
    ("0200" + TX_HEX + V4_HEX, Pong(TX, V4)),
    ("0200" + TX_HEX + V6_HEX, Pong(TX, V6)),
    ("0300", CallMeMaybe(())),
    ("0300" + V4_HEX + V6_HEX, CallMeMaybe((V4, V6))),
    ("0400" + BIND_HEX + "00" * 32, BindUDPRelayEndpoint(0xABCDEF, 7, ONE)),
    (
        "0500" + BIND_HEX + "cc" * 32,
        BindUDPRelayEndpointChallenge(0xABCDEF, 7, ONE, b"\xcc" * 32),
    ),
    ("0600" + BIND_HEX + "cc" * 32, BindUDPRelayEndpointAnswer(0xABCDEF, 7, ONE, b"\xcc" * 32)),
    ("0700" + ENDPOINT_HEX, CallMeMaybeVia(ENDPOINT)),
    ("0800" + "11" * 32 + "22" * 32 + "00000007", AllocateUDPRelayEndpointRequest((ONE, TWO), 7)),
    ("0900" + "00000007" + ENDPOINT_HEX, AllocateUDPRelayEndpointResponse(7, ENDPOINT)),
]
# Where the last field is a list or padding, a cut elsewhere still leaves a message.
SHORTEST = {1: 14, 2: 32, 3: 2, 4: 74, 5: 74, 6: 74, 7: 144, 8: 70, 9: 148}


@pytest.mark.parametrize(("text", "message"), CASES)
def test_both_ways(text: str, message: Message) -> None:
    assert encode_message(message).hex() == text
    assert parse_message_untrusted(bytes.fromhex(text)) == message


@pytest.mark.parametrize(("text", "message"), CASES)
def test_cut_at_every_length(text: str, message: Message) -> None:
    data = bytes.fromhex(text)
    for length in range(len(data)):
        if length < SHORTEST[data[0]]:
            with pytest.raises(MalformedDisco):
                parse_message_untrusted(data[:length])
        else:
            with suppress(MalformedDisco):
                parse_message_untrusted(data[:length])


@pytest.mark.parametrize(
    ("text", "message"), [case for case in CASES if case[0][:2] in ("02", "04", "05", "06", "08")]
)
def test_trailing_bytes_are_left_to_the_future(text: str, message: Message) -> None:
    assert parse_message_untrusted(bytes.fromhex(text) + b"later") == message


def test_a_ping_of_an_ancient_client() -> None:
    message = parse_message_untrusted(bytes.fromhex("0100" + TX_HEX))
    assert message == Ping(TX, NodePublic.zero())


def test_a_call_that_is_not_understood_is_empty() -> None:
    assert parse_message_untrusted(bytes.fromhex("0301" + V4_HEX)) == CallMeMaybe(())
    assert parse_message_untrusted(bytes.fromhex("0300" + V4_HEX + "00")) == CallMeMaybe(())


def test_unknown_types_can_be_told_from_broken_ones() -> None:
    for kind in (0, 0x0A, 0xFF):
        with pytest.raises(UnknownMessage):
            parse_message_untrusted(bytes([kind, 0]) + bytes(100))
    for short in (b"", b"\x01"):
        with pytest.raises(MalformedDisco):
            parse_message_untrusted(short)


def test_a_bind_without_generation_and_a_relay_without_address() -> None:
    with pytest.raises(MalformedDisco, match="generation"):
        parse_message_untrusted(b"\x04\x00" + bytes(72))
    with pytest.raises(MalformedDisco, match="address"):
        parse_message_untrusted(b"\x07\x00" + bytes(124))
    with pytest.raises(MalformedDisco, match="address"):
        parse_message_untrusted(b"\x07\x00" + bytes(124 + 19))
