"""Birthday punching with the real engine through the kernel's NATs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from warren.lab import sandbox
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.world import World

pytestmark = pytest.mark.netlab

PLAN = Plan(
    routers=(
        Router("hard", kind="symmetric", address="203.0.113.10"),
        Router("easy", kind="port-restricted", address="203.0.113.20"),
    ),
    hosts=(
        Host("server", address="198.51.100.10", extra=("198.51.100.11",)),
        Host("alice", behind="hard"),
        Host("bob", behind="easy"),
    ),
)
PATIENCE_S = 25.0
"""One attempt in fifty needs more than its thousand probes; then the relay stays."""


@pytest.fixture
def world() -> Iterator[World]:
    with World(PLAN) as world:
        try:
            yield world
        except BaseException:
            print(world.tails(40))
            raise
        finally:
            for program in world.programs:
                assert "Traceback" not in program.output(), program.tail(60)


def start_server(world: World, *others: str) -> tuple[Server, str]:
    server = Server(world["server"], world.scratch / "server", stun_others=others)
    server.start()
    server.create_user("tester")
    return server, server.create_key("tester", "--reusable")


def join(world: World, server: Server, key: str, name: str) -> Node:
    node = Node(world[name], name, world.scratch / name, tun=sandbox.tun_available())
    node.start()
    node.wait_daemon()
    node.up(server.url, key)
    return node


def direct_after(node: Node, peer: str) -> float | None:
    """Ping until the path is direct; return how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        pong = node.ping(peer)
        if pong.via == "direct":
            return time.monotonic() - began
        time.sleep(0.2)
    return None


@pytest.mark.parametrize("others", [("198.51.100.11",), ()], ids=["two servers", "one server"])
def test_symmetric_to_port_restricted(world: World, others: tuple[str, ...]) -> None:
    """With one STUN server nobody can say that ports vary; that they are not kept is enough."""
    server, key = start_server(world, *others)
    alice, bob = (join(world, server, key, name) for name in ("alice", "bob"))
    world.wait(lambda: alice.peer("bob"), 10, "alice knows bob")
    assert alice.ping("bob").via == "relay", "the first packet never waits"
    took = direct_after(alice, "bob")
    assert took is not None
    print(f"direct after {took:.1f} s")
    assert direct_after(bob, "alice") is not None
    told = json.loads(alice.run("why", "bob", "--json"))["own"]["nat"]
    assert told == ("hard" if others else "likely-hard")
