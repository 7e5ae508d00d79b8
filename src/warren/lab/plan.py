"""A network as a person describes it: pure data, checked, with no effects.

Plan(
    routers=(Router("home-a", kind="port-restricted", address="203.0.113.10"),),
    hosts=(Host("server", address="198.51.100.10"), Host("alice", behind="home-a")),
)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

from warren.lab.kinds import KINDS
from warren.lab.spelling import meant, meant_or_known, shown

_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")

PUBLIC_NETWORKS = tuple(
    IPv4Network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
)
"""Documentation networks (RFC 5737): they look public and exist nowhere else."""

PUBLIC_NETWORK_V6 = IPv6Network("2001:db8::/32")
"""The same for IPv6 (RFC 3849)."""


class InvalidPlan(ValueError):
    """The description contradicts itself; the message says where."""


@dataclass(frozen=True)
class Router:
    """A router with one outside address and one LAN of `lan` behind it.

    behind: None for the internet, else the name of another router (a NAT behind a NAT).
    address: its outside address; behind another router it may stay None and is then given out.
    lan: for a kind that does not translate this is public too, e.g. "192.0.2.16/28". None: its
    LAN has IPv6 alone, and the router has no IPv4 address either.
    lan_v6: the LAN's own public /64, as providers delegate them. It is routed and never
    translated; the kind says what the firewall lets in.
    """

    name: str
    kind: str
    address: str | None = None
    behind: str | None = None
    lan: str | None = "192.168.1.0/24"
    lan_v6: str | None = None


@dataclass(frozen=True)
class Host:
    """A machine: on the internet with `address`, or in the LAN of the router `behind`.

    ipv6: its public IPv6 address, beside `address` or alone. Behind a router with `lan_v6` it is
    one of that network, given out where it is None.
    """

    name: str
    address: str | None = None
    behind: str | None = None
    extra: tuple[str, ...] = ()
    """Further public addresses of the same machine, of a family that it has."""
    ipv6: str | None = None


@dataclass(frozen=True)
class Plan:
    """The whole network. Between any two public addresses lies one router, "internet"."""

    hosts: tuple[Host, ...]
    routers: tuple[Router, ...] = ()


@dataclass(frozen=True)
class Addressed:
    """A plan with every address decided. `lan_gateway…` are by router name, the rest by part."""

    plan: Plan
    address: dict[str, IPv4Address] = field(default_factory=dict)
    lan_gateway: dict[str, IPv4Address] = field(default_factory=dict)
    address_v6: dict[str, IPv6Address] = field(default_factory=dict)
    lan_gateway_v6: dict[str, IPv6Address] = field(default_factory=dict)


@dataclass(frozen=True)
class _Lan:
    """What a router gives out; each half is None where its family is missing."""

    v4: IPv4Network | None
    v6: IPv6Network | None
    free_v4: Iterator[IPv4Address]
    free_v6: Iterator[IPv6Address]


def resolve(plan: Plan) -> Addressed:
    """Check a plan and decide every address. Raises InvalidPlan."""
    routers = {router.name: router for router in plan.routers}
    names = [*routers, *(host.name for host in plan.hosts)]
    for name in names:
        if not _NAME.fullmatch(name) or name == "internet":
            raise InvalidPlan(f"{shown(name)} cannot be a name: 1 to 24 of a-z, 0-9 and '-'")
        if names.count(name) > 1:
            raise InvalidPlan(f"two parts are called {name!r}")
    for router in plan.routers:
        if router.kind not in KINDS:
            raise InvalidPlan(
                f"{router.name}: no NAT kind {shown(router.kind)}"
                f"{meant_or_known(router.kind, KINDS)}"
            )
        _check_above(router, routers)

    lans = {name: _lan(router) for name, router in routers.items()}
    _check_apart(routers, lans)
    solved = Addressed(plan)
    for name, lan in lans.items():
        if lan.v4 is not None:
            solved.lan_gateway[name] = next(lan.free_v4)
        if lan.v6 is not None:
            solved.lan_gateway_v6[name] = next(lan.free_v6)
    every: tuple[Router | Host, ...] = (*plan.routers, *plan.hosts)
    for part in every:
        if part.behind is None:
            _on_the_internet(part, solved, lans)
        elif part.behind not in routers:
            raise InvalidPlan(_no_router(part.name, part.behind, routers))
        else:
            _in_a_lan(part, solved, lans[part.behind])
    for host in plan.hosts:
        if host.extra and host.behind is not None:
            raise InvalidPlan(f"{host.name}: only a public host has extra addresses")
        for address in extra_addresses(host):
            families = (solved.address, solved.address_v6)
            if host.name not in families[address.version == 6]:
                raise InvalidPlan(f"{host.name}: {address} is beside no IPv{address.version} one")
    taken: list[tuple[str | None, IPv4Address | IPv6Address]] = [
        (part.behind, solved.address[part.name]) for part in every if part.name in solved.address
    ]
    taken += [(None, address) for address in solved.address_v6.values()]
    taken += [(None, address) for host in plan.hosts for address in extra_addresses(host)]
    taken += [(router, address) for router, address in solved.lan_gateway.items()]
    taken += [(None, address) for address in solved.lan_gateway_v6.values()]
    for behind, address in taken:
        if taken.count((behind, address)) > 1:
            raise InvalidPlan(f"{address} is used twice")
    return solved


def extra_addresses(host: Host) -> list[IPv4Address | IPv6Address]:
    """The further addresses of a host. Raises InvalidPlan."""
    return [
        _parse_v6(host.name, text) if ":" in text else _public(host.name, text)
        for text in host.extra
    ]


def _on_the_internet(part: Router | Host, solved: Addressed, lans: dict[str, _Lan]) -> None:
    ipv6 = part.ipv6 if isinstance(part, Host) else None
    if ipv6 is not None:
        address = _parse_v6(part.name, ipv6)
        for name, lan in lans.items():
            if lan.v6 is not None and address in lan.v6:
                raise InvalidPlan(f"{part.name}: {address} belongs to the network behind {name}")
        solved.address_v6[part.name] = address
    without_v4 = part.lan is None if isinstance(part, Router) else ipv6 is not None
    if part.address is not None or not without_v4:
        solved.address[part.name] = _public(part.name, part.address)


def _in_a_lan(part: Router | Host, solved: Addressed, lan: _Lan) -> None:
    v4, v6 = lan.v4, lan.v6
    ipv6 = part.ipv6 if isinstance(part, Host) else None
    wants_v4 = part.lan is not None if isinstance(part, Router) else v4 is not None
    try:
        if v6 is not None:
            given = None if ipv6 is None else _parse_v6(part.name, ipv6)
            solved.address_v6[part.name] = given or next(lan.free_v6)
            if given is not None and given not in v6:
                raise InvalidPlan(f"{part.name}: {given} is not in {v6}")
        elif ipv6 is not None:
            raise InvalidPlan(f"{part.name}: the router {part.behind} has no IPv6 for it")
        if v4 is None and (wants_v4 or part.address is not None):
            raise InvalidPlan(f"{part.name}: the router {part.behind} has no IPv4 for it")
        if v4 is not None and wants_v4:
            inside = _inside(part.name, part.address, v4) if part.address else next(lan.free_v4)
            solved.address[part.name] = inside
    except StopIteration:
        raise InvalidPlan(f"{part.name}: the network behind {part.behind} is full") from None


def _check_above(router: Router, routers: dict[str, Router]) -> None:
    """Check that a chain of routers ends at the internet, and carries the router's IPv6."""
    seen = {router.name}
    above = router.behind
    while above is not None:
        if above in seen:
            raise InvalidPlan(f"{router.name} is behind itself")
        if above not in routers:
            raise InvalidPlan(_no_router(router.name, above, routers))
        if router.lan_v6 is not None and routers[above].lan_v6 is None:
            raise InvalidPlan(f"{router.name}: the router {above} has no IPv6 for it")
        seen.add(above)
        above = routers[above].behind


def _no_router(name: str, wanted: str, routers: dict[str, Router]) -> str:
    return f"{name}: there is no router {shown(wanted)}{meant(wanted, routers)}"


def _check_apart(routers: dict[str, Router], lans: dict[str, _Lan]) -> None:
    """Check that no two LANs share public addresses."""
    known: list[tuple[str, IPv4Network | IPv6Network]] = [
        (name, lan.v6) for name, lan in lans.items() if lan.v6 is not None
    ]
    known += [
        (name, lan.v4)
        for name, lan in lans.items()
        if lan.v4 is not None and not KINDS[routers[name].kind].translate
    ]
    for number, (name, network) in enumerate(known):
        for other, its in known[:number]:
            if network.version == its.version and network.overlaps(its):
                raise InvalidPlan(f"{name}: {network} is behind {other} already")


def _public(name: str, text: str | None) -> IPv4Address:
    if text is None:
        raise InvalidPlan(f"{name}: on the internet it needs an address")
    address = _parse(name, text)
    if not any(address in network for network in PUBLIC_NETWORKS):
        allowed = ", ".join(map(str, PUBLIC_NETWORKS))
        raise InvalidPlan(f"{name}: {address} is not in one of {allowed}")
    return address


def _parse_v6(name: str, text: str) -> IPv6Address:
    try:
        address = IPv6Address(text)
    except AddressValueError as error:
        raise InvalidPlan(f"{name}: {shown(text)} is not an IPv6 address") from error
    if address not in PUBLIC_NETWORK_V6:
        raise InvalidPlan(f"{name}: {address} is not in {PUBLIC_NETWORK_V6}")
    return address


def _parse(name: str, text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise InvalidPlan(f"{name}: {shown(text)} is not an IPv4 address") from error


def _lan(router: Router) -> _Lan:
    v4, v6 = _lan_v4(router), _lan_v6(router)
    if v4 is None and v6 is None:
        raise InvalidPlan(f"{router.name}: its LAN needs IPv4, IPv6 or both")
    return _Lan(
        v4,
        v6,
        iter(()) if v4 is None else iter(v4.hosts()),
        iter(()) if v6 is None else iter(v6.hosts()),
    )


def _lan_v4(router: Router) -> IPv4Network | None:
    if router.lan is None:
        if router.address is not None:
            raise InvalidPlan(f"{router.name}: with IPv6 alone it has no IPv4 address")
        return None
    try:
        lan = IPv4Network(router.lan)
    except ValueError as error:
        raise InvalidPlan(f"{router.name}: {shown(router.lan)} is not an IPv4 network") from error
    if lan.prefixlen > 29:
        raise InvalidPlan(f"{router.name}: {lan} is too small for a LAN; use /29 or larger")
    return lan


def _lan_v6(router: Router) -> IPv6Network | None:
    if router.lan_v6 is None:
        return None
    try:
        lan = IPv6Network(router.lan_v6)
    except ValueError as error:
        raise InvalidPlan(
            f"{router.name}: {shown(router.lan_v6)} is not an IPv6 network"
        ) from error
    if lan.prefixlen != 64 or not lan.subnet_of(PUBLIC_NETWORK_V6):
        raise InvalidPlan(f"{router.name}: {lan} is not a /64 in {PUBLIC_NETWORK_V6}")
    return lan


def _inside(name: str, text: str, lan: IPv4Network) -> IPv4Address:
    address = _parse(name, text)
    if address not in lan:
        raise InvalidPlan(f"{name}: {address} is not in {lan}")
    return address
