"""TURN's messages: the vectors of RFC 5769 and RFC 8489, keys, nonces, frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.nat.stun import MalformedStun, TxId
from warren.nat.turn.credentials import (
    MalformedCredential,
    StaticAccounts,
    long_term_key,
    prepare,
    timed_credentials,
)
from warren.nat.turn.framing import TurnStream, encode_channel_data, parse_channel_data_untrusted
from warren.nat.turn.message import (
    encode_message,
    error_value,
    parse_message_untrusted,
)
from warren.nat.turn.nonces import PASSWORD_ALGORITHMS_BIT, Nonces, features_of
from warren.nat.turn.numbers import Algorithm, Attribute, Class, Code, Method

TX = TxId(bytes(range(12)))
KEY = bytes(16)
NAME, PASSWORD, VECTOR_REALM = "マトリックス", "TheMatrIX", "example.org"

# RFC 5769 §2.4: a request with long-term credentials, MD5 and SHA-1.
SIGNED_SHA1 = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e"
    "00060012e3839ee38388e383aae38383e382afe382b90000"
    "0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341"
    "0014000b6578616d706c652e6f726700"
    "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
# RFC 8489 B.1 as its erratum 6268 corrects it: SHA-256 for key and integrity.
SIGNED_SHA256 = bytes.fromhex(
    "000100902112a44278ad3433c6ad72c029da412e"
    "001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"
    "001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39"
    "465354767936347341000000"
    "0014000b6578616d706c652e6f726700"
    "001d000400020000"
    "001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65"
)


def test_the_signatures_of_the_standards_are_right() -> None:
    md5 = long_term_key(NAME, VECTOR_REALM, PASSWORD, Algorithm.MD5)
    sha256 = long_term_key(NAME, VECTOR_REALM, PASSWORD, Algorithm.SHA256)
    old, new = parse_message_untrusted(SIGNED_SHA1), parse_message_untrusted(SIGNED_SHA256)
    assert old.verifies(md5, "sha1") and not old.verifies(sha256, "sha1")
    assert new.verifies(sha256, "sha256") and not new.verifies(md5, "sha256")
    # The other kind is not there, and nothing that is not there is right.
    assert not old.verifies(md5, "sha256") and not new.verifies(sha256, "sha1")
    assert features_of(new.get(Attribute.NONCE) or b"") == 2  # username anonymity


def test_we_sign_as_the_standards_do() -> None:
    for data, algorithm, integrity in (
        (SIGNED_SHA1, Algorithm.MD5, "sha1"),
        (SIGNED_SHA256, Algorithm.SHA256, "sha256"),
    ):
        message = parse_message_untrusted(data)
        key = long_term_key(NAME, VECTOR_REALM, PASSWORD, algorithm)
        assert (
            encode_message(1, Class.REQUEST, message.tx_id, message.attributes, key, integrity)
            == data
        )  # type: ignore[arg-type]


@pytest.mark.parametrize("at", range(20, len(SIGNED_SHA1)))
def test_no_byte_of_a_signed_message_can_be_changed(at: int) -> None:
    key = long_term_key(NAME, VECTOR_REALM, PASSWORD, Algorithm.MD5)
    changed = bytearray(SIGNED_SHA1)
    changed[at] ^= 1
    try:
        message = parse_message_untrusted(bytes(changed))
    except MalformedStun:
        return
    assert not message.verifies(key, "sha1")


def test_what_follows_the_signature_is_not_believed() -> None:
    from warren.nat.stun import encode_attribute, encode_header

    data = encode_message(Method.REFRESH, Class.REQUEST, TX, [(Attribute.LIFETIME, bytes(4))], KEY)
    more = data[20:] + encode_attribute(Attribute.XOR_PEER_ADDRESS, bytes(8))
    # The header's length is not part of what an attribute behind the integrity may change.
    message = parse_message_untrusted(encode_header(0x0004, len(more), TX) + more)
    assert message.get(Attribute.XOR_PEER_ADDRESS) is None
    assert message.verifies(KEY, "sha1")


@given(st.integers(0, 0xFFF), st.sampled_from(Class))
def test_every_method_and_class(method: int, kind: Class) -> None:
    message = parse_message_untrusted(encode_message(method, kind, TX, [], fingerprint=True))
    assert (message.method, message.kind, message.fingerprint) == (method, kind, True)


def test_error_codes_and_their_words() -> None:
    def error(value: bytes) -> tuple[int, str]:
        data = encode_message(Method.ALLOCATE, Class.ERROR, TX, [(Attribute.ERROR_CODE, value)])
        return parse_message_untrusted(data).error()

    assert error(error_value(Code.STALE_NONCE)) == (438, "Stale nonce")
    assert error(b"\0\0\4\1no\x1b[2J\0") == (401, "no[2J")  # nothing reaches a terminal
    for bad in (b"", b"\0\0\4", b"\0\0\2\1", b"\0\0\7\1", b"\0\0\4\x64"):
        with pytest.raises(MalformedStun):
            error(bad)


def test_integrity_of_a_wrong_length_is_refused() -> None:
    for attribute, size in ((0x08, 19), (0x08, 24), (0x1C, 12), (0x1C, 36), (0x1C, 30)):
        with pytest.raises(MalformedStun):
            parse_message_untrusted(
                encode_message(3, Class.REQUEST, TX, [(attribute, bytes(size))])
            )


def test_too_many_attributes_are_refused() -> None:
    with pytest.raises(MalformedStun):
        parse_message_untrusted(encode_message(3, Class.REQUEST, TX, [(0x8000, b"")] * 65))


def test_names_are_prepared_and_bad_ones_refused() -> None:
    assert prepare("a\u00a0b") == "a b"
    assert prepare("e\u0301") == "\u00e9"
    for bad in ("", "a\0b", "a\nb", "\ud800"):
        with pytest.raises(MalformedCredential):
            prepare(bad)
    with pytest.raises(MalformedCredential):
        StaticAccounts({"": "x"})


def test_time_limited_credentials_are_those_of_other_servers() -> None:
    # From `openssl dgst -sha1 -hmac north -binary | base64` over the name.
    credentials = timed_credentials(b"north", "ninefingers", 1433895918)
    assert credentials.username == "1433895918:ninefingers"
    assert credentials.password == "jy8hTxmOO7UtEKXqSkSlvakPVYA="


def test_nonces_hold_for_a_client_and_a_while() -> None:
    nonces = Nonces(bytes(32), life_s=600)
    nonce = nonces.mint(b"udp 1.2.3.4:5", 1000.5)
    assert len(nonce) < 128 and features_of(nonce) == PASSWORD_ALGORITHMS_BIT
    assert nonces.holds(nonce, b"udp 1.2.3.4:5", 1600.0)
    assert not nonces.holds(nonce, b"udp 1.2.3.4:5", 1602.0)
    assert not nonces.holds(nonce, b"udp 1.2.3.4:5", 900.0)
    assert not nonces.holds(nonce, b"udp 1.2.3.4:6", 1001.0)
    assert not Nonces(b"x" * 32, 600).holds(nonce, b"udp 1.2.3.4:5", 1001.0)
    for at in range(len(nonce)):
        changed = nonce[:at] + bytes([nonce[at] ^ 1]) + nonce[at + 1 :]
        assert not nonces.holds(changed, b"udp 1.2.3.4:5", 1001.0)
    for garbage in (b"", nonce[:-1], nonce + b"0", b"\xff" * len(nonce)):
        assert not nonces.holds(garbage, b"udp 1.2.3.4:5", 1001.0)
    assert features_of(b"obMatJos2!!!!rest") == 0


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_stream_is_cut_where_its_messages_end(step: int) -> None:
    parts = [
        encode_message(Method.ALLOCATE, Class.REQUEST, TX, [(Attribute.LIFETIME, bytes(4))]),
        *(encode_channel_data(0x4000 + n, bytes(n), padded=True) for n in range(9)),
    ]
    whole, stream = b"".join(parts), TurnStream()
    found = []
    for at in range(0, len(whole), step):
        found += stream.receive(whole[at : at + step])
    assert found == parts
    assert [parse_channel_data_untrusted(one)[1] for one in found[1:]] == [
        bytes(n) for n in range(9)
    ]


@pytest.mark.parametrize("data", [b"GET / HTTP", b"\x16\x03\x01\x02\x00", b"\xff" * 8, b"\0\1\0\2"])
def test_a_stream_of_something_else_is_cut_off(data: bytes) -> None:
    with pytest.raises(MalformedStun):
        TurnStream().receive(data)


def test_channel_data_that_lies_about_its_length() -> None:
    for bad in (b"", b"\x40\0", b"\x40\0\0\5abcd", b"\x40\0\0\1abcdef", b"\x80\0\0\0"):
        with pytest.raises(MalformedStun):
            parse_channel_data_untrusted(bad)
