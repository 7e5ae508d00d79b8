"""The policy in force follows changes: what it answers is what a new compilation would answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from warren.coordinator import enforcement
from warren.coordinator.addresses import v6_beside
from warren.coordinator.change import Change, Facet, Spread
from warren.coordinator.delta import Delta
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.mapper import Mapper
from warren.coordinator.policies import check_and_compile, put_policy
from warren.coordinator.records import NodeRecord, PolicyRecord, UserRecord
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.keys import MachinePublic, NodePublic
from warren.netmap.derpmap import DERPMap
from warren.netmap.node import Hostinfo

WALL = datetime(2026, 3, 1, tzinfo=UTC)
USERS = {
    n: UserRecord(id=n, name=f"u{n}@x.org", display_name="", created=WALL, role=role)
    for n, role in ((1, "owner"), (2, "member"))
}
TAGGED = {"tagOwners": {"tag:a": [], "tag:b": [], "tag:r": []}}
POLICIES: list[dict[str, Any]] = [
    {},
    {"acls": []},
    TAGGED | {
        "acls": [
            {"action": "accept", "src": ["tag:a"], "dst": ["tag:b:80", "10.0.0.0/8:*"]},
            {"action": "accept", "src": ["u1@x.org"], "dst": ["tag:a:22"]},
            {"action": "accept", "src": ["tag:a"], "dst": ["100.64.0.3:443"]},
            {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
        ],
        "ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:a"],
                 "users": ["root"]}],
        "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:r"]}, "exitNode": ["tag:r"]},
    },
    TAGGED | {
        "postures": {"posture:linux": ["node:os == 'linux'"]},
        "grants": [
            {"src": ["*"], "dst": ["tag:b"], "ip": ["*"], "srcPosture": ["posture:linux"]},
            {"src": ["u1@x.org"], "dst": ["autogroup:self"], "ip": ["22"],
             "srcPosture": ["posture:linux"]},
            {"src": ["tag:a"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:r"]},
            {"src": ["u2@x.org"], "dst": ["autogroup:internet"], "ip": ["*"]},
            {"src": ["tag:b"], "dst": ["tag:a"], "app": {"tailscale.com/cap/relay": []}},
        ],
        "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:r"]}, "exitNode": ["tag:r"]},
    },
]  # fmt: skip


def with_other_ports(policy: dict[str, Any]) -> dict[str, Any]:
    """Return a policy of which every rule names other ports, and is else the same."""
    changed = dict(policy)
    for section in policy.keys() & {"acls", "grants"}:
        changed[section] = [dict(rule) for rule in policy[section]]
    for rule in changed.get("acls", ()):
        rule["dst"] = [f"{word.rpartition(':')[0]}:7-9" for word in rule["dst"]]
    for rule in changed.get("grants", ()):
        if "ip" in rule:
            rule["ip"] = ["udp:7-9", "icmp:*"]
    return changed


def node(number: int) -> NodeRecord:
    ipv4 = IPv4Address("100.64.0.0") + number
    return NodeRecord(
        id=number, stable_id=f"n{number}", user_id=1 + number % 2, ipv4=ipv4,
        machine_key=MachinePublic(bytes([number]) * 32), node_key=NodePublic(bytes([number]) * 32),
        ipv6=v6_beside(ipv4), name=f"host-{number}", created=WALL,
    )  # fmt: skip


fields: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"online": st.booleans()}),
    st.fixed_dictionaries({"authorized": st.booleans()}),
    st.fixed_dictionaries({"user_id": st.sampled_from([1, 2])}),
    st.fixed_dictionaries(
        {"tags": st.sampled_from([(), ("tag:a",), ("tag:b",), ("tag:r",), ("tag:a", "tag:r")])}
    ),
    st.fixed_dictionaries({"approved_routes": st.sampled_from([(), ("10.1.0.0/16",)])}),
    st.fixed_dictionaries(
        {
            "hostinfo": st.builds(
                Hostinfo,
                os=st.sampled_from(["linux", "windows"]),
                routable_ips=st.sampled_from(
                    [[], ["10.1.0.0/16"], ["10.1.0.0/16", "0.0.0.0/0", "::/0"]]
                ),
            )
        }
    ),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(1, 5), fields),
        st.tuples(st.just("set"), st.integers(1, 5), fields),
        st.tuples(st.just("remove"), st.integers(1, 5), st.just({})),
        st.tuples(st.just("policy"), st.integers(0, len(POLICIES) - 1), st.just({})),
    ),
    max_size=12,
)


def apply(snapshot: Snapshot, verb: str, number: int, changes: dict[str, Any]) -> Delta:
    if verb == "remove":
        return Delta(removed_nodes=(number,), change=Change.of(number, Facet.MEMBERSHIP, "gone"))
    if verb == "policy":
        version = len(snapshot.policies) + 1
        record = PolicyRecord(
            id=version, text=json.dumps(POLICIES[number]), author="", created=WALL
        )
        return Delta(policies=(record,), change=Change(everything=True))
    known = snapshot.nodes.get(number) or node(number)
    return Delta(nodes=(replace(known, **changes),), change=Change.of(number, Facet.HOST, "set"))


def answers(policy: Enforcement, snapshot: Snapshot) -> dict[Any, Any]:
    nodes = snapshot.nodes.values()
    told: dict[Any, Any] = {}
    for one in nodes:
        told[one.id] = (
            policy.filters(one), policy.ssh(one), policy.capabilities(one), policy.own_routes(one)
        )  # fmt: skip
        shown = policy.peers(one)
        for other in nodes:
            seen = one.id != other.id and policy.visible(one, other)
            told[one.id, other.id] = (seen, policy.routes(one, other))
            if seen and other.authorized:
                assert shown is None or other.id in shown
    return told


def check_sharing(policy: Enforcement, snapshot: Snapshot) -> None:
    """What is made once for viewers of equal outlook is what each would see alone."""
    together = Mapper(Settings(url="http://x"), DERPMap(regions={}))
    for one in snapshot.nodes.values():
        alone = Mapper(Settings(url="http://x"), DERPMap(regions={}))
        made = together.view(one, snapshot, policy, WALL)
        assert made == alone.view(one, snapshot, policy, WALL)


# A machine becomes an exit, and is one no more.
EXIT: list[Any] = [
    ("set", 1, {"tags": ("tag:r",)}),
    ("set", 1, {"hostinfo": Hostinfo(os="linux", routable_ips=["0.0.0.0/0", "::/0"])}),
    ("set", 1, {"hostinfo": Hostinfo(os="linux")}),
]


@given(st.integers(0, len(POLICIES) - 1), steps)
@example(3, EXIT)
@settings(max_examples=150, deadline=None)
def test_following_is_compiling_anew(first: int, script: list[Any]) -> None:
    snapshot = Snapshot(users=USERS, nodes={n: node(n) for n in (1, 2, 3)})
    snapshot = snapshot.after(apply(snapshot, "policy", first, {}))
    policy = Enforcement(snapshot, WALL)
    before = answers(policy, snapshot)
    for verb, number, changes in script:
        delta = apply(snapshot, verb, number, changes)
        snapshot = snapshot.after(delta)
        spread = policy.follow(snapshot, delta.change, WALL)
        after = answers(policy, snapshot)
        assert after == answers(Enforcement(snapshot, WALL), snapshot)
        check_sharing(policy, snapshot)
        if not spread.change.everything:
            check_spread(spread, snapshot, before, after)
        before = after


@given(st.integers(0, len(POLICIES) - 1), st.integers(1, len(POLICIES) - 1), st.booleans(), steps)
@example(2, 2, True, [])
@example(3, 3, True, [("set", 2, {"tags": ("tag:r",)})])
@settings(max_examples=150, deadline=None)
def test_what_was_compiled_before_is_brought_up(
    first: int, second: int, other_ports: bool, script: list[Any]
) -> None:
    """A policy is compiled beside the loop, and the network changes meanwhile."""
    snapshot = Snapshot(users=USERS, nodes={n: node(n) for n in (1, 2, 3)})
    snapshot = snapshot.after(apply(snapshot, "policy", first, {}))
    policy = Enforcement(snapshot, WALL)
    wanted = with_other_ports(POLICIES[second]) if other_ports else POLICIES[second]
    compiled = check_and_compile(snapshot, json.dumps(wanted), WALL)
    for verb, number, changes in script:
        delta = apply(snapshot, verb, number, changes)
        snapshot = snapshot.after(delta)
        policy.follow(snapshot, delta.change, WALL)
    before = answers(policy, snapshot)
    put = put_policy(snapshot, compiled.text, "", WALL, compiled=compiled)
    snapshot = snapshot.after(put)
    spread = policy.follow(snapshot, put.change, WALL)
    after = answers(policy, snapshot)
    assert after == answers(Enforcement(snapshot, WALL), snapshot)
    if not spread.change.everything:
        assert spread.others is None
        for key, told in after.items():
            filters = isinstance(key, int)
            assert told[filters:] == before[key][filters:], "who is not renewed sees the same"
    check_sharing(policy, snapshot)


def test_ports_alone_renew_nobody() -> None:
    snapshot = Snapshot(users=USERS, nodes={n: node(n) for n in (1, 2, 3)})
    for number in (2, 3):
        snapshot = snapshot.after(apply(snapshot, "policy", number, {}))
        policy = Enforcement(snapshot, WALL)
        compiled = check_and_compile(snapshot, json.dumps(with_other_ports(POLICIES[number])), WALL)
        put = put_policy(snapshot, compiled.text, "", WALL, compiled=compiled)
        spread = policy.follow(snapshot.after(put), put.change, WALL)
        assert not spread.change and spread.others is None


def test_what_was_compiled_is_what_is_put_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Snapshot(users=USERS, nodes={n: node(n) for n in (1, 2, 3)})
    snapshot = snapshot.after(apply(snapshot, "policy", 0, {}))
    policy = Enforcement(snapshot, WALL)
    compiled = check_and_compile(snapshot, json.dumps(POLICIES[2]), WALL)
    renewed = replace(USERS[1], last_login=WALL)
    snapshot = snapshot.after(Delta(users=(renewed,), nodes=(replace(node(2), tags=("tag:a",)),)))
    put = put_policy(snapshot, compiled.text, "", WALL, compiled=compiled)
    wanted = Enforcement(snapshot.after(put), WALL)
    monkeypatch.setattr(enforcement, "compile_policy", None)  # nothing is compiled once more
    policy.follow(snapshot.after(put), put.change, WALL)
    assert answers(policy, snapshot.after(put)) == answers(wanted, snapshot.after(put))


def test_what_was_compiled_for_other_people_is_not_used() -> None:
    snapshot = Snapshot(users=USERS, nodes={n: node(n) for n in (1, 2, 3)})
    snapshot = snapshot.after(apply(snapshot, "policy", 0, {}))
    policy = Enforcement(snapshot, WALL)
    compiled = check_and_compile(snapshot, json.dumps(POLICIES[2]), WALL)
    snapshot = snapshot.after(Delta(users=(replace(USERS[1], name="new@x.org"),)))
    put = put_policy(snapshot, compiled.text, "", WALL, compiled=compiled)
    snapshot = snapshot.after(put)
    policy.follow(snapshot, put.change, WALL)
    assert answers(policy, snapshot) == answers(Enforcement(snapshot, WALL), snapshot)


def check_spread(
    spread: Spread, snapshot: Snapshot, before: dict[Any, Any], after: dict[Any, Any]
) -> None:
    """Nobody's map may become another without that they are told."""
    nothing = (False, ([], []))
    for one in snapshot.nodes.keys() - set(spread.moved):
        if one in spread.change.nodes and one not in before:
            continue
        assert before[one][2:] == after[one][2:]
        viewed = {n for n, viewers in spread.viewers.items() if viewers is None or one in viewers}
        looked = spread.others is None or one in spread.others
        if not (viewed or looked or one in spread.change.nodes):
            assert before[one] == after[one]
        for other in snapshot.nodes.keys() - viewed - {one}:
            assert before.get((one, other), nothing) == after[one, other]
        for gone in spread.change.nodes.keys() - snapshot.nodes.keys() - viewed:
            assert before.get((one, gone), nothing)[0] is False
