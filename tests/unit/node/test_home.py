"""The home region follows what is measured, in a whole node on the engine's twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec import structs
from node_coordinator import FakeCoordinator

from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.engine.commands import SendDatagram
from warren.engine.events import RegionState
from warren.engine.memory import MemoryEngine, MemoryNetwork
from warren.engine.protocol import EngineConfig
from warren.nat.stun import binding_response, parse_binding_request_untrusted
from warren.netmap.derpmap import DERPMap, DERPNode, DERPRegion
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import Node
from warren.netmap.wire import MapResponse, RegisterResponse
from warren.node import relay_health
from warren.node.runtime import Mode, Runtime
from warren.node.schema import UpRequest
from warren.node.service import NodeService
from warren.node.state import NodeState


class Regions(MemoryNetwork):
    """STUN servers by region; each answers after its latency, or never."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.latency_s: dict[Endpoint, float | None] = {}

    def carry(self, sender: MemoryEngine, src: Endpoint, sent: SendDatagram) -> None:
        """Answer what goes to a server; nothing else goes anywhere."""
        to = Endpoint.parse(sent.to)
        latency_s = self.latency_s.get(to)
        if latency_s is not None:
            data = binding_response(parse_binding_request_untrusted(sent.data), src)
            reply = SendDatagram(to=str(src), data=data)
            asyncio.get_running_loop().call_later(latency_s, sender.take, to, src, reply)


def server(region: int) -> Endpoint:
    return Endpoint.parse(f"192.0.2.{region}:3478")


def derp_map(*regions: int) -> DERPMap:
    return DERPMap(
        regions={
            n: DERPRegion(
                region_id=n,
                region_code=f"r{n}",
                nodes=[
                    DERPNode(
                        name=f"{n}a",
                        region_id=n,
                        host_name=f"192.0.2.{n}",
                        ipv4=f"192.0.2.{n}",
                        ipv6="none",
                    )
                ],
            )
            for n in regions
        }
    )


class Lone:
    """One node, its engine and its coordinator."""

    def __init__(self, coordinator: FakeCoordinator, directory: Path) -> None:
        self.coordinator = coordinator
        clock = SystemClock()
        self.network = Regions(clock.now)
        self.state = NodeState(directory, system_entropy)
        here = Endpoint.parse("198.51.100.1:41641")
        self.engine = MemoryEngine(EngineConfig(tun=None), self.network, here)
        mode = Mode(None, 41641)
        self.runtime = Runtime(self.state, self.engine, mode, clock, system_entropy, gateways=list)
        self.service = NodeService(self.runtime)

    async def until(self, condition: Callable[[], object], limit_s: float = 10.0) -> None:
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.01)

    async def join(self, *regions: int) -> None:
        self.coordinator.replies.append(RegisterResponse(machine_authorized=True))
        await self.service.up(UpRequest(server_url=self.coordinator.url))
        await self.until(lambda: len(self.coordinator.map_requests) >= 1)
        me = Node(
            id=1,
            name="me.example.",
            key=self.coordinator.registered[0].node_key,
            addresses=["100.64.0.1/32"],
            machine_authorized=True,
        )
        await self.until(lambda: self.coordinator._streams)
        self.coordinator.send_map(MapResponse(node=me, peers=[], derp_map=derp_map(*regions)))
        await self.until(lambda: self.engine.home)

    def measured(self) -> dict[int, float]:
        report = self.runtime.measuring.report
        return report.latency if report else {}

    def told(self) -> int:
        """The home that the coordinator heard of last."""
        infos = [r.hostinfo.net_info for r in self.coordinator.map_requests if r.hostinfo]
        return next((info.preferred_derp for info in reversed(infos) if info), 0)


@pytest.fixture
async def lone(tmp_path: Path) -> AsyncIterator[Lone]:
    async with FakeCoordinator() as coordinator:
        made = Lone(coordinator, tmp_path)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(made.service.run())
            await asyncio.sleep(0)
            yield made
            running.cancel()
        made.engine.close()
        made.state.close()


async def test_home_moves_to_a_better_region_that_appears(lone: Lone) -> None:
    lone.network.latency_s = {server(1): 0.08, server(2): 0.01, server(3): 0.009}
    await lone.join(1)
    assert lone.engine.home == 1
    lone.coordinator.send_map(MapResponse(derp_map=derp_map(1, 2)))
    await lone.until(lambda: lone.engine.home == 2)
    await lone.until(lambda: lone.told() == 2)
    # A third one that is hardly better is no reason to move again.
    lone.coordinator.send_map(MapResponse(derp_map=derp_map(1, 2, 3)))
    await lone.until(lambda: 3 in lone.measured())
    assert lone.engine.home == 2
    assert lone.told() == 2


async def test_home_moves_away_from_a_relay_that_stays_dead(
    lone: Lone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_health, "HOME_GRACE_S", 0.1)
    lone.network.latency_s = {server(1): 0.08, server(2): 0.01}
    await lone.join(1, 2)
    await lone.until(lambda: lone.engine.home == 2)
    lone.network.latency_s[server(2)] = None
    lone.engine.regions[2] = False
    lone.engine.give(RegionState(region=2, connected=False, error="it is gone", health=""))
    await lone.until(lambda: lone.engine.home == 1)
    await lone.until(lambda: lone.told() == 1)


async def test_home_stays_where_a_relay_is_back_at_once(
    lone: Lone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_health, "HOME_GRACE_S", 0.1)
    lone.network.latency_s = {server(1): 0.08, server(2): 0.01}
    await lone.join(1, 2)
    await lone.until(lambda: lone.engine.home == 2)
    lone.engine.give(RegionState(region=2, connected=False, error="it restarts", health=""))
    await asyncio.sleep(0.4)
    assert lone.engine.home == 2


async def test_home_leaves_a_relay_that_died_at_once_though_its_stun_answers(lone: Lone) -> None:
    """Within 2 s and by what is known, not by a measuring; and it is not back a moment later."""
    lone.network.latency_s = {server(1): 0.08, server(2): 0.01, server(3): 0.05}
    await lone.join(1, 2, 3)
    await lone.until(lambda: lone.engine.home == 2)
    lone.engine.regions[2] = False
    lone.engine.give(RegionState(region=2, connected=False, error="it was reset", health=""))
    await lone.until(lambda: lone.engine.home == 3, 2.0)
    await lone.until(lambda: lone.told() == 3)
    await lone.runtime.measuring.measure_now()
    assert 2 in lone.measured()
    assert lone.engine.home == 3


async def test_home_waits_for_a_relay_that_said_that_it_restarts(
    lone: Lone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_health, "HOME_GRACE_S", 0.05)
    lone.network.latency_s = {server(1): 0.08, server(2): 0.01}
    await lone.join(1, 2)
    await lone.until(lambda: lone.engine.home == 2)
    lone.engine.give(RegionState(region=2, connected=True, error="", health="it restarts"))
    lone.engine.regions[2] = False
    lone.engine.give(RegionState(region=2, connected=False, error="it is gone", health=""))
    await asyncio.sleep(0.3)
    assert lone.engine.home == 2


async def test_a_region_that_is_never_home_is_none_when_the_home_dies(lone: Lone) -> None:
    lone.network.latency_s = {server(1): 0.08, server(2): 0.01}
    await lone.join(1, 2)
    await lone.until(lambda: lone.engine.home == 2)
    found = derp_map(1, 2)
    assert found.regions is not None
    assert found.regions[1] is not None
    found.regions[1] = structs.replace(found.regions[1], no_measure_no_home=True)
    lone.coordinator.send_map(MapResponse(derp_map=found))
    measuring = lone.runtime.measuring
    await lone.until(lambda: measuring._derp_map == found)
    assert not measuring.leave_home()
    assert measuring.home_region == 2
