"""What `warren netcheck` tells: the regular measuring, the NAT itself, portals and routers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.edge.linux.interfaces import LocalAddress
from warren.nat.behaviour import NatBehaviour
from warren.nat.explain import explain, ports_in_words
from warren.nat.mapping import sentence
from warren.nat.report import Report
from warren.nat.targets import stun_targets
from warren.netmap.derpmap import DERPMap
from warren.netmap.endpoint import Endpoint
from warren.netmap.view import View
from warren.node.captive import find_portal
from warren.node.natcheck import examine
from warren.node.portmapping import RouterFacts
from warren.node.regions import compile_regions
from warren.node.schema import (
    NatReport,
    NetcheckReport,
    PortMapProtocol,
    RouterReport,
)
from warren.node.statuses import region_code, region_latencies

_PORTAL_PORT = 80


class NatFacts(NamedTuple):
    """By IP family, None where there is nothing to ask by it; and whether a portal answered."""

    nat4: NatReport | None
    nat6: NatReport | None
    captive_portal: bool | None


async def examine_network(
    derp_map: DERPMap,
    resolved: Mapping[str, Sequence[str]],
    latency: Mapping[int, float],
    clock: Clock,
    entropy: Entropy,
    addresses: Callable[[], list[LocalAddress]],
) -> NatFacts:
    """Examine both families and look for a portal, all at once; takes four seconds at most.

    latency: seconds by region; the nearest regions are asked first. addresses: this machine's
    own, called in a thread.
    """
    try:
        local = await asyncio.to_thread(addresses)
    except OSError:
        local = []
    own = {address.ip for address in local}
    names = {name: [ip_address(text) for text in texts] for name, texts in resolved.items()}
    targets = stun_targets(derp_map, names)
    targets.sort(key=lambda target: latency.get(target.region, float("inf")))
    # A family that this machine does not have need not be waited for.
    usable = {address.ip.version for address in local if _leads_out(address)} or {4, 6}
    servers = [t.endpoint for t in targets if t.endpoint.ip.version in usable]
    nat4, nat6, portal = await asyncio.gather(
        examine([server for server in servers if server.is_v4], own, clock, entropy),
        examine([server for server in servers if not server.is_v4], own, clock, entropy),
        find_portal(_portal_relays(derp_map, resolved), entropy),
    )
    return NatFacts(_report(nat4), _report(nat6), portal)


def netcheck_report(
    view: View,
    measured: Report,
    home: int,
    endpoints: list[str],
    routers: Iterable[RouterFacts],
    nat: NatFacts,
) -> NetcheckReport:
    """Put the whole report together. home: the region in use. endpoints: this node's own."""
    return NetcheckReport(
        udp=measured.udp,
        ipv4=str(measured.global_v4) if measured.global_v4 else None,
        ipv6=str(measured.global_v6) if measured.global_v6 else None,
        mapping_varies=measured.mapping_varies,
        home_region=home,
        home_region_code=region_code(view, home),
        regions=region_latencies(view, measured.latency),
        endpoints=endpoints,
        routers=[_router_report(router) for router in routers],
        nat4=nat.nat4,
        nat6=nat.nat6,
        captive_portal=nat.captive_portal,
    )


def _router_report(router: RouterFacts) -> RouterReport:
    """Tell what a router said to the request for a port."""
    return RouterReport(
        address=str(router.gateway.ip),
        model=router.model,
        external=str(router.mapping.external) if router.mapping else None,
        protocols=[
            PortMapProtocol(
                protocol=outcome.protocol.value,
                finding=outcome.finding.value,
                text=sentence(outcome),
            )
            for outcome in router.outcomes
        ],
    )


def _leads_out(address: LocalAddress) -> bool:
    ip = address.ip
    return not (address.is_tun or ip.is_loopback or (ip.version == 6 and ip.is_link_local))


def _portal_relays(
    derp_map: DERPMap, resolved: Mapping[str, Sequence[str]]
) -> list[tuple[str, Endpoint]]:
    """Return the relays that serve port 80, one of each region."""
    wide = {
        number
        for number, region in (derp_map.regions or {}).items()
        if region is not None and any(node.can_port80 for node in region.nodes)
    }
    found = []
    for number, relays in compile_regions(derp_map, resolved).items():
        if number in wide and relays and relays[0].addrs:
            ip = Endpoint.parse(relays[0].addrs[0]).ip
            found.append((relays[0].server_name or str(ip), Endpoint(ip, _PORTAL_PORT)))
    return found


def _report(found: NatBehaviour | None) -> NatReport | None:
    if found is None:
        return None
    explained = explain(found)
    ports = found.ports
    return NatReport(
        udp=found.udp,
        name=explained.name,
        difficulty=explained.difficulty,
        translated=found.translated,
        mapped=[str(mapped) for mapped in found.mapped],
        mapping=str(found.mapping),
        filtering=str(found.filtering),
        ports=str(ports.style),
        ports_text=ports_in_words(found),
        port_step=ports.step or None,
        port_block=[ports.first, ports.last] if ports.last else None,
        port_samples=[[sample.local, sample.mapped] for sample in found.samples],
        hairpin=found.hairpin,
        mtu_bytes=found.mtu_bytes or None,
        servers=[str(server) for server in found.answered],
        discovery_server=str(found.discovery_server) if found.discovery_server else None,
        liars={str(server): str(said) for server, said in found.liars.items()},
        dropped=dict(found.dropped),
        meaning=list(explained.meaning),
    )
