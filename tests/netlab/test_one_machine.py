"""Several nodes on one machine: each reaches and is reached by its own device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from by_hand import WARREN, join, socket_in

from warren.lab import sandbox
from warren.lab.mesh import Server
from warren.lab.plan import Host, Plan
from warren.lab.world import Part, World

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.skipif(not sandbox.tun_available(), reason="no TUN device can be made here"),
]

PLAN = Plan(
    routers=(),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("shared", address="198.51.100.20"),
        Host("other", address="198.51.100.30"),
    ),
)


def stop(part: Part, state: Path, signal: str) -> None:
    """End a daemon that `warren up` started."""
    told = json.loads(part.run([*WARREN, "status", "--json", *socket_in(state)]))
    part.run(["kill", f"-{signal}", str(told["pid"])])


def test_two_nodes_on_one_machine_do_not_fight() -> None:
    with World(PLAN) as world:
        server = Server(world["server"], world.scratch / "server")
        server.start()
        server.create_user("t")
        key = server.create_key("t", "--reusable")
        shared, other = world["shared"], world["other"]
        states = {name: world.scratch / name for name in ("one", "two", "far")}
        try:
            one, _ = join(shared, states["one"], "one", server.url, key)
            two, _ = join(shared, states["two"], "two", server.url, key)
            far, _ = join(other, states["far"], "far", server.url, key)
            for address in (one, two):
                other.run(["ping", "-c", "2", "-W", "5", address], 20)
                shared.run(["ping", "-c", "1", "-W", "5", "-I", address, far], 20)
            assert shared.run(["ip", "rule"]).count("from 100.") == 2
            stop(shared, states["two"], "KILL")
            shared.run(["ping", "-c", "1", "-W", "5", far], 20)
            # What the killed one left behind is taken away by the next.
            join(shared, states["two"], "two", server.url, key)
            assert shared.run(["ip", "rule"]).count("from 100.") == 2
            other.run(["ping", "-c", "2", "-W", "5", two], 20)
            routes = shared.run(["ip", "route"])
            assert f"{far} dev one" in routes
            assert f"{far} dev two" in routes
        finally:
            for name, state in states.items():
                if (state / "s").exists():
                    stop(other if name == "far" else shared, state, "TERM")
