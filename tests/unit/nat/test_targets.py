"""From a DERP map to STUN servers."""

from __future__ import annotations

from ipaddress import ip_address

from warren.nat.targets import host_names, stun_targets
from warren.netmap.derpmap import DERPMap, DERPNode, DERPRegion


def _map(*nodes: DERPNode, no_home: bool = False) -> DERPMap:
    region = DERPRegion(region_id=1, no_measure_no_home=no_home, nodes=list(nodes))
    return DERPMap(regions={1: region, 2: None})


def _node(**fields: object) -> DERPNode:
    return DERPNode(**{"name": "1a", "region_id": 1, "host_name": "relay.example", **fields})


def _targets(derp_map: DERPMap, ipv6: bool = True) -> list[str]:
    found = [ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("2001:db8::1")]
    return [str(item.endpoint) for item in stun_targets(derp_map, {"relay.example": found}, ipv6)]


def test_names_are_resolved_and_literals_win() -> None:
    assert host_names(_map(_node())) == ["relay.example"]
    assert _targets(_map(_node())) == ["192.0.2.1:3478", "[2001:db8::1]:3478"]
    assert _targets(_map(_node(ipv4="198.18.0.1"))) == ["198.18.0.1:3478", "[2001:db8::1]:3478"]
    literal = _map(_node(ipv4="198.18.0.1", ipv6="none"))
    assert host_names(literal) == []
    assert _targets(literal) == ["198.18.0.1:3478"]
    assert _targets(_map(_node(stun_test_ip="127.0.0.1"))) == ["127.0.0.1:3478"]


def test_what_is_not_asked() -> None:
    assert _targets(_map(_node(), no_home=True)) == []
    assert _targets(_map(_node(stun_port=-1))) == []
    assert _targets(_map(_node()), ipv6=False) == ["192.0.2.1:3478"]
    assert _targets(_map(_node(host_name="unresolved.example"))) == []
    assert _targets(DERPMap()) == []


def test_a_map_may_say_anything() -> None:
    assert _targets(_map(_node(ipv4="not an address", ipv6="none"))) == []
    assert _targets(_map(_node(ipv4="198.18.0.1", ipv6="fe80::1%eth0", stun_port=99))) == [
        "198.18.0.1:99"
    ]
    assert _targets(_map(_node(stun_port=70_000))) == []
