"""What this machine's network is, as far as a change of it matters to paths and connections."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

from warren.edge.linux.gateways import DefaultRoute
from warren.edge.linux.interfaces import LocalAddress


class Change(Enum):
    """What another look at the network tells."""

    NONE = "none"
    MORE = "more"
    """There may be better paths now; those of before are as good as they were."""
    OTHER = "other"
    """Paths and connections of before are dead, or leave by another way than they came."""


class Surroundings(NamedTuple):
    """addresses: each with its interface. way_out: interface and gateway of the route that
    most traffic takes; None: there is no default route.
    """

    addresses: frozenset[tuple[str, str]]
    way_out: tuple[str, str] | None

    @classmethod
    def of(cls, addresses: Iterable[LocalAddress], routes: Iterable[DefaultRoute]) -> Surroundings:
        """Make it of what the kernel says; `routes`: the preferred first."""
        outer = frozenset(
            (str(a.ip), a.interface) for a in addresses if not a.is_tun and not a.ip.is_link_local
        )
        # An IPv6 route may go for minutes when a router's advertisement is lost: where there is
        # IPv4 too, that is no reason to drop everything.
        first = next(iter(sorted(routes, key=lambda route: route.is_v6)), None)
        return cls(outer, (first.interface, first.gateway) if first else None)

    def change_to(self, after: Surroundings) -> Change:
        """Tell what has changed since."""
        if after == self:
            return Change.NONE
        lost = self.addresses - after.addresses
        if lost or self.way_out != after.way_out or not self._is_connected():
            # Also when a network comes after there was none: who waits for a retry need not.
            return Change.OTHER
        return Change.MORE

    def _is_connected(self) -> bool:
        return any(not ip_address(text).is_loopback for text, _ in self.addresses)
