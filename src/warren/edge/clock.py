"""The two clocks: one that only goes forward, and the one that people read."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What programs are given instead of the time itself."""

    def now(self) -> float:
        """Return monotonic seconds; only differences mean anything."""
        ...

    def wall(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Return monotonic seconds, on the scale that asyncio's loop uses too."""
        return time.monotonic()

    def wall(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        return datetime.now(UTC)
