"""Two whole nodes in one process, on the engine's twin, joined to a scripted coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from node_coordinator import FakeCoordinator, frame

from warren.disco.messages import CallMeMaybe, Ping, TxId, encode_message
from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.engine.commands import SendDatagram, SetHome, SetIdentity, SetPath, SetPeers
from warren.engine.events import Datagram, Dialed, Fault, RegionState, Relayed
from warren.engine.memory import MemoryEngine, MemoryNetwork
from warren.engine.protocol import EngineConfig
from warren.keys import NodePublic
from warren.nat.stun import binding_response, parse_binding_request_untrusted
from warren.netmap.derpmap import DERPMap, DERPNode, DERPRegion
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import Node, UserProfile
from warren.netmap.wire import MapResponse, RegisterRequest, RegisterResponse
from warren.node.localapi import RequestFailed
from warren.node.runtime import EngineStopped, Mode, Runtime
from warren.node.schema import PingRequest, UpRequest, WhyRequest
from warren.node.service import NodeService
from warren.node.state import NodeState
from warren.paths.candidates import CANDIDATES_MAX

STUN = Endpoint.parse("192.0.2.1:3478")
RELAY = DERPNode(name="1a", region_id=1, host_name="192.0.2.1", ipv4="192.0.2.1", ipv6="none")
DERP = DERPMap(regions={1: DERPRegion(region_id=1, region_code="home", nodes=[RELAY])})


class Routes:
    """A device that remembers what it was given."""

    def __init__(self) -> None:
        self.routes: dict[str, int] = {}

    def apply(self, addresses: Iterable[str], routes: Mapping[str, int]) -> None:
        self.routes = dict(routes)

    def clear(self) -> None:
        self.routes = {}


class Machine:
    """One node and its parts."""

    def __init__(self, number: int, directory: Path, network: MemoryNetwork) -> None:
        self.number = number
        self.state = NodeState(directory, system_entropy)
        self.endpoint = Endpoint.parse(f"198.51.100.{number}:41641")
        self.engine = MemoryEngine(EngineConfig(tun=None), network, self.endpoint)
        self.device = Routes()
        self.runtime = Runtime(
            self.state,
            self.engine,
            Mode(None, 41641),
            SystemClock(),
            system_entropy,
            make_routes=lambda: self.device,
            gateways=list,
        )
        self.service = NodeService(self.runtime)

    async def until(self, condition: Callable[[], object], limit_s: float = 20.0) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.005)

    def phase(self) -> str:
        return self.service.status().state

    async def ping(self, peer: str, **members: Any) -> Any:
        return await self.service.ping(PingRequest(peer=peer, **{"timeout_s": 1.0, **members}))


class Pair:
    """Two machines, their network and their coordinator."""

    def __init__(self, server: FakeCoordinator, directory: Path) -> None:
        self.server = server
        clock = SystemClock()

        def stun(request: bytes, src: Endpoint) -> bytes:
            return binding_response(parse_binding_request_untrusted(request), src)

        self.open = True
        self.network = MemoryNetwork(clock.now, lambda src, dst: self.open, STUN, stun)
        self.machines = [Machine(n, directory / str(n), self.network) for n in (1, 2)]

    def node(self, request: RegisterRequest, number: int) -> Node:
        """What the map says of a machine."""
        return Node(
            id=number,
            name=f"m{number}.example.",
            user=7,
            key=request.node_key,
            addresses=[f"100.64.0.{number}/32"],
            home_derp=1,
            machine_authorized=True,
            online=True,
        )

    async def join(self) -> None:
        """Both log in, one after the other, and learn of each other."""
        for machine in self.machines:
            self.server.replies.append(RegisterResponse(machine_authorized=True))
            self.server.maps = []
            before = len(self.server.map_requests)
            await machine.service.up(UpRequest(server_url=self.server.url))
            await machine.until(lambda before=before: len(self.server.map_requests) >= before + 2)
        nodes = [self.node(r, n) for n, r in enumerate(self.server.registered, start=1)]
        discos = {r.node_key: r.disco_key for r in self.server.map_requests}
        nodes = [msgspec.structs.replace(node, disco_key=discos[node.key]) for node in nodes]
        profile = UserProfile(id=7, login_name="alice")
        for (channel, stream, writer), me, other in zip(
            self.server._streams, nodes, reversed(nodes), strict=True
        ):
            message = MapResponse(
                node=me, peers=[other], derp_map=DERP, domain="example", user_profiles=[profile]
            )
            channel.send(stream, frame(message))
            writer.write(channel.poll_transmit())
        for machine in self.machines:
            await machine.until(lambda machine=machine: machine.phase() == "running")
            await machine.until(
                lambda machine=machine: str(machine.endpoint) in _endpoints(machine)
            )


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with FakeCoordinator() as server:
        pair = Pair(server, tmp_path)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(machine.service.run()) for machine in pair.machines]
            await asyncio.sleep(0)
            yield pair
            for task in running:
                task.cancel()
        for machine in pair.machines:
            machine.engine.close()
            machine.state.close()


async def test_the_map_reaches_the_engine(pair: Pair) -> None:
    await pair.join()
    first, second = pair.machines
    kinds = [type(command) for command in first.engine.commands]
    assert kinds.index(SetIdentity) < kinds.index(SetPeers)
    assert first.engine.home == 1
    assert list(first.engine.peers) == [second.state.node_key().public().raw]
    status = first.service.status()
    assert status.self_node is not None
    assert status.self_node.home_region_code == "home"
    assert str(first.endpoint) in status.self_node.endpoints
    assert [peer.user for peer in status.peers] == ["alice"]


async def test_relayed_when_nothing_else_goes_then_direct(pair: Pair) -> None:
    pair.open = False
    await pair.join()
    first, second = pair.machines
    reply = await first.ping("m2")
    assert (reply.ok, reply.via, reply.region, reply.region_code) == (True, "relay", 1, "home")
    assert not any(isinstance(c, SetPath) and c.addr for c in first.engine.commands)
    pair.open = True
    await first.until(lambda: first.engine.direct(_key(second), SystemClock().now()), 8)
    reply = await first.ping("m2.example.")
    assert (reply.via, reply.path) == ("direct", str(second.endpoint))
    peer = first.service.status().peers[0]
    assert (peer.path.kind, peer.path.address) == ("direct", str(second.endpoint))


async def test_what_a_path_carries_reaches_engine_route_and_status(pair: Pair) -> None:
    pair.network.mtu_bytes = 1400
    await pair.join()
    first, second = pair.machines
    assert first.device.routes == {"100.64.0.2/32": 1280}
    await first.ping("m2")
    await first.until(lambda: first.device.routes == {"100.64.0.2/32": 1340}, 8)
    assert first.engine.paths[_key(second)].mtu_bytes == 1340
    assert first.service.status().peers[0].path.mtu_bytes == 1340
    asked = [c for c in first.engine.commands if isinstance(c, SendDatagram) and c.whole]
    assert {len(c.data) + 28 for c in asked} >= {1400, 1500}
    why = first.service.why(WhyRequest(peer="m2"))
    assert "packets of up to 1340 bytes" in why.summary
    assert first.service.status().peers[0].path.mtu_fallbacks == 0
    link = first.service._runtime.dataplane.punching_of(NodePublic(_key(second)))
    assert link is not None
    link.size.fallbacks = 2
    assert first.service.status().peers[0].path.mtu_fallbacks == 2
    assert "stopped arriving 2 times" in first.service.why(WhyRequest(peer="m2")).summary


async def test_kinds_of_ping(pair: Pair) -> None:
    await pair.join()
    first, _ = pair.machines
    assert (await first.ping("100.64.0.2", kind="tsmp")).ok
    assert (await first.ping("m1")).via == "self"
    silent = await first.ping("m2", kind="icmp", timeout_s=0.1)
    assert (silent.ok, silent.error) == (False, "no answer within 0.1 s")


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"peer": "nobody"}, 404),
        ({"peer": ""}, 404),
        ({"peer": "m2", "timeout_s": 0}, 400),
        ({"peer": "m2", "timeout_s": 1e9}, 400),
        ({"peer": "m2", "size_bytes": 99999}, 400),
    ],
)
async def test_pings_that_make_no_sense(pair: Pair, members: dict[str, Any], status: int) -> None:
    await pair.join()
    with pytest.raises(RequestFailed) as caught:
        await pair.machines[0].service.ping(PingRequest(**members))
    assert caught.value.status == status


async def test_garbage_from_outside_is_counted(pair: Pair) -> None:
    await pair.join()
    first, second = pair.machines
    magic = b"TS\xf0\x9f\x92\xac"
    known = second.runtime.disco_key.raw
    for data in (
        b"",
        magic,
        magic + bytes(200),
        magic + known + bytes(24) + bytes(100),
        b"\x01\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),
    ):
        first.engine.give(Datagram(src="203.0.113.9:1", data=data))
        first.engine.give(Relayed(region=1, peer=_key(second), data=data))
    first.engine.give(Datagram(src="nonsense", data=b"x"))
    first.engine.give(Datagram(src="100.64.0.2:41641", data=magic + known + bytes(100)))
    await first.until(lambda: first.service.status().drops.get("source unreadable"))
    drops = first.service.status().drops
    assert drops["disco of unknown key"] >= 5
    assert drops["disco malformed"] == 2
    assert drops["stun malformed"] == 1
    assert drops["disco through the tunnel"] == 1
    assert (await first.ping("m2")).ok


async def test_a_flood_of_replayed_messages_is_answered_at_a_rate_and_counted(pair: Pair) -> None:
    """Whoever saw one ping may send it again from anywhere: it leads no traffic astray."""
    await pair.join()
    first, second = pair.machines
    assert (await first.ping("m2")).ok

    def used() -> Endpoint | None:
        paths = first.runtime.dataplane.paths_of(NodePublic(_key(second)))
        path = paths.path(SystemClock().now()) if paths else None
        return path.endpoint if path else None

    await first.until(lambda: used() == second.endpoint)
    box = second.runtime.dataplane.box_of(NodePublic(_key(first)))
    assert box is not None
    ping = Ping(TxId(b"replayed ping"[:12]), NodePublic(_key(second)))
    stranger = Ping(TxId(b"another ping"), NodePublic(bytes([7]) * 32))
    call = CallMeMaybe((Endpoint.parse("203.0.113.9:9"),))
    sealed = [box.seal(encode_message(message), bytes(24)) for message in (ping, stranger, call)]
    before = len(first.engine.commands)
    for number in range(1000):
        src = f"203.0.113.{number % 250}:{1000 + number}"
        first.engine.give(Datagram(src=src, data=sealed[0]))
        first.engine.give(Relayed(region=1, peer=_key(second), data=sealed[2]))
    first.engine.give(Datagram(src="203.0.113.9:1", data=sealed[1]))
    first.engine.give(Datagram(src="203.0.113.9:1", data=sealed[2]))
    await first.until(lambda: first.service.status().drops.get("call not over a relay"))
    drops = first.service.status().drops
    assert drops["ping over the rate"] + drops["call over the rate"] >= 1500
    assert drops["disco ping for another node key"] == 1
    # 300 answers at once and 100 a second more, and as many pings of our own in return at most.
    sent = [c for c in first.engine.commands[before:] if isinstance(c, SendDatagram)]
    assert len(sent) <= 1500
    paths = first.runtime.dataplane.paths_of(NodePublic(_key(second)))
    assert paths is not None and len(paths.candidates) <= CANDIDATES_MAX
    assert used() == second.endpoint
    assert (await first.ping("m2")).via == "direct"


async def test_down_leaves_nothing_in_the_engine_and_up_comes_back(pair: Pair) -> None:
    await pair.join()
    first, _ = pair.machines
    status = await first.service.down()
    assert (status.state, first.engine.peers, first.engine.home) == ("stopped", {}, 0)
    assert isinstance(first.engine.commands[-1], SetPeers | SetPath | SetHome)
    with pytest.raises(RequestFailed, match="`warren up`"):
        await first.ping("m2")
    pair.server.replies.append(RegisterResponse(machine_authorized=True))
    node = pair.node(pair.server.registered[0], 1)
    pair.server.maps = [frame(MapResponse(node=node, derp_map=DERP))]
    await first.service.up(UpRequest())
    await first.until(lambda: first.phase() == "running")
    assert pair.server.registered[0].node_key == pair.server.registered[-1].node_key


async def test_preferences_change_while_up(pair: Pair) -> None:
    await pair.join()
    first, _ = pair.machines
    registrations = len(pair.server.registered)
    await first.service.up(UpRequest(shields_up=True, hostname="Renamed"))
    await first.until(
        lambda: any(
            r.hostinfo and r.hostinfo.hostname == "renamed" for r in pair.server.map_requests
        )
    )
    assert first.engine.filter is not None
    assert first.engine.filter.shields_up
    assert len(pair.server.registered) == registrations, "no new log-in for that"


@pytest.mark.parametrize(
    "request_",
    [
        UpRequest(),
        UpRequest(server_url="ftp://x"),
        UpRequest(server_url="http://127.0.0.1:1", hostname="-x-"),
    ],
)
async def test_up_that_makes_no_sense(pair: Pair, request_: UpRequest) -> None:
    with pytest.raises(RequestFailed) as caught:
        await pair.machines[0].service.up(request_)
    assert caught.value.status == 400
    assert str(caught.value)


async def test_log_out_without_a_login(pair: Pair) -> None:
    with pytest.raises(RequestFailed, match="not logged in"):
        await pair.machines[0].service.log_out()


async def test_log_out_forgets(pair: Pair) -> None:
    await pair.join()
    first, _ = pair.machines
    before = first.state.node_key()
    pair.server.replies.append(RegisterResponse())
    await first.service.log_out()
    assert first.phase() == "stopped"
    assert first.state.node_key() != before


async def test_a_log_out_that_nobody_hears_keeps_the_login(pair: Pair) -> None:
    await pair.join()
    first, _ = pair.machines
    before = first.state.node_key()
    pair.server.replies.append(RegisterResponse(error="not today"))
    with pytest.raises(RequestFailed, match="stays logged in"):
        await first.service.log_out()
    assert first.state.node_key() == before


async def test_faults_of_a_relay_show_and_go(pair: Pair) -> None:
    await pair.join()
    first, _ = pair.machines
    first.engine.give(RegionState(region=1, connected=False, error="It is on fire."))
    await first.until(lambda: "It is on fire." in first.service.status().health)
    first.engine.give(RegionState(region=1, connected=True))
    await first.until(lambda: not first.service.status().health)


async def test_watchers_hear_of_changes(pair: Pair) -> None:
    await pair.join()
    first, _ = pair.machines
    seq = -1
    while seq != (seq := first.service.status().seq):
        await asyncio.sleep(0.2)  # until what follows from joining is over
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(first.service.watch(seq, 5))
        await asyncio.sleep(0.01)
        assert not watching.done()
        await first.service.down()
    assert watching.result().state == "stopped"
    assert watching.result().seq > seq


async def test_a_dead_engine_ends_the_node(tmp_path: Path) -> None:
    machine = Machine(1, tmp_path, MemoryNetwork(SystemClock().now))
    machine.engine.give(Dialed(id=5))
    machine.engine.give(Fault(message="The TUN device went away.", fatal=True))
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5):
            await machine.service.run()
    assert caught.group_contains(EngineStopped, match="The TUN device went away")
    machine.state.close()


def _key(machine: Machine) -> bytes:
    return machine.state.node_key().public().raw


def _endpoints(machine: Machine) -> list[str]:
    me = machine.service.status().self_node
    return me.endpoints if me else []
