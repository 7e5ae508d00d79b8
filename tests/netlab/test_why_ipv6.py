"""`warren why PEER` where a firewall holds up IPv6: whose it is, and what opening it does."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import ProgramFailed
from warren.lab.world import World

pytestmark = pytest.mark.netlab

SERVER, SERVER_V6 = "198.51.100.10", "2001:db8:1::10"
PLAN = Plan(
    routers=(
        Router("home-a", kind="symmetric", address="203.0.113.10", lan_v6="2001:db8:a::/64"),
        Router("home-b", kind="symmetric", address="203.0.113.20", lan_v6="2001:db8:b::/64"),
        Router("home-c", kind="firewall", lan=None, lan_v6="2001:db8:c::/64"),
        Router("home-d", kind="firewall", lan=None, lan_v6="2001:db8:d::/64"),
    ),
    hosts=(
        Host("server", address=SERVER, extra=("198.51.100.11",), ipv6=SERVER_V6),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
        Host("carol", behind="home-c"),
        Host("dora", behind="home-d"),
    ),
)
# Only the server's answers come in by IPv6, as where UDP is let through for a few services.
STRICT = f"""table ip6 strict {{ chain forward {{ type filter hook forward priority -10;
    iifname "wan" ip6 saddr != {SERVER_V6} meta l4proto udp drop; }}; }}"""
DEAD = """table ip6 dead { chain forward { type filter hook forward priority -10;
    meta l4proto udp drop; }; }"""


class Net:
    """Two machines with both families behind symmetric NATs, two with IPv6 alone."""

    def __init__(self, world: World) -> None:
        self.world = world
        server = Server(
            world["server"],
            world.scratch / "server",
            stun_others=["198.51.100.11", f"[{SERVER_V6}]"],
            name="vpn.example",
        )
        server.start()
        server.create_user("tester")
        self._server, self._key = server, server.create_key("tester", "--reusable")
        self.nodes: dict[str, Node] = {}

    def join(self, *names: str) -> list[Node]:
        """Start machines and wait until they are in the network."""
        for name in names:
            node = Node(self.world[name], name, self.world.scratch / name, tun=False)
            node.start()
            self.nodes[name] = node
        for name in names:
            self.nodes[name].wait_daemon()
            self.nodes[name].up(self._server.url, self._key)
        return [self.nodes[name] for name in names]

    def explained(self, name: str, peer: str, words: str) -> dict[str, Any]:
        """Ping until `why` says these words; what it says then."""
        node = self.nodes[name]

        def asked() -> dict[str, Any] | None:
            with contextlib.suppress(ProgramFailed):
                node.ping(peer, 2)
            found: dict[str, Any] = json.loads(node.run("why", peer, "--json"))
            return found if words in " ".join(found["reasons"]) else None

        tell = lambda: node.run("why", peer)  # noqa: E731
        try:
            return node.part.wait(asked, 40, f"{name} says {words!r} of {peer}")
        except BaseException as error:
            raise AssertionError(tell()) from error


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with World(PLAN, names={"vpn.example": (SERVER, SERVER_V6)}) as world:
        world["home-b"].nft(STRICT)
        world["home-d"].nft(STRICT)
        yield Net(world)


def test_the_far_firewall_is_named_and_what_to_open_helps(net: Net) -> None:
    """Bob's pings reach alice, whose own firewall expects them; nothing goes the other way."""
    alice, _ = net.join("alice", "bob")
    found = net.explained("alice", "bob", "a firewall in front of bob drops it")
    assert found["cause"] == "hard-hard"
    assert found["own"]["ipv6"] is found["theirs"]["ipv6"] is True
    (advice,) = [text for text in found["advice"] if "IPv6 firewall" in text]
    told = re.search(r"Let UDP port (\d+) inbound to bob \(\[(2001:db8:b::\w+)\]\)", advice)
    assert told is not None, advice
    silent = [c["why"] for c in found["candidates"] if c["address"].startswith("[2001:db8:b:")]
    assert silent == ["a firewall on the peer's side drops IPv6"]
    # Bob hears nothing at all by IPv6, so that it may be either side's.
    other = net.explained("bob", "alice", "in front of this machine or of alice drops")
    assert any("inbound to this machine ([2001:db8:b::" in text for text in other["advice"])
    net.world["home-b"].nft(
        f"insert rule ip6 strict forward ip6 daddr {told[2]} udp dport {told[1]} accept"
    )
    assert alice.ping_until_direct("bob", 30).path == f"[{told[2]}]:{told[1]}"


def test_ipv6_alone(net: Net) -> None:
    """With no other family the firewall is the cause itself."""
    carol, _ = net.join("carol", "dora")
    found = net.explained("carol", "dora", "a firewall in front of dora drops it")
    assert found["cause"] == "ipv6-firewall"
    assert len(found["reasons"]) == 1 and "; the relay in region" in found["reasons"][0]
    assert len(found["advice"]) == 1 and "inbound to dora ([2001:db8:d::" in found["advice"][0]
    text = carol.run("why", "dora")
    assert "What you could change:" in text and "UPnP" not in text


def test_no_udp_by_ipv6_at_all_on_one_side(net: Net) -> None:
    """Both ask the same servers, so that whoever gets no answer has the firewall."""
    bob = net.nodes["bob"]
    net.world["home-b"].nft(DEAD)
    bob.run("netcheck", timeout_s=40)
    found = net.explained("bob", "alice", "no STUN server answers this machine by it")
    assert any(
        text.startswith("Let UDP port") and text.endswith("and let UDP out.")
        for text in found["advice"]
    )
    found = net.explained("alice", "bob", "no STUN server answers bob by it")
    assert any("inbound to bob" in text for text in found["advice"])
