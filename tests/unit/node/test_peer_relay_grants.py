"""Who may use whose relay, from the coordinator's rules to the node's reading of them."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

import pytest

from allow_all import AllowAll
from warren.coordinator.records import NodeRecord
from warren.coordinator.relay_rules import NAME, concern_relays, relay_rules
from warren.keys import DiscoPublic, MachinePublic, NodePublic
from warren.netmap.filterrule import CapGrant, FilterRule
from warren.netmap.node import Hostinfo, Node
from warren.netmap.view import View
from warren.node.relay_grants import NO_CLIENT, NO_SERVER, RELAY, may_be_served, usable_relays

WALL = datetime(2026, 1, 1, tzinfo=UTC)


def record(
    number: int, user: int = 1, relay: bool = False, tags: tuple[str, ...] = ()
) -> NodeRecord:
    """A machine that joined."""
    return NodeRecord(
        id=number,
        stable_id=str(number),
        user_id=user,
        machine_key=MachinePublic(bytes([number]) * 32),
        node_key=NodePublic(bytes([number]) * 32),
        ipv4=IPv4Address(f"100.64.0.{number}"),
        ipv6=IPv6Address(f"fd7a:115c:a1e0::{number:x}"),
        name=f"n{number}",
        hostinfo=Hostinfo(peer_relay=relay),
        tags=tags,
        created=WALL,
    )


def entry(of: NodeRecord, **more: object) -> Node:
    """Its map entry."""
    known: dict[str, object] = {
        "id": of.id,
        "key": of.node_key,
        "disco_key": DiscoPublic(bytes([100 + of.id]) * 32),
        "addresses": [f"{of.ipv4}/32", f"{of.ipv6}/128"],
        "home_derp": 1,
        "cap": 130,
        "hostinfo": of.hostinfo,
    }
    return Node(**{**known, **more})  # type: ignore[arg-type]


def view(of: NodeRecord, nodes: list[NodeRecord], **own: object) -> View:
    """What a machine is told."""
    peers = {other.id: entry(other) for other in nodes if other.id != of.id}
    return View(
        node=entry(of, **own), peers=peers, packet_filters=relay_rules(of, nodes, AllowAll())
    )


def test_the_owners_machines_may_use_a_relay_and_nobody_else() -> None:
    relay, mine, other = record(1, relay=True), record(2), record(3, user=2)
    nodes = [relay, mine, other]
    assert [r.key for r in usable_relays(view(mine, nodes))] == [relay.node_key]
    assert usable_relays(view(other, nodes)) == []
    seen = view(relay, nodes)
    assert may_be_served(seen, seen.peers[2])
    assert not may_be_served(seen, seen.peers[3])


def test_a_tagged_relay_serves_all() -> None:
    relay, other = record(1, relay=True, tags=("tag:relay",)), record(3, user=2)
    nodes = [relay, other, record(4, user=3, tags=("tag:web",))]
    assert len(usable_relays(view(other, nodes))) == 1
    assert len(usable_relays(view(nodes[2], nodes))) == 1
    assert may_be_served(view(relay, nodes), view(relay, nodes).peers[3])


def test_a_machine_that_does_not_offer_is_not_asked() -> None:
    nodes = [record(1), record(2)]
    assert relay_rules(nodes[0], nodes, AllowAll()) == {}
    assert usable_relays(view(nodes[0], nodes)) == []
    assert not concern_relays(nodes[0], entry(nodes[1]), nodes[1])
    assert concern_relays(nodes[0], entry(nodes[1]), record(2, relay=True))


def test_either_side_can_be_switched_off() -> None:
    nodes = [record(1, relay=True), record(2)]
    assert usable_relays(view(nodes[1], nodes, cap_map={NO_CLIENT: None})) == []
    off = view(nodes[0], nodes, cap_map={NO_SERVER: None})
    assert not may_be_served(off, off.peers[2])


@pytest.mark.parametrize(
    "more",
    [
        {"cap": 120},
        {"home_derp": 0},
        {"expired": True},
        {"unsigned_peer_api_only": True},
        {"disco_key": DiscoPublic.zero()},
        {"addresses": ["nonsense", "100.64.0.0/24"]},
    ],
)
def test_a_peer_that_cannot_relay_is_not_asked(more: dict[str, object]) -> None:
    relay, mine = record(1, relay=True), record(2)
    seen = view(mine, [relay, mine])
    peers = {1: entry(relay, **more)}
    changed = View(node=seen.node, peers=peers, packet_filters=seen.packet_filters)
    assert usable_relays(changed) == []


def test_rules_that_make_no_sense_grant_nothing() -> None:
    nodes = [record(1), record(2)]
    grant = CapGrant(dsts=["100.64.0.1/33", "x", "100.64.0.9/32"], cap_map={RELAY: None})
    rules = [FilterRule(src_ips=["*", "bad-bad", "1.2.3.4-1.1.1.1"], cap_grant=[grant])]
    seen = View(node=entry(nodes[0]), peers={2: entry(nodes[1])}, packet_filters={NAME: rules})
    assert not may_be_served(seen, seen.peers[2])
