"""Which peers a TURN server relays to: the world, and not what stands behind the server.

Without this, whoever has credentials could reach the server's own services and its private
network, as if from inside (RFC 8656 §21.4; the address blocks are IANA's special-purpose ones).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from warren.nat.turn.events import IPAddress

Network = IPv4Network | IPv6Network

_CLOSED = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers, and the mesh itself
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other wrappings of IPv4
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)
# All else of IPv6 is local, multicast, a wrapping of IPv4 (64:ff9b::/96), or not given out.
_GLOBAL_V6 = IPv6Network("2000::/3")
_BROADCAST = IPv4Address("255.255.255.255")


class Reach:
    """The rule for peers: what is allowed by name, else nothing of ours, else the public world.

    `own`: the server's addresses and networks. `allow`: networks that may be reached although
    they are own or not public. `deny`: networks that may not be reached in any case.
    """

    def __init__(
        self,
        own: Iterable[Network] = (),
        allow: Iterable[Network] = (),
        deny: Iterable[Network] = (),
    ) -> None:
        self._own, self._allow, self._deny = tuple(own), tuple(allow), tuple(deny)

    def names(self, ip: IPAddress) -> bool:
        """Whether the operator allowed an address by name."""
        if ip.is_multicast or ip.is_unspecified or ip == _BROADCAST or _in(ip, self._deny):
            return False
        return _in(ip, self._allow)

    def permits(self, ip: IPAddress) -> bool:
        """Whether datagrams may be relayed to an address and taken from it."""
        if self.names(ip):
            return True
        if ip.is_multicast or ip == _BROADCAST or _in(ip, self._deny):
            return False
        if isinstance(ip, IPv6Address) and ip not in _GLOBAL_V6:
            return False
        return not _in(ip, self._own) and not _in(ip, _CLOSED)


def _in(ip: IPAddress, networks: Iterable[Network]) -> bool:
    return any(ip.version == network.version and ip in network for network in networks)
