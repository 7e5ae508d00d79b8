"""One timer of the event loop, set anew whenever something else is due first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

_LEAST_S = 0.001
"""What is late already gives way to what the loop has to do first."""


class Alarm:
    """Calls `ring` once at the time that was set last. Belongs to the event loop's thread."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due: Iterable[float | None], now: float) -> None:
        """Ring at the first of these times (monotonic seconds); without any, not at all."""
        self.close()
        times = [at for at in due if at is not None]
        if times:
            delay_s = max(_LEAST_S, min(times) - now)
            self._handle = asyncio.get_running_loop().call_later(delay_s, self._fire)

    def close(self) -> None:
        """Ring no more until it is set again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        self._ring()
