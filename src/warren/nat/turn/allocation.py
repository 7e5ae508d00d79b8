"""What a TURN server knows of its clients (RFC 8656 §3.1, §7.2, §9, §12)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import NamedTuple

from warren.nat.stun import TxId
from warren.nat.turn.events import IPAddress
from warren.nat.turn.limits import Bucket
from warren.nat.turn.numbers import MAX_LIFETIME_S
from warren.netmap.endpoint import Endpoint


class Transport(StrEnum):
    """How a client reaches the server."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


class Flow(NamedTuple):
    """One client's way to the server: the five-tuple."""

    transport: Transport
    client: Endpoint
    listener: int
    """Which of the server's sockets or connections; the owner's number."""

    def identity(self) -> bytes:
        """Return what a nonce is bound to."""
        return f"{self.transport} {self.client}".encode()


class ToClient(NamedTuple):
    """Bytes for a client."""

    flow: Flow
    data: bytes


class ToPeer(NamedTuple):
    """A datagram to leave from a relayed address."""

    relayed: Endpoint
    peer: Endpoint
    data: bytes


class OpenRelay(NamedTuple):
    """The owner is to open a socket for each family, and to say `relay_opened` soon."""

    ticket: int
    families: tuple[int, ...]
    even: bool
    """The ports must be even."""
    reserve: bool
    """The next port is to be opened too, for later (only with one family)."""


class CloseRelay(NamedTuple):
    """A relayed address is of no use any more."""

    relayed: Endpoint


@dataclass(frozen=True)
class TurnSettings:
    """What the operator chooses. Sizes are counts, times are seconds."""

    realm: str
    relay_ips: frozenset[IPAddress]
    """Relayed addresses as clients are told them, at most one of each family."""
    max_allocations: int = 1000
    max_per_user: int = 16
    max_permissions: int = 256
    """Of one allocation."""
    max_channels: int = 256
    max_lifetime_s: int = MAX_LIFETIME_S
    nonce_life_s: float = 600.0
    bytes_per_s: float = 12_500_000.0
    """Of one user, both ways together."""

    @property
    def families(self) -> frozenset[int]:
        """4, 6 or both."""
        return frozenset(ip.version for ip in self.relay_ips)


@dataclass
class Allocation:
    """One client's relayed addresses, and who may use them."""

    flow: Flow
    owner: str
    tx_id: TxId
    """Of the request that made it: the same one again gets the same answer."""
    answer: bytes
    ends: float
    rate: Bucket
    """The user's, shared by all its allocations."""
    relays: dict[int, Endpoint] = field(default_factory=dict)
    """Relayed address by family, 4 and 6."""
    permissions: dict[IPAddress, float] = field(default_factory=dict)
    """When they end."""
    channels: dict[int, tuple[Endpoint, float]] = field(default_factory=dict)
    numbers: dict[Endpoint, int] = field(default_factory=dict)
    """Channel of a peer."""

    def permits(self, ip: IPAddress, now: float) -> bool:
        """Whether the client has let an address in."""
        return self.permissions.get(ip, 0.0) > now

    def channel_of(self, peer: Endpoint, now: float) -> int | None:
        """Return the channel that is bound to a peer."""
        number = self.numbers.get(peer)
        return number if number is not None and self.channels[number][1] > now else None

    def sweep(self, now: float) -> None:
        """Forget what has ended."""
        for ip in [ip for ip, ends in self.permissions.items() if ends <= now]:
            del self.permissions[ip]
        for number in [number for number, (_, ends) in self.channels.items() if ends <= now]:
            del self.numbers[self.channels.pop(number)[0]]


class Reservation(NamedTuple):
    """A relayed address kept for its user's next allocation (RFC 8656 §18.7)."""

    relayed: Endpoint
    owner: str
    ends: float


@dataclass
class TurnCounters:
    """What a TURN server did since it started; names are those of the metrics."""

    allocated: int = 0
    to_peers: int = 0
    to_clients: int = 0
    bytes: int = 0
    malformed: int = 0
    unexpected: int = 0
    unauthenticated: int = 0
    """Requests without a signature, or with a wrong one."""
    silenced: int = 0
    """Of these, how many got no answer because their source asks too often."""
    refused_quota: int = 0
    refused_peers: int = 0
    """Peers that must not be reached."""
    dropped_unpermitted: int = 0
    dropped_rate: int = 0
    """The user is over its rate."""
    dropped_full: int = 0
    """The client, or the way to the peer, does not take it."""

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return asdict(self)
