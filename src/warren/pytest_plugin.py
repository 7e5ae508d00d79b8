"""A pytest plugin: simulated worlds as fixtures, told and repeatable when a test fails.

    def test_two_homes(warren_world):
        tailnet = SimTailnet(warren_world)
        a = tailnet.node("a", "symmetric")
        b = tailnet.node("b", "port-restricted")
        tailnet.settle()
        a.talk_to(b)
        assert warren_world.run(12, until=lambda: a.direct(b) is not None)

`--warren-seed N` repeats a run; without it every test has a seed of its own, always the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from warren.lab.sim import SimWorld

_CHART_ROWS = 200
_WORLDS_TOLD = 3

_worlds_key = pytest.StashKey[list["SimWorld"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--warren-seed`."""
    parser.getgroup("warren").addoption(
        "--warren-seed", type=int, default=None, help="seed of every simulated Warren world"
    )


@pytest.fixture
def warren_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test: the option's, or one that follows from the test's name."""
    chosen = request.config.getoption("--warren-seed")
    return zlib.crc32(request.node.nodeid.encode()) if chosen is None else int(chosen)


@pytest.fixture
def make_warren_world(request: pytest.FixtureRequest) -> Callable[[int], SimWorld]:
    """Make worlds by seed; the last ones are told if the test fails."""
    from warren.lab.sim import SimWorld

    worlds = request.node.stash.setdefault(_worlds_key, [])

    def make(seed: int) -> SimWorld:
        world = SimWorld(seed)
        worlds.append(world)
        del worlds[:-_WORLDS_TOLD]
        return world

    return make


@pytest.fixture
def warren_world(warren_seed: int, make_warren_world: Callable[[int], SimWorld]) -> SimWorld:
    """One simulated world."""
    return make_warren_world(warren_seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add seeds and message charts to the report of a failed test."""
    report = yield
    if report.when == "call" and report.failed:
        for world in item.stash.get(_worlds_key, []):
            title = f"Warren simulation, seed {world.seed}, at {world.now:.3f} s"
            report.sections.append((title, world.chart.text(_CHART_ROWS)))
    return report
