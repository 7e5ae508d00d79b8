"""STUN: the recorded datagrams, the vectors of RFC 5769, and what is not STUN."""

from __future__ import annotations

import pytest

from vectors.captures import stun_datagrams
from warren.nat.stun import (
    MalformedStun,
    TxId,
    binding_request,
    binding_response,
    looks_like_stun,
    parse_binding_request_untrusted,
    parse_binding_response_untrusted,
)
from warren.netmap.endpoint import Endpoint

TX = TxId(bytes(range(12)))
COOKIE = "2112a442"
V4, V6 = Endpoint.parse("192.0.2.1:32853"), Endpoint.parse("[2001:db8::7]:9")

# RFC 5769 §2.2 and §2.3: responses with SOFTWARE, MESSAGE-INTEGRITY and FINGERPRINT.
RFC_V4 = bytes.fromhex(
    "0101003c" + COOKIE + "b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RFC_V6 = bytes.fromhex(
    "01010048" + COOKIE + "b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)


def _message(kind: int, attributes: str, tx_id: bytes = TX) -> bytes:
    body = bytes.fromhex(attributes)
    head = kind.to_bytes(2, "big") + len(body).to_bytes(2, "big")
    return head + bytes.fromhex(COOKIE) + tx_id + body


def test_our_requests_are_the_stock_clients_to_the_byte() -> None:
    requests = [item.data for item in stun_datagrams() if item.to_server]
    assert len(requests) >= 3
    for data in requests:
        assert looks_like_stun(data)
        tx_id = parse_binding_request_untrusted(data, plain=False)
        assert binding_request(tx_id) == data


def test_our_responses_are_the_stock_servers_to_the_byte() -> None:
    responses = [item for item in stun_datagrams() if not item.to_server]
    assert len(responses) >= 3
    for item in responses:
        assert looks_like_stun(item.data)
        tx_id, endpoint = parse_binding_response_untrusted(item.data)
        assert endpoint == Endpoint.parse(f"198.18.2.2:{item.client_port}")
        assert binding_response(tx_id, endpoint) == item.data


def test_the_vectors_of_the_rfc() -> None:
    tx_id, endpoint = parse_binding_response_untrusted(RFC_V4)
    assert (tx_id.hex(), endpoint) == ("b7e7a701bc34d686fa87dfae", V4)
    _, endpoint = parse_binding_response_untrusted(RFC_V6)
    assert str(endpoint) == "[2001:db8:1234:5678:11:2233:4455:6677]:32853"


@pytest.mark.parametrize("endpoint", [V4, V6])
def test_both_families_come_back(endpoint: Endpoint) -> None:
    assert parse_binding_response_untrusted(binding_response(TX, endpoint)) == (TX, endpoint)


def test_plain_requests_are_answered_or_not_as_asked() -> None:
    for attributes in ("", "80220004" + "74657374", "c0570004" + "00000001"):
        plain = _message(1, attributes)
        assert parse_binding_request_untrusted(plain) == TX
        with pytest.raises(MalformedStun, match="our kind"):
            parse_binding_request_untrusted(plain, plain=False)


def test_a_request_with_something_that_must_be_understood() -> None:
    with pytest.raises(MalformedStun, match="0x0003"):
        parse_binding_request_untrusted(_message(1, "00030004" + "00000006"))


def test_other_forms_of_the_address() -> None:
    mapped = "00010008" + "0001" + "8055" + "c0000201"
    assert parse_binding_response_untrusted(_message(0x101, mapped)) == (TX, V4)
    draft = "80200008" + "0001" + "a147" + "e112a643"
    assert parse_binding_response_untrusted(_message(0x101, mapped + draft)) == (TX, V4)
    other = "00010008" + "0001" + "0001" + "01020304"
    assert parse_binding_response_untrusted(_message(0x101, other + draft)) == (TX, V4)


@pytest.mark.parametrize("whole", [binding_request(TX), binding_response(TX, V6), RFC_V4])
def test_cut_at_every_length_and_too_long(whole: bytes) -> None:
    for wrong in [*(whole[:length] for length in range(len(whole))), whole + b"x", whole * 50]:
        with pytest.raises(MalformedStun):
            parse_binding_request_untrusted(wrong)
        with pytest.raises(MalformedStun):
            parse_binding_response_untrusted(wrong)


@pytest.mark.parametrize("at", range(40))
def test_a_changed_byte_in_a_request_of_our_kind(at: int) -> None:
    data = bytearray(binding_request(TX))
    data[at] ^= 1
    with pytest.raises(MalformedStun):
        parse_binding_request_untrusted(bytes(data), plain=False)


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "00200000",
        "00200004" + "0001a147",
        "00200008" + "0003a147" + "e112a643",
        "00200008" + "0002a147" + "e112a643",
        "0020000c" + "0001a147" + "e112a64300000000",
        "0020ffff" + "0001a147",
        "00200009" + "0001a147" + "e112a643",
        "00200008" + "0001a147" + "e112a643" + "80280004" + "00000000",
        "80280004" + "00000000" + "00200008" + "0001a147" + "e112a643",
    ],
)
def test_responses_that_are_wrong(attributes: str) -> None:
    with pytest.raises(MalformedStun):
        parse_binding_response_untrusted(_message(0x101, attributes))


def test_what_the_socket_takes_for_stun() -> None:
    assert not looks_like_stun(b"")
    assert not looks_like_stun(bytes(20))
    assert not looks_like_stun(binding_request(TX)[:19])
    assert not looks_like_stun(b"\x01\x00\x00\x00" + bytes(144)), "a WireGuard initiation"
    assert not looks_like_stun(b"TS\xf0\x9f\x92\xac" + bytes(100)), "disco"
