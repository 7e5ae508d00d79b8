"""How long this machine has slept, from the difference of two of the kernel's clocks."""

from __future__ import annotations

import time


def suspended_s() -> float:
    """Return for how many seconds since boot the machine was suspended (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
