"""What exits are told of rules to the internet, in the form that was recorded of the service."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from test_verdict import BASE, TOPOLOGY, rules

from warren.policy.document import parse_policy_untrusted
from warren.policy.explain import difference
from warren.policy.idle import idle_parts
from warren.policy.topology import parse_topology_untrusted
from warren.policy.verdict import World, read, verdict_untrusted

INTERNET = [
    "0.0.0.0-9.255.255.255", "11.0.0.0-100.63.255.255", "100.128.0.0-169.253.255.255",
    "169.255.0.0-172.15.255.255", "172.32.0.0-192.167.255.255", "192.169.0.0-255.255.255.255",
    "2000::-3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
]  # fmt: skip
ANN = ["100.64.0.1", "fd7a:115c:a1e0::1"]


def ask(*approved: str, **sections: Any) -> dict[str, Any]:
    topology = deepcopy(TOPOLOGY)
    topology["nodes"]["router"]["approved_routes"] = list(approved)
    return verdict_untrusted({"policy": BASE | sections, "topology": topology})


def acl(*dst: str) -> dict[str, Any]:
    return {"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": list(dst)}]}


def test_an_exit_lets_through_what_may_reach_the_internet() -> None:
    answer = ask("0.0.0.0/0", "::/0", **acl("autogroup:internet:443"))
    assert rules(answer, "router") == [(ANN, [(ip, 443, 443) for ip in INTERNET])]
    assert rules(answer, "web") == []
    assert set(answer["nodes"]["router"]["peers"]) == {"ann-pc"}
    seen = answer["nodes"]["ann-pc"]["peers"]["router"]["AllowedIPs"]
    assert seen[2:] == ["0.0.0.0/0", "::/0"]
    assert not answer["nodes"]["bob-pc"]["peers"]


@pytest.mark.parametrize("approved", [[], ["10.1.0.0/16"]])
def test_who_is_no_exit_is_told_nothing(approved: list[str]) -> None:
    answer = ask(*approved, **acl("autogroup:internet:*"))
    assert all(not rules(answer, name) and not node["peers"]
               for name, node in answer["nodes"].items())  # fmt: skip


def test_beside_its_own_addresses_in_one_rule() -> None:
    answer = ask("0.0.0.0/0", "::/0", **acl("tag:router:443", "autogroup:internet:443"))
    own = ["100.64.0.4", "fd7a:115c:a1e0::4"]
    assert rules(answer, "router") == [(ANN, [(ip, 443, 443) for ip in own + INTERNET])]


@pytest.mark.parametrize(("via", "told"), [("tag:router", True), ("tag:web", False)])
def test_via_says_which_exit(via: str, told: bool) -> None:
    grant = {"src": ["ann@example.com"], "dst": ["autogroup:internet"], "ip": ["*"], "via": [via]}
    answer = ask("0.0.0.0/0", "::/0", grants=[grant])
    assert bool(rules(answer, "router")) is told
    assert ("router" in answer["nodes"]["ann-pc"]["peers"]) is told


def test_a_difference_names_the_internet() -> None:
    def world(*dst: str) -> World:
        data = deepcopy(TOPOLOGY)
        data["nodes"]["router"]["approved_routes"] = ["0.0.0.0/0", "::/0"]
        source = json.dumps(BASE | acl(*dst))
        return World(read(source, parse_topology_untrusted(data)))

    gained, lost = difference(world(), world("autogroup:internet:443"))
    assert [(one.source, one.target, one.what) for one in gained] == [
        ("ann-pc", "router", "the internet port 443")
    ]
    assert not lost
    gained, _ = difference(world("autogroup:internet:443"), world("*:443"))
    assert ("router", "the internet port 443") not in {(one.target, one.what) for one in gained}


def test_everything_is_no_network_that_a_rule_with_via_could_mean() -> None:
    grant = {"src": ["ann@example.com"], "dst": ["*"], "ip": ["*"], "via": ["tag:router"]}
    answer = ask("10.1.0.0/16", "0.0.0.0/0", "::/0", grants=[grant])
    assert all(not rules(answer, name) and not node["peers"]
               for name, node in answer["nodes"].items())  # fmt: skip
    (idle,) = idle_parts(parse_policy_untrusted(json.dumps(BASE | {"grants": [grant]})))
    assert "* means nothing with via" in idle.sentence() and idle.place


@pytest.mark.parametrize("word", ["10.1.0.0/16", "net", "10.1.2.3"])
def test_a_capability_for_what_lies_behind_a_router_is_told_to_the_router(word: str) -> None:
    grant = {"src": ["ann@example.com"], "dst": [word], "app": {"example.com/cap": [1]}}
    answer = ask("10.1.0.0/16", grants=[grant], hosts={"net": "10.0.0.0/8"})
    (rule,) = answer["nodes"]["router"]["packet_filter_rules"]
    told = {"10.1.0.0/16": "10.1.0.0/16", "net": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32"}[word]
    assert rule["CapGrant"] == [{"Dsts": [told], "CapMap": {"example.com/cap": [1]}}]
    assert "router" in answer["nodes"]["ann-pc"]["peers"]
    assert not answer["nodes"]["bob-pc"]["peers"]
