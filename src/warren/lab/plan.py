"""A network as a person describes it: pure data, checked, with no effects.

Plan(
    routers=(Router("home-a", kind="port-restricted", address="203.0.113.10"),),
    hosts=(Host("server", address="198.51.100.10"), Host("alice", behind="home-a")),
)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

from warren.lab.kinds import KINDS

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
    lan: for a kind that does not translate this is public too, e.g. "192.0.2.16/28".
    """

    name: str
    kind: str
    address: str | None = None
    behind: str | None = None
    lan: str = "192.168.1.0/24"


@dataclass(frozen=True)
class Host:
    """A machine: on the internet with `address`, or in the LAN of the router `behind`.

    ipv6: its public IPv6 address, beside `address` or alone; only on the internet.
    """

    name: str
    address: str | None = None
    behind: str | None = None
    extra: tuple[str, ...] = ()
    """Further public addresses of the same machine."""
    ipv6: str | None = None


@dataclass(frozen=True)
class Plan:
    """The whole network. Between any two public addresses lies one router, "internet"."""

    hosts: tuple[Host, ...]
    routers: tuple[Router, ...] = ()


@dataclass(frozen=True)
class Addressed:
    """A plan with every address decided. `lan_gateway` is by router name, the rest by part."""

    plan: Plan
    address: dict[str, IPv4Address] = field(default_factory=dict)
    lan_gateway: dict[str, IPv4Address] = field(default_factory=dict)
    address_v6: dict[str, IPv6Address] = field(default_factory=dict)


def resolve(plan: Plan) -> Addressed:
    """Check a plan and decide every address. Raises InvalidPlan."""
    routers = {router.name: router for router in plan.routers}
    names = [*routers, *(host.name for host in plan.hosts)]
    for name in names:
        if not _NAME.fullmatch(name) or name == "internet":
            raise InvalidPlan(f"{name!r} cannot be a name: 1 to 24 of a-z, 0-9 and '-'")
        if names.count(name) > 1:
            raise InvalidPlan(f"two parts are called {name!r}")
    for router in plan.routers:
        if router.kind not in KINDS:
            raise InvalidPlan(
                f"{router.name}: no NAT kind {router.kind!r}; known: {', '.join(KINDS)}"
            )
        _check_acyclic(router, routers)

    lans = {name: _lan(router) for name, router in routers.items()}
    free = {name: lan.hosts() for name, lan in lans.items()}
    solved = Addressed(plan, {}, {name: next(free[name]) for name in routers})
    every: tuple[Router | Host, ...] = (*plan.routers, *plan.hosts)
    for part in every:
        ipv6 = part.ipv6 if isinstance(part, Host) else None
        if ipv6 is not None:
            solved.address_v6[part.name] = _public_v6(part, ipv6)
        if part.behind is None and part.address is None and ipv6 is not None:
            continue
        if part.behind is None:
            solved.address[part.name] = _public(part.name, part.address)
        elif part.behind not in routers:
            raise InvalidPlan(f"{part.name}: there is no router {part.behind!r}")
        elif part.address is None:
            solved.address[part.name] = next(free[part.behind])
        else:
            solved.address[part.name] = _inside(part.name, part.address, lans[part.behind])
    for host in plan.hosts:
        if host.extra and host.behind is not None:
            raise InvalidPlan(f"{host.name}: only a public host has extra addresses")
        for text in host.extra:
            _public(host.name, text)
    taken: list[tuple[str | None, IPv4Address | IPv6Address]] = [
        (part.behind, solved.address[part.name]) for part in every if part.name in solved.address
    ]
    taken += [(None, address) for address in solved.address_v6.values()]
    taken += [(None, IPv4Address(text)) for host in plan.hosts for text in host.extra]
    for behind, address in taken:
        if taken.count((behind, address)) > 1:
            raise InvalidPlan(f"{address} is used twice")
    return solved


def _check_acyclic(router: Router, routers: dict[str, Router]) -> None:
    seen = {router.name}
    above = router.behind
    while above is not None:
        if above in seen:
            raise InvalidPlan(f"{router.name} is behind itself")
        if above not in routers:
            raise InvalidPlan(f"{router.name}: there is no router {above!r}")
        seen.add(above)
        above = routers[above].behind


def _public(name: str, text: str | None) -> IPv4Address:
    if text is None:
        raise InvalidPlan(f"{name}: on the internet it needs an address")
    address = _parse(name, text)
    if not any(address in network for network in PUBLIC_NETWORKS):
        allowed = ", ".join(map(str, PUBLIC_NETWORKS))
        raise InvalidPlan(f"{name}: {address} is not in one of {allowed}")
    return address


def _public_v6(part: Router | Host, text: str) -> IPv6Address:
    if part.behind is not None:
        raise InvalidPlan(
            f"{part.name}: routers of the lab carry IPv4 only; ipv6 needs the internet"
        )
    try:
        address = IPv6Address(text)
    except AddressValueError as error:
        raise InvalidPlan(f"{part.name}: {text!r} is not an IPv6 address") from error
    if address not in PUBLIC_NETWORK_V6:
        raise InvalidPlan(f"{part.name}: {address} is not in {PUBLIC_NETWORK_V6}")
    return address


def _parse(name: str, text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise InvalidPlan(f"{name}: {text!r} is not an IPv4 address") from error


def _lan(router: Router) -> IPv4Network:
    try:
        lan = IPv4Network(router.lan)
    except ValueError as error:
        raise InvalidPlan(f"{router.name}: {router.lan!r} is not an IPv4 network") from error
    if lan.prefixlen > 29:
        raise InvalidPlan(f"{router.name}: {lan} is too small for a LAN; use /29 or larger")
    return lan


def _inside(name: str, text: str, lan: IPv4Network) -> IPv4Address:
    address = _parse(name, text)
    if address not in lan:
        raise InvalidPlan(f"{name}: {address} is not in {lan}")
    return address
