"""What a role may do stands in one table: the API, the policy and what machines are told agree."""

from __future__ import annotations

import pytest
from coordinator_world import World
from msgspec.structs import replace

from warren.coordinator import members
from warren.coordinator.delta import Delta
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.policies import may_tag, set_policy
from warren.coordinator.refusal import Refused
from warren.coordinator.roles import MEMBER, ROLES, administers, allows
from warren.policy.nodeattrs import ADMINS
from warren.policy.targets import ROLES as AUTOGROUPS

_CAP = "https://tailscale.com/cap/"


@pytest.fixture
def everyone(world: World) -> World:
    """A user of each role, with a machine each, and one that has a tag."""
    for role in ROLES:
        user_id = world.user(f"{role}@example.com")
        world.apply(Delta(users=(replace(world.snapshot.users[user_id], role=role),)))
        world.register(role, role, auth_key=world.auth_key(user_id)[0], hostname=role)
    tagged, _ = world.auth_key(user_id, tags=["tag:web"])
    world.register("web", "web", auth_key=tagged, hostname="web")
    return world


def test_the_policys_words_are_the_tables() -> None:
    assert {word.removeprefix("autogroup:") for word in AUTOGROUPS} == ROLES.keys() - {MEMBER}
    assert all(word == f"autogroup:{role}" for word, role in AUTOGROUPS.items())
    assert set(ADMINS) == {role for role in ROLES if administers(role)}


@pytest.mark.parametrize("word", [*(f"autogroup:{role}" for role in ROLES), "autogroup:tagged"])
def test_who_is_meant(everyone: World, word: str) -> None:
    wall = everyone.clock.wall()
    policy = f'{{"grants": [{{"src": ["{word}"], "dst": ["tag:web"], "ip": ["*"]}}],'
    policy += '"tagOwners": {"tag:web": []}}'
    everyone.apply(set_policy(everyone.snapshot, policy, "", wall))
    enforced = Enforcement(everyone.snapshot, wall)
    nodes = {node.name: node for node in everyone.snapshot.nodes.values()}
    role = word.removeprefix("autogroup:")
    meant = {"member": set(ROLES), "tagged": set()}.get(role, {role})
    for name in ROLES:
        assert enforced.visible(nodes[name], nodes["web"]) == (name in meant), name


def test_a_role_counts_at_once(everyone: World) -> None:
    wall = everyone.clock.wall()
    policy = '{"grants": [{"src": ["autogroup:auditor"], "dst": ["tag:web"], "ip": ["*"]}],'
    policy += '"tagOwners": {"tag:web": []}}'
    everyone.apply(set_policy(everyone.snapshot, policy, "", wall))
    enforced = Enforcement(everyone.snapshot, wall)
    nodes = {node.name: node for node in everyone.snapshot.nodes.values()}
    for old, new in (("member", "auditor"), ("auditor", "member")):
        user = members.find_user(everyone.snapshot, "member@example.com")
        assert user.role == old
        delta = everyone.apply(members.set_role(everyone.snapshot, user, new))
        assert delta is not None
        enforced.follow(everyone.snapshot, delta.change, wall)
        assert enforced.visible(nodes["member"], nodes["web"]) == (new == "auditor")


def test_what_machines_are_told(everyone: World) -> None:
    enforced = Enforcement(everyone.snapshot, everyone.clock.wall())
    for node in everyone.snapshot.nodes.values():
        told, role = enforced.capabilities(node), node.name
        assert (f"{_CAP}is-owner" in told) == (role == "owner"), role
        assert (f"{_CAP}is-admin" in told) == administers(role), role


def test_who_gives_tags(everyone: World) -> None:
    everyone.apply(
        set_policy(everyone.snapshot, '{"tagOwners": {"tag:web": []}}', "", everyone.clock.wall())
    )
    for role, scopes in ROLES.items():
        user = members.find_user(everyone.snapshot, f"{role}@example.com")
        assert may_tag(everyone.snapshot, user.id, "tag:web") == allows(scopes, "all"), role
        assert not may_tag(everyone.snapshot, user.id, "tag:nowhere")


def test_there_are_no_others(everyone: World) -> None:
    user = members.find_user(everyone.snapshot, "member@example.com")
    for role in ("boss", "", "Owner", "all", "autogroup:admin"):
        with pytest.raises(Refused, match="is no role"):
            members.set_role(everyone.snapshot, user, role)
        assert not administers(role)
