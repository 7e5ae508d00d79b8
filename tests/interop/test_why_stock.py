"""`warren why PEER` of a stock client: what it does not know of itself is told from what is seen.

There is one STUN server, so that the client cannot say whether its ports vary by destination
(PROTOCOL §5.9).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import ProgramFailed
from warren.lab.stock import StockClient
from warren.lab.world import World

pytestmark = [pytest.mark.netlab, pytest.mark.interop]

HARD, EASY, BLOCKED = "203.0.113.20", "203.0.113.30", "203.0.113.40"
PLAN = Plan(
    routers=(
        Router("home", kind="port-restricted", address="203.0.113.10"),
        Router("random", kind="symmetric", address=HARD, lan="192.168.7.0/24"),
        Router("plain", kind="port-restricted", address=EASY, lan="192.168.8.0/24"),
        Router("noudp", kind="udp-blocked", address=BLOCKED, lan="192.168.9.0/24"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", behind="home"),
        Host("hard", behind="random"),
        Host("easy", behind="plain"),
        Host("blocked", behind="noudp"),
    ),
)


@pytest.fixture(scope="module")
def alice(stock_client: None) -> Iterator[Node]:
    with World(PLAN) as world:
        server = Server(world["server"], world.scratch / "server")
        server.start()
        server.create_user("tester")
        key = server.create_key("tester", "--reusable")
        for name in ("hard", "easy", "blocked"):
            state = world.scratch / name
            stock = StockClient(world[name], name, server=server.url, state=state, auth_key=key)
            stock.start()
            stock.wait_joined()
        node = Node(world["alice"], "alice", world.scratch / "alice", tun=False)
        node.start()
        node.wait_daemon()
        node.up(server.url, key)
        yield node


def explained(alice: Node, peer: str, cause: str) -> dict[str, Any]:
    def asked() -> dict[str, Any] | None:
        with contextlib.suppress(ProgramFailed):
            alice.ping(peer, 2)
        found: dict[str, Any] = json.loads(alice.run("why", peer, "--json"))
        return found if found["cause"] == cause else None

    return alice.part.wait(asked, 40, f"why {peer} says {cause}")


def test_its_nat_seems_symmetric(alice: Node) -> None:
    found = explained(alice, "hard", "hard")
    assert found["theirs"]["nat"] == "likely-hard"
    assert found["reasons"][0].startswith(f"The NAT of hard seems to be symmetric (at {HARD}:")
    outside = [c for c in found["candidates"] if c["address"].startswith(f"{HARD}:")]
    assert outside and all("seems to be symmetric" in c["why"] for c in outside)
    text = alice.run("why", "hard")
    assert "hard: UDP works, probably a symmetric NAT" in text


def test_it_has_no_udp(alice: Node) -> None:
    found = explained(alice, "blocked", "peer-no-udp")
    assert found["reasons"][0].startswith("UDP is blocked at blocked")
    tried = {c["address"]: c["why"] for c in found["candidates"] if c["result"] == "silent"}
    assert tried == {"192.168.9.2:41641": "UDP is blocked at the peer"}


def test_a_nat_that_keeps_ports_is_not_suspected(alice: Node) -> None:
    assert alice.ping_until_direct("easy", 20).path == f"{EASY}:41641"
    found = json.loads(alice.run("why", "easy", "--json"))
    assert found["theirs"]["nat"] == "unknown"
    assert found["cause"] == ""
