"""ChaCha20-Poly1305: the RFC's own example, and another implementation beside ours."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from warren.control.aead import NotAuthentic, open_untrusted, seal

KEYS = st.binary(min_size=32, max_size=32)
NONCES = st.binary(min_size=12, max_size=12)


def test_the_example_of_rfc_8439() -> None:
    """§2.8.2."""
    key = bytes(range(0x80, 0xA0))
    nonce = bytes.fromhex("070000004041424344454647")
    associated = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for "
        b"the future, sunscreen would be it."
    )
    sealed = seal(key, nonce, plaintext, associated)
    assert sealed[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"
    assert open_untrusted(key, nonce, sealed, associated) == plaintext


@given(KEYS, NONCES, st.binary(max_size=300), st.binary(max_size=40))
def test_another_implementation_agrees(
    key: bytes, nonce: bytes, plaintext: bytes, associated: bytes
) -> None:
    theirs = ChaCha20Poly1305(key).encrypt(nonce, plaintext, associated)
    assert seal(key, nonce, plaintext, associated) == theirs
    assert open_untrusted(key, nonce, theirs, associated) == plaintext


@given(KEYS, NONCES, st.binary(max_size=60), st.data())
def test_what_was_altered_or_cut_does_not_open(
    key: bytes, nonce: bytes, plaintext: bytes, data: st.DataObject
) -> None:
    sealed = bytearray(seal(key, nonce, plaintext, b"bound"))
    cut = data.draw(st.integers(0, len(sealed) - 1))
    sealed_whole = bytes(sealed)
    sealed[cut] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(sealed), sealed_whole[:cut], sealed_whole + b"\0"):
        with pytest.raises(NotAuthentic):
            open_untrusted(key, nonce, wrong, b"bound")
    with pytest.raises(NotAuthentic):
        open_untrusted(key, nonce, sealed_whole, b"")
