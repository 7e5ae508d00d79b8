"""Tailnet-lock keys: Ed25519 (PROTOCOL §1, §10)."""

from __future__ import annotations

from typing import ClassVar, Self

import nacl.bindings

from warren.keys.kinds import MalformedKey, PrivateKey, PublicKey


class LockPublic(PublicKey):
    """A public tailnet-lock key. `tlpub:` is read too, as the stock CLI spells it so."""

    PREFIX: ClassVar[str] = "nlpub:"

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `nlpub:` or `tlpub:` and 64 hex digits. Raises MalformedKey."""
        if text.startswith("tlpub:"):
            text = cls.PREFIX + text.removeprefix("tlpub:")
        return super().parse(text)


class LockPrivate(PrivateKey):
    """A private tailnet-lock key: 32 bytes of seed, then the 32 bytes of the public key."""

    PREFIX: ClassVar[str] = "nlpriv:"
    SIZE: ClassVar[int] = 64

    __slots__ = ()

    @classmethod
    def from_entropy(cls, entropy: bytes) -> Self:
        """Make a key from 32 random bytes."""
        if len(entropy) != 32:
            raise MalformedKey("an Ed25519 seed has 32 bytes")
        return cls(nacl.bindings.crypto_sign_seed_keypair(entropy)[1])

    def public(self) -> LockPublic:
        """Return the public half."""
        return LockPublic(self._raw[32:])
