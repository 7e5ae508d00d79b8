"""Who opens sockets and who guesses, from what both sides say of their NATs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from warren.netmap.endpoint import Endpoint
from warren.netmap.node import Hostinfo
from warren.paths.punching.budget import ProbeBudget, SocketBudget
from warren.paths.punching.ports import Allocation, Pattern, PortMemory

ATTRIBUTE_OFF = "warren.dev/cap/disable-punching"
"""The node attribute (in the own node's CapMap) that turns punching off."""
MARK = "-warren"
"""`Hostinfo.IPNVersion` of nodes that understand punching messages ends in this."""


@dataclass
class OwnSide:
    """What a node knows of its own NAT, and what all its peers share. One for each node.

    hard: whether ports vary by destination (RFC 4787: not endpoint-independent mapping), for
    certain or likely; None while nothing is known. `stun_servers` are asked from punching sockets.
    """

    entropy: Callable[[int], bytes]
    hard: bool | None = None
    certain: bool = False
    udp: bool = True
    enabled: bool = True
    stun_servers: tuple[Endpoint, ...] = ()
    memory: PortMemory = field(default_factory=PortMemory)
    probes: ProbeBudget = field(default_factory=ProbeBudget)
    sockets: SocketBudget = field(default_factory=SocketBudget)

    def learn(self, varies: bool | None, seen: Endpoint | None, port: int) -> None:
        """Take what a measuring says: whether ports vary, and where `port` was seen.

        One server alone cannot tell the first. But a NAT that keeps ports keeps them for every
        destination, and one that does not may well vary them. Where that is wrong, it costs an
        attempt that nobody needed.
        """
        if varies is not None:
            self.hard, self.certain = varies, True
        elif seen is not None and port and not self.certain:
            self.hard = seen.port != port

    def forget(self) -> None:
        """Drop what was known of the NAT: the network changed."""
        self.hard, self.certain = None, False
        self.udp = True
        self.memory.forget()


@dataclass(frozen=True)
class PeerSide:
    """What the map says of a peer. None: it does not say."""

    understands: bool = False
    hard: bool | None = None
    udp: bool | None = None

    @classmethod
    def of(cls, hostinfo: Hostinfo, regions: int) -> PeerSide:
        """Read it from a peer's host information; `regions` is how many relay regions it asks."""
        info = hostinfo.net_info
        return cls(
            understands=understands(hostinfo),
            hard=said_of_mapping(hostinfo, regions),
            udp=info.working_udp if info else None,
        )


def understands(hostinfo: Hostinfo) -> bool:
    """Whether a peer understands punching messages."""
    return hostinfo.ipn_version.endswith(MARK)


def said_of_mapping(hostinfo: Hostinfo, regions: int) -> bool | None:
    """Return whether a peer's ports vary by destination, so far as it can know.

    A stock client compares all answers, also two of one server; of a region it asks one server
    (PROTOCOL §5.9). So with one region its no means only that it asked twice.
    """
    info = hostinfo.net_info
    varies = info.mapping_varies_by_dest_ip if info else None
    if varies is False and regions < 2 and not understands(hostinfo):
        return None
    return varies


class Role(Enum):
    """What this side does."""

    OPEN = "open sockets"
    GUESS = "wait for an invitation, then guess"
    SCAN = "scan the peer's ports"
    NOTHING = "nothing"


def choose(
    own: OwnSide, peer: PeerSide, ports: Allocation, changed: bool = False
) -> tuple[Role, str]:
    """Return the role and, in half a sentence, why. `ports` is what the peer's NAT showed, and
    `changed` whether it is known to have given the peer's socket another port than its own."""
    if not own.enabled:
        return Role.NOTHING, f"the policy's node attribute {ATTRIBUTE_OFF} turns punching off"
    if not own.udp:
        return Role.NOTHING, "UDP does not work here"
    if peer.udp is False:
        return Role.NOTHING, "UDP does not work at the peer"
    if own.hard is None:
        return Role.NOTHING, "it is not known yet how this node's NAT gives out ports"
    scannable = ports.pattern in (Pattern.BLOCK, Pattern.SEQUENTIAL)
    # A stock client whose NAT kept one port would have shown only that one.
    peer_hard = peer.hard or (peer.hard is None and not peer.understands and scannable)
    if own.hard:
        if peer_hard:
            return Role.NOTHING, "ports vary on both sides"
        return Role.OPEN, "ports vary on this side only"
    if peer.understands:
        return Role.GUESS, "the peer begins, if its ports vary"
    if peer_hard and ports.ports and ports.pattern is not Pattern.RANDOM:
        return Role.SCAN, "the peer's ports vary, perhaps within a block"
    if peer_hard:
        return Role.NOTHING, "the peer is a stock client whose ports vary without a pattern"
    if peer.hard is None and changed and ports.pattern is not Pattern.RANDOM:
        # With one relay region a stock client asks one server, and cannot know (PROTOCOL §5.9).
        return Role.SCAN, "the peer's ports may vary: its NAT gave it another than its own"
    return Role.NOTHING, "ports vary on neither side"
