"""Places that a machine can be in, as data: what lies between it and the internet.

A place is a chain of routers of the kinds in `kinds`. The grid has up to two machines in each
place: `a-NAME` and `b-NAME`. Where a carrier or a router is shared, they are its two customers, or
two machines of one home.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from warren.lab.joining import server_hosts
from warren.lab.plan import Host, InvalidPlan, Plan, Router
from warren.lab.spelling import meant_or_known, shown


@dataclass(frozen=True)
class Place:
    """One place. short: its name in tables. routers: their kinds, the one next to the internet
    first; the first `shared` of them are the same for both machines. ipv6: beside IPv4, with a
    firewall on each router, or alone. proxy: an HTTP proxy on the router is the only way out."""

    name: str
    short: str
    text: str
    routers: tuple[str, ...] = ()
    shared: int = 0
    ipv6: Literal["", "beside", "alone"] = ""
    proxy: bool = False


PLACES: Mapping[str, Place] = MappingProxyType(
    {
        place.name: place
        for place in (
            Place("public", "pub", "no NAT, no firewall"),
            Place("firewall", "fw", "no NAT, stateful firewall", ("firewall",)),
            Place("full-cone", "cone", "full cone", ("full-cone",)),
            Place("address-restricted", "addr", "address-restricted cone", ("address-restricted",)),
            Place("port-restricted", "port", "port-restricted cone", ("port-restricted",)),
            Place("symmetric", "sym", "symmetric, random ports", ("symmetric",)),
            Place(
                "symmetric-sequential", "seq", "symmetric, ports in turn", ("symmetric-sequential",)
            ),
            Place(
                "carrier-block",
                "block",
                "symmetric, ports from a block of 2,048",
                ("carrier-block",),
            ),
            Place(
                "double-nat",
                "double",
                "a port-restricted NAT behind another",
                ("port-restricted", "port-restricted"),
            ),
            Place(
                "cgnat",
                "cgn",
                "two homes behind one carrier's NAT, no hairpin",
                ("full-cone", "port-restricted"),
                shared=1,
            ),
            Place(
                "cgnat-hairpin",
                "cgnh",
                "two homes behind one carrier's NAT, with hairpin",
                ("carrier-hairpin", "port-restricted"),
                shared=1,
            ),
            Place("one-lan", "lan", "two machines in one home", ("port-restricted",), shared=1),
            Place("udp-blocked", "noudp", "no UDP at all", ("udp-blocked",)),
            Place(
                "symmetric-ipv6",
                "sym6",
                "symmetric, with IPv6 beside it behind a firewall",
                ("symmetric",),
                ipv6="beside",
            ),
            Place("ipv6-only", "v6", "IPv6 alone, behind a firewall", ("firewall",), ipv6="alone"),
            Place(
                "http-proxy",
                "proxy",
                "nothing passes but an HTTP proxy",
                ("http-proxy",),
                proxy=True,
            ),
        )
    }
)

SIDES = ("a", "b")
_PUBLIC_LAN_BITS = 28
# The net next to the machine first: no two of one chain may be the same.
_LANS = ("192.168.1.0/24", "100.64.1.0/24")


def choose(words: Iterable[str] | None) -> list[Place]:
    """The places with these names, in the order of the table; None is for all that differ in the
    grid, which a firewall and a port-restricted NAT do not. Raises InvalidPlan."""
    if words is None:
        return [place for place in PLACES.values() if place.name != "firewall"]
    wanted = {find(word).name for word in words}
    if not wanted:
        raise InvalidPlan(f"no kind was named; known: {', '.join(PLACES)}")
    return [place for place in PLACES.values() if place.name in wanted]


def machine(side: str, place: Place) -> str:
    """The name of one of the two machines in a place."""
    return f"{side}-{place.name}"


def gateway(side: str, place: Place) -> str:
    """The name of the router next to a machine. Only for a place that has one."""
    return _router(side, place, len(place.routers) - 1)


def find(word: str) -> Place:
    """The place with this name, or with this short one. Raises InvalidPlan."""
    for place in PLACES.values():
        if word in (place.name, place.short):
            return place
    raise InvalidPlan(f"there is no kind {shown(word)}{meant_or_known(word, PLACES)}")


def plan(machines: Iterable[tuple[str, Place]]) -> Plan:
    """A server, a further relay and these machines, by side and place, on one internet."""
    routers: dict[str, Router] = {}
    hosts = server_hosts(second_relay=True)
    order = list(PLACES)
    for side, place in machines:
        number = 2 * order.index(place.name) + SIDES.index(side)
        name = machine(side, place)
        if not place.routers:
            hosts.append(Host(name, address=_outside(number)))
            continue
        for router in _chain(side, place, number):
            routers.setdefault(router.name, router)
        hosts.append(Host(name, behind=gateway(side, place)))
    return Plan(routers=tuple(routers.values()), hosts=tuple(hosts))


def _outside(number: int) -> str:
    return f"203.0.113.{10 + number}"


def _chain(side: str, place: Place, number: int) -> Iterable[Router]:
    for level, kind in enumerate(place.routers):
        lan: str | None = _LANS[len(place.routers) - 1 - level]
        if kind == "firewall":
            # What is behind a router that does not translate is public as well.
            lan = f"192.0.2.{16 * (number % 14)}/{_PUBLIC_LAN_BITS}"
        yield Router(
            _router(side, place, level),
            kind=kind,
            address=_outside(number) if level == 0 and place.ipv6 != "alone" else None,
            behind=_router(side, place, level - 1) if level else None,
            lan=None if place.ipv6 == "alone" else lan,
            lan_v6=f"2001:db8:2:{16 * number + level:x}::/64" if place.ipv6 else None,
        )


def _router(side: str, place: Place, level: int) -> str:
    owner = "ab" if level < place.shared else side
    return f"{owner}{level}{place.name}"
