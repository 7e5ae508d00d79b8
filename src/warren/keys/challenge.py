"""Challenge keys: one per Noise connection, sent in the early payload."""

from __future__ import annotations

from typing import ClassVar

from warren.keys.kinds import CurvePrivate, PublicKey


class ChallengePublic(PublicKey):
    """The public challenge key."""

    PREFIX: ClassVar[str] = "chalpub:"

    __slots__ = ()


class ChallengePrivate(CurvePrivate):
    """The private challenge key; never stored."""

    __slots__ = ()

    def public(self) -> ChallengePublic:
        """Return the public half."""
        return ChallengePublic(self._public_raw())
