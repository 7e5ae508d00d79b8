"""A Warren node reaches a stock client where one of both is behind a symmetric NAT.

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
DAVE = "203.0.113.20"


def plan(alice: str, dave: str) -> Plan:
    """Alice's and dave's kinds of NAT."""
    return Plan(
        routers=(
            Router("one", kind=alice, address="203.0.113.10"),
            Router("other", kind=dave, address=DAVE),
        ),
        hosts=(
            Host("server", address="198.51.100.10", extra=("198.51.100.11",)),
            Host("alice", behind="one"),
            Host("dave", behind="other"),
        ),
    )


@pytest.fixture
def world(stock_client: None, request: pytest.FixtureRequest) -> Iterator[World]:
    with World(plan(*request.param)) as world:
        try:
            yield world
        finally:
            for program in world.programs:
                assert "Traceback" not in program.output(), program.tail(60)


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(("symmetric", "port-restricted"), id="it guesses our ports"),
        # The map has one region, so the client cannot tell that its ports vary.
        pytest.param(("port-restricted", "carrier-block-512"), id="we scan its block"),
    ],
    indirect=True,
)
@pytest.mark.parametrize("others", [("198.51.100.11",), ()], ids=["two servers", "one server"])
def test_direct_to_a_stock_client(world: World, others: tuple[str, ...]) -> None:
    """Also where there is one STUN server, so that nobody can tell that ports vary."""
    server = Server(world["server"], world.scratch / "server", stun_others=others)
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
    assert pong.path is not None and pong.path.startswith(f"{DAVE}:")
    # It stays: after a heartbeat or two it is as direct.
    for _ in range(3):
        time.sleep(2)
        assert alice.ping("dave").via == "direct"
