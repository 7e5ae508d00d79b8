"""From a plan to the commands that build it: pure, so that a test can read them.

Every part is a namespace. A part on the internet hangs on a routed veth of its own, with no
shared segment, so that packets between two homes cross the "internet" as routed packets do. A
router's LAN is a bridge in the router's namespace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from warren.lab.kinds import KINDS, LAN, WAN, ruleset
from warren.lab.plan import Addressed, Host, Router, extra_addresses

INTERNET = "internet"
_GATEWAY = "192.0.2.254"
_GATEWAY_V6 = "fe80::1"
"""The internet's own addresses on every link; each side reaches them as on-link."""
_WAN_V6 = "fe80::2"
"""A router's own address on its link to the internet."""


@dataclass(frozen=True)
class Ip:
    """One line for `ip -batch` inside the namespace of `part`."""

    part: str
    line: str


@dataclass(frozen=True)
class Sysctl:
    """Write `value` to /proc/sys/`path` inside the namespace of `part`."""

    part: str
    path: str
    value: str


@dataclass(frozen=True)
class Nft:
    """Load an nftables ruleset inside the namespace of `part`."""

    part: str
    rules: str


Step = Ip | Sysctl | Nft


def parts(solved: Addressed) -> list[str]:
    """Names of all namespaces, the internet first."""
    plan = solved.plan
    return [
        INTERNET,
        *(router.name for router in plan.routers),
        *(host.name for host in plan.hosts),
    ]


def compile_layout(solved: Addressed, namespace: dict[str, str]) -> list[Step]:
    """Steps that build the plan in existing, empty namespaces.

    namespace: part → name of its namespace, for veth ends that are born into another one.
    """
    steps: list[Step] = [Ip(part, "link set lo up") for part in parts(solved)]
    steps += [Sysctl(INTERNET, "net/ipv4/ip_forward", "1")]
    if solved.address_v6:
        steps += [Sysctl(INTERNET, "net/ipv6/conf/all/forwarding", "1")]
        # Nobody has an address of another, so none waits for the search for duplicates.
        for name in (INTERNET, *solved.lan_gateway_v6, *solved.address_v6):
            steps += [Sysctl(name, "net/ipv6/conf/default/accept_dad", "0")]
    for router in solved.plan.routers:
        steps += _router(router, solved)
    every: tuple[Router | Host, ...] = (*solved.plan.routers, *solved.plan.hosts)
    for index, part in enumerate(every):
        steps += _link(index, part, solved, namespace)
    for index, part in enumerate(every):
        steps += _uplink_v4(index, part, solved) if part.name in solved.address else ()
        steps += _uplink_v6(index, part, solved)
    for router in solved.plan.routers:
        steps += _routes_v6(router, solved)
    return steps


def _router(router: Router, solved: Addressed) -> Iterator[Step]:
    name = router.name
    gateway, gateway_v6 = solved.lan_gateway.get(name), solved.lan_gateway_v6.get(name)
    yield Ip(name, f"link add {LAN} type bridge")
    if router.lan is not None and gateway is not None:
        yield Ip(name, f"addr add {gateway}/{IPv4Network(router.lan).prefixlen} dev {LAN}")
        yield Sysctl(name, "net/ipv4/ip_forward", "1")
    if gateway_v6 is not None:
        yield Ip(name, f"addr add {gateway_v6}/64 dev {LAN}")
        yield Sysctl(name, "net/ipv6/conf/all/forwarding", "1")
    yield Ip(name, f"link set {LAN} up")
    if KINDS[router.kind].hairpin:
        # Hairpinned packets come from inside with the router's own outside address.
        yield Sysctl(name, f"net/ipv4/conf/{LAN}/accept_local", "1")
    yield Nft(name, ruleset(KINDS[router.kind], solved.address.get(name)))


def _link(
    index: int, part: Router | Host, solved: Addressed, namespace: dict[str, str]
) -> Iterator[Step]:
    """Lay a line from the part's interface `wan` to the internet, or to its router's LAN."""
    above, port = part.behind or INTERNET, f"p{index}"
    yield Ip(above, f"link add {port} type veth peer name {WAN} netns {namespace[part.name]}")
    if part.behind is None:
        yield Ip(above, f"link set {port} up")
    else:
        yield Ip(above, f"link set {port} master {LAN} up")
        if KINDS[_router_named(part.behind, solved).kind].hairpin:
            # Where the bridge itself calls netfilter, it would not send back by the same port.
            yield Ip(above, f"link set {port} type bridge_slave hairpin on")
    yield Ip(part.name, f"link set {WAN} up")


def _uplink_v4(index: int, part: Router | Host, solved: Addressed) -> Iterator[Step]:
    address, port = solved.address[part.name], f"p{index}"
    if part.behind is None:
        yield Ip(INTERNET, f"addr add {_GATEWAY}/32 dev {port}")
        for each in (address, *_extra(part, 4)):
            yield Ip(INTERNET, f"route add {each}/32 dev {port}")
            yield Ip(part.name, f"addr add {each}/32 dev {WAN}")
        if isinstance(part, Router) and not KINDS[part.kind].translate:
            yield Ip(INTERNET, f"route add {part.lan} via {address} dev {port}")
        gateway = _GATEWAY
    else:
        lan = IPv4Network(str(_router_named(part.behind, solved).lan))
        yield Ip(part.name, f"addr add {address}/{lan.prefixlen} dev {WAN}")
        gateway = str(solved.lan_gateway[part.behind])
    yield Ip(part.name, f"route add default via {gateway} dev {WAN} onlink")


def _uplink_v6(index: int, part: Router | Host, solved: Addressed) -> Iterator[Step]:
    address, port = solved.address_v6.get(part.name), f"p{index}"
    if part.behind is not None and address is not None:
        yield Ip(part.name, f"addr add {address}/64 dev {WAN}")
        gateway = str(solved.lan_gateway_v6[part.behind])
    elif address is not None:
        yield Ip(INTERNET, f"addr add {_GATEWAY_V6}/64 dev {port}")
        for each in (address, *_extra(part, 6)):
            yield Ip(INTERNET, f"route add {each}/128 dev {port}")
            yield Ip(part.name, f"addr add {each}/128 dev {WAN}")
        gateway = _GATEWAY_V6
    elif part.name in solved.lan_gateway_v6:
        yield Ip(INTERNET, f"addr add {_GATEWAY_V6}/64 dev {port}")
        yield Ip(part.name, f"addr add {_WAN_V6}/64 dev {WAN}")
        gateway = _GATEWAY_V6
    else:
        return
    yield Ip(part.name, f"route add ::/0 via {gateway} dev {WAN} onlink")


def _extra(part: Router | Host, version: int) -> list[IPv4Address | IPv6Address]:
    found = extra_addresses(part) if isinstance(part, Host) else []
    return [address for address in found if address.version == version]


def _routes_v6(router: Router, solved: Addressed) -> Iterator[Step]:
    """The way back to a LAN's public network, in every router above it and in the internet."""
    if router.name not in solved.lan_gateway_v6:
        return
    below = router
    while below.behind is not None:
        via = solved.address_v6[below.name]
        yield Ip(below.behind, f"route add {router.lan_v6} via {via} dev {LAN}")
        below = _router_named(below.behind, solved)
    port = f"p{solved.plan.routers.index(below)}"
    yield Ip(INTERNET, f"route add {router.lan_v6} via {_WAN_V6} dev {port}")


def _router_named(name: str, solved: Addressed) -> Router:
    return next(router for router in solved.plan.routers if router.name == name)
