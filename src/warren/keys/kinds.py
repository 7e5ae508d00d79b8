"""What all key kinds share: fixed length, a text prefix, constant-time private comparison."""

from __future__ import annotations

import hmac
from typing import ClassVar, Self

import nacl.bindings
import nacl.exceptions


class MalformedKey(ValueError):
    """A key's text or bytes do not have the exact prefix, alphabet or length of its kind."""


class PublicKey:
    """A public key of one kind: `SIZE` raw bytes, written as `PREFIX` and lowercase hex."""

    PREFIX: ClassVar[str]
    SIZE: ClassVar[int] = 32

    __slots__ = ("_hash", "_raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != self.SIZE:
            raise MalformedKey(f"a {self.PREFIX} key has {self.SIZE} bytes, not {len(raw)}")
        self._raw = bytes(raw)
        self._hash = hash((self.PREFIX, self._raw))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form. Hex may be of either case; prefix and length are exact.

        Raises MalformedKey.
        """
        return cls(_unhex(text, cls.PREFIX, cls.SIZE))

    @classmethod
    def zero(cls) -> Self:
        """Return the all-zero key, which the wire uses for "none" (never as null)."""
        return cls(bytes(cls.SIZE))

    @property
    def raw(self) -> bytes:
        """The raw bytes."""
        return self._raw

    @property
    def is_zero(self) -> bool:
        """Whether this is the all-zero key, that is, no key."""
        return not any(self._raw)

    def __str__(self) -> str:
        return self.PREFIX + self._raw.hex()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._raw.hex()[:8]}…>"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._raw == other._raw

    def __lt__(self, other: Self) -> bool:
        return self._raw < other._raw

    def __hash__(self) -> int:
        return self._hash


class PrivateKey:
    """A private key of one kind. It compares in constant time and never prints itself."""

    PREFIX: ClassVar[str]
    SIZE: ClassVar[int] = 32

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != self.SIZE:
            raise MalformedKey(f"a private key has {self.SIZE} bytes, not {len(raw)}")
        self._raw = bytes(raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form that a state file holds. Raises MalformedKey."""
        return cls(_unhex(text, cls.PREFIX, cls.SIZE))

    def reveal(self) -> bytes:
        """Return the raw secret, for the one place that computes with it."""
        return self._raw

    def reveal_text(self) -> str:
        """Return the text form, for the one place that stores it (mode 0600)."""
        return self.PREFIX + self._raw.hex()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} (secret)>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and hmac.compare_digest(
            self._raw,
            other._raw,
        )

    def __hash__(self) -> int:
        raise TypeError("a private key is not a dictionary key")

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a private key is not pickled")


class CurvePrivate(PrivateKey):
    """A Curve25519 secret, clamped as RFC 7748 §5 asks."""

    PREFIX: ClassVar[str] = "privkey:"

    __slots__ = ("_public",)

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._public: bytes | None = None

    @classmethod
    def from_entropy(cls, entropy: bytes) -> Self:
        """Make a key from 32 random bytes."""
        if len(entropy) != cls.SIZE:
            raise MalformedKey("a Curve25519 secret needs 32 random bytes")
        raw = bytearray(entropy)
        raw[0] &= 248
        raw[31] = (raw[31] & 127) | 64
        return cls(bytes(raw))

    def exchange(self, public: PublicKey) -> bytes:
        """Return the X25519 shared secret. Raises MalformedKey for a low-order point."""
        try:
            return nacl.bindings.crypto_scalarmult(self._raw, public.raw)
        except nacl.exceptions.CryptoError as error:
            raise MalformedKey("the other side's key is a low-order point") from error

    def _public_raw(self) -> bytes:
        if self._public is None:
            self._public = nacl.bindings.crypto_scalarmult_base(self._raw)
        return self._public


def _unhex(text: str, prefix: str, size: int) -> bytes:
    body = text.removeprefix(prefix)
    if (prefix and len(body) == len(text)) or len(body) != 2 * size:
        raise MalformedKey(f"expected {prefix!r} and {2 * size} hex digits")
    try:
        # fromhex() would also take spaces; the exact length above leaves room for none.
        raw = bytes.fromhex(body)
    except ValueError as error:
        raise MalformedKey(f"expected {prefix!r} and {2 * size} hex digits") from error
    if len(raw) != size:
        raise MalformedKey(f"expected {prefix!r} and {2 * size} hex digits")
    return raw
