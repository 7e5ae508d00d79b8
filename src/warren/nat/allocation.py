"""How a NAT gives out ports, told from samples (RFC 4787 §4.2; carriers' blocks: RFC 7422 §3)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from math import gcd
from typing import NamedTuple

FIRST_PORT, LAST_PORT = 1024, 65535
_PORTS = LAST_PORT - FIRST_PORT + 1
_MIN_SEQUENCE = 4
# So many other flows may take a port between two of ours, at the most.
_MAX_GAP = 256
_MAX_GAP_OF_FEW = 16
_FEW = 6
_MIN_BLOCK_SAMPLES = 8
_MAX_BLOCK = 8192
"""Ports of a block lie closer than this; eight random ones do once in some 300,000 times."""


class Style(StrEnum):
    """How ports are given out."""

    UNKNOWN = "unknown"
    KEPT = "kept"
    SEQUENTIAL = "sequential"
    BLOCK = "block"
    RANDOM = "random"


class PortSample(NamedTuple):
    """A new mapping: the socket's own port, and the one that a server saw."""

    local: int
    mapped: int


class PortAllocation(NamedTuple):
    """What samples say. `step` is signed, 0 unless sequential; first and last bound a block.

    A block is the aligned power of two that fits the samples, else what they span and a little.
    """

    style: Style = Style.UNKNOWN
    step: int = 0
    first: int = 0
    last: int = 0


def judge(samples: Sequence[PortSample]) -> PortAllocation:
    """Tell how the ports of new mappings, in the order of their making, were chosen."""
    distinct = list(dict.fromkeys(samples))
    if len(distinct) < 2:
        return PortAllocation()
    kept = sum(sample.local == sample.mapped for sample in distinct)
    # Where another machine holds the same port, a NAT that keeps ports takes another one.
    if kept >= max(2, len(distinct) * 3 // 4):
        return PortAllocation(Style.KEPT)
    ports = list(dict.fromkeys(sample.mapped for sample in distinct))
    if len(ports) < _MIN_SEQUENCE:
        return PortAllocation()
    step = _step(ports)
    if step:
        return PortAllocation(Style.SEQUENTIAL, step=step)
    if max(ports) - min(ports) >= _MAX_BLOCK:
        return PortAllocation(Style.RANDOM)
    if len(ports) < _MIN_BLOCK_SAMPLES:
        return PortAllocation()
    first, last = _block(ports)
    return PortAllocation(Style.BLOCK, first=first, last=last)


def _step(ports: Sequence[int]) -> int:
    """Return the signed step of a sequence in which some ports may be missing, else 0."""
    gaps = [_gap(a, b) for a, b in pairwise(ports)]
    allowed = _MAX_GAP_OF_FEW if len(ports) < _FEW else _MAX_GAP
    for sign in (1, -1):
        fitting = [gap for gap in gaps if 0 < gap * sign <= allowed]
        # One gap in six may be off: a port in use is skipped, the end of a block is its beginning.
        if len(gaps) - len(fitting) <= len(gaps) // 6:
            return sign * gcd(*fitting)
    return 0


def _gap(a: int, b: int) -> int:
    gap = b - a
    if abs(gap) > _PORTS // 2:
        gap -= _PORTS if gap > 0 else -_PORTS
    return gap


def _block(ports: Sequence[int]) -> tuple[int, int]:
    low, high = min(ports), max(ports)
    likely = (high - low) * (len(ports) + 1) // (len(ports) - 1) + 1
    size = 1
    while low // size != high // size:
        size *= 2
    if size <= 2 * likely:
        return low // size * size, low // size * size + size - 1
    beyond = (likely - (high - low)) // 2
    return max(FIRST_PORT, low - beyond), min(LAST_PORT, high + beyond)
