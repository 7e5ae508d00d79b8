"""Whether a router has forgotten its mappings, by the clock in its answers."""

from __future__ import annotations


class EpochWatch:
    """The seconds since a router's start, as its answers tell them.

    A router that restarts begins from 0, and its mappings are gone. NAT-PMP (RFC 6886 §3.6) and
    PCP (RFC 6887 §8.5) put tolerances into different formulas; this is PCP's, which catches a
    clock that jumped ahead too, as after this machine slept.
    """

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None

    def lost(self, epoch_s: int, now: float) -> bool:
        """Take an answer's clock; tell whether mappings of before must be taken for lost."""
        before, self._last = self._last, (now, epoch_s)
        if before is None:
            return False
        ours = now - before[0]
        theirs = epoch_s - before[1]
        if theirs < -1:
            return True
        return ours + 2 < theirs - theirs / 16 or theirs + 2 < ours - ours / 16
