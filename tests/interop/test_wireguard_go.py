"""The engine against wireguard-go: each of them initiates and renews, in bulk and at rest."""

from __future__ import annotations

import os
import random
import select
import shutil
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from wireguard_go import (
    OURS,
    PORT,
    THEIRS,
    Pair,
    datagram_sockets,
    ping,
    start,
    start_engine,
    transfer,
)

from warren.engine.commands import (
    Rebind,
)
from warren.lab.plan import Host, Plan
from warren.lab.program import wait_until
from warren.lab.world import Part, World

REKEY_AFTER_S = 120
UDP_SEGMENT = 103

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.interop,
    pytest.mark.skipif(
        shutil.which("wireguard-go") is None or shutil.which("wg") is None,
        reason="needs wireguard-go and wg: apt-get install wireguard-go wireguard-tools",
    ),
]

# Two pairs, so that both renewals can be waited for at once: ours begins in one, theirs in the
# other.
PLAN = Plan(
    hosts=(
        Host("ours1", address="198.51.100.10"),
        Host("theirs1", address="203.0.113.10"),
        Host("ours2", address="198.51.100.20"),
        Host("theirs2", address="203.0.113.20"),
        Host("ours3", address="198.51.100.30"),
        Host("theirs3", address="203.0.113.30"),
        Host("middle", address="192.0.2.30"),
    )
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(PLAN) as world:
        yield world


@pytest.fixture(scope="module")
def pairs(world: World) -> Iterator[tuple[Pair, Pair]]:
    made = start(world, 1), start(world, 2)
    try:
        yield made
    finally:
        for pair in made:
            pair.engine.close()


@pytest.fixture
def rough(world: World) -> Iterator[tuple[Pair, RoughPath]]:
    """A pair whose datagrams pass a path that reorders, doubles and loses some of them."""
    ends = [(str(world[name].address), PORT) for name in ("ours3", "theirs3")]
    with RoughPath(world["middle"], ends) as path:
        at = world["middle"].address
        pair = start(world, 3, (f"{at}:{path.ports[1]}", f"{at}:{path.ports[0]}"))
        try:
            yield pair, path
        finally:
            pair.engine.close()
            pair.program.stop()


class RoughPath:
    """Two UDP ports, one for each end; what comes to one leaves by the other.

    Of a hundred datagrams `lost` are dropped, 5 doubled and 10 held back behind others; all by
    one seed.
    """

    def __init__(self, part: Part, ends: list[tuple[str, int]]) -> None:
        self.lost = 0
        self.doubled = 0
        self._sockets = [part.socket(socket.SOCK_DGRAM) for _ in range(2)]
        for sock in self._sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind((str(part.address), 0))
        self.ports = [sock.getsockname()[1] for sock in self._sockets]
        self._ends = ends
        self._held: list[list[bytes]] = [[], []]
        self._noise = random.Random(5)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> RoughPath:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def _run(self) -> None:
        while not self._over.is_set():
            ready, _, _ = select.select(self._sockets, [], [], 0.02)
            for side, sock in enumerate(self._sockets):
                if sock in ready:
                    self._take(1 - side, sock.recv(1 << 16))
                elif not ready:
                    self._release(1 - side)

    def _take(self, side: int, data: bytes) -> None:
        fate = self._noise.randrange(100)
        if fate < self.lost:
            return
        if 80 <= fate < 90:
            self._held[side].append(data)
            return
        self._send(side, data)
        if fate >= 95:
            self.doubled += 1
            self._send(side, data)
        if len(self._held[side]) > 3:
            self._release(side)

    def _release(self, side: int) -> None:
        self._noise.shuffle(self._held[side])
        for data in self._held[side]:
            self._send(side, data)
        self._held[side].clear()

    def _send(self, side: int, data: bytes) -> None:
        self._sockets[side].sendto(data, self._ends[side])


def test_either_side_begins_and_renews(pairs: tuple[Pair, Pair]) -> None:
    ours_begins, theirs_begins = pairs
    assert "3 received" in ping(ours_begins.ours, THEIRS, 3, 0.2)
    assert (ours_begins.took(), ours_begins.began(), ours_begins.handshakes()) == (1, 0, 1)
    assert "3 received" in ping(theirs_begins.theirs, OURS, 3, 0.2)
    assert (theirs_begins.took(), theirs_begins.began(), theirs_begins.handshakes()) == (0, 1, 1)

    # Nothing of either tunnel may be lost while its keys are renewed.
    count = REKEY_AFTER_S + 10
    said: dict[str, str] = {}

    def rest(name: str, part: Part, to: str) -> None:
        said[name] = ping(part, to, count, 1)

    threads = [
        threading.Thread(target=rest, args=("ours", ours_begins.ours, THEIRS)),
        threading.Thread(target=rest, args=("theirs", theirs_begins.theirs, OURS)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert f"{count} received" in said["ours"]
    assert f"{count} received" in said["theirs"]
    assert (ours_begins.took(), ours_begins.began(), ours_begins.handshakes()) == (2, 0, 2)
    assert (theirs_begins.took(), theirs_begins.began(), theirs_begins.handshakes()) == (0, 2, 2)


def test_bulk_both_ways(pairs: tuple[Pair, Pair]) -> None:
    pair, _ = pairs
    size = 8 << 20
    assert transfer(pair.ours, pair.theirs, THEIRS, size) == size
    assert transfer(pair.theirs, pair.ours, OURS, size) == size
    drops = pair.engine.snapshot().drops
    assert not {name for name in drops if name.startswith("wireguard")}, drops


def test_both_follow_a_peer_that_moves(pairs: tuple[Pair, Pair]) -> None:
    pair, _ = pairs
    before = pair.engine.snapshot().port4
    pair.engine.apply([Rebind(port=before + 1)])
    wait_until(lambda: pair.engine.snapshot().port4 == before + 1, 5, "the engine moves")
    assert "3 received" in ping(pair.ours, THEIRS, 3, 0.2)
    assert "3 received" in ping(pair.theirs, OURS, 3, 0.2), "it answers where we are now"


def test_a_restarted_engine_is_heard_again(pairs: tuple[Pair, Pair]) -> None:
    _, pair = pairs
    pair.engine.close()
    del pair.engine  # its TUN device goes with it
    pair.engine = start_engine(pair.ours, f"{pair.theirs.address}:{PORT}", pair.private, pair.key)
    # wireguard-go still has the old session; our initiation's timestamp must be newer than any.
    assert "3 received" in ping(pair.ours, THEIRS, 3, 0.2)
    assert "3 received" in ping(pair.theirs, OURS, 3, 0.2)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("v6", [False, True])
def test_odd_sizes_arrive_whole(pairs: tuple[Pair, Pair], back: bool, v6: bool) -> None:
    pair, _ = pairs
    sender, receiver = datagram_sockets(pair, back=back, v6=v6)
    whole = 1280 - (48 if v6 else 28)  # one more byte, and it goes in fragments
    with sender, receiver:
        if v6:  # an extension header, of which the next packets have eight bytes less room
            padding = struct.pack("BBBBI", 0, 0, 1, 4, 0)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, padding)
        for size in (0, 1, 15, 16, 17, whole - 9, whole - 8, whole - 1, whole, whole + 1, 4000):
            sent = os.urandom(size)
            sender.send(sent)
            assert receiver.recv(1 << 16) == sent, size
        if v6:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b"")
        # As one super-packet, where the kernel hands those over.
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 700)
        sent = os.urandom(30_100)
        sender.send(sent)
        assert b"".join(receiver.recv(1 << 16) for _ in range(43)) == sent


def test_a_rough_path_neither_doubles_nor_alters(rough: tuple[Pair, RoughPath]) -> None:
    pair, path = rough
    assert "received" in ping(pair.ours, THEIRS, 3, 0.1)
    for back in (False, True):
        sender, receiver = datagram_sockets(pair, back=back, v6=False)
        with sender, receiver:
            sent = [struct.pack(">I", n) + os.urandom(n % 1240) for n in range(600)]
            came: list[bytes] = []
            for start in range(0, len(sent), 50):
                for data in sent[start : start + 50]:
                    sender.send(data)
                # Nothing is lost on purpose, so that all of it can be waited for.
                came += [receiver.recv(1 << 16) for _ in range(50)]
            receiver.settimeout(0.1)
            with pytest.raises(TimeoutError):
                receiver.recv(1 << 16)  # what the path doubled does not come twice
            assert sorted(came) == sorted(sent)
            assert came != sent, "the path did reorder"
    assert path.doubled > 20
    assert pair.engine.snapshot().drops.get("wireguard-replayed", 0) > 0
    path.lost = 2
    size = 1 << 20
    assert transfer(pair.ours, pair.theirs, THEIRS, size) == size
    assert transfer(pair.theirs, pair.ours, OURS, size) == size
