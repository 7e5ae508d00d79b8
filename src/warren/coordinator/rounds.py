"""Rounds: changes wait a moment, then all sessions that they concern tell their nodes.

One join is several changes, and many machines may join at once, so a round merges what came since
the last. It wakes sessions some at a time, so that requests are taken in between; and after a long
round there is a pause three times as long, so that telling takes a quarter of the time at most, and
merges more the more there is. What somebody decided for many does not wait so long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

WINDOW_S = 0.05
_AT_ONCE = 50


class Pause(NamedTuple):
    """How long to wait after a round: so many times as long as it took, and no longer than this."""

    times: float
    longest_s: float


USUAL = Pause(3.0, 3.0)
"""For what machines report and where they come and go: in a storm of that, merging helps."""
SOON = Pause(2.0, 1.0)


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
        # When the next round begins, and the call of it. Seconds of the loop's clock.
        self._armed: tuple[float, asyncio.TimerHandle] | None = None
        self._soon = False
        self._ended = self._took_s = 0.0

    def join(self, sleeper: Sleeper, soon: bool = False) -> None:
        """Take part in the next round. soon: let it come after the shorter pause."""
        self._waiting[sleeper] = None
        if soon and not self._soon:
            self._soon = True
            self._arm()
        elif self._armed is None:
            self._arm()

    def _arm(self) -> None:
        """Let the next round come when it is due, unless one is going on; its end does it then."""
        if self._running or not self._waiting:
            return
        pause = SOON if self._soon else USUAL
        loop = asyncio.get_running_loop()
        over = self._ended + min(pause.times * self._took_s, pause.longest_s)
        due = max(loop.time() + WINDOW_S, over)
        if self._armed is not None:
            if self._armed[0] <= due:
                return
            self._armed[1].cancel()
        self._armed = due, loop.call_at(due, self._start)

    def _start(self) -> None:
        self._running, self._armed, self._soon = True, None, False
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
        self._ended = asyncio.get_running_loop().time()
        self._took_s = self._ended - began
        self._running = False
        self._arm()
