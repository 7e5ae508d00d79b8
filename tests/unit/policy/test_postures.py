"""Postures: what a rule asks of the machine that a connection comes from."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_verdict import BASE, TOPOLOGY, rules

from warren.policy.postures import parse_condition
from warren.policy.verdict import verdict_untrusted

FACTS = {
    "node:os": "macos",
    "node:osVersion": "13.4.0",
    "node:tsVersion": "1.60.2",
    "custom:score": 87,
    "custom:managed": True,
    "custom:tier": "gold",
}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("node:os == 'macos'", True),
        ('node:os == "linux"', False),
        ("node:os != 'linux'", True),
        ("node:os IN ['linux', 'macos']", True),
        ("node:os in ['linux']", False),
        ("node:os NOT IN ['linux', 'windows']", True),
        ("node:osVersion >= '13.4'", True),
        ("node:osVersion > '13.10'", False),
        ("node:tsVersion >= '1.9'", True),
        ("node:tsVersion < '1.60.10'", True),
        ("node:tsVersion <= '1.60'", False),
        ("custom:score >= 80", True),
        ("custom:score < 80.5", False),
        ("custom:score == '87'", False),
        ("custom:managed == true", True),
        ("custom:managed == 1", False),
        ("custom:tier IS SET", True),
        ("custom:tier NOT SET", False),
        ("ip:country NOT SET", True),
        ("ip:country != 'US'", False),
        ("ip:country NOT IN ['US']", False),
    ],
)
def test_conditions(condition: str, holds: bool) -> None:
    assert parse_condition(condition).holds(FACTS) is holds


def test_ssh_tests_say_what_the_machine_is_like() -> None:
    rule = {"action": "accept", "src": ["ann@example.com"], "dst": ["tag:web"], "users": ["root"],
            "srcPosture": ["posture:mac"]}  # fmt: skip
    test = {"src": "ann@example.com", "dst": ["tag:web"]}
    mac = {"srcPostureAttrs": {"node:os": "macos"}}
    for tests, code in (
        ([test | mac | {"accept": ["root"]}, test | {"deny": ["root"]}], 200),
        ([test | mac | {"deny": ["root"]}], 400),
        ([test | {"accept": ["root"]}], 400),
        ([test | {"srcPostureAttrs": {"node:os": "linux"}, "accept": ["root"]}], 400),
    ):
        policy = BASE | {
            "postures": {"posture:mac": ["node:os == 'macos'"]}, "ssh": [rule], "sshTests": tests,
        }  # fmt: skip
        assert verdict_untrusted({"policy": policy, "topology": TOPOLOGY})["http_code"] == code


@pytest.mark.parametrize(
    "text",
    ["", "os == 'x'", "node:os", "node:os = 'x'", "node:os == ", "node:os == 'a', 'b'",
     "node:os IN 'a'", "node:os IN ['a' 'b']", "node:os IN [", "custom:x IS SET now",
     "node:oss == 'linux'", "custom:x == nobody", "node:os == 'x"],
)  # fmt: skip
def test_conditions_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="posture"):
        parse_condition(text)


def world(facts: dict[str, Any], **sections: Any) -> dict[str, Any]:
    topology = copy.deepcopy(TOPOLOGY)
    topology["nodes"]["ann-pc"]["attributes"] = facts
    postures = {"posture:mac": ["node:os == 'macos'", "node:tsVersion >= '1.40'"],
                "posture:managed": ["custom:managed == true"]}  # fmt: skip
    policy = BASE | {"postures": postures} | sections
    return verdict_untrusted({"policy": policy, "topology": topology})


RULE = {"action": "accept", "src": ["*"], "dst": ["tag:web:80"]}
ANN = ["100.64.0.1", "fd7a:115c:a1e0::1"]


@pytest.mark.parametrize(
    ("facts", "sources"),
    [
        ({"node:os": "macos", "node:tsVersion": "1.50"}, ANN),
        ({"node:os": "macos", "node:tsVersion": "1.39.9"}, None),
        ({"custom:managed": True}, ANN),
        ({}, None),
    ],
)
def test_only_machines_of_one_of_the_postures_get_the_rule(
    facts: dict[str, Any], sources: list[str] | None
) -> None:
    posture = ["posture:mac", "posture:managed"]
    for answer in (
        world(facts, acls=[RULE | {"srcPosture": posture}]),
        world(facts, acls=[RULE], defaultSrcPosture=posture),
    ):
        told = rules(answer, "web")
        assert [found for found, _ in told] == ([sources] if sources else [])
        assert ("web" in answer["nodes"]["ann-pc"]["peers"]) is bool(sources)
        assert "web" not in answer["nodes"]["bob-pc"]["peers"]


def test_log_ins_and_own_devices_ask_too() -> None:
    facts = {"custom:managed": True}
    ssh = {"action": "accept", "src": ["group:all"], "dst": ["tag:web"], "users": ["root"],
           "srcPosture": ["posture:managed"]}  # fmt: skip
    own = {"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"],
           "srcPosture": ["posture:managed"]}  # fmt: skip
    answer = world(facts, ssh=[ssh], grants=[own])
    (rule,) = answer["nodes"]["web"]["ssh_policy"]["rules"]
    assert [p["nodeIP"] for p in rule["principals"]] == ANN
    assert rules(answer, "ann-pc")[0][0] == ANN
    assert rules(answer, "bob-pc") == []


def test_tests_say_which_attributes_their_source_has() -> None:
    test = {"src": "ann@example.com", "srcPostureAttrs": {"custom:managed": True}}
    rule = RULE | {"srcPosture": ["posture:managed"]}
    passing = [test | {"accept": ["tag:web:80"]}, {"src": test["src"], "deny": ["tag:web:80"]}]
    assert world({}, acls=[rule], tests=passing)["http_code"] == 200
    failing = [test | {"deny": ["tag:web:80"]}]
    assert world({}, acls=[rule], tests=failing)["http_message"] == "test(s) failed"


def test_a_posture_that_is_not_there() -> None:
    answer = world({}, acls=[RULE | {"srcPosture": ["posture:mack"]}])
    assert answer["http_message"] == 'posture not found: "posture:mack"'
