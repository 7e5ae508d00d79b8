"""A change's way: from a decision at the coordinator to the packet path of another node.

Real rooms in one process; only the wire between them is a variable, and the engine is the
in-memory twin. Read it from top to bottom.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from allow_all import AllowAll
from warren.control.mapstream import MapFrames, encode_map_frame
from warren.coordinator.change import Change
from warren.coordinator.mapper import Mapper
from warren.coordinator.members import create_user, find_node, new_node, rename
from warren.coordinator.registry import Registry
from warren.coordinator.settings import Settings as NetworkSettings
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store.database import Store
from warren.edge.clock import SystemClock
from warren.engine.commands import SetFilter, SetPeers
from warren.engine.memory import MemoryEngine, MemoryNetwork
from warren.engine.protocol import EngineConfig
from warren.keys import MachinePrivate, NodePrivate
from warren.netmap.derpmap import DERPMap
from warren.netmap.diff import diff
from warren.netmap.endpoint import Endpoint
from warren.netmap.fold import fold
from warren.netmap.view import EMPTY, View
from warren.netmap.wire import Hostinfo, MapResponse, decode_json_untrusted, encode_json
from warren.node.reconcile import NOTHING, Settings, desire, reconcile

WALL = datetime(2026, 1, 2, tzinfo=UTC)


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class Coordinator:
    """Store → registry → mapper: the rooms that a change passes at the coordinator."""

    def __init__(self, store: Store) -> None:
        self.registry = Registry(store, Snapshot(), SystemClock())
        self.mapper = Mapper(NetworkSettings(url="https://warren.test"), DERPMap(regions={}))
        self.changes: list[Change] = []
        self.registry.listen(self.changes.append)

    async def join(self, name: str) -> None:
        """Let a machine in."""
        await self.registry.commit(
            lambda now: (
                new_node(
                    now,
                    os.urandom,
                    hostinfo=Hostinfo(hostname=name),
                    user_id=1,
                    machine_key=MachinePrivate.from_entropy(key("m" + name)).public(),
                    node_key=NodePrivate.from_entropy(key(name)).public(),
                    authorized=True,
                    created=WALL,
                ),
                None,
            )
        )

    def view_for(self, name: str) -> View:
        """What one node should know now."""
        snapshot = self.registry.snapshot
        return self.mapper.view(find_node(snapshot, name), snapshot, AllowAll(), WALL)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    store = Store.open(f"sqlite:///{tmp_path}/warren.db")
    yield Coordinator(store)
    store.close()


def over_the_wire(response: MapResponse) -> MapResponse:
    """JSON, zstd and the length before it, as on the long poll."""
    (payload,) = MapFrames().receive(encode_map_frame(encode_json(response)))
    return decode_json_untrusted(payload, MapResponse)


async def test_a_change(coordinator: Coordinator) -> None:
    registry = coordinator.registry
    await registry.commit(lambda now: (create_user(now, "ada", "", WALL), None))
    await coordinator.join("laptop")

    # A node's first map is the difference from nothing.
    view = coordinator.view_for("laptop")
    first = diff(EMPTY, view)
    assert first is not None
    known = fold(EMPTY, over_the_wire(first), WALL)
    assert known == view

    # The node turns the view into what its engine should be, and that into commands.
    own = Settings(private_key=NodePrivate.from_entropy(key("laptop")).reveal())
    engine = MemoryEngine(
        EngineConfig(tun=None), MemoryNetwork(lambda: 0.0), Endpoint.parse("192.0.2.1:41641")
    )
    desired = desire(known, own, WALL)
    engine.apply(reconcile(NOTHING, desired))
    assert engine.addresses == [str(prefix) for prefix in view.node.addresses]  # type: ignore[union-attr]
    assert engine.peers == {}

    # Another machine joins: one transaction, one frozen change that names who and what.
    coordinator.changes.clear()
    await coordinator.join("phone")
    (change,) = coordinator.changes
    phone = find_node(registry.snapshot, "phone")
    assert set(change.nodes) == {phone.id}

    # The laptop hears of the new peer, and of nothing else.
    response = diff(known, coordinator.view_for("laptop"))
    assert response is not None
    assert [peer.name for peer in response.peers_changed or ()] == ["phone.warren.internal."]
    assert (response.node, response.derp_map, response.packet_filters) == (None, None, None)
    known = fold(known, over_the_wire(response), WALL)

    # Only the difference reaches the engine: the filter stays, one peer is added.
    before, desired = desired, desire(known, own, WALL)
    commands = reconcile(before, desired)
    assert [type(command) for command in commands] == [SetPeers]
    assert not any(isinstance(command, SetFilter) for command in commands)
    engine.apply(commands, generation=2)
    assert set(engine.peers) == {phone.node_key.raw}

    # A new name is a change too, but none that packets would notice.
    await registry.commit(lambda now: (rename(now, find_node(now, "phone"), "pocket"), None))
    response = diff(known, coordinator.view_for("laptop"))
    assert response is not None
    known = fold(known, over_the_wire(response), WALL)
    assert reconcile(desired, desire(known, own, WALL)) == []
