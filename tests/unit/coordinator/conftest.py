from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_office import Office
from coordinator_server import Running
from coordinator_world import World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def office(tmp_path: Path, world: World) -> AsyncIterator[Office]:
    made = Office(tmp_path, world)
    async with made.http:
        yield made
    made.store.close()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A server that listens."""
    server = Running(tmp_path)
    await server.start()
    yield server
    await server.stop()
