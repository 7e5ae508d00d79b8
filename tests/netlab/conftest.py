"""Fixtures for tests that build networks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_ends import PLAN

from warren.lab import sandbox
from warren.lab.world import World


@pytest.fixture(scope="session", autouse=True)
def in_the_lab(lab_rights: None) -> None:
    """Every test here builds networks."""


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """For engines with TUN devices: by the module's own PLAN, or else by that of their tests."""
    if not sandbox.tun_available():
        pytest.skip("/dev/net/tun cannot be opened by this user")
    with World(getattr(request.module, "PLAN", PLAN)) as world:
        yield world
