"""`warren netcheck` where something is special: other port sequences, narrow links, a hotel's
portal, several relay regions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from warren.lab.kinds import KINDS, ruleset
from warren.lab.mesh import Node, RelayServer, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.web import WebServer
from warren.lab.world import World

pytestmark = pytest.mark.netlab

SERVER, OTHER, FAR = "198.51.100.10", "198.51.100.11", "192.0.2.10"
OUTSIDE = "203.0.113.10"
PLAN = Plan(
    routers=(
        Router("home", kind="symmetric-sequential", address=OUTSIDE),
        Router("block", kind="carrier-block-512", address="203.0.113.20"),
    ),
    hosts=(
        Host("server", address=SERVER, extra=(OTHER,)),
        Host("far", address=FAR),
        Host("alice", behind="home"),
        Host("bob", behind="block"),
    ),
)


class Net:
    """One server, a relay elsewhere, and two nodes whose routers change."""

    def __init__(self, world: World) -> None:
        self.world = world
        file = world.scratch / "regions.json"
        file.write_text("{}")
        more = ("--derp-map", str(file))
        server = Server(world["server"], world.scratch / "server", stun_others=(OTHER,), more=more)
        server.start()
        server.create_user("tester")
        key = server.create_key("tester", "--reusable")
        self.far = RelayServer(world["far"], world.scratch / "far", server.url, 901)
        # Scores keep the home where it is.
        scores = {"HomeParams": {"RegionScore": {"901": 1000}}}
        file.write_text(json.dumps(self.far.start() | scores))
        self.nodes = {}
        for name in ("alice", "bob"):
            node = Node(world[name], name, world.scratch / name, tun=False)
            node.start()
            node.wait_daemon()
            node.up(server.url, key)
            self.nodes[name] = node
        known = lambda: len(self.nodes["alice"].status()["regions"]) == 2  # noqa: E731
        world.wait(known, 20, "both regions are in the map")

    def netcheck(self, name: str) -> tuple[dict[str, Any], str]:
        """What a program and what a person is told."""
        node = self.nodes[name]
        report: dict[str, Any] = json.loads(node.run("netcheck", "--json", timeout_s=30))
        return report, node.run("netcheck", timeout_s=30)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with World(PLAN) as world:
        yield Net(world)
        for program in world.programs:
            assert "Traceback" not in program.output(), program.tail(60)


@pytest.mark.parametrize(("step", "first"), [(2, 40000), (7, 44000), (-1, 63000)])
def test_ports_in_sequence_with_another_step(net: Net, step: int, first: int) -> None:
    """first: none of their ports is in use from the one before."""
    kind = KINDS["symmetric-sequential"]
    one_by_one = ", ".join(f"{number} : {30000 + number}" for number in range(4096))
    in_steps = ", ".join(f"{number} : {first + step * number}" for number in range(1000))
    translate = kind.translate.replace(one_by_one, in_steps).replace("mod 4096", "mod 1000")
    assert translate != kind.translate
    rules = ruleset(replace(kind, translate=translate), IPv4Address(OUTSIDE))
    net.world["home"].nft("flush ruleset\n" + rules)
    report, text = net.netcheck("alice")
    nat = report["nat4"]
    assert (nat["name"], nat["ports"], nat["port_step"]) == ("symmetric NAT", "sequential", step)
    assert nat["port_block"] is None
    assert f"sequential, step {step}" in text


def test_a_small_block(net: Net) -> None:
    report, text = net.netcheck("bob")
    nat = report["nat4"]
    assert (nat["name"], nat["ports"]) == ("symmetric NAT", "block")
    first, last = nat["port_block"]
    assert 20000 <= first <= 20600 and 20900 <= last <= 21504
    assert f"random in the block {first}-{last}" in text
    assert all(20480 <= outside <= 20991 for _, outside in nat["port_samples"])


@pytest.mark.parametrize(("link", "whole"), [(1400, 1400), (1300, 1280)])
def test_a_narrow_link(net: Net, link: int, whole: int) -> None:
    net.world["home"].run(["ip", "link", "set", "wan", "mtu", str(link)])
    try:
        report, text = net.netcheck("alice")
    finally:
        net.world["home"].run(["ip", "link", "set", "wan", "mtu", "1500"])
    assert report["nat4"]["mtu_bytes"] == whole
    assert f"{whole} bytes pass whole" in text
    # The tunnel's packets are 1340 bytes on the wire.
    assert (f"Packets of more than {whole} bytes do not arrive whole" in text) is (whole < 1340)


def test_a_hotels_portal(net: Net) -> None:
    """Whatever asks for a page by plain HTTP gets the hotel's."""
    router = net.world["home"]
    assert net.netcheck("alice")[0]["captive_portal"] is False
    with WebServer(router, 8080, "please sign in"):
        router.nft(
            "table ip portal { chain pre { type nat hook prerouting priority -110; "
            'iifname "lan" tcp dport 80 redirect to :8080; }; }'
        )
        try:
            report, text = net.netcheck("alice")
        finally:
            router.nft("delete table ip portal")
    assert report["captive_portal"] is True
    assert "yes: sign in to this network first" in text


def test_every_region_is_measured(net: Net) -> None:
    """Both answer; a dead one is said to be silent, and the home stays."""
    report, text = net.netcheck("bob")
    latency = {region["region"]: region["latency_ms"] for region in report["regions"]}
    assert set(latency) == {900, 901} and all(value > 0 for value in latency.values())
    assert report["home_region"] == 900 and report["home_region_code"] == "warren"
    assert all(f"({region['code']}, {region['region']})" in text for region in report["regions"])
    net.far.program.kill()
    report, text = net.netcheck("bob")
    latency = {region["region"]: region["latency_ms"] for region in report["regions"]}
    assert latency[901] is None and latency[900] is not None
    assert report["home_region"] == 900
    assert "no answer" in text
