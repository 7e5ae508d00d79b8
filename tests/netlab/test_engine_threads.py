"""An engine with several threads each way, in the midst of several peers."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from engine_ends import PORT, End, introduce, start, transfer

from warren.engine.native import NativeEngine
from warren.engine.protocol import EngineConfig
from warren.lab.plan import Host, Plan
from warren.lab.world import World

pytestmark = pytest.mark.netlab

PLAN = Plan(
    hosts=(
        Host("hub", address="198.51.100.10"),
        Host("a", address="203.0.113.10"),
        Host("b", address="203.0.113.20"),
        Host("c", address="203.0.113.30"),
    )
)
THREADS = 3
FLOWS = 4
NUMBERED = 2000
FILE_BYTES = 8 << 20


@pytest.fixture
def ends(world: World) -> Iterator[list[End]]:
    """The hub, then its peers, each with a leased path to and from the hub."""
    hub = start(world["hub"], 1, threads=THREADS)
    peers = [start(world[name], number) for number, name in enumerate("abc", 2)]
    try:
        for peer in peers:
            for one, other in ((hub, peer), (peer, hub)):
                introduce(one, other)
                one.lease(other)
        yield [hub, *peers]
    finally:
        for end in (hub, *peers):
            end.engine.close()


def numbered(source: End, sink: End, to: str) -> list[int]:
    """Send numbered datagrams of every size, as one flow; those that came, as they came."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    came: list[int] = []
    with (
        sink.socket(socket.SOCK_DGRAM, family) as receiver,
        source.socket(socket.SOCK_DGRAM, family) as sender,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind((to, 0))
        receiver.settimeout(2)
        sender.connect(receiver.getsockname()[:2])

        def receive() -> None:
            while len(came) < NUMBERED:
                try:
                    data = receiver.recv(2000)
                except TimeoutError:
                    return
                came.append(struct.unpack_from("!I", data)[0])

        thread = threading.Thread(target=receive)
        thread.start()
        for number in range(NUMBERED):
            sender.send(struct.pack("!I", number) + bytes(number % 1200))
            if number % 10 == 0:
                time.sleep(0.002)
        thread.join()
    return came


def test_each_flow_of_each_peer_stays_in_order(ends: list[End]) -> None:
    hub, *peers = ends
    assert hub.engine.snapshot().threads == THREADS
    results: list[list[int]] = []

    def run(source: End, sink: End, to: str) -> None:
        results.append(numbered(source, sink, to))

    flows = [
        pair
        for index in range(FLOWS)
        for peer in peers
        for pair in (
            (peer, hub, hub.v6 if index % 2 else hub.v4),
            (hub, peer, peer.v6 if index % 2 else peer.v4),
        )
    ]
    threads = [threading.Thread(target=run, args=flow) for flow in flows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(flows)
    for came in results:
        # How many a busy machine loses says nothing here: none comes late, none twice.
        assert came
        assert not [pair for pair in pairwise(came) if pair[0] >= pair[1]]


def test_bulk_tcp_with_all_peers_at_once(ends: list[End]) -> None:
    hub, *peers = ends
    results: list[tuple[str, str]] = []

    def run(source: End, sink: End, to: str) -> None:
        results.append(transfer(source, sink, to, FILE_BYTES))

    jobs = [(peer, hub, hub.v4) for peer in peers] + [(hub, peer, peer.v6) for peer in peers]
    threads = [threading.Thread(target=run, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(jobs)
    assert all(went == came for went, came in results)
    for end in ends:
        assert not {"wireguard-replayed", "wireguard-forged", "wrong-source"} & set(end.drops())


def test_port_and_device_of_several_threads_are_nobody_else_s(ends: list[End]) -> None:
    hub = ends[0]
    for threads in (1, THREADS):
        with pytest.raises(OSError, match=f"UDP port {PORT} is in use"):
            hub.part.inside(
                lambda threads=threads: NativeEngine(
                    EngineConfig(tun=None, port=PORT, threads=threads)
                )
            )
        with pytest.raises(OSError, match="wt0"):
            hub.part.inside(
                lambda threads=threads: NativeEngine(EngineConfig(tun="wt0", threads=threads))
            )
    assert "3 received" in hub.ping(ends[1].v4)


def test_a_device_that_was_made_for_one_queue_is_used_with_one(world: World) -> None:
    part = world["hub"]
    part.run(["ip", "tuntap", "add", "wt0", "mode", "tun", "vnet_hdr"])
    try:
        hub, peer = start(part, 1, threads=THREADS), start(world["a"], 2)
        try:
            for one, other in ((hub, peer), (peer, hub)):
                introduce(one, other)
                one.lease(other)
            went, came = transfer(peer, hub, hub.v4, FILE_BYTES)
            assert went == came
        finally:
            hub.engine.close()
            peer.engine.close()
    finally:
        part.run(["ip", "tuntap", "del", "wt0", "mode", "tun", "vnet_hdr"])
