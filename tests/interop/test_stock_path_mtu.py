"""Large packets towards a client that nobody here wrote, and whose own MTU is 1,280."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from warren.lab import sandbox
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan
from warren.lab.stock import WEB_PORT, StockClient
from warren.lab.web import WebServer, get
from warren.lab.world import World

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.interop,
    pytest.mark.usefixtures("stock_client"),
    pytest.mark.skipif(not sandbox.tun_available(), reason="no TUN device here"),
]

PORT = 8000
PLAN = Plan(
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", address="203.0.113.10"),
        Host("dave", address="203.0.113.20"),
    )
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(PLAN) as built:
        yield built


def test_a_stock_peer_takes_what_it_has_confirmed(world: World) -> None:
    server = Server(world["server"], world.scratch / "server")
    server.start()
    server.create_user("tester")
    key = server.create_key("tester", "--reusable")
    alice = Node(world["alice"], "alice", world.scratch / "alice", tun=True)
    alice.start()
    alice.wait_daemon()
    alice.up(server.url, key)
    dave = StockClient(
        world["dave"], "dave", server=server.url, state=world.scratch / "dave", auth_key=key
    )
    dave.start()
    dave.wait_joined()
    world.wait(lambda: alice.peer("dave"), 10, "alice knows dave")
    alice.ping_until_direct("dave", 40)

    def size() -> int:
        alice.ping("dave")
        peer = alice.peer("dave")
        assert peer is not None
        return int(peer["path"]["mtu_bytes"] or 0)

    world.wait(lambda: size() == 1440 or None, 10, "its pongs confirm 1,440 bytes")
    peer = alice.peer("dave")
    assert peer is not None
    address = next(text for text in peer["addresses"] if ":" not in text)
    for inside in (1280, 1281, 1439, 1440):
        words = ["ping", "-M", "do", "-n", "-c", "2", "-i", "0.2", "-W", "3"]
        alice.part.run([*words, "-s", str(inside - 28), address])
    page = get(alice.route(), address, WEB_PORT, timeout_s=8)
    assert page.body == dave.page
    large = "large " * 8_000
    with WebServer(alice.part, PORT, large):
        fetched = dave.get_from_peer(f"{alice.address}:{PORT}", timeout_s=20)
    assert fetched.body == large.encode()
    assert not alice.status()["drops"].get("packet-too-big")
