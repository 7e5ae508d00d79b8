"""Node keys: the WireGuard static key, and the identity on a relay."""

from __future__ import annotations

from typing import ClassVar

from warren.keys.kinds import CurvePrivate, PublicKey


class NodePublic(PublicKey):
    """A node's public key; it is the WireGuard public key."""

    PREFIX: ClassVar[str] = "nodekey:"

    __slots__ = ()


class NodePrivate(CurvePrivate):
    """A node's private key; it never leaves the node."""

    __slots__ = ()

    def public(self) -> NodePublic:
        """Return the public half."""
        return NodePublic(self._public_raw())
