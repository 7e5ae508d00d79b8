"""A coordinator without its doors, and machines that listen, for tests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from coordinator_world import CountedEntropy, World

from warren.control.mapstream import MapFrames
from warren.coordinator import members, policies
from warren.coordinator.change import Facet
from warren.coordinator.delta import Delta
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.mapper import Mapper
from warren.coordinator.registry import Registry
from warren.coordinator.session import Maps
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import Store
from warren.netmap.codec import decode_json_untrusted
from warren.netmap.derpmap import DERPMap
from warren.netmap.fold import fold
from warren.netmap.messages import MapResponse
from warren.netmap.node import Node
from warren.netmap.view import EMPTY, View


class Fake:
    """A node's end of its long poll: folds what it is sent, and counts frames."""

    def __init__(self, network: Network, node_id: int) -> None:
        self.network, self.frames, self.view = network, 0, EMPTY
        self.parts, self.full = MapFrames(), False
        self.session = network.maps.open(node_id)
        self.task = asyncio.get_running_loop().create_task(self.session.run(self))

    def roomy(self) -> bool:
        return not self.full

    async def drain(self) -> None:
        while self.full:
            await asyncio.sleep(0.01)

    def write(self, data: bytes) -> None:
        for message in self.parts.receive(data):
            response = decode_json_untrusted(message, MapResponse)
            self.view: View = fold(self.view, response, self.network.clock.wall())
            self.frames += 1

    def peers(self) -> set[str]:
        return {peer.name.split(".")[0] for peer in self.view.peers.values()}

    def peer(self, name: str) -> Node:
        return next(p for p in self.view.peers.values() if p.name.startswith(name + "."))


class Network:
    """A coordinator without its doors, and nodes that listen."""

    def __init__(self, world: World, store: Store) -> None:
        self.clock = world.clock
        self.registry = Registry(store, world.snapshot, world.clock)
        mapper = Mapper(Settings(url="http://x"), DERPMap(regions={}))
        policy = Enforcement(world.snapshot, self.clock.wall())
        self.maps = Maps(self.registry, mapper, policy, self.clock, CountedEntropy())
        self.fakes: dict[str, Fake] = {}

    async def listen(self) -> None:
        for node in self.registry.snapshot.nodes.values():
            self.fakes[node.name] = Fake(self, node.id)
        await self.heard()

    async def put(self, **policy: Any) -> set[str]:
        """Put a policy in force; return who heard something."""
        text, wall = json.dumps(TAGS | policy), self.clock.wall()

        def decide(snapshot: Snapshot) -> Any:
            return policies.set_policy(snapshot, text, "ann", wall), None

        return await self.change(decide)

    async def set(self, name: str, facets: Facet = Facet.HOST, **fields: Any) -> set[str]:
        def decide(snapshot: Snapshot) -> Any:
            node = members.find_node(snapshot, name)
            return members.changed_node(node, facets, "test", **fields), None

        return await self.change(decide)

    async def tell(self, name: str, **fields: Any) -> None:
        """Change a machine, and do not wait for who hears of it."""

        def decide(snapshot: Snapshot) -> Any:
            node = members.find_node(snapshot, name)
            return members.changed_node(node, Facet.PATHS, "test", **fields), None

        await self.registry.commit(decide)

    async def change(self, decide: Any) -> set[str]:
        before = {name: fake.frames for name, fake in self.fakes.items()}
        await self.registry.commit(decide)
        await self.heard()
        return {name for name, fake in self.fakes.items() if fake.frames > before[name]}

    async def heard(self) -> None:
        """Wait until every session has told all that it has to."""
        for fake in self.fakes.values():
            while not fake.frames or fake.session._wake.is_set() or fake.session._changed:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.12)


TAGS = {"tagOwners": {"tag:web": [], "tag:db": [], "tag:router": []}}
WEB = {"action": "accept", "src": ["ann@"], "dst": ["tag:web:80"]}
DB = {"action": "accept", "src": ["tag:web"], "dst": ["tag:db:5432"]}


def everything(world: World) -> Any:
    snapshot = world.snapshot
    return Delta(
        users=tuple(snapshot.users.values()),
        nodes=tuple(snapshot.nodes.values()),
        auth_keys=tuple(snapshot.auth_keys.values()),
        settings=snapshot.settings,
    )
