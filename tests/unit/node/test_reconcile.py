"""Map to engine: tables of what goes in and what the engine is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from warren.engine.commands import (
    DstSpan,
    FilterRule,
    SetFilter,
    SetHome,
    SetIdentity,
    SetPeers,
    SetRegion,
    Span,
)
from warren.keys import DiscoPublic, NodePrivate, NodePublic
from warren.netmap.derpmap import DERPMap, DERPNode, DERPRegion
from warren.netmap.node import Node
from warren.netmap.view import View
from warren.netmap.wire import CapGrant, NetPortRange, PortRange
from warren.netmap.wire import FilterRule as WireRule
from warren.node.filtering import MalformedFilter, compile_filter, parse_span_untrusted
from warren.node.reconcile import NOTHING, Settings, desire, home_region, reconcile
from warren.node.regions import around_dead, compile_regions, relay_hosts, relay_names

WALL = datetime(2026, 1, 1, tzinfo=UTC)
PRIVATE = NodePrivate.from_entropy(bytes(32))
SETTINGS = Settings(private_key=PRIVATE.reveal(), home_region=900)
PIN = "ab" * 32


def key(number: int) -> NodePublic:
    return NodePublic(bytes([number]) * 32)


def machine(number: int, **members: Any) -> Node:
    addresses = [f"100.64.0.{number}/32", f"fd7a:115c:a1e0::{number}/128"]
    defaults: dict[str, Any] = {"key": key(number), "addresses": addresses, "home_derp": 900}
    return Node(id=number, **{**defaults, **members})


def relay(**members: Any) -> DERPNode:
    defaults: dict[str, Any] = {
        "name": "900a",
        "region_id": 900,
        "host_name": "relay.example",
        "ipv4": "192.0.2.1",
        "ipv6": "none",
    }
    return DERPNode(**{**defaults, **members})


def derp_map(*nodes: DERPNode) -> DERPMap:
    return DERPMap(regions={900: DERPRegion(region_id=900, nodes=list(nodes))})


def view(*peers: Node, **members: Any) -> View:
    defaults: dict[str, Any] = {
        "node": machine(1),
        "peers": {peer.id: peer for peer in peers},
        "derp_map": derp_map(relay()),
    }
    return View(**{**defaults, **members})


def test_first_map_tells_everything_filter_before_peers() -> None:
    commands = reconcile(NOTHING, desire(view(machine(2)), SETTINGS, WALL))
    kinds = [type(command) for command in commands]
    assert kinds == [SetIdentity, SetFilter, SetRegion, SetHome, SetPeers]
    identity, _, _, home, peers = commands
    assert isinstance(identity, SetIdentity)
    assert identity.addresses == ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]
    assert isinstance(home, SetHome)
    assert home.region == 900
    assert isinstance(peers, SetPeers)
    assert [peer.key for peer in peers.upsert] == [key(2).raw]
    assert peers.upsert[0].allowed_ips == ["100.64.0.2/32", "fd7a:115c:a1e0::2/128"]


def test_no_change_no_command() -> None:
    desired = desire(view(machine(2)), SETTINGS, WALL)
    assert reconcile(desired, desire(view(machine(2)), SETTINGS, WALL)) == []


def test_one_peer_changes_one_peer_is_told() -> None:
    before = desire(view(machine(2), machine(3)), SETTINGS, WALL)
    after = desire(view(machine(2), machine(3, home_derp=901)), SETTINGS, WALL)
    (command,) = reconcile(before, after)
    assert isinstance(command, SetPeers)
    assert [peer.key for peer in command.upsert] == [key(3).raw]
    assert command.remove == []


def test_a_peer_that_goes_is_removed() -> None:
    before = desire(view(machine(2), machine(3)), SETTINGS, WALL)
    (command,) = reconcile(before, desire(view(machine(3)), SETTINGS, WALL))
    assert command == SetPeers(upsert=[], remove=[key(2).raw])


def test_a_new_key_of_a_peer_replaces_the_old() -> None:
    before = desire(view(machine(2)), SETTINGS, WALL)
    (command,) = reconcile(before, desire(view(machine(2, key=key(9))), SETTINGS, WALL))
    assert isinstance(command, SetPeers)
    assert command.remove == [key(2).raw]
    assert [peer.key for peer in command.upsert] == [key(9).raw]


def test_a_peer_that_started_anew_loses_its_sessions() -> None:
    old, new = (DiscoPublic(bytes([n]) * 32) for n in (1, 2))
    before = desire(view(machine(2, disco_key=old)), SETTINGS, WALL)
    after = desire(view(machine(2, disco_key=new)), SETTINGS, WALL)
    first, second = reconcile(before, after)
    assert first == SetPeers(upsert=[], remove=[key(2).raw])
    assert isinstance(second, SetPeers)
    assert [peer.key for peer in second.upsert] == [key(2).raw]
    unknown = desire(view(machine(2)), SETTINGS, WALL)
    assert reconcile(unknown, after) == [], "it only became known"


def test_leaving_takes_everything_back_but_the_identity() -> None:
    before = desire(view(machine(2), packet_filters={"base": [rule()]}), SETTINGS, WALL)
    commands = reconcile(before, NOTHING)
    assert commands == [
        SetFilter(rules=[], shields_up=False),
        SetHome(region=0),
        SetRegion(region=900, nodes=[]),
        SetPeers(upsert=[], remove=[key(2).raw]),
    ]


@pytest.mark.parametrize(
    "members",
    [
        {"expired": True},
        {"key_expiry": WALL - timedelta(seconds=1)},
        {"key": NodePublic.zero()},
    ],
)
def test_peers_that_are_no_peers(members: dict[str, Any]) -> None:
    assert desire(view(machine(2, **members)), SETTINGS, WALL).peers == {}


def test_a_zero_expiry_is_never() -> None:
    never = machine(2, key_expiry=datetime(1, 1, 1, tzinfo=UTC))
    assert len(desire(view(never), SETTINGS, WALL).peers) == 1


@pytest.mark.parametrize(
    ("allowed", "accept", "expected"),
    [
        (None, False, ["100.64.0.2/32"]),
        ([], False, []),
        (["100.64.0.2/32", "10.0.0.0/8"], False, ["100.64.0.2/32"]),
        (["100.64.0.2/32", "10.0.0.0/8"], True, ["100.64.0.2/32", "10.0.0.0/8"]),
        (["100.64.0.2/32", "10.0.0.7/32"], False, ["100.64.0.2/32"]),
        (["100.64.0.2/32", "0.0.0.0/0", "::/0"], True, ["100.64.0.2/32"]),
        (["100.64.0.2/32", "10.0.0.1/8", "nonsense"], True, ["100.64.0.2/32"]),
        (["100.64.0.2/32", "100.64.0.2/32"], False, ["100.64.0.2/32"]),
    ],
)
def test_allowed_ips(allowed: list[str] | None, accept: bool, expected: list[str]) -> None:
    node = machine(2, addresses=["100.64.0.2/32"], allowed_ips=allowed)
    settings = msgspec.structs.replace(SETTINGS, accept_routes=accept)
    (peer,) = desire(view(node), settings, WALL).peers.values()
    assert peer.allowed_ips == expected


def test_plain_wireguard_peers_roam() -> None:
    node = machine(2, is_wireguard_only=True, endpoints=["192.0.2.9:51820"])
    (peer,) = desire(view(node), SETTINGS, WALL).peers.values()
    assert (peer.roams, peer.endpoint) == (True, "192.0.2.9:51820")


@pytest.mark.parametrize(
    ("members", "region"),
    [
        ({"home_derp": 5}, 5),
        ({"home_derp": 0, "derp": "127.3.3.40:7"}, 7),
        ({"home_derp": 0, "derp": "127.3.3.40:x"}, 0),
        ({"home_derp": 0, "derp": "7"}, 0),
        ({"home_derp": 0}, 0),
    ],
)
def test_home_regions(members: dict[str, Any], region: int) -> None:
    assert home_region(machine(2, **members)) == region


def test_a_home_that_is_not_in_the_map_is_none() -> None:
    settings = msgspec.structs.replace(SETTINGS, home_region=5)
    assert desire(view(), settings, WALL).home_region == 0


# Relays.


def test_relays_behind_a_proxy() -> None:
    found = derp_map(relay())
    assert relay_hosts(found) == {"relay.example"}
    (node,) = compile_regions(found, {}, {"relay.example": "192.0.2.9:3128"})[900]
    assert node.proxy == "192.0.2.9:3128"
    (node,) = compile_regions(found, {}, {"another.example": "192.0.2.9:3128"})[900]
    assert node.proxy is None


def test_a_pinned_relay() -> None:
    regions = compile_regions(derp_map(relay(cert_name=f"sha256-raw:{PIN}", derp_port=8443)), {})
    (node,) = regions[900]
    assert node.addrs == ["192.0.2.1:8443"]
    assert node.server_name == "relay.example"
    assert node.cert_sha256 == bytes.fromhex(PIN)
    assert not node.plain
    assert not node.insecure


@pytest.mark.parametrize(
    ("members", "resolved", "addrs"),
    [
        ({}, {}, ["192.0.2.1:443"]),
        ({"ipv6": "2001:db8::1"}, {}, ["192.0.2.1:443", "[2001:db8::1]:443"]),
        ({"ipv4": "none", "ipv6": "2001:db8::1"}, {}, ["[2001:db8::1]:443"]),
        ({"ipv4": ""}, {"relay.example": ["192.0.2.5", "2001:db8::5"]}, ["192.0.2.5:443"]),
        ({"ipv4": "", "ipv6": ""}, {"relay.example": ["2001:db8::5"]}, ["[2001:db8::5]:443"]),
    ],
)
def test_relay_addresses(
    members: dict[str, Any], resolved: dict[str, list[str]], addrs: list[str]
) -> None:
    (node,) = compile_regions(derp_map(relay(**members)), resolved)[900]
    assert node.addrs == addrs


@pytest.mark.parametrize(
    "members",
    [
        {"stun_only": True},
        {"ipv4": "none"},
        {"ipv4": "not an ip"},
        {"derp_port": 99999},
        {"cert_name": "sha256-raw:zz"},
        {"cert_name": "sha256-raw:abcd"},
    ],
)
def test_relays_that_cannot_be_used(members: dict[str, Any]) -> None:
    assert compile_regions(derp_map(relay(**members)), {}) == {900: []}


def test_names_and_tests_relays() -> None:
    (node,) = compile_regions(derp_map(relay(cert_name="other.example")), {})[900]
    assert node.server_name == "other.example"
    (node,) = compile_regions(derp_map(relay(insecure_for_tests=True)), {})[900]
    assert (node.insecure, node.plain) == (True, False)
    (node,) = compile_regions(derp_map(relay(insecure_for_tests=True, derp_port=80)), {})[900]
    assert (node.insecure, node.plain) == (True, True)
    assert relay_names(derp_map(relay(ipv4=""), relay(host_name="b", ipv6="::1"))) == [
        "relay.example"
    ]


def test_regions_beyond_sixteen_bits_are_left_out() -> None:
    regions = {70000: DERPRegion(region_id=70000, nodes=[relay()])}
    assert compile_regions(DERPMap(regions=dict(regions)), {}) == {}


# The packet filter.


def rule(
    src: list[str] | None = None,
    dst: str = "100.64.0.1",
    ports: tuple[int, int] = (0, 65535),
    **members: Any,
) -> WireRule:
    target = NetPortRange(ip=dst, ports=PortRange(first=ports[0], last=ports[1]))
    defaults: dict[str, Any] = {"src_ips": src or ["100.64.0.2"], "dst_ports": [target]}
    return WireRule(**{**defaults, **members})


def test_a_rule() -> None:
    assert compile_filter([rule(ports=(22, 80))], []) == [
        FilterRule(
            sources=[Span(first="100.64.0.2", last="100.64.0.2")],
            destinations=[
                DstSpan(
                    span=Span(first="100.64.0.1", last="100.64.0.1"), first_port=22, last_port=80
                )
            ],
            protocols=[6, 17, 1, 58],
        )
    ]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("10.0.0.0/8", [("10.0.0.0", "10.255.255.255")]),
        ("10.0.0.1-10.0.0.9", [("10.0.0.1", "10.0.0.9")]),
        ("2001:db8::/126", [("2001:db8::", "2001:db8::3")]),
        (
            "*",
            [("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")],
        ),
    ],
)
def test_spans(text: str, spans: list[tuple[str, str]]) -> None:
    assert [(span.first, span.last) for span in parse_span_untrusted(text)] == spans


def test_a_span_with_a_scope_is_refused() -> None:
    with pytest.raises(MalformedFilter, match="has a scope"):
        parse_span_untrusted("fe80::1%eth0")


@pytest.mark.parametrize(
    "bad",
    [
        rule(src=["10.0.0.1/8"]),
        rule(src=["10.0.0.9-10.0.0.1"]),
        rule(src=["10.0.0.9-::1"]),
        rule(src=["x"]),
        rule(src=["1.2.3.4/33"]),
        rule(src=[""]),
        rule(dst="cap:x"),
        rule(ports=(5, 4)),
        rule(ports=(0, 65536)),
        rule(ports=(-1, 5)),
        rule(src_bits=[32]),
        rule(cap_grant=[CapGrant(dsts=["100.64.0.1/32"])]),
        rule(dst_ports=[NetPortRange(ip="100.64.0.1", ports=PortRange(first=0, last=1), bits=32)]),
    ],
)
def test_one_bad_rule_voids_the_whole_filter(bad: WireRule) -> None:
    with pytest.raises(MalformedFilter):
        compile_filter([rule(), bad], [])
    desired = desire(view(packet_filters={"base": [rule(), bad]}), SETTINGS, WALL)
    assert desired.rules == []
    assert "filter is void" in desired.filter_fault


def test_protocols() -> None:
    assert compile_filter([rule(ip_proto=[6, 300])], [])[0].protocols == [6]
    assert compile_filter([rule(ip_proto=[300])], []) == []


def test_grants_are_no_packet_rules() -> None:
    grant = WireRule(src_ips=["*"], cap_grant=[CapGrant(dsts=["100.64.0.1/32"])])
    assert compile_filter([grant], []) == []


def test_sources_by_capability() -> None:
    holder = machine(7, cap_map={"friend": None}, addresses=["100.64.0.7/32"])
    (compiled,) = compile_filter([rule(src=["cap:friend"])], [holder, machine(8)])
    assert compiled.sources == [Span(first="100.64.0.7", last="100.64.0.7")]
    assert compile_filter([rule(src=["cap:nobody"])], [holder]) == []


def test_a_peer_for_the_peerapi_only_voids_a_filter_that_lets_it_in() -> None:
    unsigned = machine(2, unsigned_peer_api_only=True)
    with pytest.raises(MalformedFilter):
        compile_filter([rule(src=["100.64.0.0/24"])], [unsigned])
    assert compile_filter([rule(src=["100.64.0.3"])], [unsigned])


def test_secrets_do_not_show() -> None:
    desired = desire(view(), SETTINGS, WALL)
    secret = PRIVATE.reveal().hex()
    for value in (SETTINGS, desired, *reconcile(NOTHING, desired)):
        assert repr(PRIVATE.reveal()) not in repr(value)
        assert secret not in repr(value)


def test_peers_of_a_dead_relay_are_reached_through_our_own_home() -> None:
    peers = {n: Node(id=n, home_derp=home) for n, home in ((1, 900), (2, 901), (3, 0))}
    view = View(peers=peers)
    moved = around_dead(view, {900}, 901)
    assert {n: peer.home_derp for n, peer in moved.peers.items()} == {1: 901, 2: 901, 3: 0}
    assert around_dead(view, {900}, 900) is view, "where ours is dead, too, nothing is better"
    assert around_dead(view, {902}, 901) is view
