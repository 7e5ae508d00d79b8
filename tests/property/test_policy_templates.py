"""A filter that is made for many nodes together is the one that each would get alone."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from warren.netmap.filterrule import FilterRule
from warren.policy.compile import Compiler
from warren.policy.topology import Node, parse_topology_untrusted
from warren.policy.verdict import World, read

USERS = [{"name": name, "email": f"{name}@x.org"} for name in ("ann", "bob", "cid")]
HOLDERS: list[dict[str, Any]] = [
    {"user": "ann"},
    {"user": "bob"},
    {"tags": ["tag:a"]},
    {"tags": ["tag:b"]},
    {"tags": ["tag:a", "tag:b"]},
    {},
]
ROUTES: list[list[str]] = [[], [], [], ["10.1.0.0/16"], ["100.64.0.0/29"], ["0.0.0.0/0", "::/0"]]
PEOPLE = ["ann@x.org", "bob@x.org", "group:g", "autogroup:member"]
TAGS = ["tag:a", "tag:b", "autogroup:tagged"]
SOURCES = ["*", *PEOPLE, *TAGS, "100.64.0.3", "10.1.0.0/16", "fast"]
TARGETS = [*SOURCES, "100.64.0.0/10", "ipset:s"]
IP = ["*", "22", "80-90", "tcp:443", "udp:53", "icmp:*"]
BASE = {
    "groups": {"group:g": ["ann@x.org", "cid@x.org"]},
    "tagOwners": {"tag:a": [], "tag:b": []},
    "hosts": {"fast": "100.64.0.2"},
    "ipsets": {"ipset:s": ["100.64.0.0/30", "remove 100.64.0.1"]},
    "postures": {"posture:linux": ["node:os == 'linux'"]},
}


def some(words: list[str], most: int = 3) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(words), min_size=1, max_size=most, unique=True)


plain = st.fixed_dictionaries(
    {"src": some(SOURCES), "dst": some(TARGETS), "ip": some(IP)},
    optional={
        "app": st.sampled_from([{"x.org/cap": []}, {"tailscale.com/cap/relay": []}]),
        "via": st.just(["tag:a"]),
        "srcPosture": st.just(["posture:linux"]),
    },
)
named = st.fixed_dictionaries(
    {"src": some(SOURCES), "dst": some([*PEOPLE, *TAGS, "autogroup:internet"]), "ip": some(IP)}
)
own = st.fixed_dictionaries(
    {"src": some(PEOPLE), "dst": st.just(["autogroup:self"]), "ip": some(IP)},
    optional={"app": st.just({"tailscale.com/cap/drive": []})},
)
nodes = st.lists(
    st.tuples(st.sampled_from(HOLDERS), st.sampled_from(ROUTES), st.booleans(), st.booleans()),
    min_size=1,
    max_size=9,
)


def world(
    rules: list[dict[str, Any]], machines: list[tuple[dict[str, Any], list[str], bool, bool]]
) -> World:
    entries = {
        f"n{number}": {
            "id": number,
            "ipv4": f"100.64.0.{number}",
            **({"ipv6": f"fd7a:115c:a1e0::{number}"} if both else {}),
            **holder,
            "routable_ips": routes,
            "approved_routes": routes,
            "attributes": {"node:os": "linux" if linux else "windows"},
        }
        for number, (holder, routes, both, linux) in enumerate(machines, 1)
    }
    topology = parse_topology_untrusted({"users": USERS, "nodes": entries})
    return World(read(json.dumps({**BASE, "grants": rules}), topology))


def check(made: World) -> Compiler:
    for node in made.nodes:
        assert made.compiler.filters(node) == made.compiler.compiled(node)
    return made.compiler


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(plain, named, named, own), min_size=1, max_size=5), nodes)
def test_together_is_as_alone(rules: list[dict[str, Any]], machines: list[Any]) -> None:
    check(world(rules, machines))


def test_nodes_that_are_meant_alike_are_compiled_once() -> None:
    machines = [({"tags": [tag]}, [], True, True) for tag in ("tag:a", "tag:a", "tag:b", "tag:a")]
    made = world([{"src": ["tag:b"], "dst": ["tag:a"], "ip": ["tcp:443", "22"]}], machines)
    alone: list[Node] = []
    compiled = made.compiler.compiled

    def counted(node: Node) -> list[FilterRule]:
        alone.append(node)
        return compiled(node)

    made.compiler.compiled = counted  # type: ignore[method-assign]
    told = [made.compiler.filters(node) for node in made.nodes if "tag:a" in node.tags]
    assert len(alone) == 1
    for number, rules in zip((1, 2, 4), told, strict=True):
        own = [f"100.64.0.{number}", f"fd7a:115c:a1e0::{number}"]
        assert [[end.ip for end in rule.dst_ports] for rule in rules] == [own, own]


def test_what_all_are_told_is_one_list() -> None:
    machines = [({"tags": ["tag:a"]}, [], True, True), ({"user": "bob"}, [], True, True)]
    made = world([{"src": ["*"], "dst": ["*"], "ip": ["*"]}], machines)
    one, other = (made.compiler.filters(node) for node in made.nodes)
    assert one is other
