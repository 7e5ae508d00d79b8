"""The record layer: limits, order, and what ends a session."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from warren.control.records import (
    MAX_FRAME_BYTES,
    MAX_PLAINTEXT_BYTES,
    MalformedRecord,
    RecordLayer,
)

UP, DOWN = bytes(range(32)), bytes(range(32, 64))


def _pair() -> tuple[RecordLayer, RecordLayer]:
    return RecordLayer(UP, DOWN), RecordLayer(DOWN, UP)


def test_the_nonce_counts_in_big_endian() -> None:
    client, _ = _pair()
    client.seal(b"0")
    expected = ChaCha20Poly1305(UP).encrypt(bytes(11) + b"\x01", b"1", None)
    assert client.seal(b"1") == b"\x04\x00\x11" + expected


def test_a_long_plaintext_is_split() -> None:
    client, server = _pair()
    plaintext = bytes(index % 251 for index in range(3 * MAX_PLAINTEXT_BYTES + 5))
    sealed = client.seal(plaintext)
    assert sealed[:3] == b"\x04" + (MAX_FRAME_BYTES - 3).to_bytes(2, "big")
    pieces = server.receive(sealed)
    assert [len(piece) for piece in pieces] == [MAX_PLAINTEXT_BYTES] * 3 + [5]
    assert b"".join(pieces) == plaintext
    assert client.seal(b"") == b""


def test_an_empty_record_is_legal() -> None:
    _, server = _pair()
    empty = ChaCha20Poly1305(UP).encrypt(bytes(12), b"", None)
    assert server.receive(b"\x04\x00\x10" + empty) == [b""]


@pytest.mark.parametrize(
    "frame",
    [
        b"\x03\x00\x10" + bytes(16),
        b"\x05\x00\x10" + bytes(16),
        b"\x04\x00\x0f" + bytes(15),
        b"\x04\x00\x10" + bytes(16),
        b"\x04\x0f\xfe",
        b"\x04\xff\xff",
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_what_is_no_record_ends_the_session(frame: bytes) -> None:
    client, server = _pair()
    with pytest.raises(MalformedRecord):
        server.receive(frame)
    with pytest.raises(MalformedRecord, match="earlier record"):
        server.receive(client.seal(b"late"))


def test_replayed_lost_and_swapped_records() -> None:
    client, _ = _pair()
    first, second = client.seal(b"one"), client.seal(b"two")
    for stream in (first + first, second, second + first):
        with pytest.raises(MalformedRecord, match="authenticate"):
            _pair()[1].receive(stream)


def test_a_cut_record_waits_and_nothing_more_is_kept() -> None:
    client, server = _pair()
    sealed = client.seal(b"whole")
    for length in range(len(sealed)):
        assert _pair()[1].receive(sealed[:length]) == []
    assert server.receive(sealed[:-1]) == []
    assert server.receive(sealed[-1:]) == [b"whole"]
    assert len(server._buffer) == 0


def test_the_last_counter() -> None:
    client, server = _pair()
    client._send_count = server._receive_count = 2**64 - 2
    assert server.receive(client.seal(b"last")) == [b"last"]
    with pytest.raises(OverflowError):
        client.seal(b"one too many")
    with pytest.raises(MalformedRecord, match="as many records"):
        server.receive(b"\x04\x00\x10" + bytes(16))
