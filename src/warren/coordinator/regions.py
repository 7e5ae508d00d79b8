"""The relay regions that machines are told: our own, and those of files and URLs; pure.

Files come after our own region, each over those before it, and the policy's `derpMap` over all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec.structs import replace

from warren.coordinator.config import Config, parse_address, relay_address, stun_groups
from warren.netmap.derpmap import DERPMap, DERPNode, DERPRegion
from warren.policy.derpmap import merge

OWN, POLICY = "this server", "the policy"


class RegionProblem(Exception):
    """Regions that cannot be taken. The text is a sentence that names the file or URL."""


class Regions(NamedTuple):
    """A map, and where each of its regions is from."""

    derp_map: DERPMap
    sources: Mapping[int, str]


def combine(own: DERPMap, added: Iterable[tuple[str, DERPMap]]) -> Regions:
    """Put files, named by their places, over our own region. Raises RegionProblem.

    Our own number must not be taken by accident, as by an example that was copied: a file that
    says something else of it also has to leave our region out.
    """
    derp_map = own
    sources = dict.fromkeys(own.regions or {}, OWN)
    for place, found in added:
        if found.omit_default_regions:
            sources.clear()
        for number, region in (found.regions or {}).items():
            if region is not None and sources.get(number) == OWN:
                raise RegionProblem(
                    f"{place}: region {number} is this server's own; give it another number, "
                    'or say "omitDefaultRegions": true there to leave ours out'
                )
            sources[number] = place
        derp_map = merge(derp_map, found)
    kept = derp_map.regions or {}
    return Regions(derp_map, {n: place for n, place in sources.items() if n in kept})


def with_policy(regions: Regions, in_force: DERPMap) -> Regions:
    """Tell where the regions of the map in force, which has the policy over it, are from."""
    before = regions.derp_map.regions or {}
    sources = {
        number: regions.sources[number] if before.get(number) is region else POLICY
        for number, region in (in_force.regions or {}).items()
    }
    return Regions(in_force, sources)


def is_url(place: str) -> bool:
    """Whether regions are fetched from there, and not read."""
    return urlsplit(place).scheme in ("http", "https")


def own_region(config: Config, pin: str) -> DERPMap:
    """Return the map with our own relay; empty where it can't be reached over TLS.

    pin: what a machine is to expect of a certificate that nobody vouches for, or nothing.
    """
    place = relay_address(config)
    if place is None:
        return DERPMap(regions={})
    host, port = place
    ipv4, ipv6 = "", ""
    with suppress(ValueError):
        address = ip_address(host)
        ipv4, ipv6 = (host, "none") if address.version == 4 else ("none", host)
    stun_port = -1
    if config.stun != "off":
        stun_port = config.stun_port or stun_groups(config.stun)[0][0].port
    node = DERPNode(
        name=f"{config.region_id}a",
        region_id=config.region_id,
        host_name=host,
        cert_name=pin,
        ipv4=ipv4,
        ipv6=ipv6,
        derp_port=port,
        stun_port=stun_port,
        can_port80=bool(config.http) and parse_address("http", config.http)[1] == 80,
    )
    region = DERPRegion(
        region_id=config.region_id,
        region_code=config.region_code,
        region_name=config.region_name,
        nodes=[node, *_second_stun(config, node)],
    )
    return DERPMap(regions={config.region_id: region}, omit_default_regions=True)


def _second_stun(config: Config, node: DERPNode) -> list[DERPNode]:
    """Return our other STUN address as a server of its own.

    A client needs two to see whether its NAT maps by destination. Stock clients take it in, but
    in a map with a single region they ask no second server.
    """
    if config.stun == "off" or config.relay_host:
        return []
    others: dict[int, str] = {}
    for group in stun_groups(config.stun):
        ips = [endpoint.ip for endpoint in reversed(group)]
        if len(set(ips)) > 1:
            ip = next(ip for ip in ips if str(ip) not in (node.ipv4, node.ipv6))
            others[ip.version] = str(ip)
    if not others:
        return []
    second = replace(
        node,
        name=f"{config.region_id}b",
        ipv4=others.get(4, "none"),
        ipv6=others.get(6, "none"),
        stun_only=True,
        can_port80=False,
    )
    return [second]
