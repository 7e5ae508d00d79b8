"""The mapper: a view that follows changes is the view that is made anew, on the wire too."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from allow_all import AllowAll
from warren.coordinator.addresses import v6_beside
from warren.coordinator.change import NO_CHANGE, Change, Facet
from warren.coordinator.delta import Delta
from warren.coordinator.mapper import Mapper
from warren.coordinator.members import changed_node
from warren.coordinator.records import NodeRecord, UserRecord
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.keys import DiscoPublic, MachinePublic, NodePublic
from warren.netmap.codec import decode_json_untrusted, encode_json
from warren.netmap.derpmap import DERPMap
from warren.netmap.diff import diff
from warren.netmap.fold import fold
from warren.netmap.messages import MapResponse
from warren.netmap.node import Hostinfo, NetInfo
from warren.netmap.view import EMPTY, View

WALL = datetime(2026, 3, 1, tzinfo=UTC)
POLICY = AllowAll()
USERS = {n: UserRecord(id=n, name=f"u{n}", display_name="", created=WALL) for n in (1, 2)}


def raw(kind: str, number: int) -> bytes:
    return hashlib.sha256(f"{kind} {number}".encode()).digest()


def node(number: int) -> NodeRecord:
    ipv4 = IPv4Address("100.64.0.0") + number
    return NodeRecord(
        id=number,
        stable_id=f"n{number}",
        user_id=1,
        machine_key=MachinePublic(raw("machine", number)),
        node_key=NodePublic(raw("node", number)),
        ipv4=ipv4,
        ipv6=v6_beside(ipv4),
        name=f"host-{number}",
        created=WALL,
        hostinfo=Hostinfo(hostname=f"host-{number}"),
    )


fields: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"online": st.booleans()}),
    st.fixed_dictionaries({"authorized": st.booleans()}),
    st.fixed_dictionaries({"user_id": st.sampled_from([1, 2])}),
    st.fixed_dictionaries({"tags": st.sampled_from([(), ("tag:a",)])}),
    st.fixed_dictionaries({"name": st.sampled_from(["x", "y"])}),
    st.fixed_dictionaries({"endpoints": st.sampled_from([(), ("192.0.2.1:1",), ("192.0.2.1:2",)])}),
    st.fixed_dictionaries({"version": st.sampled_from([0, 113, 130])}),
    st.fixed_dictionaries(
        {"disco_key": st.integers(0, 2).map(lambda n: DiscoPublic(raw("disco", n)))}
    ),
    st.fixed_dictionaries(
        {"node_key": st.integers(100, 102).map(lambda n: NodePublic(raw("node", n)))}
    ),
    st.fixed_dictionaries(
        {"key_expiry": st.sampled_from([None, WALL - timedelta(days=1), WALL + timedelta(days=1)])}
    ),
    st.fixed_dictionaries({"last_seen": st.sampled_from([None, WALL, WALL - timedelta(hours=1)])}),
    st.fixed_dictionaries(
        {
            "hostinfo": st.sampled_from(
                [
                    Hostinfo(),
                    Hostinfo(os="linux", net_info=NetInfo(preferred_derp=3)),
                    Hostinfo(peer_relay=True),
                ]
            )
        }
    ),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(1, 5), fields),
        st.tuples(st.just("remove"), st.integers(2, 5), st.just({})),
        st.tuples(st.just("tell"), st.just(1), st.just({})),
    ),
    max_size=30,
)


def apply(snapshot: Snapshot, verb: str, number: int, changes: dict[str, Any]) -> Delta:
    if verb == "remove":
        return Delta(removed_nodes=(number,), change=Change.of(number, Facet.MEMBERSHIP, "removed"))
    known = snapshot.nodes.get(number) or node(number)
    return changed_node(known, Facet.HOST, "changed", **changes)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_following_changes_equals_starting_anew(script: list[Any]) -> None:
    mapper = Mapper(Settings(url="http://x"), DERPMap(regions={}))
    snapshot = Snapshot(users=USERS, nodes={1: node(1), 2: node(2)})
    sent = mapper.view(snapshot.nodes[1], snapshot, POLICY, WALL)
    told = over_the_wire(EMPTY, sent)
    pending, in_force = NO_CHANGE, True
    for verb, number, changes in [*script, ("tell", 1, {})]:
        if verb != "tell":
            delta = apply(snapshot, verb, number, changes)
            snapshot = snapshot.after(delta)
            pending = pending.merge(delta.change)
            mapper.forget(delta.removed_nodes)
            continue
        viewer = snapshot.nodes[1]
        whole = mapper.view(viewer, snapshot, POLICY, WALL)
        if viewer.in_force(WALL) != in_force:
            view = whole
        else:
            view = mapper.advance(sent, viewer, snapshot, POLICY, pending.nodes, WALL)
            assert diff(sent, view, pending.nodes.keys()) == diff(sent, view)
        in_force = viewer.in_force(WALL)
        assert view == whole
        assert mapper.view(viewer, snapshot, POLICY, WALL, sent) == whole
        for one in snapshot.nodes.values():
            fresh = Mapper(Settings(url="http://x"), DERPMap(regions={}))
            made = mapper.view(one, snapshot, POLICY, WALL)
            assert made == fresh.view(one, snapshot, POLICY, WALL), "its memory shows nothing old"
        told = fold_diff(told, sent, view)
        assert told == view
        sent, pending = view, NO_CHANGE


def test_what_viewers_share_ends_with_a_key() -> None:
    mapper = Mapper(Settings(url="http://x"), DERPMap(regions={}))
    dated = replace(node(2), key_expiry=WALL + timedelta(days=1))
    snapshot = Snapshot(users=USERS, nodes={1: node(1), 2: dated, 3: node(3)})
    for wall, expired in ((WALL, False), (WALL + timedelta(days=1), True)):
        for viewer in (1, 3):
            view = mapper.view(snapshot.nodes[viewer], snapshot, POLICY, wall)
            assert view.peers[2].expired is expired
            assert set(view.peers) == {1, 2, 3} - {viewer}


def over_the_wire(old: View, new: View) -> View:
    return fold_diff(old, old, new)


def fold_diff(told: View, old: View, new: View) -> View:
    response = diff(old, new)
    if response is None:
        return told
    return fold(told, decode_json_untrusted(encode_json(response), MapResponse), WALL)


@given(st.permutations([1, 2, 3]), st.lists(st.sampled_from(list(Facet)), min_size=3, max_size=3))
def test_merging_is_in_any_order(order: list[int], facets: list[Facet]) -> None:
    changes = [Change.of(n, facet, f"why {n}") for n, facet in zip((1, 2, 3), facets, strict=True)]
    forward = NO_CHANGE
    for change in changes:
        forward = forward.merge(change)
    shuffled = NO_CHANGE
    for number in order:
        shuffled = shuffled.merge(changes[number - 1])
    assert forward == shuffled and bool(forward) and not NO_CHANGE


def test_owners_go_when_nobody_refers_to_them() -> None:
    mapper = Mapper(Settings(url="http://x"), DERPMap(regions={}))
    snapshot = Snapshot(users=USERS, nodes={1: node(1), 2: replace(node(2), user_id=2)})
    viewer = snapshot.nodes[1]
    first = mapper.view(viewer, snapshot, POLICY, WALL)
    assert set(first.profiles) == {1, 2}
    snapshot = snapshot.after(Delta(nodes=(node(2),)))
    assert set(mapper.advance(first, viewer, snapshot, POLICY, [2], WALL).profiles) == {1}
