"""The secret that the relays of one region share (PROTOCOL §4.3)."""

from __future__ import annotations

from typing import ClassVar

from warren.keys.kinds import PrivateKey


class MeshKey(PrivateKey):
    """A DERP mesh key; its text form has no prefix."""

    PREFIX: ClassVar[str] = ""

    __slots__ = ()
