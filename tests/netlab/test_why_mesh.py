"""`warren why PEER` behind real NATs: the right cause, in words and in JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import ProgramFailed
from warren.lab.world import World

pytestmark = pytest.mark.netlab

PLAN = Plan(
    routers=(
        Router("home-a", kind="symmetric", address="203.0.113.10"),
        Router("home-b", kind="symmetric", address="203.0.113.20"),
    ),
    hosts=(
        Host("server", address="198.51.100.10", extra=("198.51.100.11",)),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
        Host("carol", address="203.0.113.30"),
    ),
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, Node]]:
    with World(PLAN) as world:
        server = Server(world["server"], world.scratch / "server", stun_others=["198.51.100.11"])
        server.start()
        server.create_user("tester")
        key = server.create_key("tester", "--reusable")
        made = {}
        for name in ("alice", "bob", "carol"):
            node = Node(world[name], name, world.scratch / name, tun=False)
            node.start()
            made[name] = node
        for node in made.values():
            node.wait_daemon()
            node.up(server.url, key)
        yield made


def why(node: Node, peer: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.run("why", peer, "--json"))
    return found


def test_nobody_has_asked_yet(nodes: dict[str, Node]) -> None:
    found = why(nodes["carol"], "bob")
    assert found["cause"] in ("idle", "hard")
    assert found["path"]["kind"] == "relay"


def test_both_sides_are_symmetric(nodes: dict[str, Node]) -> None:
    """The relay is used, a mapping would help, and the text says both."""
    alice = nodes["alice"]
    assert alice.ping("bob").via == "relay"

    def explained() -> dict[str, Any] | None:
        with contextlib.suppress(ProgramFailed):
            alice.ping("bob")
        found = why(alice, "bob")
        return found if found["cause"] == "hard-hard" else None

    found = alice.part.wait(explained, 30, "alice knows that both sides are symmetric")
    assert found["own"]["nat"] == found["theirs"]["nat"] == "hard"
    assert found["own"]["udp"] is True
    tried = {c["address"]: c for c in found["candidates"]}
    assert any(address.startswith("203.0.113.20:") for address in tried)
    assert all(c["result"] in ("silent", "asked", "untried") for c in tried.values())
    text = alice.run("why", "bob")
    assert "a direct path is not possible without a mapping; the relay in region" in text
    assert "Traceback" not in text
    assert "UPnP" in text


def test_a_direct_path_says_how_it_became_known(nodes: dict[str, Node]) -> None:
    alice = nodes["alice"]
    pong = alice.ping_until_direct("carol", 20)
    found = why(alice, "carol")
    assert found["cause"] == ""
    assert found["path"]["kind"] == "direct"
    used = found["candidates"][0]
    assert (used["address"], used["result"]) == (pong.path, "used")
    assert used["latency_ms"] is not None
    assert used["last_pong_ago_s"] < 7
    assert "is direct" in alice.run("why", "carol")


def test_udp_is_blocked_here(nodes: dict[str, Node]) -> None:
    """Said by the one side at once, and by the other once the coordinator has told it."""
    alice, bob = nodes["alice"], nodes["bob"]
    bob.part.nft(
        "table inet noudp { chain out { type filter hook output priority 0; "
        "meta l4proto udp drop; }; }"
    )
    with contextlib.suppress(ProgramFailed):
        bob.run("netcheck", timeout_s=40)

    def cause(node: Node, peer: str, wanted: str) -> bool:
        with contextlib.suppress(ProgramFailed):
            node.ping(peer, 2)
        return bool(why(node, peer)["cause"] == wanted)

    bob.part.wait(lambda: cause(bob, "carol", "no-udp"), 40, "bob says that UDP is blocked")
    assert "UDP is blocked here" in bob.run("why", "carol")
    alice.part.wait(lambda: cause(alice, "bob", "peer-no-udp"), 40, "alice says so of bob")


def test_what_cannot_be_explained_is_one_sentence(nodes: dict[str, Node]) -> None:
    for name, words in (("nobody", "no machine"), ("alice", "this machine itself")):
        with pytest.raises(ProgramFailed, match=words) as raised:
            nodes["alice"].run("why", name)
        assert "Traceback" not in str(raised.value)
