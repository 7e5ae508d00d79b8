"""Telling that this machine, or this process alone, was asleep."""

from __future__ import annotations

SLEEP_CHECK_S = 1.0
"""How often the clocks are compared."""
_SUSPENDED_S = 0.5
# A busy machine may be late by some seconds; a NAT forgets nothing in that time.
_STOPPED_S = 10.0


class WakeDetector:
    """Compares clocks: `now` stands still while the machine is suspended, `suspended_s` grows.

    A process (or a whole virtual machine) that was stopped shows by a check that comes late.
    """

    def __init__(self, now: float, suspended_s: float) -> None:
        self._now = now
        self._suspended_s = suspended_s

    def note(self, now: float, suspended_s: float) -> bool:
        """Take the clocks of now; tell whether there was a sleep since the last time."""
        slept = suspended_s - self._suspended_s > _SUSPENDED_S
        stopped = now - self._now - SLEEP_CHECK_S > _STOPPED_S
        self._now, self._suspended_s = now, suspended_s
        return slept or stopped
