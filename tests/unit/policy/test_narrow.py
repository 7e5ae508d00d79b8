"""Which edits of a policy can change nothing but packet filters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warren.policy.narrow import only_ports_differ
from warren.policy.topology import Topology, User
from warren.policy.verdict import Checked, read

RULE: dict[str, Any] = {"src": ["ann@x.y"], "dst": ["tag:a", "tag:b"], "ip": ["tcp:80"]}
BASE: dict[str, Any] = {"tagOwners": {"tag:a": [], "tag:b": []}, "grants": [RULE]}
ATTRIBUTE = {"target": ["tag:a"], "attr": ["funnel"]}
SSH = {"action": "accept", "src": ["ann@x.y"], "dst": ["tag:a"], "users": ["root"]}


def checked(**sections: Any) -> Checked:
    ann = User("ann@x.y", "ann@x.y", "owner", frozenset())
    return read(json.dumps(BASE | sections), Topology([ann], [], any_domain=True))


def rule(**members: Any) -> dict[str, Any]:
    return {"grants": [RULE | members]}


@pytest.mark.parametrize(
    "after",
    [
        {},
        rule(ip=["tcp:443"]),
        rule(ip=["udp:1-9", "tcp:443", "icmp:*"]),
        {"tests": [{"src": "ann@x.y", "accept": []}]},
    ],
    ids=str,
)
def test_ports_alone(after: dict[str, Any]) -> None:
    assert only_ports_differ(checked(), checked(**after))


@pytest.mark.parametrize(
    "after",
    [
        {"grants": []},
        {"grants": [RULE, RULE]},
        rule(src=["*"]),
        rule(dst=["tag:b"]),
        rule(dst=["tag:b", "tag:a"]),
        rule(app={"x.y/cap": [{}]}),
        rule(ip=[], app={"x.y/cap": [{}]}),
        rule(srcPosture=["posture:p"]) | {"postures": {"posture:p": ["node:os == 'linux'"]}},
        {"groups": {"group:g": ["ann@x.y"]}},
        {"hosts": {"h": "10.0.0.1"}},
        {"nodeAttrs": [ATTRIBUTE]},
        {"ssh": [SSH]},
        {"autoApprovers": {"exitNode": ["tag:a"]}},
        {"tagOwners": {"tag:a": ["ann@x.y"], "tag:b": []}},
        {"randomizeClientPort": True},
        {"disableIPv4": True},
        {"derpMap": {"OmitDefaultRegions": True}},
    ],
    ids=str,
)
def test_more_than_ports(after: dict[str, Any]) -> None:
    assert not only_ports_differ(checked(), checked(**after))
    assert not only_ports_differ(checked(**after), checked())


def test_an_entry_that_only_moved_is_the_same() -> None:
    one = checked(nodeAttrs=[ATTRIBUTE])
    text = "\n\n" + json.dumps(BASE | {"nodeAttrs": [ATTRIBUTE]}, indent=1)
    assert only_ports_differ(one, read(text, one.targets.topology))
