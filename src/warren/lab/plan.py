"""A network as a person describes it: pure data, checked, with no effects.

Plan(
    routers=(Router("home-a", kind="port-restricted", address="203.0.113.10"),),
    hosts=(Host("server", address="198.51.100.10"), Host("alice", behind="home-a")),
)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from warren.lab.kinds import KINDS

_NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")

PUBLIC_NETWORKS = tuple(
    IPv4Network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
)
"""Documentation networks (RFC 5737): they look public and exist nowhere else."""


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
    """A machine: on the internet with `address`, or in the LAN of the router `behind`."""

    name: str
    address: str | None = None
    behind: str | None = None
    extra: tuple[str, ...] = ()
    """Further public addresses of the same machine."""


@dataclass(frozen=True)
class Plan:
    """The whole network. Between any two public addresses lies one router, "internet"."""

    hosts: tuple[Host, ...]
    routers: tuple[Router, ...] = ()


@dataclass(frozen=True)
class Addressed:
    """A plan with every address decided. `lan_gateway` is by router name."""

    plan: Plan
    address: dict[str, IPv4Address] = field(default_factory=dict)
    lan_gateway: dict[str, IPv4Address] = field(default_factory=dict)


def resolve(plan: Plan) -> Addressed:
    """Check a plan and decide every address. Raises InvalidPlan."""
    routers = {router.name: router for router in plan.routers}
    names = [*routers, *(host.name for host in plan.hosts)]
    for name in names:
        if not _NAME.fullmatch(name) or name == "internet":
            raise InvalidPlan(f"{name!r} cannot be a name: 1 to 16 of a-z, 0-9 and '-'")
        if names.count(name) > 1:
            raise InvalidPlan(f"two parts are called {name!r}")
    for router in plan.routers:
        if router.kind not in KINDS:
            raise InvalidPlan(
                f"{router.name}: no NAT kind {router.kind!r}; known: {', '.join(KINDS)}"
            )
        _check_acyclic(router, routers)

    lans = {name: IPv4Network(router.lan) for name, router in routers.items()}
    free = {name: lan.hosts() for name, lan in lans.items()}
    solved = Addressed(plan, {}, {name: next(free[name]) for name in routers})
    every: tuple[Router | Host, ...] = (*plan.routers, *plan.hosts)
    for part in every:
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
    taken = [(part.behind, solved.address[part.name]) for part in every]
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
    address = IPv4Address(text)
    if not any(address in network for network in PUBLIC_NETWORKS):
        allowed = ", ".join(map(str, PUBLIC_NETWORKS))
        raise InvalidPlan(f"{name}: {address} is not in one of {allowed}")
    return address


def _inside(name: str, text: str, lan: IPv4Network) -> IPv4Address:
    address = IPv4Address(text)
    if address not in lan:
        raise InvalidPlan(f"{name}: {address} is not in {lan}")
    return address
