from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_office import Office
from coordinator_network import Network, everything
from coordinator_server import Running
from coordinator_world import World

from warren.coordinator.store import Store


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


@pytest.fixture
async def network(world: World, tmp_path: Path) -> AsyncIterator[Network]:
    world.user("ann")
    for name, tags in (("pc", []), ("web", ["tag:web"]), ("db", ["tag:db"]),
                       ("r1", ["tag:router"]), ("r2", ["tag:router"])):  # fmt: skip
        text, _ = world.auth_key(1, tags=tags, life=timedelta(days=1))
        world.register(name, name, auth_key=text, hostname=name)
    store = Store.open(f"sqlite:///{tmp_path / 'warren.db'}")
    store.write_now(everything(world))
    network = Network(world, store)
    await network.listen()
    yield network
    network.maps.end_all()
    await asyncio.gather(*(fake.task for fake in network.fakes.values()))
    store.close()
