"""From a DERP map to the STUN servers that are to be asked (PROTOCOL §4.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from warren.netmap.derpmap import DERPMap, DERPNode
from warren.netmap.endpoint import Endpoint, MalformedEndpoint

DEFAULT_STUN_PORT = 3478
_NONE = "none"

Address = IPv4Address | IPv6Address


class Target(NamedTuple):
    """One STUN server of a region."""

    region: int
    node: str
    endpoint: Endpoint


def host_names(derp_map: DERPMap) -> list[str]:
    """Return the names that must be resolved before `stun_targets` can give every server."""
    return sorted(
        {
            node.host_name
            for node in _measured_nodes(derp_map)
            if node.host_name and _literals(node) is None
        }
    )


def stun_targets(
    derp_map: DERPMap, resolved: Mapping[str, Sequence[Address]], ipv6: bool = True
) -> list[Target]:
    """Return the servers to ask, in the map's order of preference within a region.

    `resolved` gives the addresses of names; of each family the first is used. Regions that are
    never to be home are left out, and with `ipv6` false, IPv6 addresses.
    """
    targets = []
    for node in _measured_nodes(derp_map):
        for ip in _addresses(node, resolved):
            if ip.version == 6 and not ipv6:
                continue
            try:
                endpoint = Endpoint.of(ip, node.stun_port or DEFAULT_STUN_PORT)
            except MalformedEndpoint:
                continue  # A map may say anything; what can't be asked is not asked.
            targets.append(Target(node.region_id, node.name, endpoint))
    return targets


def measured_regions(derp_map: DERPMap) -> int:
    """Return how many regions have a STUN server that is asked."""
    return len({node.region_id for node in _measured_nodes(derp_map)})


def _measured_nodes(derp_map: DERPMap) -> list[DERPNode]:
    return [
        node
        for _, region in sorted((derp_map.regions or {}).items())
        if region is not None and not region.no_measure_no_home
        for node in region.nodes
        if node.stun_port >= 0
    ]


def _addresses(node: DERPNode, resolved: Mapping[str, Sequence[Address]]) -> list[Address]:
    if node.stun_test_ip:
        return _read([node.stun_test_ip])
    literals = _literals(node)
    if literals is not None:
        return literals
    found = _read([node.ipv4, node.ipv6])
    for version, text in ((4, node.ipv4), (6, node.ipv6)):
        if text == "":
            found += [ip for ip in resolved.get(node.host_name, ()) if ip.version == version][:1]
    return found


def _literals(node: DERPNode) -> list[Address] | None:
    """The node's addresses if the map gives or disables both families, else None."""
    if node.stun_test_ip:
        return _read([node.stun_test_ip])
    return _read([node.ipv4, node.ipv6]) if node.ipv4 and node.ipv6 else None


def _read(texts: Sequence[str]) -> list[Address]:
    found: list[Address] = []
    for text in texts:
        if text and text != _NONE:
            try:
                found.append(ip_address(text))
            except ValueError:
                continue
    return found
