"""A small mutator with a seed: the same inputs every time, without any fuzzing engine."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def mutations(seeds: Sequence[bytes], seed: int, count: int) -> Iterator[bytes]:
    """Yield `count` inputs: the seeds, cuts of them, changes in them, and noise."""
    generator = random.Random(seed)
    yield from seeds[:count]
    for number in range(max(0, count - len(seeds))):
        if number % 8 == 0:
            yield generator.randbytes(generator.randrange(300))
        else:
            yield _mutate(bytearray(generator.choice(seeds)), seeds, generator)


def _mutate(data: bytearray, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data) + 1)
        match generator.randrange(7):
            case 0:
                del data[at:]
            case 1 if data:
                data[at % len(data)] ^= 1 << generator.randrange(8)
            case 2 if data:
                data[at % len(data)] = generator.choice(_INTERESTING)
            case 3:
                data[at:at] = generator.randbytes(generator.randrange(1, 20))
            case 4:
                del data[at : at + generator.randrange(1, 20)]
            case 5:
                other = generator.choice(seeds)
                data[at:] = other[generator.randrange(len(other) + 1) :]
            case 6:
                size = generator.choice((2, 3, 4))
                value = generator.choice((0, 1, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1))
                data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "big")
    return bytes(data)
