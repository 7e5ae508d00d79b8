"""`fold(last, diff(last, view)) == view`, also through JSON."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from warren.keys import DiscoPublic, NodePublic
from warren.netmap.diff import diff
from warren.netmap.fold import fold
from warren.netmap.view import EMPTY, View, referenced_users
from warren.netmap.wire import (
    DERPMap,
    DERPNode,
    DERPRegion,
    DisplayMessage,
    DNSConfig,
    FilterRule,
    HomeParams,
    Hostinfo,
    MapResponse,
    NetPortRange,
    Node,
    PortRange,
    TKAInfo,
    UserProfile,
    decode_json_untrusted,
    encode_json,
)

WALL = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TIMES = st.sampled_from([datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 5)])


def keys(kind: type) -> st.SearchStrategy:
    return st.integers(0, 3).map(lambda n: kind(bytes([n]) * 32))


def nodes(peer_id: int) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        id=st.just(peer_id),
        stable_id=st.just(f"n{peer_id}"),
        name=st.sampled_from(["a.warren.", "b.warren."]),
        user=st.integers(0, 3),
        key=keys(NodePublic),
        disco_key=keys(DiscoPublic),
        addresses=st.just([f"100.64.0.{peer_id}/32"]),
        allowed_ips=st.sampled_from([None, [f"100.64.0.{peer_id}/32"], []]),
        endpoints=st.lists(st.sampled_from(["192.0.2.1:1", "192.0.2.2:2"]), max_size=2),
        home_derp=st.integers(0, 2),
        hostinfo=st.builds(Hostinfo, hostname=st.sampled_from(["a", "b"])),
        cap=st.integers(0, 2),
        cap_map=st.dictionaries(
            st.sampled_from(["x", "y"]), st.sampled_from([None, [], [1]]), max_size=2
        ),
        online=st.sampled_from([None, True, False]),
        last_seen=st.none() | TIMES,
        key_expiry=st.none() | TIMES,
        tags=st.lists(st.sampled_from(["tag:a", "tag:b"]), max_size=2),
    )


RULES = st.lists(
    st.builds(
        FilterRule,
        src_ips=st.lists(st.sampled_from(["*", "100.64.0.1"]), min_size=1, max_size=2),
        dst_ports=st.just([NetPortRange(ip="*", ports=PortRange(first=0, last=65535))]),
    ),
    max_size=2,
)
REGIONS = st.dictionaries(
    st.integers(900, 903),
    st.integers(1, 2).map(
        lambda n: DERPRegion(region_id=900, nodes=[DERPNode(name=f"{n}", region_id=900)])
    ),
    max_size=3,
)


@st.composite
def views(draw: st.DrawFn) -> View:
    node = draw(nodes(1))
    peers = {n: draw(nodes(n)) for n in draw(st.sets(st.integers(2, 6)))}
    users = sorted(referenced_users(node, peers))
    return View(
        node=node,
        peers=peers,
        derp_map=DERPMap(
            regions=draw(REGIONS),
            home_params=draw(st.sampled_from([HomeParams(region_score={900: 0.5})])),
        ),
        dns=draw(st.sampled_from([DNSConfig(), DNSConfig(domains=["warren"], proxied=True)])),
        domain=draw(st.sampled_from(["warren", "example.com"])),
        packet_filters=draw(st.dictionaries(st.sampled_from(["base", "more"]), RULES)),
        profiles={
            user: UserProfile(id=user, login_name=draw(st.sampled_from("ab"))) for user in users
        },
        ssh_policy={"rules": draw(st.lists(st.just({}), max_size=1))},
        collect_services=draw(st.booleans()),
        health=draw(st.lists(st.just("ill"), max_size=1)),
        display_messages=draw(
            st.dictionaries(st.sampled_from("xy"), st.just(DisplayMessage(title="t")))
        ),
        tka=draw(st.sampled_from([None, TKAInfo(head="a"), TKAInfo(head="b")])),
    )


@settings(max_examples=80)
@given(st.lists(views(), min_size=1, max_size=4))
def test_fold_of_diff_is_the_view(sequence: list[View]) -> None:
    known = EMPTY
    for view in sequence:
        response = diff(known, view)
        if response is not None:
            wire = encode_json(response)
            known = fold(known, decode_json_untrusted(wire, MapResponse), WALL)
        assert known == view
        assert diff(known, view) is None


@given(views())
def test_the_first_message_is_a_full_map(view: View) -> None:
    response = diff(EMPTY, view)
    assert response is not None
    assert response.node == view.node  # a client drops a stream that begins without it
    assert not response.peers_changed
    assert not response.peers_changed_patch
    assert [peer.id for peer in response.peers or ()] == sorted(view.peers)


@given(views(), st.sampled_from([True, False]))
def test_a_peer_that_comes_online_is_a_patch(view: View, online: bool) -> None:
    import msgspec

    for peer_id, peer in view.peers.items():
        before = msgspec.structs.replace(peer, online=not online)
        after = msgspec.structs.replace(peer, online=online)
        response = diff(
            msgspec.structs.replace(view, peers=view.peers | {peer_id: before}),
            msgspec.structs.replace(view, peers=view.peers | {peer_id: after}),
        )
        assert response is not None
        assert response.node is None
        assert response.peers_changed is None
        assert [patch.online for patch in response.peers_changed_patch or ()] == [online]
