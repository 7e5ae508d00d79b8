"""The symmetric half of `Noise_IK_25519_ChaChaPoly_BLAKE2s` (Noise revision 34, §5.2).

Only what ts2021 uses: no pre-shared keys, and every handshake key seals exactly one message,
so that the handshake nonce is always zero (PROTOCOL §2.4).
"""

from __future__ import annotations

import hashlib
import hmac

from warren.control import aead
from warren.control.malformed import MalformedControl

_PROTOCOL_NAME = b"Noise_IK_25519_ChaChaPoly_BLAKE2s"
_ZERO_NONCE = bytes(12)


class MalformedHandshake(MalformedControl):
    """A Noise handshake message is not one, or was not made for us."""


class SymmetricState:
    """The chaining key `ck`, the transcript hash `h` and the key of the moment."""

    __slots__ = ("_ck", "_h", "_key")

    def __init__(self, prologue: bytes) -> None:
        self._h = hashlib.blake2s(_PROTOCOL_NAME).digest()
        self._ck = self._h
        self._key: bytes | None = None
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        """Add `data` to the transcript."""
        self._h = hashlib.blake2s(self._h + data).digest()

    def mix_key(self, secret: bytes) -> None:
        """Add a Diffie-Hellman result to the chaining key and derive the next cipher key."""
        self._ck, self._key = _hkdf(self._ck, secret)

    def seal(self, plaintext: bytes) -> bytes:
        """Encrypt under the key of the moment, bound to the transcript, and add to it."""
        ciphertext = aead.seal(self._take_key(), _ZERO_NONCE, plaintext, self._h)
        self.mix_hash(ciphertext)
        return ciphertext

    def open(self, ciphertext: bytes) -> bytes:
        """Decrypt what the other side's `seal` made. Raises MalformedHandshake."""
        try:
            plaintext = aead.open_untrusted(self._take_key(), _ZERO_NONCE, ciphertext, self._h)
        except aead.NotAuthentic as error:
            raise MalformedHandshake("the handshake does not authenticate") from error
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Return the transport keys: initiator to responder, responder to initiator."""
        return _hkdf(self._ck, b"")

    def _take_key(self) -> bytes:
        # A second message under the same key would reuse the zero nonce.
        assert self._key is not None, "each handshake key seals one message"
        key, self._key = self._key, None
        return key


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Two outputs of HKDF with HMAC-BLAKE2s (Noise §4.3)."""
    # By its name OpenSSL would look the hash up each time, which takes three times as long.
    temporary = hmac.digest(chaining_key, material, hashlib.blake2s)
    first = hmac.digest(temporary, b"\x01", hashlib.blake2s)
    return first, hmac.digest(temporary, first + b"\x02", hashlib.blake2s)
