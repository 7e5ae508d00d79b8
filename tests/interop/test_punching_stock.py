"""A Warren node behind a symmetric NAT reaches a stock client behind a port-restricted one.

The stock client knows nothing of it: it pings what it is told to ping (PROTOCOL §15).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from warren.lab import sandbox
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.stock import StockClient
from warren.lab.world import World

pytestmark = [pytest.mark.netlab, pytest.mark.interop]

PATIENCE_S = 40.0
PLAN = Plan(
    routers=(
        Router("hard", kind="symmetric", address="203.0.113.10"),
        Router("easy", kind="port-restricted", address="203.0.113.20"),
    ),
    hosts=(
        # Two addresses: only two servers can tell that ports vary by destination.
        Host("server", address="198.51.100.10", extra=("198.51.100.11",)),
        Host("alice", behind="hard"),
        Host("dave", behind="easy"),
    ),
)


@pytest.fixture
def world(stock_client: None) -> Iterator[World]:
    with World(PLAN) as world:
        try:
            yield world
        finally:
            for program in world.programs:
                assert "Traceback" not in program.output(), program.tail(60)


def test_direct_to_a_stock_client(world: World) -> None:
    server = Server(world["server"], world.scratch / "server", stun_others=["198.51.100.11"])
    server.start()
    server.create_user("tester")
    key = server.create_key("tester", "--reusable")
    dave = StockClient(
        world["dave"], "dave", server=server.url, state=world.scratch / "dave", auth_key=key
    )
    dave.start()
    dave.wait_joined()
    alice = Node(world["alice"], "alice", world.scratch / "alice", tun=sandbox.tun_available())
    alice.start()
    alice.wait_daemon()
    alice.up(server.url, key)
    world.wait(lambda: (alice.peer("dave") or {}).get("online"), 20, "alice knows dave")
    began = time.monotonic()
    while (pong := alice.ping("dave")).via != "direct":
        assert time.monotonic() - began < PATIENCE_S, "it stays on the relay"
        time.sleep(0.2)
    print(f"direct to the stock client after {time.monotonic() - began:.1f} s")
    assert pong.path is not None and pong.path.startswith("203.0.113.20:")
    # It stays: the next minute of a heartbeat or two is as direct.
    for _ in range(4):
        time.sleep(2)
        assert alice.ping("dave").via == "direct"
