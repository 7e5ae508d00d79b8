"""Sending a datagram again until it is answered."""

from __future__ import annotations

from collections.abc import Sequence


class Retry:
    """One request that is under way. `spacings_s` are the waits after each sending."""

    def __init__(self, data: bytes, spacings_s: Sequence[float], now: float) -> None:
        self.data = data
        self._waits = list(spacings_s)
        self.due = now

    def step(self, now: float) -> bytes | None:
        """Return the datagram if it is due. `over` tells whether there is nothing more to do."""
        if self.over(now) or now < self.due or not self._waits:
            return None
        self.due = now + self._waits.pop(0)
        return self.data

    def over(self, now: float) -> bool:
        """Whether the last wait is over too."""
        return not self._waits and now >= self.due
