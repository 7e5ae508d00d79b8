"""Where the policy says from which addresses new machines get theirs, and who has none of IPv4."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import Any

from coordinator_world import World

from warren.coordinator.compiled_policy import CompiledPolicy
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.mapper import Mapper
from warren.coordinator.policies import set_policy
from warren.netmap.derpmap import DERPMap


def with_policy(world: World, **sections: Any) -> None:
    text = json.dumps({"tagOwners": {"tag:a": []}, **sections})
    world.apply(set_policy(world.snapshot, text, "", world.clock.wall()))


def join(world: World, name: str, user: int, **key: Any) -> IPv4Address:
    text, _ = world.auth_key(user, **key)
    outcome = world.register(name, name, auth_key=text, hostname=name)
    assert not outcome.response.error, outcome.response.error
    return next(node.ipv4 for node in world.snapshot.nodes.values() if node.name == name)


def test_new_machines_get_addresses_of_their_pool(world: World) -> None:
    ann, bob = world.user("ann"), world.user("bob")
    first = join(world, "before", ann)
    assert first == IPv4Address("100.64.0.1")
    with_policy(world, nodeAttrs=[
        {"target": ["tag:a"], "ipPool": ["100.100.100.248/29", "100.99.0.0/30"]},
        {"target": ["bob@"], "ipPool": ["100.90.0.0/24"]},
    ])  # fmt: skip
    assert join(world, "b1", bob) == IPv4Address("100.90.0.0")
    assert join(world, "b2", bob) == IPv4Address("100.90.0.1")
    assert join(world, "a1", ann) == IPv4Address("100.64.0.2"), "the others are not disturbed"
    # The first pool is reserved for services, so all of them come from the second, until …
    tagged = [join(world, f"t{n}", bob, tags=["tag:a"]) for n in range(4)]
    assert sorted(tagged) == [IPv4Address("100.99.0.0") + n for n in range(4)]
    text, _ = world.auth_key(bob, tags=["tag:a"])
    refused = world.register("t9", "t9", auth_key=text, hostname="t9")
    assert "100.99.0.0/30 is in use" in refused.response.error
    node = next(node for node in world.snapshot.nodes.values() if node.name == "before")
    assert node.ipv4 == first, "who was here before keeps its address"


def view(world: World, policy: CompiledPolicy, name: str) -> Any:
    mapper = Mapper(world.settings, DERPMap())
    node = next(node for node in world.snapshot.nodes.values() if node.name == name)
    return mapper.view(node, world.snapshot, policy, world.clock.wall())


def test_maps_leave_ipv4_out_where_the_policy_says(world: World) -> None:
    ann = world.user("ann")
    join(world, "pc", ann)
    join(world, "six", ann, tags=["tag:a"])
    everyone = [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]
    with_policy(world, grants=everyone, nodeAttrs=[{"target": ["tag:a"], "attr": ["disable-ipv4"]}])
    policy = Enforcement(world.snapshot, world.clock.wall())
    of_pc, of_six = view(world, policy, "pc"), view(world, policy, "six")
    (six,), (pc,) = of_pc.peers.values(), of_six.peers.values()
    assert six.addresses == six.allowed_ips == of_six.node.addresses
    assert [address.partition("/")[2] for address in six.addresses] == ["128"]
    assert [address.partition("/")[2] for address in pc.addresses] == ["32", "128"]
    assert "disable-ipv4" in of_six.node.cap_map

    with_policy(world, grants=everyone, disableIPv4=True)
    policy = Enforcement(world.snapshot, world.clock.wall())
    of_six = view(world, policy, "six")
    (pc,) = of_six.peers.values()
    assert [address.partition("/")[2] for address in pc.addresses] == ["128"]
