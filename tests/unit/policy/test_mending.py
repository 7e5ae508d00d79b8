"""Stored policies that are wrong in places: what is left out, and when nothing may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warren.policy.malformed import MalformedPolicy
from warren.policy.topology import Topology, parse_topology_untrusted
from warren.policy.verdict import World, read, read_stored

GRANT = {"src": ["ann@x.org"], "dst": ["*"], "ip": ["*"]}
UNKNOWN = {"src": ["group:gone"], "dst": ["*"], "ip": ["*"]}
SSH = {"action": "accept", "src": ["ann@x.org"], "dst": ["tag:a"], "users": ["root"]}
CHECK = SSH | {"action": "check"}
BASE: dict[str, Any] = {"tagOwners": {"tag:a": ["ann@x.org"]}, "grants": [GRANT]}


def topology() -> Topology:
    return parse_topology_untrusted({
        "users": [{"name": "ann", "email": "ann@x.org"}, {"name": "bob", "email": "bob@x.org"}],
        "nodes": {
            "pc": {"ipv4": "100.64.0.1", "user": "ann"},
            "lap": {"ipv4": "100.64.0.2", "user": "bob"},
            "srv": {"ipv4": "100.64.0.3", "tags": ["tag:a"], "routable_ips": ["10.0.0.0/8"]},
        },
    })  # fmt: skip


def told(source: str) -> tuple[dict[str, Any], int]:
    checked, problems = read_stored(source, topology())
    world = World(checked)
    return {node.name: world.node(node) for node in world.nodes}, len(problems)


@pytest.mark.parametrize(
    ("wrong", "right", "count"),
    [
        ({"tagOwners": {"tag:a": ["ann@x.org", "group:gone", "*", "bob"]}}, {}, 3),
        ({"groups": {"group:g": ["bob@x.org", "*", "tag:a"]}},
         {"groups": {"group:g": ["bob@x.org"]}}, 2),
        ({"grants": [UNKNOWN, GRANT]}, {}, 1),
        ({"grants": [UNKNOWN]}, {"grants": []}, 1),
        ({"acls": [{"action": "accept", "src": ["x"], "dst": ["*:*"]}], "grants": None},
         {"acls": [], "grants": None}, 1),
        ({"nodeAttrs": [{"target": ["tag:b"], "attr": ["funnel"]}]}, {}, 1),
        ({"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:b"]}, "exitNode": ["group:g"]}}, {}, 2),
        ({"autoApprovers": {"routes": {"ten": ["tag:a"]}}}, {}, 1),
        ({"ssh": [SSH | {"src": ["group:gone"]}]}, {}, 1),
        # The rule that is wrong might be the one that asks for a check first.
        ({"ssh": [CHECK | {"src": ["group:gone", "ann@x.org"]}, SSH]}, {}, 1),
        ({}, {}, 0),
    ],
)  # fmt: skip
def test_what_gives_something_is_left_out(
    wrong: dict[str, Any], right: dict[str, Any], count: int
) -> None:
    source = json.dumps(BASE | wrong)
    if count:
        with pytest.raises(MalformedPolicy):
            read(source, topology())
    assert told(source) == (told(json.dumps(BASE | right))[0], count)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ipsets": {"ipset:i": ["add 10.0.0.0/8", "remove nothing"]}},
        {"grants": [UNKNOWN | {"via": ["tag:a"]}, GRANT]},
        {"grants": [UNKNOWN | {"app": {"tailscale.com/cap/relay": [{}]}}, GRANT]},
        {"defaultSrcPosture": ["posture:gone"]},
        {"grants": [GRANT | {"srcPosture": ["posture:gone"]}]},
        {"hosts": {"h": "nowhere"}},
        {"grants": 7},
    ],
)
def test_what_takes_something_away_is_not(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedPolicy):
        read_stored(json.dumps(BASE | wrong), topology())


def test_names_that_were_taken_once_are_left_out() -> None:
    """Names of tags and hosts were not looked at before; a network goes on without them."""
    source = json.dumps({
        "tagOwners": {"tag:a_b": [], "tag:web": []}, "hosts": {"x@y": "10.0.0.1", "ok": "10.0.0.2"},
        "acls": [{"action": "accept", "src": ["tag:a_b"], "dst": ["*:*"]},
                 {"action": "accept", "src": ["tag:web"], "dst": ["ok:1"]}],
    })  # fmt: skip
    checked, problems = read_stored(source, Topology([], []))
    assert [grant.sources for grant in checked.grants] == [["tag:web"]]
    assert list(checked.policy.hosts) == ["ok"] and len(problems) == 3
