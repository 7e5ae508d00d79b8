"""Paths that are more than an address: a socket of a group, a peer relay, a TURN server."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator

import pytest
from engine_ends import LEASE_MS, PORT, End, pair_in, start, transfer

from warren.engine.commands import (
    CloseSockets,
    KeepSocket,
    OpenSockets,
    SendDatagram,
    SetForward,
    SetPath,
    SetTurn,
)
from warren.engine.events import Datagram, Fault
from warren.lab.program import wait_until
from warren.lab.world import World
from warren.nat.turn.client import TurnClient
from warren.nat.turn.credentials import Credentials
from warren.nat.turn.events import Allocated, ChannelOpen
from warren.netmap.endpoint import Endpoint

pytestmark = pytest.mark.netlab

FILE_BYTES = 48 << 20


@pytest.fixture
def pair(world: World) -> Iterator[tuple[End, End]]:
    with pair_in(world) as ends:
        yield ends


def open_files(end: End) -> int:
    """How many UDP sockets lie open in an end's namespace."""
    return len(end.part.run(["ss", "-Huan"]).splitlines())


def test_a_kept_socket_of_a_group_carries_the_tunnel(pair: tuple[End, End]) -> None:
    a, b = pair
    there = f"{b.part.address}:{PORT}"
    before = open_files(a)
    a.apply(OpenSockets(group=3, count=256))
    assert open_files(a) == before + 256
    disco = b"TS\xf0\x9f\x92\xac" + bytes(58)
    probes = [
        SendDatagram(to=there, data=disco + bytes([index]), group=3, index=index)
        for index in range(256)
    ]
    a.apply(*probes)
    probe = b.wait(lambda e: isinstance(e, Datagram) and e.data == disco + b"\xc8")
    assert isinstance(probe, Datagram)
    assert (probe.group, probe.index) == (0, 0)
    b.apply(SendDatagram(to=probe.src, data=disco))
    a.wait(lambda e: e == Datagram(src=there, data=disco, group=3, index=200))
    # WireGuard that comes in by any of them is taken like any other.
    b.apply(SetPath(peer=a.key, addr=probe.src, lease_ms=LEASE_MS))
    a.apply(SetPath(peer=b.key, addr=there, lease_ms=LEASE_MS, group=3, index=200))
    assert "3 received" in b.ping(a.v4)
    a.apply(KeepSocket(group=3, index=200))
    assert open_files(a) == before + 1
    for source, sink in ((a, b), (b, a)):
        went, came = transfer(source, sink, sink.v4, FILE_BYTES)
        assert went == came
    drops = a.drops()
    assert not {name for name in drops if name.startswith(("wireguard", "udp"))}, drops
    a.apply(CloseSockets(group=3))
    assert open_files(a) == before
    assert a.engine.snapshot().peers[0].direct is None
    a.apply(OpenSockets(group=4, count=512), OpenSockets(group=5, count=512))
    a.apply(OpenSockets(group=6, count=512))
    fault = a.wait(lambda e: isinstance(e, Fault))
    assert isinstance(fault, Fault)
    assert not fault.fatal
    assert "group" in fault.message
    a.engine.close()
    assert open_files(a) == before - 2, "they close with the engine"


def test_a_peer_relay_carries_bulk_unopened(pair: tuple[End, End], world: World) -> None:
    a, b = pair
    relay = start(world["relay"], 9, tun=None)
    try:
        ends = {end.key: f"{end.part.address}:{PORT}" for end in (a, b)}
        relay.apply(SetForward(vni=0xABCDEF, a=ends[a.key], b=ends[b.key]))
        at = f"{world['relay'].address}:{PORT}"
        for one, other in ((a, b), (b, a)):
            one.apply(SetPath(peer=other.key, addr=at, lease_ms=LEASE_MS, vni=0xABCDEF))
        assert "3 received" in a.ping(b.v4)
        for to in (b.v4, b.v6):
            went, came = transfer(a, b, to, FILE_BYTES)
            assert went == came
        snapshot = relay.engine.snapshot()
        (forward,) = snapshot.forwards
        assert forward.vni == 0xABCDEF
        assert forward.bytes > 2 * FILE_BYTES
        assert not snapshot.peers
        disco = b"TS\xf0\x9f\x92\xac" + bytes(60)
        a.apply(SendDatagram(to=at, data=disco, vni=0xABCDEF, control=True))
        relay.wait(lambda e: e == Datagram(src=ends[a.key], data=disco, vni=0xABCDEF, control=True))
        a.apply(SendDatagram(to=at, data=disco, vni=0xABCDEF))
        b.wait(lambda e: e == Datagram(src=at, data=disco, vni=0xABCDEF))
        # A path that is narrower than the tunnel and its 8 bytes more.
        world["a"].run(["ip", "link", "set", "wan", "mtu", "1280"])
        went, came = transfer(a, b, b.v4, 4 << 20)
        assert went == came
    finally:
        world["a"].run(["ip", "link", "set", "wan", "mtu", "1500"])
        relay.engine.close()


class Turn:
    """A TURN client whose datagrams go and come by an engine's main socket."""

    def __init__(self, end: End, server: str) -> None:
        self.end, self.server = end, server
        end.apply(SetTurn(server=server))
        self.client = TurnClient(Credentials("alice", "wonderland"), os.urandom, time.monotonic())
        self.told: list[object] = []
        self.read = 0

    def turn(self) -> None:
        while (data := self.client.poll_transmit()) is not None:
            self.end.engine.apply([SendDatagram(to=self.server, data=data)])
        self.end.poll()
        new = self.end.events[self.read :]
        self.read += len(new)
        for event in new:
            if isinstance(event, Datagram) and event.src == self.server and not event.channel:
                self.client.receive(event.data, time.monotonic())
        while (told := self.client.poll_event()) is not None:
            self.told.append(told)

    def wait(self, kind: type) -> object:
        def seen() -> object | None:
            self.turn()
            return next((event for event in self.told if isinstance(event, kind)), None)

        return wait_until(seen, 10, f"TURN tells {kind.__name__}", lambda: repr(self.told))


@pytest.mark.interop
def test_a_turn_server_carries_bulk_on_a_channel(pair: tuple[End, End], world: World) -> None:
    a, b = pair
    program = shutil.which("turnserver")
    assert program is not None, "coturn is missing"
    host = str(world["relay"].address)
    scratch = world.scratch
    coturn = world["relay"].spawn(
        [
            *(program, "-n", "--no-cli", "-L", host, "-E", host, "-p", "3478", "--no-tls"),
            *("--no-dtls", "-a", "-u", "alice:wonderland", "--realm", "example.org"),
            *("--log-file", "stdout", "-m", "1", "--pidfile", str(scratch / "turn.pid")),
            *("--db", str(scratch / "turn.sqlite")),
        ],
        "turnserver",
    )
    try:
        coturn_is_up(world, host)
        turn = Turn(a, f"{host}:3478")
        allocated = turn.wait(Allocated)
        assert isinstance(allocated, Allocated)
        there = f"{b.part.address}:{PORT}"
        turn.client.open_channel(Endpoint.parse(there), time.monotonic())
        opened = turn.wait(ChannelOpen)
        assert isinstance(opened, ChannelOpen)
        channel, relayed = opened.channel, str(allocated.relayed)
        disco = b"TS\xf0\x9f\x92\xac" + bytes(60)
        a.apply(SendDatagram(to=turn.server, data=disco, channel=channel))
        b.wait(lambda e: e == Datagram(src=relayed, data=disco))
        b.apply(SendDatagram(to=relayed, data=disco + b"!"))
        a.wait(lambda e: e == Datagram(src=turn.server, data=disco + b"!", channel=channel))
        a.apply(SetPath(peer=b.key, addr=turn.server, lease_ms=LEASE_MS, channel=channel))
        b.apply(SetPath(peer=a.key, addr=relayed, lease_ms=LEASE_MS))
        assert "3 received" in a.ping(b.v4)
        for source, sink, to in ((a, b, b.v4), (b, a, a.v6)):
            went, came = transfer(source, sink, to, FILE_BYTES // 4)
            assert went == came
        a.apply(SetTurn(server=turn.server, on=False))
        with pytest.raises(Exception, match="0 received"):
            b.ping(a.v4, "-W", "1")
        assert a.drops()["turn-stranger"] >= 3
    finally:
        coturn.stop()


def coturn_is_up(world: World, host: str) -> None:
    """Wait until it takes TCP connections, which it opens after UDP."""

    def connects() -> bool | None:
        with world["a"].socket(socket.SOCK_STREAM) as probe:
            return probe.connect_ex((host, 3478)) == 0 or None

    wait_until(connects, 10, "coturn is up", lambda: world.tails())
