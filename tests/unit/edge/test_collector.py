"""The garbage collector of programs that live long."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from warren.edge import collector


class Knot:
    """Part of a circle."""

    def __init__(self) -> None:
        self.itself = self


async def test_a_circle_that_was_kept_goes_within_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    before, thresholds = list(gc.callbacks), gc.get_threshold()
    monkeypatch.setattr(collector, "LOOK_EVERY_S", 0.05)
    knot = Knot()
    seen = weakref.ref(knot)
    try:
        collector.look_once()
        collector.look_once()
        assert len(gc.callbacks) == len(before) + 1
        del knot
        gc.collect()
        assert seen() is not None, "it is not looked at"
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(collector.look_daily())
            while seen() is not None:
                await asyncio.sleep(0.01)
            looking.cancel()
    finally:
        gc.callbacks[:] = before
        gc.set_threshold(*thresholds)
        gc.unfreeze()
