"""Users who are shut out, let in again, and removed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from coordinator_world import World
from msgspec.structs import replace

from warren.coordinator import members
from warren.coordinator.auth import credentials, registration
from warren.coordinator.auth.credentials import Gate, NotAllowed
from warren.coordinator.delta import Delta
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.policies import set_policy
from warren.coordinator.records import UserRecord
from warren.coordinator.refusal import Conflict, Refused


def user(world: World, name: str) -> UserRecord:
    found = world.snapshot.user_named(name)
    assert found is not None
    return found


@pytest.fixture
def both(world: World) -> World:
    world.user("owner")
    world.user("bob")
    return world


def suspend(world: World, name: str) -> None:
    world.apply(members.suspend(world.snapshot, user(world, name), world.clock.wall()))


def test_machines_of_a_suspended_user_are_cut_off_and_stay_out(both: World) -> None:
    text, _ = both.auth_key(user(both, "bob").id, reusable=True)
    tagged, _ = both.auth_key(user(both, "bob").id, tags=["tag:a"])
    both.register("m", "n", auth_key=text, hostname="laptop")
    both.register("m2", "n2", auth_key=tagged, hostname="server")
    before = {node.name: node for node in both.snapshot.nodes.values()}
    suspend(both, "bob")
    wall = both.clock.wall()
    in_force = {n.name for n in both.snapshot.nodes.values() if n.in_force(wall)}
    assert in_force == {"server"}, "a tagged machine is nobody's"

    assert both.register("m", "n").response.node_key_expired
    refused = both.register("m", "new", old="n", auth_key=text, hostname="laptop")
    assert "suspended" in refused.response.error
    waiting = both.register("m", "new", old="n")
    pending = waiting.response.auth_url.rpartition("/")[2]
    with pytest.raises(Refused, match="suspended"):
        registration.approve(both.desk(), pending, user(both, "bob").id, None)

    both.apply(members.restore(user(both, "bob")))
    both.register("m", "new", old="n", auth_key=text, hostname="laptop")
    now = next(node for node in both.snapshot.nodes.values() if node.name == "laptop")
    assert now.in_force(wall)
    assert (now.id, now.ipv4) == (before["laptop"].id, before["laptop"].ipv4)


def test_tokens_of_a_suspended_user_open_nothing(both: World) -> None:
    gate, wall = Gate(b"secret"), both.clock.wall()
    texts = {}
    for kind, scopes in ((credentials.API, ()), (credentials.CLIENT, ("all",))):
        text, record = credentials.mint(
            kind, user_id=user(both, "bob").id, wall=wall, entropy=both.entropy,
            life=timedelta(days=1), scopes=scopes,
        )  # fmt: skip
        both.apply(Delta(credentials=(record,)))
        texts[kind] = (record.id, text)
    client_id, secret = texts[credentials.CLIENT]
    access, _ = gate.grant(client_id, secret, (), both.snapshot, wall)
    gate.principal(texts[credentials.API][1], both.snapshot, wall)
    suspend(both, "bob")
    with pytest.raises(NotAllowed, match="suspended"):
        gate.principal(texts[credentials.API][1], both.snapshot, wall)
    with pytest.raises(NotAllowed, match="suspended"):
        gate.grant(client_id, secret, (), both.snapshot, wall)
    with pytest.raises(NotAllowed):
        gate.principal(access, both.snapshot, wall)


def test_there_is_always_an_owner_who_may_act(both: World) -> None:
    with pytest.raises(Conflict, match="only owner"):
        suspend(both, "owner")
    both.apply(members.set_role(both.snapshot, user(both, "bob"), "owner"))
    suspend(both, "owner")
    with pytest.raises(Conflict, match="only owner"):
        suspend(both, "bob")
    with pytest.raises(Conflict, match="only owner"):
        members.set_role(both.snapshot, user(both, "bob"), "member")
    with pytest.raises(Conflict, match="only owner"):
        members.delete_user(both.snapshot, "bob")


def test_a_user_is_removed_with_machines_only_where_that_is_said(both: World) -> None:
    text, _ = both.auth_key(user(both, "bob").id)
    both.register("m", "n", auth_key=text)
    with pytest.raises(Conflict, match="owns 1 node"):
        members.delete_user(both.snapshot, "bob")
    both.apply(members.delete_user(both.snapshot, "bob", with_nodes=True))
    assert not both.snapshot.nodes and both.snapshot.user_named("bob") is None


def test_a_providers_groups_count_in_the_policy(both: World) -> None:
    """As on the service: `group:NAME@DOMAIN` is there without being written down."""
    for name in ("owner", "bob"):
        text, _ = both.auth_key(user(both, name).id)
        both.register(name, name, auth_key=text, hostname=name)
    wall = both.clock.wall()
    policy = """{"grants": [
        {"src": ["group:Eng@example.com"], "dst": ["owner@"], "ip": ["*"]}]}"""
    both.apply(set_policy(both.snapshot, policy, "", wall))
    nodes = {node.name: node for node in both.snapshot.nodes.values()}
    enforced = Enforcement(both.snapshot, wall)
    assert not enforced.visible(nodes["bob"], nodes["owner"])
    joined = replace(user(both, "bob"), groups=("group:eng@example.com",))
    delta = both.apply(Delta(users=(joined,)))
    assert delta is not None
    enforced.follow(both.snapshot, delta.change, wall)
    assert enforced.visible(nodes["bob"], nodes["owner"])
    assert enforced.filters(nodes["owner"])["base"]
    assert not enforced.filters(nodes["bob"])["base"]
