"""One router asked by UPnP for a hole in its IPv6 firewall (WANIPv6FirewallControl:1 of IGD 2).

The search, the description and the machinery are `upnp_asker`'s; the questions are others.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network

from warren.nat import ssdp, upnp
from warren.nat.mapping import LEASE_S, Address, Finding, Mapping
from warren.nat.upnp import MalformedUpnp, Service
from warren.nat.upnp_asker import GaveUp, Step, UpnpAsker
from warren.netmap.endpoint import Endpoint

_LAN_BITS = 64


class PinholeAsker(UpnpAsker):
    """The same verbs as `UpnpAsker`; the mapping's outside is our own address and port.

    router is the link-local address of the default route, which routers seldom answer from:
    whoever is in the network of `local_ip` is taken for it. What it can do is say that there is
    a hole where there is none.
    """

    group = ssdp.GROUP_V6
    kinds = (upnp.FIREWALL_V6,)
    purpose = "opens holes for IPv6"

    def __init__(
        self,
        router: IPv6Address,
        local_ip: IPv6Address,
        internal_port: int,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        super().__init__(router, local_ip, internal_port, entropy, now)
        self._own = local_ip
        self._lan = IPv6Network((local_ip, _LAN_BITS), strict=False)

    def is_router(self, ip: Address) -> bool:
        """Whether an address is taken for the router's."""
        return ip == self._router or (ip != self._own and ip in self._lan)

    def _check(self, mapping: Mapping) -> Step:
        """See that the hole is still there, by keeping it open."""
        yield from self._renew(mapping)

    def _renew(self, mapping: Mapping) -> Step:
        if self._wanted is not None:
            service, number = self._wanted
            came = yield upnp.update_pinhole_soap(service, number, LEASE_S)
            if isinstance(self._arguments_of(came), dict):
                self._hold_new(mapping.external, LEASE_S)
                return
        yield from self._seek()

    def _map_at(self, service: Service, wish: int | None) -> Step:
        came = yield upnp.add_pinhole_soap(service, self._own, self._port, LEASE_S)
        answer = self._arguments_of(came)
        if not isinstance(answer, dict):
            raise GaveUp(Finding.REFUSED if answer.code else Finding.BROKEN, str(answer))
        try:
            number = upnp.parse_pinhole_untrusted(answer)
        except MalformedUpnp as error:
            self.malformed += 1
            raise GaveUp(Finding.BROKEN, str(error)) from error
        self._wanted = (service, number)
        self._hold_new(Endpoint(self._own, self._port), LEASE_S)

    def _delete(self, service: Service, port: int) -> Step:
        self._wanted = None
        yield upnp.delete_pinhole_soap(service, port)
        if self.outcome.finding is Finding.MAPPED:
            self._conclude(Finding.SPOKEN, "", self._now)
