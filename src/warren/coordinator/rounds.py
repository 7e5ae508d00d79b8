"""Rounds: changes wait a moment, then all sessions that they concern tell their nodes.

One join is several changes, and many machines may join at once, so a round merges what came since
the last. It wakes sessions some at a time, so that requests are taken in between; and after a long
round there is a pause twice as long, so that telling takes a third of the time at most, and merges
more the more there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

WINDOW_S = 0.05
LONGEST_PAUSE_S = 1.0
_AT_ONCE = 50


class Sleeper(Protocol):
    """Who is woken in a round."""

    def wake(self) -> None:
        """Do now what waits."""
        ...


class Rounds:
    """Wakes those who joined, once each a round. forget: called before and after each round."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self._forget = forget
        # A dict keeps their order.
        self._waiting: dict[Sleeper, None] = {}
        self._running = False
        self._not_before = 0.0
        """Seconds of the loop's clock."""

    def join(self, sleeper: Sleeper) -> None:
        """Take part in the next round."""
        self._waiting[sleeper] = None
        self._arm()

    def _arm(self) -> None:
        if not self._running and self._waiting:
            self._running = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time() + WINDOW_S, self._not_before), self._start)

    def _start(self) -> None:
        self._forget()
        sleepers, self._waiting = iter(list(self._waiting)), {}
        self._step(sleepers, asyncio.get_running_loop().time())

    def _step(self, sleepers: Iterator[Sleeper], began: float) -> None:
        loop, woken = asyncio.get_running_loop(), 0
        for woken, sleeper in enumerate(sleepers, 1):
            sleeper.wake()
            if woken == _AT_ONCE:
                # Those who were woken have their turn before this is called again.
                loop.call_soon(self._step, sleepers, began)
                return
        loop.call_soon(self._end, began)

    def _end(self, began: float) -> None:
        self._forget()
        now = asyncio.get_running_loop().time()
        self._not_before = now + min(2 * (now - began), LONGEST_PAUSE_S)
        self._running = False
        self._arm()
