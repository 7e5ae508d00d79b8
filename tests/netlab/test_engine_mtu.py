"""Packets larger than a path: what the engine cuts anew, and what the kernel hears of the rest."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from engine_ends import End, introduce, start, transfer

from warren.lab.program import ProgramFailed
from warren.lab.world import World

pytestmark = pytest.mark.netlab

DEVICE_MTU = 1500
_UDP_SEGMENT = 103


@pytest.fixture
def ends(world: World) -> Iterator[tuple[End, End]]:
    """`a` sends from a device of 1,500; `b` has one of 1,280, as a stock client has."""
    a, b = start(world["a"], 1, mtu_bytes=DEVICE_MTU), start(world["b"], 2)
    try:
        for one, other in ((a, b), (b, a)):
            introduce(one, other)
            one.lease(other)
        yield a, b
    finally:
        a.engine.close()
        b.engine.close()


@contextmanager
def udp(a: End, b: End) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket at `a` that is connected to the other one, at `b`."""
    with (
        a.socket(socket.SOCK_DGRAM, socket.AF_INET) as sender,
        b.socket(socket.SOCK_DGRAM, socket.AF_INET) as receiver,
    ):
        receiver.bind((b.v4, 0))
        sender.connect(receiver.getsockname())
        yield sender, receiver


def test_a_device_takes_more_than_its_own_mtu(ends: tuple[End, End]) -> None:
    """What `b` may send is its own affair; what was sent to it arrives whole."""
    a, b = ends
    a.lease(b, mtu_bytes=1440)
    for to, headers in ((b.v4, 28), (b.v6, 48)):
        for size in (1280, 1281, 1439, 1440):
            a.ping(to, "-M", "do", "-s", str(size - headers))
    assert "packet-too-big" not in a.drops()
    with udp(a, b) as (sender, receiver):
        for size in (0, 1, 1252, 1253, 1411, 1412):
            data = random.Random(size).randbytes(size)
            sender.send(data)
            assert receiver.recv(65_535) == data
        # In fragments, which the kernel makes smaller once it was told.
        data = random.Random(7).randbytes(4_000)
        receiver.settimeout(2)
        sender.send(data)
        with pytest.raises(TimeoutError):
            receiver.recv(65_535)
        with pytest.raises(OSError, match="too long"):
            sender.send(b"")  # The kernel passes the answer on.
        sender.send(data)
        assert receiver.recv(65_535) == data


def test_the_kernel_is_told_and_cuts_smaller(ends: tuple[End, End]) -> None:
    a, b = ends
    a.lease(b, mtu_bytes=1340)
    for to, headers in ((b.v4, 28), (b.v6, 48)):
        with pytest.raises(ProgramFailed, match=r"mtu[ =:]+1340"):
            a.ping(to, "-M", "do", "-s", str(1341 - headers))
        a.ping(to, "-M", "do", "-s", str(1340 - headers))
        route = a.part.run(["ip", "route", "get", to])
        assert "mtu 1340" in route, "the kernel has learned it"
    assert a.drops()["packet-too-big"] >= 2


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_tcp_of_a_larger_path_arrives_cut_anew(ends: tuple[End, End], family: str) -> None:
    """The connection begins where 1,440 pass, which then are 1,340; the receiver asks for all."""
    a, b = ends
    to = getattr(b, family)
    b.part.run(["ip", "link", "set", "wt0", "mtu", str(DEVICE_MTU)])
    a.lease(b, mtu_bytes=1340)
    went, came = transfer(a, b, to, 8 << 20)
    assert went == came
    assert a.drops().get("packet-too-big", 0) < 200, "super-packets are cut, not refused"


def test_datagrams_of_a_super_packet_are_refused(ends: tuple[End, End]) -> None:
    """Where the kernel leaves their cutting to the device (USO), they cannot be made smaller."""
    a, b = ends
    a.lease(b, mtu_bytes=1340)
    with udp(a, b) as (sender, receiver):
        try:
            sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 1400)
        except OSError:
            pytest.skip("this kernel has no UDP segmentation")
        sender.send(bytes(4_200))
        a.part.wait(lambda: a.drops().get("packet-too-big"), 5, "they are refused")
        sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 1300)
        with pytest.raises(OSError, match="too long"):
            sender.send(b"")  # The kernel passes the answer on.
        data = random.Random(1).randbytes(3_900)
        sender.send(data)
        assert b"".join(receiver.recv(65_535) for _ in range(3)) == data
