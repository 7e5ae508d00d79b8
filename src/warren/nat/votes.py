"""What several servers say of our own address, and who of them says otherwise than the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from warren.netmap.endpoint import Endpoint

_UNLIMITED = IPv4Address("255.255.255.255")


class Verdict(NamedTuple):
    """Who is believed, in the order of asking, and who is not: servers by what they said."""

    believed: dict[Endpoint, Endpoint]
    liars: dict[Endpoint, Endpoint]


def weigh(said: Mapping[Endpoint, Endpoint]) -> Verdict:
    """Believe the majority; `said` maps a server to our address as it says it saw it.

    Where more than half of three or more servers name the same address and port, the mapping
    does not depend on the destination, and whoever names another lies. Where the ports differ
    throughout, which is what some NATs do, the majority still decides on the IP address. Of two
    servers that disagree nobody can say which one lies: both are believed.
    """
    votes = dict(said)
    if len(votes) < 3:
        return Verdict(votes, {})
    (whole, count), *_ = Counter(votes.values()).most_common(1)
    if 2 * count > len(votes):
        return _split(votes, {server for server, mapped in votes.items() if mapped == whole})
    (ip, count), *_ = Counter(mapped.ip for mapped in votes.values()).most_common(1)
    if 2 * count > len(votes):
        return _split(votes, {server for server, mapped in votes.items() if mapped.ip == ip})
    return Verdict(votes, {})


def is_plausible(mapped: Endpoint, server: Endpoint) -> bool:
    """Whether a server may have seen us at `mapped`: no port 0, no address that nobody has."""
    ip = mapped.ip
    if mapped.port == 0 or ip.version != server.ip.version or ip == _UNLIMITED:
        return False
    if not _is_unicast(ip) or ip.is_reserved or (ip.is_loopback and not server.ip.is_loopback):
        return False
    # Nobody is seen at a private or shared address by a server on the internet.
    return ip.is_global or not server.ip.is_global


def _is_unicast(ip: IPv4Address | IPv6Address) -> bool:
    if ip.is_multicast or ip.is_unspecified or ip.is_link_local:
        return False
    return ip.version == 6 or int(ip) >> 24 != 0


def _split(votes: Mapping[Endpoint, Endpoint], honest: set[Endpoint]) -> Verdict:
    return Verdict(
        {server: mapped for server, mapped in votes.items() if server in honest},
        {server: mapped for server, mapped in votes.items() if server not in honest},
    )
