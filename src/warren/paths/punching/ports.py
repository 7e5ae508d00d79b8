"""How a NAT gives out its ports, and in which order to guess them (RFC 4787 §4.2).

What is known are samples: a server or a peer saw us at some port at some time. What comes out is
a plan that fits into a message: single ports to try first, then spans, then the whole range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from math import ceil, gcd
from typing import NamedTuple

from warren.netmap.endpoint import Endpoint

FIRST_PORT, LAST_PORT = 1024, 65535
PORTS = LAST_PORT - FIRST_PORT + 1
"""64,512: the ports from which NATs choose for sockets above the privileged ones."""

SAMPLES_MAX = 64
FIRST_MAX = 128
SPANS_MAX = 4
BLOCK_MAX = 4096
"""Ports that lie closer together than this are taken for a carrier's block."""
SCAN_WIDTH = 2048
"""The widest block that is scanned for a single port: 20 s at the rate."""

_NEWEST = 16
_SMALL_GAP = 64
_LATEST = 6
"""So many samples come from one attempt, within a fraction of a second."""
_PREDICTED_MAX = 48
_NEIGHBOURS = 8
_NEIGHBOURED = 4
_SEEN_ALONE = 4
_AHEAD, _AHEAD_IN_TURN = 48, 112
_FAR_IN_TURN = 1024
"""A scan looks so many steps beyond the newest port, in order; then so far, in any."""
_SURE_STEP = 2
_WRONG_SPAN = 8
"""A span is given up after this many times the guesses that a hit should take: odds of e⁻⁸."""


class Span(NamedTuple):
    """An inclusive range of ports."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many ports it holds."""
        return self.last - self.first + 1


class Sample(NamedTuple):
    """Our socket, or some other flow of the same NAT, was seen at `mapped` by `to` at `at`.

    `local_port` is the socket's own port, 0 where that is not known. `at` orders samples by when
    the NAT gave the port, so it is the time of sending.
    """

    to: Endpoint
    mapped: Endpoint
    at: float
    local_port: int = 0


class Pattern(Enum):
    """How ports are given out."""

    UNKNOWN = "unknown"
    PRESERVED = "kept"
    SEQUENTIAL = "sequential"
    BLOCK = "confined to a block"
    RANDOM = "random"


@dataclass(frozen=True)
class Allocation:
    """What the samples say. `ports`: distinct ones, newest first. `step` may be negative."""

    pattern: Pattern
    ports: tuple[int, ...] = ()
    step: int = 0
    block: Span | None = None

    def __str__(self) -> str:
        if self.pattern is Pattern.SEQUENTIAL:
            return f"sequential, step {self.step}"
        if self.block is not None:
            return f"confined to a block around {self.block.first}-{self.block.last}"
        return str(self.pattern.value)


class GuessPlan(NamedTuple):
    """Where to guess: `first` in order, then each span at random, then the whole range.

    `sockets` is how many ports are there to be hit; it says when a span must be wrong.
    """

    first: tuple[int, ...] = ()
    spans: tuple[Span, ...] = ()
    sockets: int = 1


class PortMemory:
    """The newest samples of one NAT; samples of another outside address replace them."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    def note(self, sample: Sample) -> None:
        """Remember a sample; IPv6 ones, and a port that is known already, say nothing here."""
        known = any(sample.mapped == earlier.mapped for earlier in self._samples)
        if known or not sample.mapped.is_v4 or sample.mapped.port == 0:
            return
        if self._samples and self._samples[-1].mapped.ip != sample.mapped.ip:
            self._samples.clear()
        self._samples.append(sample)
        del self._samples[:-SAMPLES_MAX]

    def samples(self) -> list[Sample]:
        """Return the samples, oldest first."""
        return sorted(self._samples, key=lambda sample: sample.at)

    def address(self) -> IPv4Address | IPv6Address | None:
        """Return the NAT's outside address, if any sample told it."""
        return self._samples[-1].mapped.ip if self._samples else None

    def forget(self) -> None:
        """Drop everything: the network changed."""
        self._samples.clear()


def infer(samples: Sequence[Sample]) -> Allocation:
    """Say how the NAT of the newest sample gives out ports."""
    ordered = sorted(samples, key=lambda sample: sample.at)
    if not ordered:
        return Allocation(Pattern.UNKNOWN)
    address = ordered[-1].mapped.ip
    here = [sample for sample in ordered if sample.mapped.ip == address]
    in_time = _distinct(sample.mapped.port for sample in here)
    ports = tuple(reversed(in_time))
    known = [sample for sample in here if sample.local_port]
    if known and all(sample.local_port == sample.mapped.port for sample in known):
        return Allocation(Pattern.PRESERVED, ports)
    newest = in_time[-_NEWEST:]
    if len(newest) < 2:
        return Allocation(Pattern.UNKNOWN, ports)
    # A busy router's counter may have gone far since the older samples.
    step = _step(newest) or (_step(newest[-_LATEST:]) if len(newest) > _LATEST else 0)
    if step:
        return Allocation(Pattern.SEQUENTIAL, ports, step=step)
    spread = max(newest) - min(newest)
    if spread >= BLOCK_MAX:
        return Allocation(Pattern.RANDOM, ports)
    if len(newest) < 3:
        # Two random ports are this close once in eight pairs.
        return Allocation(Pattern.UNKNOWN, ports)
    return Allocation(Pattern.BLOCK, ports, block=_likely_block(newest))


def plan_for(allocation: Allocation, sockets: int) -> GuessPlan:
    """Return where `sockets` ports that the NAT is giving out now are to be guessed."""
    pattern, seen = allocation.pattern, allocation.ports
    first: list[int] = []
    spans: list[Span] = []
    if pattern is Pattern.SEQUENTIAL:
        first += _predicted(seen, allocation.step, sockets)
        reach = min(BLOCK_MAX // 2, 4 * sockets * abs(allocation.step))
        spans.append(_clamped(min(seen[:_NEWEST]) - reach, max(seen[:_NEWEST]) + reach))
    if pattern is Pattern.RANDOM:
        first += seen[:_SEEN_ALONE]
    else:
        for distance in range(_NEIGHBOURS + 1):
            for port in seen[:_NEIGHBOURED]:
                first += [port + distance, port - distance]
    if allocation.block is not None:
        spans += _widening(allocation.block)
    usable = _distinct(port for port in first if FIRST_PORT <= port <= LAST_PORT)
    return GuessPlan(tuple(usable[:FIRST_MAX]), tuple(spans[:SPANS_MAX]), sockets)


def scan_plan_for(allocation: Allocation) -> GuessPlan:
    """Return where the one port of a peer is to be sought, of whose NAT little is known.

    A client tells few of its ports, often one. It was given that one some time ago, so ports in
    turn have gone on from there. Carriers' blocks are powers of two (RFC 7422 §3), so the aligned
    ones around what was seen come next, the small before the large.
    """
    seen = allocation.ports[:_NEWEST]
    if not seen:
        return GuessPlan()
    newest, step = seen[0], allocation.step or 1
    # One gap alone is the step only if it is tiny: in a block of 512 every fourth pair of ports
    # lies close enough to look like ports in turn.
    in_turn = allocation.step != 0 and (len(seen) > 2 or abs(step) <= _SURE_STEP)
    if not in_turn:
        step = 1 if step > 0 else -1
    ahead = _AHEAD_IN_TURN if in_turn else _AHEAD
    first = [newest, *(_ring(newest + step * count) for count in range(1, ahead + 1))]
    first += [newest - step * count for count in range(1, _NEIGHBOURS + 1)]
    spans = []
    if in_turn:
        far = newest + step * _FAR_IN_TURN
        spans.append(_clamped(min(newest, far), max(newest, far)))
    size = SCAN_WIDTH // 8
    while size <= SCAN_WIDTH and len(spans) < SPANS_MAX:
        start = newest // size * size
        spans.append(_clamped(start, start + size - 1))
        size *= 2
    middle = (min(seen) + max(seen)) // 2
    if not in_turn and not all(spans[-1].first <= p <= spans[-1].last for p in seen):
        # No aligned block holds all of them.
        spans = [_clamped(middle - SCAN_WIDTH // 2, middle + SCAN_WIDTH // 2 - 1)]
    usable = _distinct(port for port in first if FIRST_PORT <= port <= LAST_PORT)
    return GuessPlan(tuple(usable), tuple(spans), 1)


def guesses(
    plan: GuessPlan, entropy: Callable[[int], bytes], whole: bool = True, exhaust: bool = False
) -> Iterator[int]:
    """Give every port at most once, the likeliest first.

    whole: after the spans, go on through the whole range. exhaust: try every port of a span
    before the next one, instead of giving it up once it must be wrong.
    """
    given: set[int] = set()
    for port in plan.first:
        if FIRST_PORT <= port <= LAST_PORT and port not in given:
            given.add(port)
            yield port
    for span in plan.spans:
        limit = span.size
        if not exhaust:
            limit = min(limit, ceil(_WRONG_SPAN * span.size / max(1, plan.sockets)))
        for port in _shuffled(span, entropy):
            if limit <= 0:
                break
            if port not in given:
                given.add(port)
                limit -= 1
                yield port
    if whole:
        for port in _shuffled(Span(FIRST_PORT, LAST_PORT), entropy):
            if port not in given:
                yield port


def _distinct(ports: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(ports))


def _clamped(first: int, last: int) -> Span:
    return Span(max(FIRST_PORT, min(first, LAST_PORT)), min(LAST_PORT, max(last, FIRST_PORT)))


def _step(in_time: Sequence[int]) -> int:
    """Return the signed step of a sequential allocator, or 0 if the ports are none.

    Other flows take ports between ours, so gaps are multiples of the step. How large they may be
    grows with the number of gaps that agree in sign: a few small ones, or many larger ones. Two
    small ones among some speak for it too: sockets that were opened one right after the other.
    """
    gaps = [_gap(a, b) for a, b in pairwise(in_time)]
    small = sum(abs(gap) <= _SMALL_GAP for gap in gaps)
    allowed = _SMALL_GAP if len(gaps) < 4 else 512 if len(gaps) < 6 and small < 2 else 4096
    rising = sum(gap > 0 for gap in gaps)
    sign = 1 if 2 * rising > len(gaps) else -1
    fitting = [gap for gap in gaps if gap * sign > 0 and abs(gap) <= allowed]
    # One gap in six may be off: an older sample, or a port that was in use and skipped.
    if len(gaps) - len(fitting) > len(gaps) // 6:
        return 0
    return sign * gcd(*fitting)


def _gap(a: int, b: int) -> int:
    """Return how far `b` is after `a` where the range is a ring."""
    gap = b - a
    if abs(gap) > PORTS // 2:
        gap -= PORTS if gap > 0 else -PORTS
    return gap


def _likely_block(ports: Sequence[int]) -> Span:
    """Return the span of the ports and as much beyond as their number leaves open."""
    low, high = min(ports), max(ports)
    beyond = ceil((high - low) / (len(ports) - 1))
    return _clamped(low - beyond, high + beyond)


def _widening(block: Span) -> list[Span]:
    """Return the block, the aligned power of two around it if there is one, and twice of it."""
    spans = [block]
    size = 64
    while size <= BLOCK_MAX:
        start = block.first // size * size
        if start <= block.first and block.last < start + size:
            spans.append(_clamped(start, start + size - 1))
            break
        size *= 2
    middle = (block.first + block.last) // 2
    spans.append(_clamped(middle - block.size, middle + block.size))
    return spans


def _predicted(newest_first: Sequence[int], step: int, sockets: int) -> list[int]:
    """Return ports between the newest samples, and beyond the newest, in turns."""
    between: list[int] = []
    recent = newest_first[:_NEWEST]
    for later, earlier in pairwise(recent):
        count = _gap(earlier, later) // step
        if 1 < count <= 2 * sockets:
            between += [_ring(earlier + step * k) for k in _spread(count - 1)]
    beyond = [_ring(newest_first[0] + step * k) for k in _spread(sockets)]
    mixed: list[int] = []
    for index in range(_PREDICTED_MAX // 2):
        mixed += between[index : index + 1] + beyond[index : index + 1]
    return mixed


def _ring(port: int) -> int:
    return (port - FIRST_PORT) % PORTS + FIRST_PORT


def _spread(count: int) -> list[int]:
    """Return 1 … count so that each new one lies far from those before: halves, quarters, …"""
    found: dict[int, None] = {}
    pieces = 2
    while pieces <= 2 * count:
        for piece in range(1, pieces, 2):
            found[max(1, count * piece // pieces)] = None
        pieces *= 2
    found.update(dict.fromkeys(range(1, count + 1)))
    return list(found)


def _shuffled(span: Span, entropy: Callable[[int], bytes]) -> Iterator[int]:
    """Give every port of a span once, in random order, without laying them all out."""
    moved: dict[int, int] = {}
    for done in range(span.size):
        left = span.size - done
        pick = done + int.from_bytes(entropy(6), "big") % left
        chosen = moved.get(pick, pick)
        moved[pick] = moved.get(done, done)
        yield span.first + chosen
