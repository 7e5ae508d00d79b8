"""ChaCha20-Poly1305 (RFC 8439) by libsodium, which a node has in memory for its NaCl boxes.

`cryptography` does the same faster, 3 µs for a full record instead of 9, and would take 7 MB more
in every node; so a server, which has it anyway, brings a `Cipher` of its own. Keys have 32 bytes,
nonces 12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import nacl.bindings
import nacl.exceptions

TAG_BYTES = 16


class NotAuthentic(ValueError):
    """A ciphertext was not made with this key, nonce and associated data, or is cut."""


class Cipher(Protocol):
    """One key's ChaCha20-Poly1305, without associated data."""

    def seal(self, nonce: bytes, plaintext: bytes) -> bytes:
        """Return the ciphertext, `TAG_BYTES` longer than the plaintext."""
        ...

    def open_untrusted(self, nonce: bytes, ciphertext: bytes) -> bytes:
        """Return the plaintext of what `seal` made. Raises NotAuthentic."""
        ...


MakeCipher = Callable[[bytes], Cipher]
"""Takes a key."""


class Sodium:
    """A Cipher by libsodium."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, nonce: bytes, plaintext: bytes) -> bytes:
        """Return the ciphertext."""
        return seal(self._key, nonce, plaintext)

    def open_untrusted(self, nonce: bytes, ciphertext: bytes) -> bytes:
        """Return the plaintext. Raises NotAuthentic."""
        return open_untrusted(self._key, nonce, ciphertext)


def seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes = b"") -> bytes:
    """Return the ciphertext, `TAG_BYTES` longer than the plaintext."""
    return nacl.bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
        plaintext, associated, nonce, key
    )


def open_untrusted(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes = b"") -> bytes:
    """Return the plaintext of what `seal` made. Raises NotAuthentic."""
    if len(ciphertext) < TAG_BYTES:
        raise NotAuthentic(f"a ciphertext of {len(ciphertext)} bytes has no tag")
    try:
        return nacl.bindings.crypto_aead_chacha20poly1305_ietf_decrypt(
            ciphertext, associated, nonce, key
        )
    except nacl.exceptions.CryptoError as error:
        raise NotAuthentic("a ciphertext does not authenticate") from error
