"""From a plan to the commands that build it: pure, so that a test can read them.

Every part is a namespace. A part on the internet hangs on a routed veth of its own, with no
shared segment, so that packets between two homes cross the "internet" as routed packets do. A
router's LAN is a bridge in the router's namespace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

from warren.lab.kinds import KINDS, LAN, WAN, ruleset
from warren.lab.plan import Addressed, Host, Router

INTERNET = "internet"
_GATEWAY = "192.0.2.254"
_GATEWAY_V6 = "fe80::1"
"""The internet's own addresses on every link; each side reaches them as on-link."""


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
        # Nobody else is on any link, so no address waits for the search for duplicates.
        for name in (INTERNET, *solved.address_v6):
            steps += [Sysctl(name, "net/ipv6/conf/default/accept_dad", "0")]
    for router in solved.plan.routers:
        steps += _router(router, solved)
    every: tuple[Router | Host, ...] = (*solved.plan.routers, *solved.plan.hosts)
    for index, part in enumerate(every):
        steps += _uplink(index, part, solved, namespace)
    return steps


def _router(router: Router, solved: Addressed) -> Iterator[Step]:
    prefix = IPv4Network(router.lan).prefixlen
    yield Ip(router.name, f"link add {LAN} type bridge")
    yield Ip(router.name, f"addr add {solved.lan_gateway[router.name]}/{prefix} dev {LAN}")
    yield Ip(router.name, f"link set {LAN} up")
    yield Sysctl(router.name, "net/ipv4/ip_forward", "1")
    if KINDS[router.kind].hairpin:
        # Hairpinned packets come from inside with the router's own outside address.
        yield Sysctl(router.name, f"net/ipv4/conf/{LAN}/accept_local", "1")
    yield Nft(router.name, ruleset(KINDS[router.kind], solved.address[router.name]))


def _uplink(
    index: int, part: Router | Host, solved: Addressed, namespace: dict[str, str]
) -> Iterator[Step]:
    """Connect the part's interface `wan` to the internet, or to the LAN of its router."""
    above = part.behind or INTERNET
    port = f"p{index}"
    address, address_v6 = solved.address.get(part.name), solved.address_v6.get(part.name)
    yield Ip(above, f"link add {port} type veth peer name {WAN} netns {namespace[part.name]}")
    if part.behind is None:
        extra = part.extra if isinstance(part, Host) else ()
        yield Ip(above, f"addr add {_GATEWAY}/32 dev {port}")
        yield Ip(above, f"link set {port} up")
        for each in (*([str(address)] if address else []), *extra):
            yield Ip(above, f"route add {each}/32 dev {port}")
            yield Ip(part.name, f"addr add {each}/32 dev {WAN}")
        if isinstance(part, Router) and not KINDS[part.kind].translate:
            yield Ip(above, f"route add {part.lan} via {address} dev {port}")
        gateway = _GATEWAY
    else:
        prefix = next(
            IPv4Network(r.lan).prefixlen for r in solved.plan.routers if r.name == part.behind
        )
        yield Ip(above, f"link set {port} master {LAN} up")
        if next(KINDS[r.kind].hairpin for r in solved.plan.routers if r.name == part.behind):
            # Where the bridge itself calls netfilter, it would not send back by the same port.
            yield Ip(above, f"link set {port} type bridge_slave hairpin on")
        yield Ip(part.name, f"addr add {address}/{prefix} dev {WAN}")
        gateway = str(solved.lan_gateway[part.behind])
    yield Ip(part.name, f"link set {WAN} up")
    if address is not None:
        yield Ip(part.name, f"route add default via {gateway} dev {WAN} onlink")
    if address_v6 is not None:
        yield Ip(above, f"addr add {_GATEWAY_V6}/64 dev {port}")
        yield Ip(above, f"route add {address_v6}/128 dev {port}")
        yield Ip(part.name, f"addr add {address_v6}/128 dev {WAN}")
        yield Ip(part.name, f"route add ::/0 via {_GATEWAY_V6} dev {WAN} onlink")
