"""When sessions are woken: soon where it is quiet, more rarely after long rounds."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from warren.coordinator import rounds
from warren.coordinator.rounds import SOON, USUAL, WINDOW_S, Rounds


class Timer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Virtual time: calls happen when it is told to run."""

    def __init__(self) -> None:
        self.now, self._order = 100.0, count()
        self._calls: list[tuple[float, int, Timer, Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[..., None], *words: Any) -> Timer:
        timer = Timer()
        heapq.heappush(self._calls, (when, next(self._order), timer, call, words))
        return timer

    def call_soon(self, call: Callable[..., None], *words: Any) -> None:
        self.call_at(self.now, call, *words)

    def run(self, until: float) -> None:
        while self._calls and self._calls[0][0] <= until:
            when, _, timer, call, words = heapq.heappop(self._calls)
            if not timer.cancelled:
                self.now = max(self.now, when)
                call(*words)
        self.now = max(self.now, until)


class Sleeper:
    """Notes when it was woken, and takes its time over it."""

    def __init__(self, loop: Loop, takes_s: float = 0.0) -> None:
        self.loop, self.takes_s = loop, takes_s
        self.woken: list[float] = []

    def wake(self) -> None:
        self.woken.append(self.loop.now)
        self.loop.now += self.takes_s


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(rounds.asyncio, "get_running_loop", lambda: made)
    return made


def test_a_round_merges_and_wakes_each_once(loop: Loop) -> None:
    forgotten: list[float] = []
    told, sleeper, other = Rounds(lambda: forgotten.append(loop.now)), Sleeper(loop), Sleeper(loop)
    for _ in range(3):
        told.join(sleeper)
    told.join(other)
    loop.run(101)
    assert sleeper.woken == other.woken == [100 + WINDOW_S]
    assert len(forgotten) == 2, "before and after"


def test_after_a_long_round_there_is_a_pause_and_no_longer(loop: Loop) -> None:
    told, slow = Rounds(lambda: None), Sleeper(loop, takes_s=0.2)
    told.join(slow)
    loop.run(100 + WINDOW_S)
    ended = loop.now
    told.join(slow)
    loop.run(ended + 2)
    assert slow.woken[1] == pytest.approx(ended + 0.6)
    told.join(slow)
    asked = loop.now
    loop.run(asked + 1)
    assert slow.woken[2] == pytest.approx(asked + WINDOW_S), "the pause was over"


def test_the_pause_is_bounded(loop: Loop) -> None:
    told, slow = Rounds(lambda: None), Sleeper(loop, takes_s=60)
    told.join(slow)
    loop.run(101)
    ended = loop.now
    told.join(slow)
    loop.run(ended + 5)
    assert slow.woken[1] == pytest.approx(ended + USUAL.longest_s)


def test_what_somebody_decided_does_not_wait_so_long(loop: Loop) -> None:
    told, slow, other = Rounds(lambda: None), Sleeper(loop, takes_s=60), Sleeper(loop)
    told.join(slow)
    loop.run(101)
    ended = loop.now
    told.join(other)
    told.join(slow, soon=True)
    told.join(slow)
    loop.run(ended + 5)
    assert slow.woken[1] == pytest.approx(ended + SOON.longest_s)
    assert other.woken == [slow.woken[1]], "whoever waits takes part, once"
    loop.run(loop.now + 10)
    assert len(slow.woken) == 2 and len(other.woken) == 1, "the later call is off"


def test_who_joins_in_a_round_is_woken_in_the_next(loop: Loop) -> None:
    told = Rounds(lambda: None)

    class Again(Sleeper):
        def wake(self) -> None:
            super().wake()
            if len(self.woken) == 1:
                told.join(self, soon=True)

    again = Again(loop)
    told.join(again)
    loop.run(102)
    assert len(again.woken) == 2


def test_many_are_woken_some_at_a_time(loop: Loop) -> None:
    told, order = Rounds(lambda: None), list[str]()

    class Noted(Sleeper):
        def wake(self) -> None:
            order.append("woken")
            if len(order) == 1:
                loop.call_soon(order.append, "a request")

    for _ in range(200):
        told.join(Noted(loop))
    loop.run(101)
    assert order.count("woken") == 200 and order.index("a request") < 100
