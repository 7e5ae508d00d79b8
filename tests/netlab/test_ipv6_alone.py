"""A whole network without IPv4: server, relay and machines have IPv6 addresses only."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from warren.lab import sandbox
from warren.lab.mesh import Node, command_environment
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import Program, wait_until
from warren.lab.world import World

pytestmark = pytest.mark.netlab

SERVER = "2001:db8::10"
PLAN = Plan(
    routers=(
        Router("home", kind="firewall", lan=None, lan_v6="2001:db8:a::/64"),
        Router("dead", kind="udp-blocked", lan=None, lan_v6="2001:db8:b::/64"),
    ),
    hosts=(
        Host("server", ipv6=SERVER),
        Host("alice", behind="home"),
        Host("bob", ipv6="2001:db8::20"),
        Host("carol", behind="dead"),
    ),
)
WARREN = [sys.executable, "-m", "warren"]


@pytest.fixture
def world() -> Iterator[World]:
    with World(PLAN) as built:
        yield built


def start_server(world: World) -> Program:
    """As a person would where there is no IPv4: a URL with the address, and nothing else."""
    argv = [*WARREN, "server", "--state", str(world.scratch / "server")]
    argv += ["--url", f"http://[{SERVER}]", "--tls", "self-signed"]
    program = world["server"].spawn(argv, "server", env=command_environment())
    program.wait_output("Join a first machine", 20)
    return program


def test_machines_meet_over_ipv6_alone(world: World) -> None:
    server = start_server(world)
    state = ["--state", str(world.scratch / "server")]

    def admin(*words: str) -> str:
        return world["server"].run([*WARREN, "admin", *words, *state], env=command_environment())

    admin("users", "create", "tester")
    made = admin("keys", "create", "--user", "tester", "--reusable", "--json")
    key = str(json.loads(made)["key"])
    nodes = [
        Node(world[name], name, world.scratch / name, tun=sandbox.tun_available())
        for name in ("alice", "bob", "carol")
    ]
    for node in nodes:
        node.start()
        node.wait_daemon()
        node.up(f"http://[{SERVER}]", key)
    alice, bob, carol = nodes
    wait_until(lambda: alice.peer("bob") and alice.peer("carol"), 20, "they know each other")
    pong = alice.ping_until_direct("bob", 20)
    assert str(pong.path).startswith("[2001:db8::20]:")
    assert carol.ping("alice").via == "relay"
    for node in nodes:
        node.talk("bob" if node is not bob else "alice")
    report = json.loads(alice.run("netcheck", "--json", timeout_s=40))
    assert report["nat4"] is None and report["nat6"]["name"] == "no NAT"
    assert alice.status()["health"] == []
    server.stop()
