"""Two relays in two places, UDP blocked: traffic, a relay's death, and a region that appears."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from warren.lab.mesh import Node, RelayServer, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.web import WebServer, get
from warren.lab.world import World

pytestmark = pytest.mark.netlab

WEB_PORT = 8000
OWN, FAR = 900, 901
PLAN = Plan(
    routers=(
        Router("home-a", kind="udp-blocked", address="203.0.113.10"),
        Router("home-b", kind="udp-blocked", address="203.0.113.20"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("far", address="192.0.2.10"),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
    ),
)


def home(node: Node) -> int:
    return int(node.status()["self"]["home_region"])


def fetches(client: Node, server: Node, deadline_s: float) -> None:
    with WebServer(server.part, WEB_PORT, f"hello from {server.name}"):

        def try_once() -> bool:
            with contextlib.suppress(OSError):
                page = get(client.route(), server.address, WEB_PORT, timeout_s=3)
                return page.body == f"hello from {server.name}".encode()
            return False

        client.part.wait(try_once, deadline_s, f"{client.name} fetches from {server.name}")


@pytest.fixture
def world() -> Iterator[World]:
    with World(PLAN) as built:
        try:
            yield built
            for program in built.programs:
                assert "Traceback" not in program.output(), program.tail(60)
        except BaseException:
            print(built.tails(30))
            raise


def test_homes_follow_the_map_and_leave_a_dead_relay(world: World) -> None:
    file = world.scratch / "regions.json"
    file.write_text("{}")
    server = Server(world["server"], world.scratch / "server", more=("--derp-map", str(file)))
    server.start()
    server.create_user("tester")
    key = server.create_key("tester", "--reusable")
    far = RelayServer(world["far"], world.scratch / "far", server.url, FAR)
    region = far.start()

    bob = _joined(world, server, "bob", key)
    assert home(bob) == OWN
    # A region that is far better appears: whoever hears of it moves there.
    better = {"HomeParams": {"RegionScore": {str(OWN): 1000}}}
    file.write_text(json.dumps(region | better))
    server.program.send(signal.SIGHUP)  # sooner than by looking
    world.wait(lambda: home(bob) == FAR, 25, "bob's home moves to the region that appeared")
    world.wait(lambda: server.admin("regions")["homes"] == {str(FAR): 1}, 10, "the server knows it")
    # Whoever can't reach it while joining is at home elsewhere, and stays for a hair's breadth.
    file.write_text(json.dumps(region))
    route = ("ip", "route", "%s", "blackhole", f"{world['far'].address}/32")
    world["home-a"].run([word.replace("%s", "add") for word in route])
    alice = _joined(world, server, "alice", key)
    world.wait(lambda: home(alice), 3, "alice has a home, though UDP is blocked")
    world["home-a"].run([word.replace("%s", "del") for word in route])
    assert (home(alice), home(bob)) == (OWN, FAR)
    fetches(alice, bob, 15)
    pong = alice.ping("bob")
    assert (pong.via, pong.region) == ("relay", "far")

    far.program.kill()
    died = time.monotonic()
    world.wait(lambda: home(bob) == OWN, 10, "bob leaves the dead relay")
    moved_s = time.monotonic() - died
    assert alice.ping("bob", 5).region == "warren"
    reached_s = time.monotonic() - died
    print(f"moved after {moved_s:.2f} s, reached after {reached_s:.2f} s")
    assert moved_s < 3, "2 s, and what asking costs here"
    assert reached_s < 5
    fetches(bob, alice, 10)

    # The server dies with its relay: the other place is enough, though nobody tells of moves.
    far.start()
    server.program.kill()
    fetches(alice, bob, 15)
    assert (home(alice), home(bob)) == (FAR, FAR)


def _joined(world: World, server: Server, name: str, key: str) -> Node:
    node = Node(world[name], name, Path(world.scratch / name), tun=False)
    node.start()
    node.wait_daemon()
    node.up(server.url, key)
    return node
