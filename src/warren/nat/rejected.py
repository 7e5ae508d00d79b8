"""Why a STUN answer was dropped: the names under which `warren status --json` counts it."""

from __future__ import annotations

from enum import Enum


class Rejected(Enum):
    """One reason each."""

    MALFORMED = "stun malformed"
    NOT_ASKED = "stun not asked for"
    """Nothing is being asked now: too late, or never asked for."""
    WRONG_ID = "stun with a wrong or used transaction id"
    """It comes from a server that is being asked."""
    FOREIGN = "stun from a foreign source"
    """Nor does its source belong to a server that is being asked."""
    RESERVED = "stun of an address that nobody has"
    OUTVOTED = "stun of a server that was outvoted"
