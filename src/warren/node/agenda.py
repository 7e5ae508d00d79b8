"""What is due when: each item at most once, the earliest first."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T", bound=Hashable)


class Agenda(Generic[_T]):
    """Times are monotonic seconds. Setting costs the logarithm of what is set."""

    def __init__(self) -> None:
        self._when: dict[_T, float] = {}
        # With a number, so that items themselves are not compared; what no longer holds is
        # dropped as it surfaces.
        self._heap: list[tuple[float, int, _T]] = []
        self._count = 0

    def set(self, item: _T, when: float | None) -> None:
        """Let an item be due then and at no other time; None: not at all."""
        if self._when.get(item) == when:
            return
        if when is None:
            self._when.pop(item, None)
            return
        self._when[item] = when
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, item))

    def next(self) -> float | None:
        """Return when the next item is due."""
        while self._heap and not self._holds(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> list[_T]:
        """Return what is due by now, in order; none of it is due any more."""
        late = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._holds(entry):
                del self._when[entry[2]]
                late.append(entry[2])
        return late

    def _holds(self, entry: tuple[float, int, _T]) -> bool:
        when, _, item = entry
        return self._when.get(item) == when
