"""What the data plane and TURN on the node say to each other, and what is shown of a TURN path."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Protocol

from warren.disco.messages import Message, TxId
from warren.keys import DiscoPublic, NodePublic
from warren.nat.turn.keeper import Server
from warren.netmap.endpoint import Endpoint

Address = IPv4Address | IPv6Address
ProxyOf = Callable[[str], str | None]
"""The HTTP proxy, `ip:port`, through which a host is reached; None: directly."""


class TurnPath(NamedTuple):
    """A path through a TURN server that carries data.

    relayed: the address that the server relays, ours or the peer's. server: which one, where the
    allocation is ours. lease: the address of the engine's lease.
    """

    relayed: Endpoint
    server: Server | None
    lease: Endpoint
    latency_s: float


class TurnPeer(NamedTuple):
    """What the data plane knows of a peer. addresses: from where it may send to us."""

    disco: DiscoPublic
    understands: bool
    addresses: tuple[Address, ...]


class Peers(Protocol):
    """What the data plane does for TURN."""

    def turn_peer(self, key: NodePublic) -> TurnPeer | None:
        """A peer that speaks disco."""

    def has_better(self, key: NodePublic, now: float) -> bool:
        """Whether a direct path or a peer relay carries a peer's data."""

    def seal(self, key: NodePublic, message: Message) -> bytes | None:
        """Seal a message for a peer."""

    def send_relayed(self, key: NodePublic, message: Message) -> None:
        """Seal a message for a peer and send it over its DERP region."""

    def note_pong(self, tx_id: TxId, via: TurnPath, rtt_s: float) -> None:
        """A person's ping through a TURN server was answered."""

    def announce(self, key: NodePublic) -> None:
        """What `Turns.announced` says of a peer may be other than before."""
