"""The node's TURN room: two whole nodes on the twin, and a real TURN server between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from node_coordinator import FakeCoordinator
from test_service import Machine, Pair
from turn_host import TURN, USER, TurnHost

from warren.edge.clock import SystemClock
from warren.engine.commands import CloseSockets, OpenStream, SetPath, SetTurn
from warren.engine.events import Datagram
from warren.nat.turn.allocation import Transport
from warren.nat.turn.credentials import Credentials
from warren.nat.turn.grants import CAPABILITY, Grant, TurnPlace, encode
from warren.netmap.node import Hostinfo, Node
from warren.netmap.view import View
from warren.netmap.wire import RegisterRequest
from warren.node.schema import WhyRequest
from warren.node.turn_servers import TurnServers, look_up, read_grants
from warren.node.turning import ALL_TRANSPORTS, STREAMS
from warren.paths import turning

PLACE = TurnPlace(Transport.UDP, str(TURN.ip), TURN.port)


def grant(credentials: Credentials = USER, places: tuple[TurnPlace, ...] = (PLACE,)) -> object:
    return json.loads(encode(Grant(places, credentials, 0)))


class TurnPair(Pair):
    """Two nodes that only a TURN server joins, beside DERP."""

    def __init__(self, server: FakeCoordinator, directory: Path) -> None:
        super().__init__(server, directory)
        self.credentials = USER
        self.places: tuple[TurnPlace, ...] = (PLACE,)
        self.open = False
        self.network.reaches = lambda src, dst: self.open or TURN.ip in (src.ip, dst.ip)
        self.host = TurnHost(self.network, SystemClock().now)

    def node(self, request: RegisterRequest, number: int) -> Node:
        return msgspec.structs.replace(
            super().node(request, number),
            hostinfo=Hostinfo(ipn_version="0-warren"),
            endpoints=[f"198.51.100.{number}:41641"],
            cap_map={CAPABILITY: [grant(self.credentials, self.places)]},
        )

    def path(self, machine: Machine) -> str:
        """How a machine's packets travel, after some traffic."""
        other = next(each for each in self.machines if each is not machine)
        machine.engine.traffic(other.state.node_key().public().raw)
        return machine.service.status().peers[0].path.kind


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TurnPair]:
    monkeypatch.setattr(turning, "ALLOCATE_AFTER_S", 0.1)
    monkeypatch.setattr(turning, "ALLOCATE_LATER_S", 0.6)

    async with FakeCoordinator() as server:
        pair = TurnPair(server, tmp_path)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(machine.service.run()) for machine in pair.machines]
            await asyncio.sleep(0)
            yield pair
            for task in running:
                task.cancel()
        assert not len(pair.host.machine), "what ends gives its allocation back"
        for machine in pair.machines:
            machine.engine.close()
            machine.state.close()


async def test_turn_carries_until_it_dies_and_then_derp(pair: TurnPair) -> None:
    await pair.join()
    first, second = pair.machines
    assert (await first.ping("m2")).via == "relay"
    for machine in pair.machines:
        await machine.until(lambda machine=machine: pair.path(machine) == "turn", 10)
    assert len(pair.host.machine) == 1, "one relayed address is enough for both"
    reply = await first.ping("m2")
    assert (reply.ok, reply.via) == (True, "turn") and reply.path is not None
    paths = [machine.service.status().peers[0].path for machine in pair.machines]
    assert {path.address for path in paths} == {reply.path}
    assert sorted(str(path.server) for path in paths) == [f"{TURN} (udp)", "None"]
    leases = [c for m in pair.machines for c in m.engine.commands if isinstance(c, SetPath)]
    assert {(c.addr, bool(c.channel)) for c in leases if c.addr} == {
        (str(TURN), True),
        (reply.path, False),
    }
    told = first.service.why(WhyRequest(peer="m2"))
    assert "TURN server" in told.summary and any("is used" in text for text in told.turn)

    pair.host.alive = False
    for machine in pair.machines:
        await machine.until(lambda machine=machine: pair.path(machine) == "relay", 10)
    assert (await second.ping("m1", timeout_s=5.0)).via == "relay"
    pair.host.alive = True


async def test_a_direct_path_takes_over_and_keeps_it(pair: TurnPair) -> None:
    await pair.join()
    first, _ = pair.machines
    await first.until(lambda: pair.path(first) == "turn", 10)
    pair.open = True
    for machine in pair.machines:
        await machine.until(lambda machine=machine: pair.path(machine) == "direct", 15)
    before = len(first.engine.commands)
    for _ in range(30):
        assert pair.path(first) == "direct"
        await first.until(lambda: True)
    leases = [c for c in first.engine.commands[before:] if isinstance(c, SetPath)]
    assert not any(c.channel or c.addr is None for c in leases)
    assert first.service.why(WhyRequest(peer="m2")).turn == []


async def test_refused_credentials_are_told(pair: TurnPair) -> None:
    pair.credentials = Credentials("alice", "wrong")
    await pair.join()
    first, second = pair.machines

    def told() -> list[str]:
        pair.path(first), pair.path(second)
        return [
            text
            for machine, peer in ((first, "m2"), (second, "m1"))
            for text in machine.service.why(WhyRequest(peer=peer)).turn
        ]

    wanted = f"{TURN} (udp): the credentials were refused (401)."
    await first.until(lambda: any(wanted in text for text in told()), 10)
    assert pair.path(first) == "relay"
    servers = [c for m in pair.machines for c in m.engine.commands if isinstance(c, SetTurn)]
    assert [c.on for c in servers] == [True, False], "nobody's datagrams are awaited any more"


async def test_what_strangers_send_is_counted(pair: TurnPair) -> None:
    await pair.join()
    for machine in pair.machines:
        await machine.until(lambda machine=machine: pair.path(machine) == "turn", 10)
    commands = (c for m in pair.machines for c in m.engine.commands)
    assert any(isinstance(c, SetPath) and c.channel for c in commands)
    for machine in pair.machines:
        for event in (
            Datagram(src="203.0.113.9:1", data=b"x", channel=0x4000),
            Datagram(src=str(TURN), data=b"TS" * 40, channel=0x4FFF),
            Datagram(src=str(TURN), data=b"\1\3\0\0\x21\x12\xa4\x42" + bytes(12)),
            Datagram(src=str(TURN), data=b"\0\x17\0\0\x21\x12\xa4\x42" + bytes(12)),
        ):
            machine.engine.give(event)
        await machine.until(
            lambda machine=machine: machine.service.status().drops.get("turn of another server")
        )
        assert pair.path(machine) == "turn"
    counts = [machine.service.status().drops for machine in pair.machines]
    assert sorted(each.get("turn channel of no peer", 0) for each in counts) == [0, 1]
    assert sorted(each.get("turn unexpected", 0) for each in counts) == [0, 2]


def test_a_grant_that_is_none_is_said() -> None:
    own = Node(id=1, cap_map={CAPABILITY: ["nonsense", grant()]})
    grants, problem = read_grants(View(node=own))
    assert [each.credentials for each in grants] == [USER]
    assert "what the coordinator says of TURN cannot be used" in problem
    assert read_grants(View(node=Node(id=1, cap_map={CAPABILITY: None}))) == ([], "")


async def test_streams_are_used_where_udp_is_not(tmp_path: Path) -> None:
    tls, udp, tcp = (
        TurnPlace(transport, str(TURN.ip), TURN.port + number)
        for number, transport in enumerate((Transport.TLS, Transport.UDP, Transport.TCP))
    )
    granted = json.loads(encode(Grant((tcp, tls, udp), USER, 0)))
    changes: list[list[Transport]] = []

    def changed() -> None:
        changes.append([server.transport for server in servers.servers])

    servers = TurnServers(look_up, changed, ALL_TRANSPORTS)
    servers.set_view(View(node=Node(id=1, cap_map={CAPABILITY: [granted]})))
    assert changes.pop() == [Transport.UDP, Transport.TLS, Transport.TCP]
    servers.set_transports(STREAMS)
    assert changes.pop() == [Transport.TLS, Transport.TCP]
    servers.set_transports(ALL_TRANSPORTS)
    assert len(changes.pop()) == 3
    servers.close()


async def test_a_stream_that_does_not_open_is_said_and_the_next_is_tried(pair: TurnPair) -> None:
    pair.places = tuple(
        TurnPlace(transport, str(TURN.ip), TURN.port)
        for transport in (Transport.TCP, Transport.TLS)
    )
    await pair.join()
    first, second = pair.machines

    def told() -> str:
        pair.path(first), pair.path(second)
        whys = [m.service.why(WhyRequest(peer=p)) for m, p in ((first, "m2"), (second, "m1"))]
        return "".join(text for why in whys for text in why.turn)

    reason = "the stream is not open: the twin has no TCP"
    await first.until(
        lambda: f"{TURN} (tls): {reason}" in told() and f"{TURN} (tcp): {reason}" in told(), 10
    )
    commands = [c for m in pair.machines for c in m.engine.commands]
    opened = [c for c in commands if isinstance(c, OpenStream)]
    assert [c.to.plain for c in opened[:2]] == [False, True], "TLS first"
    closed = [c.group for c in commands if isinstance(c, CloseSockets)]
    assert sorted(closed) == sorted(c.group for c in opened), "nothing is left open"
