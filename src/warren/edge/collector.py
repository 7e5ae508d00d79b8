"""The interpreter's garbage collector, for programs that hold much and for long."""

from __future__ import annotations

import gc

# Objects that were made and are still there: the young are looked at after so many (20 MB, were
# they garbage), the others after as many times ten, and again.
_THRESHOLDS = (200_000, 10, 10)


def look_once() -> None:
    """Let the collector look at what lives long once, and then never again.

    By itself it looks again and again at all that ten thousand machines need, a sixth of all time
    while they join, and stops the program for a second and more each time. What ends is freed
    without it, as long as nothing that lives long is part of a circle when it ends.
    """
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    gc.callbacks.append(_keep)


def _keep(phase: str, facts: dict[str, int]) -> None:
    if phase == "stop" and facts["generation"] == 2:
        gc.freeze()
