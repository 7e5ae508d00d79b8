"""Disco keys: they seal the messages that find direct paths."""

from __future__ import annotations

from typing import ClassVar

from warren.keys.kinds import CurvePrivate, PublicKey


class DiscoPublic(PublicKey):
    """A node's public disco key."""

    PREFIX: ClassVar[str] = "discokey:"

    __slots__ = ()


class DiscoPrivate(CurvePrivate):
    """A node's private disco key; in memory only, new at each start."""

    __slots__ = ()

    def public(self) -> DiscoPublic:
        """Return the public half."""
        return DiscoPublic(self._public_raw())
