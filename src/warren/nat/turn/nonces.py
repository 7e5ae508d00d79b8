"""A server's nonces, without memory (RFC 8489 §9.2, §18.1).

    "obMatJos2" | base64 of the feature bits (4) | minted at, hex seconds (8) | hex HMAC (24)

The HMAC covers the client's address: a nonce works only where it was sent to, so whoever uses
one has shown that it receives at its address.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

COOKIE = b"obMatJos2"
PASSWORD_ALGORITHMS_BIT = 1 << 0
"""Bits count from the right of the 24 (RFC 8489 §18.1)."""
MAX_NONCE_BYTES = 763

_FEATURES_BYTES = 4
_TIME_BYTES = 8
_PROOF_BYTES = 24
_PREFIX_BYTES = len(COOKIE) + _FEATURES_BYTES
NONCE_BYTES = _PREFIX_BYTES + _TIME_BYTES + _PROOF_BYTES


def features_of(nonce: bytes) -> int:
    """Return the feature bits that a nonce announces; 0 where it is of the older kind."""
    if not nonce.startswith(COOKIE) or len(nonce) < _PREFIX_BYTES:
        return 0
    try:
        bits = base64.b64decode(nonce[len(COOKIE) : _PREFIX_BYTES], validate=True)
    except ValueError:
        return 0
    return int.from_bytes(bits, "big")


class Nonces:
    """Mints nonces, and knows its own for `life_s` seconds."""

    def __init__(self, secret: bytes, life_s: float) -> None:
        self._secret = secret
        self._life_s = life_s
        self._prefix = COOKIE + base64.b64encode(PASSWORD_ALGORITHMS_BIT.to_bytes(3, "big"))

    def mint(self, client: bytes, now: float) -> bytes:
        """Return a nonce for the client at an address."""
        return self._mint(client, int(now) & 0xFFFFFFFF)

    def holds(self, nonce: bytes, client: bytes, now: float) -> bool:
        """Whether a nonce is ours, of this client, and not too old."""
        if len(nonce) != NONCE_BYTES:
            return False
        try:
            minted = int(nonce[_PREFIX_BYTES : _PREFIX_BYTES + _TIME_BYTES], 16)
        except ValueError:
            return False
        right = 0 <= minted <= 0xFFFFFFFF and hmac.compare_digest(self._mint(client, minted), nonce)
        return right and 0 <= (int(now) - minted) & 0xFFFFFFFF <= self._life_s

    def _mint(self, client: bytes, minted: int) -> bytes:
        body = self._prefix + b"%08x" % minted
        proof = hmac.digest(self._secret, body + client, hashlib.sha256).hex().encode()
        return body + proof[:_PROOF_BYTES]
