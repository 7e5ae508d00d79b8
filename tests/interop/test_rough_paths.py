"""Peers that nobody here wrote, over paths that lose, double and reorder, with UDP GSO and without.

What went in is compared with what came out: datagrams of odd sizes, in fragments and behind IPv6
extension headers, and TCP, both ways.
"""

from __future__ import annotations

import random
import shutil
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from wireguard_go import OURS, THEIRS, Pair, datagram_sockets, ping, start, transfer

from rough_path import Rough, fragments
from warren.lab import sandbox
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan
from warren.lab.stock import WEB_PORT, StockClient
from warren.lab.web import WebServer, get
from warren.lab.world import World

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.interop,
    pytest.mark.skipif(not sandbox.tun_available(), reason="no TUN device here"),
]

# The links of the second number are narrower than the tunnel: the kernel refuses UDP segmentation
# there, and what is sent singly goes in fragments.
HOSTS = ("ours", "theirs", "alice", "ursula", "dave")
PLAN = Plan(
    hosts=(
        Host("server", address="192.0.2.10"),
        *(
            Host(f"{name}{number}", address=f"198.51.100.{10 * number + at}")
            for number in (1, 2)
            for at, name in enumerate(HOSTS)
        ),
    )
)
MTU = 1280
PORT = 8000
BATCH = 40
# A hop-by-hop header and one of destination options, each of eight bytes of padding.
_PADDING = struct.pack("BBBBI", 0, 0, 1, 4, 0)
EXTENSIONS = {
    "plain": (),
    "hop-by-hop": (socket.IPV6_HOPOPTS,),
    "destination options": (socket.IPV6_DSTOPTS,),
    "both": (socket.IPV6_HOPOPTS, socket.IPV6_DSTOPTS),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(PLAN) as world:
        for name in HOSTS:
            world[f"{name}2"].run(["ip", "link", "set", "wan", "mtu", "1300"])
        yield world


@pytest.fixture(scope="module", params=[1, 2], ids=["gso", "no gso"])
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def rough(world: World, number: int) -> Iterator[tuple[Pair, list[Rough]]]:
    """Our engine and wireguard-go; what either sends to the other passes a rough path."""
    if shutil.which("wireguard-go") is None or shutil.which("wg") is None:
        pytest.skip("needs wireguard-go and wg: apt-get install wireguard-go wireguard-tools")
    one, other = world[f"ours{number}"], world[f"theirs{number}"]
    with Rough(world, one, other) as out, Rough(world, other, one) as back:
        pair = start(world, number)
        try:
            ping(pair.ours, THEIRS, 3, 0.1)
            yield pair, [out, back]
        finally:
            pair.engine.close()
            del pair.engine  # its TUN device goes with it
            pair.program.stop()


def sizes(noise: random.Random, room: int) -> list[int]:
    """Payloads around what matters: nothing, the padding's 16, a whole packet, fragments."""
    odd = [0, 1, 2, 15, 16, 17, room - 17, room - 1, room, room + 1, 2 * room + 1, 4000]
    return odd + [noise.randrange(room) for _ in range(BATCH - len(odd))]


@pytest.mark.parametrize("back", [False, True], ids=["out", "back"])
@pytest.mark.parametrize("kind", ["IPv4", *EXTENSIONS])
def test_datagrams_come_once_and_as_they_were(
    rough: tuple[Pair, list[Rough]], back: bool, kind: str
) -> None:
    pair, _ = rough
    noise = random.Random(f"{back} {kind}")
    v6 = kind != "IPv4"
    options = EXTENSIONS[kind] if v6 else ()
    room = MTU - (48 + 8 * len(options) if v6 else 28)
    sender, receiver = datagram_sockets(pair, back=back, v6=v6)
    with sender, receiver:
        for option in options:
            sender.setsockopt(socket.IPPROTO_IPV6, option, _PADDING)
        for _ in range(5):
            sent = [noise.randbytes(size) for size in sizes(noise, room)]
            for data in sent:
                sender.send(data)
            # The path loses none, so that all of it can be waited for.
            came = Counter(receiver.recv(1 << 16) for _ in sent)
            assert came == Counter(sent)
        receiver.settimeout(0.1)
        with pytest.raises(TimeoutError):
            receiver.recv(1 << 16)  # what the path doubled does not come twice


def test_tcp_over_losses_and_what_was_refused(rough: tuple[Pair, list[Rough]], number: int) -> None:
    pair, paths = rough
    for path in paths:
        path.lost = 2
    for source, sink, to in ((pair.ours, pair.theirs, THEIRS), (pair.theirs, pair.ours, OURS)):
        assert transfer(source, sink, to, 1 << 19) == 1 << 19
    for path in paths:
        path.lost = 0
        assert all(path.counts.values()), path.counts
    snapshot = pair.engine.snapshot()
    assert "udp-gso" in snapshot.offloads
    assert (fragments(pair.ours) > 100) is (number == 2)
    # What the path doubled was refused as such, and nothing else was.
    assert snapshot.drops["wireguard-replayed"] > 0
    assert not snapshot.drops.keys() & {"wireguard-forged", "filter-no-rule", "source"}


@pytest.mark.usefixtures("stock_client")
def test_a_stock_client_over_a_rough_path(world: World, number: int) -> None:
    """To a node with a TUN device and to one in userspace mode; each fetches from the other."""
    server = Server(world["server"], world.scratch / f"server-{number}")
    server.start()
    server.create_user("tester")
    key = server.create_key("tester", "--reusable")
    there = world[f"dave{number}"]
    dave = StockClient(
        there, "dave", server=server.url, state=world.scratch / f"dave{number}", auth_key=key
    )
    large = random.Random(number).randbytes(200_000).hex()
    nodes = {}
    with ExitStack() as stack:
        paths = {
            (name, way): stack.enter_context(Rough(world, *ends, lost=1))
            for name in ("alice", "ursula")
            for here in (world[f"{name}{number}"],)
            for way, ends in (("out", (here, there)), ("back", (there, here)))
        }
        for name in ("alice", "ursula"):
            state = world.scratch / f"{name}{number}"
            node = Node(world[f"{name}{number}"], name, state, tun=name == "alice")
            stack.callback(node.stop)
            node.start()
            node.wait_daemon()
            node.up(server.url, key)
            nodes[name] = node
        stack.callback(server.program.stop)
        stack.callback(dave.stop)
        dave.start()
        dave.wait_joined()
        for name, node in nodes.items():
            world.wait(partial(node.peer, "dave"), 10, f"{name} knows dave")
            node.ping_until_direct("dave", 40)
            address = next(a for a in node.peer("dave")["addresses"] if ":" not in a)
            page = get(node.route(), address, WEB_PORT, timeout_s=20)
            assert page.body == dave.page
            with WebServer(node.part, PORT, large):
                fetched = dave.get_from_peer(f"{node.address}:{PORT}", timeout_s=40)
            assert fetched.body == large.encode()
            status = node.status()
            assert "udp-gso" in status["offloads"]
            assert (fragments(node.part) > 20) is (number == 2)
            assert status["drops"].get("wireguard-replayed", 0) > 0, status["drops"]
            assert all(all(paths[name, way].counts.values()) for way in ("out", "back"))
