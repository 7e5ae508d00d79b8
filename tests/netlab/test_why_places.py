"""`warren why` from both ends of pairs of places, as a person reads it: cause, reason, advice, and
why each address failed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from warren.lab import places
from warren.lab.joining import NAMES, join, start_proxy, start_server
from warren.lab.mesh import Node
from warren.lab.program import ProgramFailed
from warren.lab.world import World

pytestmark = pytest.mark.netlab

# Two places → for each end: cause, words of a reason, words of advice.
PAIRS: dict[tuple[str, str], tuple[tuple[str, str, str], tuple[str, str, str]]] = {
    ("symmetric", "symmetric"): (("hard-hard", "Both sides are symmetric", "one side is enough"),)
    * 2,
    ("symmetric", "carrier-block"): (
        ("hard-hard", "Both sides are symmetric", "Turn on UPnP"),
        ("hard-hard", "not possible without a mapping", "IPv6 on both sides"),
    ),
    ("symmetric-ipv6", "symmetric"): (
        ("hard-hard", "Both sides are symmetric", "This machine has IPv6; with IPv6 at"),
        ("hard-hard", "Both sides are symmetric", "has IPv6; with IPv6 here"),
    ),
    ("udp-blocked", "public"): (
        ("no-udp", "UDP is blocked here", "Let UDP out in this network's firewall"),
        ("peer-no-udp", "UDP is blocked at a-udp-blocked", "firewall of the network of a-udp"),
    ),
    ("http-proxy", "udp-blocked"): (
        ("no-udp", "and at b-udp-blocked too", "of the network of b-udp-blocked"),
        ("no-udp", "and at a-http-proxy too", "in this network's firewall"),
    ),
    ("ipv6-only", "public"): (
        ("no-common-family", "has only IPv6, and b-public has only IPv4", "Give this machine IPv4"),
        ("no-common-family", "has only IPv4, and a-ipv6-only has only IPv6", "Give this machine"),
    ),
    ("ipv6-only", "http-proxy"): (
        ("peer-no-udp", "Besides, this machine has only IPv6", "or b-http-proxy IPv6"),
        ("no-udp", "Besides, this machine has only IPv4", "or a-ipv6-only IPv4"),
    ),
    ("cgnat", "cgnat"): (("same-nat", "(no hairpin)", "NAT loopback"),) * 2,
}
ENDS = [(f"a-{a}", f"b-{b}", *ends[0]) for (a, b), ends in PAIRS.items()] + [
    (f"b-{b}", f"a-{a}", *ends[1]) for (a, b), ends in PAIRS.items()
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, Node]]:
    machines = sorted({("a", a) for a, _ in PAIRS} | {("b", b) for _, b in PAIRS})
    chosen = [(side, places.find(name)) for side, name in machines]
    with World(places.plan(chosen), NAMES) as world:
        hub = start_server(world)
        made: dict[str, Node] = {}
        for side, place in chosen:
            name = places.machine(side, place)
            env = start_proxy(world, places.gateway(side, place)) if place.proxy else {}
            env = hub.trust | env
            port = 41641 + places.SIDES.index(side)
            made[name] = Node(
                world[name], name, world.scratch / name, tun=False, port=port, env=env
            )
        waiting = list(made.values())
        for at in range(0, len(waiting), 6):
            assert join(waiting[at : at + 6], hub.server, hub.key) == {}
        yield made
        for program in world.programs:
            assert "Traceback" not in program.output(), program.tail(60)


def why(node: Node, peer: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.run("why", peer, "--json"))
    return found


@pytest.mark.parametrize(("near", "far", "cause", "reason", "advice"), ENDS)
def test_an_end(
    nodes: dict[str, Node], near: str, far: str, cause: str, reason: str, advice: str
) -> None:
    node = nodes[near]

    def explained() -> dict[str, Any] | None:
        with contextlib.suppress(ProgramFailed):
            node.ping(far, 2)
        found = why(node, far)
        told = reason in " ".join(found["reasons"]) and advice in " ".join(found["advice"])
        return found if found["cause"] == cause and told else None

    try:
        found = node.part.wait(explained, 30, f"{near} says {cause} of {far}")
    except BaseException as error:
        raise AssertionError(node.run("why", far)) from error
    assert found["path"]["kind"] == "relay"
    tried = [each for each in found["candidates"] if each["result"] == "silent"]
    assert all(each["why"] for each in found["candidates"])
    whys = {each["why"] for each in tried}
    if cause == "no-udp":
        assert whys <= {"UDP is blocked here"}
    if cause == "peer-no-udp":
        assert whys <= {"UDP is blocked at the peer", "this machine has no IPv4"}
    if cause == "same-nat":
        assert any("our own outside address too" in text for text in whys), whys
    if cause == "hard-hard":
        assert any("open for somebody else" in text for text in whys), whys
        assert any("in case that its router forwards it" in text for text in whys), whys
    # A person reads the same.
    text = node.run("why", far)
    for each in (*found["reasons"], *found["advice"]):
        assert each in text
    assert "What you could change:" in text and "None" not in text


def test_a_direct_path_beside_those_that_failed(nodes: dict[str, Node]) -> None:
    """Also of a path that works: what became of the other addresses."""
    node = nodes["a-symmetric"]
    node.ping_until_direct("b-public", 20)
    found = why(node, "b-public")
    assert (found["cause"], found["reasons"], found["advice"]) == ("", [], [])
    assert found["candidates"][0]["result"] == "used"
    assert all(each["why"] for each in found["candidates"][1:])
    assert "The path to b-public is direct" in node.run("why", "b-public")
