"""The delta table of PROTOCOL §3.4, row by row, and what the wire may say wrongly."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from warren.keys import NodePublic
from warren.netmap.fold import fold
from warren.netmap.names import wire_name
from warren.netmap.view import EMPTY, View
from warren.netmap.wire import (
    DERPMap,
    DERPRegion,
    DisplayMessage,
    FilterRule,
    MalformedMessage,
    MapRequest,
    MapResponse,
    Node,
    PeerChange,
    decode_json_untrusted,
    encode_json,
)

WALL = datetime(2026, 1, 2, tzinfo=UTC)
START = View(
    node=Node(id=1),
    peers={2: Node(id=2, online=True), 3: Node(id=3, endpoints=["192.0.2.1:1"])},
    derp_map=DERPMap(regions={1: DERPRegion(region_id=1), 2: DERPRegion(region_id=2)}),
    packet_filters={"base": [FilterRule(src_ips=["*"])], "more": []},
    health=["ill"],
    display_messages={"a": DisplayMessage(title="a"), "b": DisplayMessage(title="b")},
)


def folded(text: str) -> View:
    return fold(START, decode_json_untrusted(text.encode(), MapResponse), WALL)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"KeepAlive":true,"Domain":"other"}',
        '{"Peers":[]}',
        '{"Peers":null,"Health":null,"PacketFilter":null,"PacketFilters":null}',
        '{"PeersRemoved":[99],"PeersChangedPatch":[{"NodeID":99,"Online":true}]}',
        '{"OnlineChange":{"99":true},"PeerSeenChange":{"99":true}}',
        '{"DERPMap":{"Regions":null,"HomeParams":null}}',
        '{"PacketFilters":{}}',
    ],
)
def test_says_nothing_new(text: str) -> None:
    assert folded(text) == START


def test_peers() -> None:
    assert set(folded('{"Peers":[{"ID":7}],"PeersRemoved":[7]}').peers) == {7}
    assert set(folded('{"PeersRemoved":[2],"PeersChanged":[{"ID":4}]}').peers) == {3, 4}
    assert folded('{"OnlineChange":{"2":false}}').peers[2].online is False
    assert folded('{"PeerSeenChange":{"2":true}}').peers[2].last_seen == WALL
    assert folded('{"PeerSeenChange":{"2":false}}').peers[2].last_seen is None
    patched = folded('{"PeersChangedPatch":[{"NodeID":3,"DERPRegion":5}]}').peers[3]
    assert (patched.home_derp, patched.endpoints) == (5, ["192.0.2.1:1"])


def test_packet_filters_and_health() -> None:
    assert folded('{"PacketFilter":[]}').packet_filters == {"base": [], "more": []}
    assert set(folded('{"PacketFilters":{"base":null}}').packet_filters) == {"more"}
    assert folded('{"PacketFilters":{"*":null,"x":[]}}').packet_filters == {"x": []}
    assert folded('{"Health":[]}').health == []
    assert set(folded('{"DisplayMessages":{"a":null}}').display_messages) == {"b"}
    assert folded('{"DisplayMessages":{"*":null}}').display_messages == {}


def test_derp_regions() -> None:
    regions = folded('{"DERPMap":{"Regions":{"2":null,"3":{"RegionID":3}}}}').derp_map.regions
    assert set(regions or ()) == {1, 3}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"Node":{"ID":"x"}}',
        '{"Node":{"ID":1,"Key":"nodekey:12"}}',
        "\xff",
        "[" * 9999,
    ],
)
def test_what_is_not_a_map_response(text: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_json_untrusted(text.encode("latin-1"), MapResponse)


def test_nil_lists_of_go_are_empty_ones() -> None:
    node = decode_json_untrusted(
        b'{"ID":1,"Addresses":null,"Hostinfo":null,"CapMap":{"x":null}}', Node
    )
    assert node == Node(id=1, cap_map={"x": None})


def test_always_present_members() -> None:
    request = MapRequest(version=1, node_key=NodePublic.zero())
    assert b'"NodeKey":"nodekey:' + b"0" * 64 in encode_json(request)
    assert fold(EMPTY, MapResponse(node=Node(id=1)), WALL).node == Node(id=1)
    assert PeerChange(node_id=1).derp_region == 0


@pytest.mark.parametrize(
    ("attribute", "name"),
    [
        ("allowed_ips", "AllowedIPs"),
        ("stable_id", "StableID"),
        ("derp_map", "DERPMap"),
        ("ipn_version", "IPNVersion"),
        ("is_wireguard_only", "IsWireGuardOnly"),
        ("os", "OS"),
    ],
)
def test_wire_names(attribute: str, name: str) -> None:
    assert wire_name(attribute) == name
