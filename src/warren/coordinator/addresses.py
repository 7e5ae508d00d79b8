"""Which addresses nodes get (PROTOCOL §14)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import chain

from warren.coordinator.refusal import Refused

V4_POOL = IPv4Network("100.64.0.0/10")
V6_POOL = IPv6Network("fd7a:115c:a1e0::/48")
V6_SERVICE = IPv6Address("fd7a:115c:a1e0::53")
# The service addresses, and what ChromeOS uses for its own virtual machines.
V4_RESERVED = (IPv4Network("100.100.100.0/24"), IPv4Network("100.115.92.0/23"))


class PoolExhausted(Refused):
    """Every address of the pool is in use."""


def allocate(
    taken: Collection[IPv4Address], last: IPv4Address | None, pool: IPv4Network = V4_POOL
) -> IPv4Address:
    """Return the next free address after `last`, going round at the end of the pool.

    Going on from the last one keeps the address of a node that left unused for long: other
    machines may still remember it. Raises PoolExhausted.
    """
    first, end = int(pool.network_address), int(pool.broadcast_address) + 1
    start = first if last is None or last not in pool else int(last) + 1
    for candidate in _candidates(start, first, end):
        if candidate not in taken:
            return candidate
    raise PoolExhausted(f"every address of {pool} is in use")


def is_for_nodes(address: IPv4Address) -> bool:
    """Whether a node may have this address."""
    ends = (V4_POOL.network_address, V4_POOL.broadcast_address)
    reserved = any(address in network for network in V4_RESERVED)
    return address in V4_POOL and address not in ends and not reserved


def is_v6_for_nodes(address: IPv6Address) -> bool:
    """Whether a node may have this IPv6 address."""
    return address in V6_POOL and address not in (V6_POOL.network_address, V6_SERVICE)


def v6_beside(v4: IPv4Address) -> IPv6Address:
    """Return the IPv6 address of the node that has this IPv4 address.

    The pool's prefix with the IPv4 address at the end: unique because that is, and never the
    service address, which has zeros there.
    """
    return IPv6Address(int(V6_POOL.network_address) | int(v4))


def _candidates(start: int, first: int, end: int) -> Iterator[IPv4Address]:
    for number in chain(range(start, end), range(first, start)):
        address = IPv4Address(number)
        if is_for_nodes(address):
            yield address
