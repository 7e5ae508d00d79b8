"""Which places meet, and in which rounds: pure. The first of a pair is machine `a`, and asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from warren.lab.places import PLACES, Place, find
from warren.lab.plan import InvalidPlan

Pair = tuple[Place, Place]


def every_pair(chosen: Sequence[Place], ordered: bool = False) -> list[Pair]:
    """All pairs of two places, each place with itself among them.

    ordered: both (x, y) and (y, x), where the two sides are not of the same make. They are in the
    order of a round robin, so that those next to each other have no machine in common.
    """
    count = len(chosen)
    steps = count if ordered else count // 2 + 1
    return [
        (chosen[i], chosen[(i + step) % count])
        for step in range(steps)
        for i in range(count if ordered or 2 * step != count or not step else count // 2)
    ]


def named_pairs(texts: Iterable[str]) -> list[Pair]:
    """Read pairs such as `symmetric:port-restricted`. Raises InvalidPlan."""
    found = []
    for text in texts:
        words = text.split(":")
        if len(words) != 2:
            raise InvalidPlan(f"{text!r} is not a pair: write it KIND:KIND")
        found.append((find(words[0].strip()), find(words[1].strip())))
    if not found:
        raise InvalidPlan("no pair was named: write it KIND:KIND")
    return list(dict.fromkeys(found))


def in_rounds(pairs: Iterable[Pair], most: int = 1000) -> list[list[Pair]]:
    """Sort pairs into rounds of at most so many, in which no machine has two partners."""
    rounds: list[list[Pair]] = []
    for pair in pairs:
        fits = (each for each in rounds if len(each) < most and not _meets(pair, each))
        free = next(fits, None)
        if free is None:
            rounds.append([pair])
        else:
            free.append(pair)
    return rounds


def rows_and_columns(pairs: Iterable[Pair]) -> tuple[list[Place], list[Place]]:
    """Return the places of the first and of the second sides, in the order of the table."""
    firsts, seconds = set(), set()
    for one, other in pairs:
        firsts.add(one.name)
        seconds.add(other.name)
    table = PLACES.values()
    return [p for p in table if p.name in firsts], [p for p in table if p.name in seconds]


def _meets(pair: Pair, others: Iterable[Pair]) -> bool:
    return any(pair[0] == a or pair[1] == b for a, b in others)
