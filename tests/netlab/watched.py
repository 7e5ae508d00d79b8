"""A world whose programs are looked at in the end: none may have failed without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from warren.lab.plan import Plan
from warren.lab.world import World


@contextmanager
def watched(plan: Plan) -> Iterator[World]:
    """Build a network; print what every program said last if a test of it fails."""
    with World(plan) as world:
        try:
            yield world
            no_traceback(world)
        except BaseException:
            print(world.tails(40))
            raise


def no_traceback(world: World) -> None:
    """No program of the lab has shown a traceback or a panic."""
    for program in world.programs:
        said = program.output()
        assert "Traceback" not in said, program.tail(60)
        assert "panicked at" not in said, program.tail(60)
