"""The server's own cipher under the record layer, with libsodium's at the other end."""

from __future__ import annotations

import pytest

from warren.control.aead import NotAuthentic, Sodium
from warren.control.records import MAX_PLAINTEXT_BYTES, MalformedRecord, RecordLayer
from warren.coordinator.cipher import OpenSsl

UP, DOWN = bytes(range(32)), bytes(range(32, 64))


def test_records_go_both_ways_between_two_implementations() -> None:
    server, client = RecordLayer(DOWN, UP, OpenSsl), RecordLayer(UP, DOWN, Sodium)
    for data in (b"x", bytes(700), bytes(3 * MAX_PLAINTEXT_BYTES + 5)):
        assert b"".join(client.receive(server.seal(data))) == data
        assert b"".join(server.receive(client.seal(data))) == data


def test_what_was_altered_ends_the_session() -> None:
    server, client = RecordLayer(DOWN, UP, OpenSsl), RecordLayer(UP, DOWN, Sodium)
    sealed = bytearray(client.seal(b"what a machine says"))
    sealed[-1] ^= 1
    with pytest.raises(MalformedRecord):
        server.receive(bytes(sealed))


@pytest.mark.parametrize("ciphertext", [b"", bytes(15), bytes(16), bytes(40)])
def test_what_is_no_ciphertext_is_refused(ciphertext: bytes) -> None:
    with pytest.raises(NotAuthentic):
        OpenSsl(UP).open_untrusted(bytes(12), ciphertext)
