"""A network as a person writes it down, in TOML: what `warren lab up` builds.

    [[router]]
    name = "home"
    kind = "symmetric"          # warren lab kinds
    behind = "carrier"          # another router; without it, the internet

    [[host]]
    name = "alice"
    behind = "home"
    node = true                 # runs a Warren node that has joined

Whatever is left out is chosen: addresses, LANs, and a host called `server` where there are nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from warren.lab.joining import SERVER, SERVER_ADDRESS, SERVER_ADDRESS_V6, SERVER_SECOND
from warren.lab.kinds import KINDS
from warren.lab.plan import Host, InvalidPlan, Plan, Router, resolve

MAX_PARTS = 60
MAX_FILE_BYTES = 256 * 1024


class MalformedDescription(ValueError):
    """The file cannot be built; the message says what is wrong with it."""


class _Router(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    kind: str = "port-restricted"
    address: str | None = None
    behind: str | None = None
    lan: str | None = None


class _Host(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    address: str | None = None
    behind: str | None = None
    ipv6: str | None = None
    node: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    router: list[_Router] = []
    host: list[_Host] = []


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
    try:
        read = msgspec.toml.decode(data, type=_File)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedDescription(str(error)) from error
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
        hosts.insert(
            0, Host(SERVER, address=SERVER_ADDRESS, extra=(SERVER_SECOND,), ipv6=SERVER_ADDRESS_V6)
        )
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


def _routers(read: _File) -> list[Router]:
    above = {router.name: router.behind for router in read.router}
    used = {router.address for router in read.router}
    free = (f"203.0.113.{n}" for n in range(1, 101) if f"203.0.113.{n}" not in used)
    made = []
    for number, router in enumerate(read.router):
        lan = router.lan
        kind = KINDS.get(router.kind)
        if lan is None and kind is not None and not kind.translate:
            # What is behind a router that does not translate is public as well.
            lan = f"192.0.2.{16 * (number % 15)}/28"
        address = router.address or (next(free, None) if router.behind is None else None)
        lan = lan or f"192.168.{_depth(router.name, above) + 1}.0/24"
        made.append(Router(router.name, router.kind, address, router.behind, lan))
    return made


def _depth(name: str, above: dict[str, str | None]) -> int:
    """How many routers lie between this one and the internet; bounded if they form a circle."""
    depth = 0
    behind = above.get(name)
    while behind is not None and depth < MAX_PARTS:
        depth, behind = depth + 1, above.get(behind)
    return depth
