"""Machine keys: the Noise static keys of client and coordinator."""

from __future__ import annotations

from typing import ClassVar

from warren.keys.kinds import CurvePrivate, PublicKey


class MachinePublic(PublicKey):
    """A machine's public key; the coordinator's has the same form."""

    PREFIX: ClassVar[str] = "mkey:"

    __slots__ = ()


class MachinePrivate(CurvePrivate):
    """A machine's private key; it lives as long as the installation."""

    __slots__ = ()

    def public(self) -> MachinePublic:
        """Return the public half."""
        return MachinePublic(self._public_raw())
