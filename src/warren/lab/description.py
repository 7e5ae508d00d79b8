"""A network as a person writes it down, in TOML: what `warren lab up` builds.

    [[router]]
    name = "home"
    kind = "symmetric"          # warren lab kinds
    behind = "carrier"          # another router; without it, the internet

    [[host]]
    name = "alice"
    behind = "home"
    node = true                 # runs a Warren node that has joined

A router with `ipv6 = "beside"` has a public IPv6 network as well, with a firewall and no NAT; with
`ipv6 = "alone"` nothing else. Whatever is left out is chosen: addresses, LANs, and a host called
`server` where there are nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from warren.lab.joining import SERVER, server_hosts
from warren.lab.kinds import KINDS
from warren.lab.plan import Host, InvalidPlan, Plan, Router, resolve
from warren.lab.reading import File, MalformedDescription, RouterTable, read_untrusted
from warren.lab.spelling import shown

MAX_PARTS = 60
MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Description:
    """plan: the network, with a host `server` if there are nodes. nodes: hosts with a Warren
    node. proxied: node → router whose HTTP proxy is its only way out."""

    plan: Plan
    nodes: tuple[str, ...]
    proxied: dict[str, str]


def parse_description_untrusted(data: bytes) -> Description:
    """Read the file and choose what it leaves out. Raises MalformedDescription."""
    if len(data) > MAX_FILE_BYTES:
        raise MalformedDescription(f"it is larger than {MAX_FILE_BYTES} bytes")
    read = read_untrusted(data)
    if not read.host:
        raise MalformedDescription("it names no [[host]]")
    if len(read.router) + len(read.host) > MAX_PARTS:
        raise MalformedDescription(f"it has more than {MAX_PARTS} routers and hosts")
    nodes = tuple(host.name for host in read.host if host.node)
    routers = _routers(read)
    used = {router.address for router in routers} | {host.address for host in read.host}
    free = (f"203.0.113.{n}" for n in range(101, 255) if f"203.0.113.{n}" not in used)
    hosts = [
        Host(
            host.name,
            address=host.address
            or (next(free) if host.behind is None and host.ipv6 is None else None),
            behind=host.behind,
            ipv6=host.ipv6,
        )
        for host in read.host
    ]
    if nodes:
        if SERVER in [router.name for router in routers] + [host.name for host in hosts]:
            raise MalformedDescription(f"the name {SERVER!r} is taken: the nodes' server has it")
        hosts = [*server_hosts(), *hosts]
    plan = Plan(hosts=tuple(hosts), routers=tuple(routers))
    try:
        resolve(plan)
    except InvalidPlan as error:
        raise MalformedDescription(str(error)) from error
    proxies = {router.name for router in routers if not KINDS[router.kind].forward}
    proxied = {
        host.name: host.behind for host in read.host if host.behind is not None and host.node
    }
    return Description(plan, nodes, {k: v for k, v in proxied.items() if v in proxies})


def _routers(read: File) -> list[Router]:
    above = {router.name: router.behind for router in read.router}
    used = {router.address for router in read.router}
    free = (f"203.0.113.{n}" for n in range(1, 101) if f"203.0.113.{n}" not in used)
    used_lans = {router.lan for router in read.router}
    free_public = (net for n in range(15) if (net := f"192.0.2.{16 * n}/28") not in used_lans)
    used_v6 = {router.lan_v6 for router in read.router}
    free_v6 = (f"2001:db8:{n:x}::/64" for n in range(0x100, 0x1000))
    made = []
    for router in read.router:
        address, lan, lan_v6 = router.address, _lan_v4(router, free_public, above), router.lan_v6
        if router.ipv6 is not None and lan_v6 is None:
            lan_v6 = next(network for network in free_v6 if network not in used_v6)
        if address is None and router.behind is None and lan is not None:
            address = next(free)
        made.append(Router(router.name, router.kind, address, router.behind, lan, lan_v6))
    return made


def _lan_v4(
    router: RouterTable, free_public: Iterator[str], above: dict[str, str | None]
) -> str | None:
    if router.ipv6 == "alone":
        if router.lan is not None:
            raise MalformedDescription(f"{shown(router.name)}: with IPv6 alone it has no lan")
        return None
    if router.lan is not None:
        return router.lan
    kind = KINDS.get(router.kind)
    if kind is None or kind.translate:
        return f"192.168.{_depth(router.name, above) + 1}.0/24"
    # What is behind a router that does not translate is public as well.
    lan = next(free_public, None)
    if lan is None:
        raise MalformedDescription(
            f"{shown(router.name)}: give it a lan, since all of 192.0.2.0 is used"
        )
    return lan


def _depth(name: str, above: dict[str, str | None]) -> int:
    """How many routers lie between this one and the internet; bounded if they form a circle."""
    depth = 0
    behind = above.get(name)
    while behind is not None and depth < MAX_PARTS:
        depth, behind = depth + 1, above.get(behind)
    return depth
