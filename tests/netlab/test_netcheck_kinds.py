"""`warren netcheck` says of every NAT kind of the lab what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from warren.lab import places, sandbox
from warren.lab.joining import NAMES, SERVER_ADDRESS_V6, join, start_proxy, start_server
from warren.lab.kinds import KINDS
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.world import World

pytestmark = pytest.mark.netlab

SERVER, OTHER = "198.51.100.10", "198.51.100.11"
EXPECTED: dict[str, tuple[str, str, str]] = {
    # kind: everyday name, how hard it is, how ports are given out
    "public": ("no NAT, no firewall", "open", "unknown"),
    "firewall": ("no NAT, a stateful firewall", "easy", "unknown"),
    "full-cone": ("full cone", "easy", "kept"),
    "address-restricted": ("address-restricted cone", "easy", "kept"),
    "carrier-hairpin": ("full cone", "easy", "kept"),
    "port-restricted": ("port-restricted cone", "easy", "kept"),
    "symmetric": ("symmetric NAT", "hard", "random"),
    "symmetric-sequential": ("symmetric NAT", "hard", "sequential"),
    "carrier-block": ("symmetric NAT", "hard", "block"),
    "udp-blocked": ("UDP blocked", "blocked", "unknown"),
}
KINDS_HERE = list(EXPECTED)
# In these places of the grid, with the lab's own server: what is known of IPv6.
PLACES_V6 = ("ipv6-only", "symmetric-ipv6")


class Net:
    """A server with two STUN addresses, and one router of each kind with a node behind it."""

    def __init__(self, world: World, server: Server) -> None:
        self.world = world
        self.server = server
        self.server.start()
        self.server.create_user("tester")
        self.key = self.server.create_key("tester", "--reusable")

    def netcheck(self, host: str) -> tuple[dict[str, Any], str]:
        """Let a node join here and measure; its report, and what a person reads."""
        node = Node(
            self.world[host],
            host,
            self.world.scratch / host,
            tun=sandbox.tun_available(),
        )
        node.start()
        node.wait_daemon()
        node.up(self.server.url, self.key)
        try:
            report: dict[str, Any] = json.loads(node.run("netcheck", "--json", timeout_s=30))
            return report, node.run("netcheck", timeout_s=30)
        finally:
            node.stop()


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    routers = [
        Router(
            f"r{number}",
            kind=kind,
            address=f"203.0.113.{10 + number}",
            lan="192.168.1.0/24" if KINDS[kind].translate else f"192.0.2.{16 + 16 * number}/28",
        )
        for number, kind in enumerate(KINDS_HERE)
    ]
    plan = Plan(
        routers=(
            *routers,
            Router("inner", kind="symmetric", behind="r2", lan="192.168.2.0/24"),
        ),
        hosts=(
            Host("server", address=SERVER, extra=(OTHER,)),
            *(Host(f"h{number}", behind=f"r{number}") for number in range(len(KINDS_HERE))),
            Host("double", behind="inner"),
        ),
    )
    with World(plan) as world:
        server = Server(world["server"], world.scratch / "server", stun_others=(OTHER,))
        yield Net(world, server)


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_every_kind_is_known_for_what_it_is(net: Net, kind: str) -> None:
    report, text = net.netcheck(f"h{KINDS_HERE.index(kind)}")
    nat, rule = report["nat4"], KINDS[kind]
    assert (nat["name"], nat["difficulty"], nat["ports"]) == EXPECTED[kind]
    assert report["udp"] is nat["udp"] is rule.udp
    assert report["captive_portal"] is False
    assert nat["name"] in text
    assert report["regions"][0]["code"] in text
    assert report["home_region"] == 900
    assert report["regions"][0]["latency_ms"] is not None, "over TCP where UDP is dead"
    if not rule.udp:
        assert "relay" in nat["meaning"][0]
        return
    assert nat["filtering"] == (rule.filtering or "endpoint-independent")
    assert nat["liars"] == {}
    assert nat["mtu_bytes"] == 1500
    assert nat["discovery_server"] == f"{SERVER}:3478"
    assert nat["translated"] is bool(rule.translate)
    if rule.mapping is not None:
        assert nat["mapping"] == rule.mapping
        assert nat["hairpin"] is rule.hairpin
        assert report["mapping_varies"] is (rule.mapping != "endpoint-independent")
    if nat["ports"] == "block":
        first, last = nat["port_block"]
        assert first <= 20700
        assert last >= 22300
        assert last - first <= 4096
    if nat["ports"] == "sequential":
        assert nat["port_step"] == 1


def test_two_nats_behave_like_the_worse_one(net: Net) -> None:
    report, _ = net.netcheck("double")
    assert report["nat4"]["name"] == "symmetric NAT"
    assert report["nat4"]["mapped"][0].startswith("203.0.113.12:")


def test_one_server_with_one_address_makes_the_kind_likely() -> None:
    names = {"port-restricted": "NAT, probably a cone", "symmetric": "NAT, probably symmetric"}
    plan = Plan(
        routers=tuple(
            Router(f"r{number}", kind=kind, address=f"203.0.113.{10 + number}")
            for number, kind in enumerate(names)
        ),
        hosts=(
            Host("server", address=SERVER),
            *(Host(f"h{number}", behind=f"r{number}") for number in range(len(names))),
        ),
    )
    with World(plan) as world:
        net = Net(world, Server(world["server"], world.scratch / "server"))
        for number, name in enumerate(names.values()):
            report, text = net.netcheck(f"h{number}")
            nat = report["nat4"]
            assert (nat["name"], nat["difficulty"], nat["mapping"]) == (name, "unknown", "unknown")
            assert report["mapping_varies"] is None
            assert name in text and "only a second server can tell for certain" in text


def test_ipv6_beside_ipv4_and_alone() -> None:
    """A machine with IPv6 only is told so, and how it is reached by it."""
    v6, v6_other = "2001:db8::10", "2001:db8::11"
    plan = Plan(
        hosts=(
            Host("server", address=SERVER, ipv6=v6, extra=(v6_other,)),
            Host("six", ipv6="2001:db8:6::1"),
            Host("both", address="198.51.100.30", ipv6="2001:db8:7::1"),
        )
    )
    with World(plan, names={"vpn.example": (SERVER, v6)}) as world:
        net = Net(
            world,
            Server(
                world["server"],
                world.scratch / "server",
                stun_others=(f"[{v6}]", f"[{v6_other}]"),
                name="vpn.example",
            ),
        )
        report, text = net.netcheck("six")
        assert (report["udp"], report["ipv4"]) == (True, None)
        assert report["ipv6"].startswith("[2001:db8:6::1]:")
        assert report["nat4"] is None
        assert report["nat6"]["name"] == "no NAT, no firewall"
        assert report["nat6"]["mtu_bytes"] == 1500
        assert report["regions"][0]["latency_ms"] is not None
        assert "IPv6 NAT" in text
        report, _ = net.netcheck("both")
        assert report["nat4"]["udp"] is report["nat6"]["udp"] is True
        assert report["nat6"]["difficulty"] == "open"


def test_the_labs_own_server_tells_what_ipv6_lets_in() -> None:
    """It has two addresses of each family, so that filtering is known of both."""
    machines = [("a", places.find(name)) for name in PLACES_V6]
    with World(places.plan(machines), NAMES) as world:
        hub = start_server(world)
        names = [places.machine(*each) for each in machines]
        nodes = [
            Node(world[name], name, world.scratch / name, tun=False, env=hub.trust)
            for name in names
        ]
        assert join(nodes, hub.server, hub.key) == {}
        for node in nodes:
            report = json.loads(node.run("netcheck", "--json", timeout_s=30))
            nat = report["nat6"]
            assert (nat["name"], nat["difficulty"]) == ("no NAT, a stateful firewall", "easy")
            assert nat["filtering"] == "address-and-port-dependent"
            assert nat["discovery_server"] == f"[{SERVER_ADDRESS_V6}]:3478"
            assert (nat["translated"], nat["mtu_bytes"]) == (False, 1500)
            assert report["ipv6"] == nat["mapped"][0].replace(*_ports(nat, report))
            assert (report["nat4"] or {}).get("name") in (None, "symmetric NAT")
            assert "IPv6 NAT" in node.run("netcheck", timeout_s=30)


def _ports(nat: dict[str, Any], report: dict[str, Any]) -> tuple[str, str]:
    """The examination has sockets of its own."""
    return nat["mapped"][0].rpartition(":")[2], report["ipv6"].rpartition(":")[2]


def test_behind_an_http_proxy() -> None:
    """Nothing else leads out: regions are measured through it."""
    place = places.find("http-proxy")
    with World(places.plan([("a", place)]), NAMES) as world:
        hub = start_server(world)
        name = places.machine("a", place)
        env = hub.trust | start_proxy(world, places.gateway("a", place))
        node = Node(world[name], name, world.scratch / name, tun=False, env=env)
        assert join([node], hub.server, hub.key) == {}
        report = json.loads(node.run("netcheck", "--json", timeout_s=40))
        assert report["udp"] is report["nat4"]["udp"] is False
        assert (report["nat4"]["name"], report["ipv4"]) == ("UDP blocked", None)
        assert report["home_region"] == report["regions"][0]["region"] == 900
        assert report["regions"][0]["latency_ms"] > 0
        assert report["captive_portal"] is None
        assert "UDP  " in (text := node.run("netcheck", timeout_s=40)) and "blocked" in text
