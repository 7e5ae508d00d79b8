"""The interpreter's garbage collector, for programs that hold much and for long."""

from __future__ import annotations

import asyncio
import gc

# Objects that were made and are still there: the young are looked at after so many (20 MB, were
# they garbage), the others after as many times ten, and again.
_THRESHOLDS = (200_000, 10, 10)
LOOK_EVERY_S = 86_400.0
"""The program stands still for a second and more then, if it holds ten thousand machines."""


def look_once() -> None:
    """Let the collector look at what lives long once, and then leave it alone.

    By itself it looks again and again at all that ten thousand machines need, a sixth of all time
    while they join, and stops the program for a second and more each time. What ends is freed
    without it, as long as nothing that lives long is part of a circle when it ends.
    """
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    if _keep not in gc.callbacks:
        gc.callbacks.append(_keep)


async def look_daily() -> None:
    """Look at all again once a day, until cancelled: a circle that no test found has a bound."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        gc.unfreeze()
        gc.collect()
        gc.freeze()


def _keep(phase: str, facts: dict[str, int]) -> None:
    if phase == "stop" and facts["generation"] == 2:
        gc.freeze()
