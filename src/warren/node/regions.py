"""From the DERP map to the engine's relay regions (PROTOCOL §4.5)."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from ipaddress import ip_address
from types import MappingProxyType

import msgspec

from warren.engine.commands import RelayNode
from warren.netmap.derpmap import PIN_PREFIX, DERPMap, DERPNode
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.netmap.view import View

DEFAULT_PORT = 443
_PLAIN_PORT = 80
_NONE = "none"


def relay_names(derp_map: DERPMap) -> list[str]:
    """Return the host names that must be resolved before every relay can be dialled."""
    return sorted(
        {
            node.host_name
            for region in (derp_map.regions or {}).values()
            if region is not None
            for node in region.nodes
            if node.host_name and not (node.ipv4 and node.ipv6)
        }
    )


def relay_hosts(derp_map: DERPMap) -> set[str]:
    """Return the host names of all relays."""
    regions = (region for region in (derp_map.regions or {}).values() if region is not None)
    return {node.host_name for region in regions for node in region.nodes if node.host_name}


def around_dead(view: View, dead: Container[int], home: int) -> View:
    """Return a view in which peers at home in regions whose relay died are at home in ours.

    They leave such a region as this machine does, but where the coordinator is away, too, nobody
    can be told where they went. `home`: this machine's own region.
    """
    if home in dead:
        return view
    moved = {
        number: msgspec.structs.replace(peer, home_derp=home)
        for number, peer in view.peers.items()
        if peer.home_derp in dead
    }
    return msgspec.structs.replace(view, peers={**view.peers, **moved}) if moved else view


def compile_regions(
    derp_map: DERPMap,
    resolved: Mapping[str, Sequence[str]],
    proxies: Mapping[str, str] = MappingProxyType({}),
) -> dict[int, list[RelayNode]]:
    """Return region → relays in order of preference; `resolved`: name → addresses; `proxies`:
    name → `ip:port` of the HTTP proxy that leads there.

    Relays that only do STUN, or that have no usable address, are left out; a region without
    relays stays, empty.
    """
    regions: dict[int, list[RelayNode]] = {}
    for region_id, region in sorted((derp_map.regions or {}).items()):
        if region is None or not 0 < region_id <= 0xFFFF:
            continue
        nodes = (_relay(node, resolved, proxies) for node in region.nodes if not node.stun_only)
        regions[region_id] = [node for node in nodes if node is not None]
    return regions


def _relay(
    node: DERPNode, resolved: Mapping[str, Sequence[str]], proxies: Mapping[str, str]
) -> RelayNode | None:
    port = node.derp_port or DEFAULT_PORT
    addrs = []
    for ip in _addresses(node, resolved):
        try:
            addrs.append(str(Endpoint.of(ip_address(ip), port)))
        except (ValueError, MalformedEndpoint):
            continue
    if not addrs:
        return None
    pin = None
    name = node.host_name
    if node.cert_name.startswith(PIN_PREFIX):
        try:
            pin = bytes.fromhex(node.cert_name.removeprefix(PIN_PREFIX))
        except ValueError:
            return None
        if len(pin) != 32:
            return None
    elif node.cert_name:
        name = node.cert_name
    return RelayNode(
        addrs=addrs,
        server_name=name,
        cert_sha256=pin,
        # A lab's relay may speak in the clear, and says so by the port of clear HTTP.
        plain=node.insecure_for_tests and port == _PLAIN_PORT,
        insecure=node.insecure_for_tests,
        proxy=proxies.get(node.host_name),
    )


def _addresses(node: DERPNode, resolved: Mapping[str, Sequence[str]]) -> list[str]:
    found = []
    names = resolved.get(node.host_name, ())
    for version, literal in ((4, node.ipv4), (6, node.ipv6)):
        if literal == _NONE:
            continue
        if literal:
            found.append(literal)
        else:
            found += [ip for ip in names if (":" in ip) is (version == 6)]
    return found
