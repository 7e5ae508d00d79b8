"""What the addresses that a peer tells of itself show of its NAT."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from warren.netmap.endpoint import Endpoint
from warren.paths.punching.budget import Address
from warren.paths.punching.ports import Allocation, Pattern, PortMemory, Sample, infer

_INDOORS = tuple(
    IPv4Network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "127.0.0.0/8",
        # Between a carrier and its customers (RFC 6598).
        "100.64.0.0/10",
    )
)


def targets(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Return the IPv4 endpoints that may be a NAT's outside, in the order given."""
    return [
        endpoint
        for endpoint in dict.fromkeys(endpoints)
        if endpoint.is_v4 and not _is_indoors(endpoint)
    ]


class ShownPorts:
    """The ports at which a peer's NAT showed it, of all that it ever told of one address.

    A client tells its own port too, at the NAT's address, where it hopes that somebody forwarded
    it (PROTOCOL §5.6): a guess, which says nothing of how the NAT gives out ports.
    """

    def __init__(self) -> None:
        self._memory = PortMemory()
        self._kept: Endpoint | None = None
        self._inside: frozenset[int] = frozenset()

    def note(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """Take a list of endpoints as the peer told it, whole."""
        told = tuple(endpoints)
        inside = frozenset(each.port for each in told if each.is_v4 and _is_indoors(each))
        self._inside = inside or self._inside
        outside = targets(told)
        if outside:
            kept = all(endpoint.port in self._inside for endpoint in outside)
            self._kept = outside[0] if kept else None
        for endpoint in outside:
            self._memory.note(Sample(endpoint, endpoint, now))

    @property
    def moved_to(self) -> Endpoint | None:
        """Where the NAT last showed the peer's socket, if by another port than its own."""
        given = self._given() if self._inside and self._kept is None else []
        return given[-1].mapped if given else None

    def allocation(self) -> Allocation:
        """Return how the NAT gives out ports, as far as can be seen."""
        if self._kept is not None:
            return Allocation(Pattern.PRESERVED, (self._kept.port,))
        return infer(self._given())

    def address(self) -> Address | None:
        """Return the NAT's outside address, if one was told."""
        return self._memory.address()

    def _given(self) -> list[Sample]:
        """The samples without the guess; the inside port may have been told only later."""
        return [s for s in self._memory.samples() if s.mapped.port not in self._inside]


def _is_indoors(endpoint: Endpoint) -> bool:
    return any(endpoint.ip in network for network in _INDOORS)
