"""Two native engines in two namespaces: WireGuard over UDP, with nothing of Python in the path."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from engine_ends import PORT, End, introduce, pair_in, start, transfer

from warren.edge.http import Door, Lobby, Routes
from warren.engine.commands import (
    Dial,
    Rebind,
    RelayNode,
    SendDatagram,
    SendPacket,
    SendRelayed,
    SetFilter,
    SetForward,
    SetHome,
    SetPath,
    SetRegion,
    SetTurn,
    Splice,
)
from warren.engine.events import (
    Active,
    Bound,
    Datagram,
    Dialed,
    Fault,
    Handshake,
    ProbeReply,
    RegionState,
    Relayed,
)
from warren.engine.native import NativeEngine
from warren.engine.protocol import EngineConfig
from warren.engine.relay import NativeRelay, RelayConfig
from warren.lab.program import wait_until
from warren.lab.world import World
from warren.relay import serve
from warren.relay.hub import Hub

pytestmark = pytest.mark.netlab

REGION = 900
FILE_BYTES = 48 << 20


def run_relay(listener: socket.socket, ready: threading.Event, end: threading.Event) -> None:
    """Serve a relay on `listener`, without TLS, until `end`."""

    async def run() -> None:
        config = RelayConfig(private_key=os.urandom(32))
        hub = Hub(NativeRelay(config), lambda key: True)
        routes = Routes(serve.answers(), serve.takers(hub))
        lobby = Lobby()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Door(routes, lobby), sock=listener)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(hub.run())
            ready.set()
            await asyncio.to_thread(end.wait)
            running.cancel()
        server.close()
        hub.close()

    asyncio.run(run())


@pytest.fixture
def pair(world: World) -> Iterator[tuple[End, End]]:
    with pair_in(world) as ends:
        yield ends


@pytest.fixture
def joined(pair: tuple[End, End]) -> tuple[End, End]:
    """The same, each with a lease on the direct path."""
    a, b = pair
    a.lease(b)
    b.lease(a)
    return a, b


@pytest.fixture
def userspace(world: World) -> Iterator[tuple[End, End]]:
    """The first with a TUN device, the second without; leased paths both ways."""
    a, b = start(world["a"], 1), start(world["b"], 2, tun=None)
    try:
        for one, other in ((a, b), (b, a)):
            introduce(one, other)
            one.lease(other)
        yield a, b
    finally:
        a.engine.close()
        b.engine.close()


@pytest.fixture
def relayed(world: World) -> Iterator[tuple[End, End]]:
    """Two engines whose home is a relay, without leases."""
    ready, over = threading.Event(), threading.Event()
    with world["relay"].socket(socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(world["relay"].address), 80))
        thread = threading.Thread(target=run_relay, args=(listener, ready, over))
        thread.start()
        assert ready.wait(5)
        a, b = start(world["a"], 1), start(world["b"], 2)
        try:
            node = RelayNode(
                addrs=[f"{world['relay'].address}:80"], server_name="relay.test", plain=True
            )
            for one, other in ((a, b), (b, a)):
                introduce(one, other, REGION)
                one.apply(SetRegion(region=REGION, nodes=[node]), SetHome(region=REGION))
            for end in (a, b):
                end.wait(lambda e: isinstance(e, RegionState) and e.connected)
            yield a, b
        finally:
            a.engine.close()
            b.engine.close()
            over.set()
            thread.join(5)


def test_ping_and_bulk_tcp_over_the_direct_path(joined: tuple[End, End]) -> None:
    a, b = joined
    assert "3 received" in a.ping(b.v4)
    assert "3 received" in b.ping(a.v6, "-s", "1200")
    for to in (b.v4, b.v6):
        went, came = transfer(a, b, to, FILE_BYTES)
        assert went == came
    went, came = transfer(b, a, a.v4, 4 << 20)
    assert went == came
    a.wait(lambda e: e == Handshake(peer=b.key))
    b.wait(lambda e: e == Handshake(peer=a.key))
    a.wait(lambda e: e == Active(peer=b.key, direct=True))
    snapshot = a.engine.snapshot()
    assert snapshot.tun_name == "wt0"
    assert (snapshot.port4, snapshot.port6) == (PORT, PORT)
    (peer,) = snapshot.peers
    assert peer.direct == f"{b.part.address}:{PORT}"
    assert peer.tx_bytes > 2 * FILE_BYTES
    assert peer.handshake_ago_ms is not None
    assert peer.handshake_ago_ms < 60_000
    assert not {name for name in snapshot.drops if name.startswith("wireguard")}


def test_datagrams_of_every_size_arrive_whole(joined: tuple[End, End]) -> None:
    a, b = joined
    for to, family, head in ((b.v4, socket.AF_INET, 28), (b.v6, socket.AF_INET6, 48)):
        receiver = b.socket(socket.SOCK_DGRAM, family)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind((to, 0))
        sender = a.socket(socket.SOCK_DGRAM, family)
        sizes = [0, 1, 2, 15, 16, 17, 500, *range(1278 - head, 1284 - head), 1400, 4000, 8000]
        for size in sizes:
            sent = os.urandom(size)
            sender.sendto(sent, receiver.getsockname()[:2])
            assert receiver.recv(1 << 16) == sent
        # As the kernel's own batches: one send of many datagrams, the last one shorter.
        sender.setsockopt(socket.SOL_UDP, 103, 1000)
        sent = os.urandom(30_500)
        sender.sendto(sent, receiver.getsockname()[:2])
        parts = [receiver.recv(1 << 16) for _ in range(31)]
        assert b"".join(parts) == sent
        assert {len(part) for part in parts} == {1000, 500}
        receiver.close()
        sender.close()


def test_a_lapsed_lease_leaves_no_direct_path(pair: tuple[End, End]) -> None:
    a, b = pair
    b.lease(a)
    a.lease(b, lease_ms=1500)
    assert "3 received" in a.ping(b.v4)
    wait_until(lambda: a.engine.snapshot().peers[0].direct is None, 5, "the lease lapses")
    before = a.drops().get("no-path", 0)
    with pytest.raises(Exception, match="0 received"):
        a.ping(b.v4, "-W", "1")
    assert a.drops()["no-path"] >= before + 3
    a.lease(b)
    assert "3 received" in a.ping(b.v4)
    a.apply(SetPath(peer=b.key, addr=None, lease_ms=0))
    assert a.engine.snapshot().peers[0].direct is None


def test_garbage_is_counted_and_the_tunnel_lives_on(joined: tuple[End, End]) -> None:
    a, b = joined
    assert "3 received" in a.ping(b.v4)
    a.apply(SetForward(vni=2, a="192.0.2.1:1", b="192.0.2.2:2"), SetTurn(server="192.0.2.1:1"))
    noise = random.Random(1)
    stranger = b.part.socket(socket.SOCK_DGRAM)
    to = (str(a.part.address), PORT)
    disco = b"TS\xf0\x9f\x92\xac" + bytes(56)
    shapes: list[Callable[[], bytes]] = [
        lambda: noise.randbytes(noise.randrange(1, 1400)),
        lambda: struct.pack("<I", 4) + noise.randbytes(noise.randrange(28, 1400)),
        lambda: struct.pack("<I", 1) + noise.randbytes(144),
        lambda: struct.pack("<I", 2) + noise.randbytes(88),
        lambda: struct.pack("<I", 3) + noise.randbytes(60),
        lambda: bytes([0, 0, 0x7A, 0x12, 0, 0, 1, 0]) + noise.randbytes(60),
        lambda: bytes([0, 0x80, 0x7A, 0x11, 0, 0, 1, 0]) + noise.randbytes(200),
        lambda: bytes([0, 0, 0x7A, 0x12, 0, 0, 2, 0]) + noise.randbytes(60),
        lambda: bytes([0x40, 1, 0, 60]) + noise.randbytes(noise.randrange(50, 70)),
        lambda: disco,
    ]
    for _ in range(1500):
        for shape in shapes:
            stranger.sendto(shape(), to)
    drops = wait_until(
        lambda: d if "unknown-datagram" in (d := a.drops()) else None, 5, "drops are counted"
    )
    named = "wireguard-no-session", "wireguard-bad-mac", "geneve", "forward-stranger"
    for name in (*named, "turn-stranger"):
        assert drops.get(name, 0) > 0, drops
    # The bucket, or the queue that nobody drained meanwhile.
    assert drops.get("rate-limit", 0) + drops.get("event-queue", 0) > 0, drops
    a.poll()
    handed_up = [event for event in a.events if isinstance(event, Datagram)]
    assert 0 < len(handed_up) <= 1500
    assert "3 received" in a.ping(b.v4)
    went, came = transfer(a, b, b.v4, 4 << 20)
    assert went == came


def test_only_replies_come_in_without_rules(joined: tuple[End, End]) -> None:
    a, b = joined
    a.apply(SetFilter(rules=[]))
    assert "3 received" in a.ping(b.v4)
    with pytest.raises(Exception, match="0 received"):
        b.ping(a.v4, "-W", "1")
    assert a.drops()["filter-no-rule"] >= 3
    went, came = transfer(a, b, b.v4, 2 << 20)
    assert went == came


def test_new_sockets_take_over_without_a_new_handshake(joined: tuple[End, End]) -> None:
    a, b = joined
    assert "3 received" in a.ping(b.v4)
    a.engine.apply([Rebind(port=PORT)])
    a.wait(lambda e: a.events.count(Bound(port4=PORT, port6=PORT)) == 2)
    assert "3 received" in a.ping(b.v4)
    assert a.events.count(Handshake(peer=b.key)) <= 1


def test_datagrams_and_probes_of_python(joined: tuple[End, End]) -> None:
    a, b = joined
    stun = bytes.fromhex("000100002112a442") + bytes(12)
    a.apply(SendDatagram(to=f"{b.part.address}:{PORT}", data=stun))
    b.wait(lambda e: e == Datagram(src=f"{a.part.address}:{PORT}", data=stun))
    payload = b"p" + b"8 bytes!"
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 99, 0,
        socket.inet_aton(a.v4), socket.inet_aton(b.v4),
    )  # fmt: skip
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    packet = header[:10] + struct.pack(">H", ~total & 0xFFFF) + header[12:] + payload
    a.apply(SendPacket(packet=packet))
    reply = a.wait(lambda e: isinstance(e, ProbeReply))
    assert isinstance(reply, ProbeReply)
    assert reply.packet[20:29] == b"o8 bytes!"


def test_the_relay_carries_until_a_path_is_leased_and_after(relayed: tuple[End, End]) -> None:
    a, b = relayed
    assert "3 received" in a.ping(b.v4)
    a.wait(lambda e: e == Active(peer=b.key, direct=False))
    went, came = transfer(a, b, b.v4, 8 << 20)
    assert went == came
    assert a.engine.snapshot().regions == {REGION: True}
    disco = b"TS\xf0\x9f\x92\xac" + bytes(60)
    a.apply(SendRelayed(region=REGION, peer=b.key, data=disco))
    b.wait(lambda e: e == Relayed(region=REGION, peer=a.key, data=disco))
    # Leases that come and lapse in the middle of a transfer: not a byte is lost.
    done: list[tuple[str, str]] = []
    running = threading.Thread(target=lambda: done.append(transfer(a, b, b.v4, 96 << 20)))
    running.start()
    leases = 0
    while running.is_alive() and leases < 50:
        a.lease(b, 50)
        b.lease(a, 50)
        leases += 1
        running.join(0.1)
    running.join(40)
    assert leases > 1
    assert done
    assert done[0][0] == done[0][1]
    assert not {"no-path", "wireguard-forged", "wireguard-replayed"} & a.drops().keys()


def test_a_path_narrower_than_the_tunnel_carries_all_the_same(joined: tuple[End, End]) -> None:
    a, b = joined
    a.part.run(["ip", "link", "set", "wan", "mtu", "1280"])
    try:
        went, came = transfer(a, b, b.v4, 8 << 20)
        assert went == came
        assert "udp-gso" in a.engine.snapshot().offloads, "other paths keep their segmentation"
    finally:
        a.part.run(["ip", "link", "set", "wan", "mtu", "1500"])


def test_a_device_that_goes_away_is_told(joined: tuple[End, End]) -> None:
    a, b = joined
    a.part.run(["ip", "link", "set", "wt0", "down"])
    b.part.run(["sh", "-c", f"ping -n -c 1 -W 1 {a.v4} || true"])
    a.part.run(["ip", "link", "set", "wt0", "up"])
    a.part.run(["ip", "route", "add", "100.64.0.0/10", "dev", "wt0"])
    assert "3 received" in a.ping(b.v4)
    a.part.run(["ip", "link", "del", "wt0"])
    fault = a.wait(lambda e: isinstance(e, Fault))
    assert isinstance(fault, Fault)
    assert fault.fatal
    assert "TUN device" in fault.message


def test_userspace_takes_connections_in(userspace: tuple[End, End]) -> None:
    a, b = userspace
    assert "3 received" in a.ping(b.v4)
    went, came = transfer(a, b, b.v4, 16 << 20, listen="127.0.0.1")
    assert went == came
    with a.socket(socket.SOCK_STREAM, socket.AF_INET) as sender, pytest.raises(OSError):
        sender.connect((b.v4, 9))
    assert b.engine.snapshot().tun_name is None


def test_userspace_opens_connections(userspace: tuple[End, End]) -> None:
    a, b = userspace
    with a.socket(socket.SOCK_STREAM, socket.AF_INET6) as listener:
        listener.bind((a.v6, 0))
        listener.listen(1)
        b.engine.apply([Dial(id=5, to=f"[{a.v6}]:{listener.getsockname()[1]}")])
        connection, _ = listener.accept()
    b.wait(lambda e: e == Dialed(id=5, error=""))
    here, there = socket.socketpair()
    here.settimeout(20)
    b.engine.apply([Splice(id=5, fd=there.detach())])
    sent = os.urandom(8 << 20)
    writer = threading.Thread(target=lambda: (here.sendall(sent), here.shutdown(socket.SHUT_WR)))
    writer.start()
    came = bytearray()
    with connection:
        connection.settimeout(20)
        while chunk := connection.recv(1 << 16):
            came += chunk
        connection.sendall(b"thanks")
    assert bytes(came) == sent
    assert here.recv(100) == b"thanks"
    writer.join(5)
    here.close()
    b.engine.apply([Dial(id=6, to=f"{a.v4}:9")])
    refused = b.wait(lambda e: isinstance(e, Dialed) and e.id == 6)
    assert isinstance(refused, Dialed)
    assert refused.error


def test_a_closed_engine_leaves_its_device_and_port_free(world: World) -> None:
    for _ in range(5):
        end = start(world["a"], 1)
        end.engine.close()
        assert end.engine.snapshot().tun_name is None


def test_what_is_taken_is_said_in_one_sentence(pair: tuple[End, End]) -> None:
    a, _ = pair
    with pytest.raises(OSError, match="UDP port 41641 is in use"):
        a.part.inside(lambda: NativeEngine(EngineConfig(tun=None, port=PORT)))
    with pytest.raises(OSError, match="wt0 is in use"):
        a.part.inside(lambda: NativeEngine(EngineConfig(tun="wt0")))
    with pytest.raises(OSError, match="another kind"):
        a.part.inside(lambda: NativeEngine(EngineConfig(tun="wan")))
    with pytest.raises(ValueError, match="no address"):
        a.engine.apply([SetPath(peer=a.key, addr="nowhere", lease_ms=1)])
    time.sleep(0.05)
    assert a.engine.snapshot().tun_name == "wt0"
