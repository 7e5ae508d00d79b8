"""Policies that are wrong, odd or huge: an error with its place, or compiled in bounded time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_verdict import BASE, TOPOLOGY, rules

from warren.policy.hujson import MAX_BYTES
from warren.policy.malformed import MalformedPolicy
from warren.policy.topology import parse_topology_untrusted
from warren.policy.verdict import World, read, verdict_untrusted


def problem(source: str) -> str:
    with pytest.raises(MalformedPolicy) as caught:
        read(source, parse_topology_untrusted(TOPOLOGY))
    return caught.value.sentence()


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            '"src": [\n    "group:al"], "dst": []',
            'line 5, column 5: src=group not found: "group:al" (did you mean "group:all"?)',
        ),
        (
            '"src": ["*"], "dst": [\n    "*:80",\n    "tag:wbe:443"]',
            'line 6, column 5: dst="tag:wbe": tag not found: "tag:wbe" (did you mean "tag:web"?)',
        ),
        (
            '"src": ["autogroup:menber"], "dst": []',
            'src="autogroup:menber" is not a known autogroup (did you mean "autogroup:member"?)',
        ),
        (
            '"src": ["farr"], "dst": []',
            'line 4, column 32: src="farr": invalid address (did you mean "far"?)',
        ),
        (
            '"src": [], "dst": [], "prot": "tcp"',
            'line 4, column 46: unknown field "prot" (did you mean "proto"?)',
        ),
        (
            '"src": ["afr"], "dst": []',
            'line 4, column 32: src="afr": invalid address (did you mean "far"?)',
        ),
        (
            '"src": ["*"], "dst": [], "proto": "tpc"',
            'line 4, column 58: proto name "tpc" not known; use protocol number 0-255'
            ' (did you mean "tcp"?)',
        ),
        ('"src": ["*"], "dst": [80]', "line 4, column 46: acls.dst: expected a string"),
    ],
)
def test_the_place_and_the_nearest_right_spelling(rule: str, sentence: str) -> None:
    source = (
        '{"groups": {"group:all": []}, "hosts": {"far": "192.0.2.7"},\n'
        ' "tagOwners": {"tag:web": []},\n "acls": [\n'
        '  {"action": "accept", ' + rule + "}]}"
    )
    assert sentence in problem(source)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (
            '{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["tcp:80",\n"tpc:80"]}]}',
            'line 2, column 1: proto name "tpc" not known; use protocol number 0-255'
            ' (did you mean "tcp"?)',
        ),
        (
            '{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["tcp:80",\n"tcp:x"]}]}',
            'line 2, column 1: port range "x": invalid first integer;'
            " ports are *, 443, 80-90 or a list of them",
        ),
        (
            '{"tagOwners": {"tag:exit": []}, "grants": [{"src": ["*"], "dst": ["10.0.0.0/8"],'
            ' "ip": ["*"], "via": [\n"tag:exti"]}]}',
            'line 2, column 1: tag "tag:exti" not found (did you mean "tag:exit"?)',
        ),
        (
            '{"ssh": [{"action":\n"chek", "src": ["*"], "dst": ["*"], "users": []}]}',
            'line 2, column 1: "chek" is not a valid action (did you mean "check"?)',
        ),
    ],
)
def test_of_grants_and_ssh_too(policy: str, sentence: str) -> None:
    assert problem(policy) == sentence


def test_groups_in_circles_have_a_place() -> None:
    source = '{"groups": {\n "group:a": ["group:b"],\n "group:b": ["group:a"]}}'
    assert problem(source).startswith('line 3, column 13: groups["group:b"]: "group:a": group')


def test_a_file_of_a_hundred_thousand_lines() -> None:
    lines = ["{", *['// "acls"'] * 99_990, ' "acls": [', "  {},", " ]", "}"]
    assert problem("\n".join(lines)).startswith("line 99993, column 3: action=")


def test_a_megabyte_of_rules_is_compiled_and_more_is_refused() -> None:
    rule = {"action": "accept", "src": ["group:all", "tag:web"], "dst": ["tag:web:80", "net:443"]}
    many = MAX_BYTES // (len(json.dumps(rule)) + 2) - 10
    source = json.dumps(BASE | {"acls": [rule] * many})
    world = World(read(source, parse_topology_untrusted(TOPOLOGY)))
    (web,) = (node for node in world.nodes if node.name == "web")
    (only,) = world.compiler.filters(web)
    assert len(only.dst_ports) == 2 * many
    source = json.dumps({"acls": [rule] * (many * 2)})
    assert "larger than 1048576 bytes" in problem(source)


def test_ten_thousand_hosts_at_both_ends() -> None:
    hosts = {f"h{n}": f"10.{n >> 8}.{n & 255}.1" for n in range(10_000)}
    names = list(hosts)
    grants = [{"src": names[:5000], "dst": names[5000:], "ip": ["*"]}]
    source = json.dumps(BASE | {"hosts": hosts, "grants": grants})
    world = World(read(source, parse_topology_untrusted(TOPOLOGY)))
    assert all(not world.compiler.filters(node) for node in world.nodes)


@pytest.mark.parametrize("name", ["group:грузия", "group:ü b", "group:\u202e", "group:🦊"])
def test_names_of_any_script(name: str) -> None:
    users = [{"name": "jürgen", "email": "jürgen@bücher.example"}]
    nodes = {"ж": {"ipv4": "100.64.0.1", "user": "jürgen"}, "web": TOPOLOGY["nodes"]["web"]}
    policy = {
        "groups": {name: ["JÜRGEN@BÜCHER.example"]},
        "tagOwners": {"tag:web": []},
        "acls": [{"action": "accept", "src": [name], "dst": ["tag:web:80"]}],
    }
    answer = verdict_untrusted({"policy": policy, "topology": {"users": users, "nodes": nodes}})
    assert rules(answer, "web")[0][0] == ["100.64.0.1"]
    assert set(answer["nodes"]["ж"]["peers"]) == {"web"}


def test_routes_that_overlap() -> None:
    nodes = {
        name: {"ipv4": f"100.64.0.{n}", "tags": ["tag:router"], "id": n,
               "routable_ips": [route], "approved_routes": [route]}
        for n, (name, route) in enumerate(
            (("wide", "10.0.0.0/8"), ("narrow", "10.1.0.0/16"), ("same", "10.1.0.0/16")), 10)
    }  # fmt: skip
    policy = BASE | {"acls": [{"action": "accept", "src": ["tag:web"], "dst": ["10.1.2.3:443"]}]}
    topology = {"users": [], "nodes": {**nodes, "web": TOPOLOGY["nodes"]["web"]}}
    answer = verdict_untrusted({"policy": policy, "topology": topology})
    peers = answer["nodes"]["web"]["peers"]
    assert {name: peer.get("PrimaryRoutes") for name, peer in peers.items()} == {
        "wide": ["10.0.0.0/8"], "narrow": ["10.1.0.0/16"], "same": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "sections",
    [
        {"hosts": {"x": "10.0.0.0/33"}},
        {"hosts": {"x": "999.1.1.1"}},
        {"groups": {"team": []}},
        {"tagOwners": {"tag:1": []}},
        {"autoApprovers": {"routes": ["10.0.0.0/8"]}},
        {"postures": {"posture:x": []}},
        {"postures": {"x": ["node:os == 'linux'"]}},
        {"defaultSrcPosture": ["posture:none"]},
        {"nodeAttrs": [{"target": ["tag:none"], "attr": ["x"]}]},
        {"ssh": [{"action": "accept", "src": ["group:none"], "dst": ["tag:web"], "users": ["a"]}]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_what_is_wrong_has_a_place(sections: dict[str, Any]) -> None:
    assert problem(json.dumps(BASE | sections, indent=1)).startswith("line ")
