"""What is known of the networks of both sides, and what can be concluded: the ground of `why`.

A side's own word counts most. Without it, what was seen of it may still tell: a NAT that gave a
socket another port than its own, a ping that came from a port that nobody had told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple

from warren.nat.mapping import Outcome
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import NetInfo
from warren.node.schema import NatKnown, OwnEndpointStatus, PathStatus
from warren.paths.candidates import Candidate, Source
from warren.paths.punching.shown import targets
from warren.paths.scoring import is_private
from warren.paths.timing import TRUST_S

TOLD = frozenset({Source.MAP, Source.CALL})
"""What the peer says of itself."""
_ENOUGH_PINGS = 2


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of both sides now. Times are monotonic seconds.

    candidates: None where the peer has no disco key, so that no path can be searched. own: None
    before the first measuring. theirs: None where the peer's coordinator does not tell. shown:
    where the peer's NAT showed it under another port than its own. outcomes: what routers said,
    the preferred one's first. punching, turn: sentences about what was tried. no_punching: without
    an attempt, why there is none. punching_off: the side whose policy turns punching off.
    """

    peer: str
    address: str
    online: bool | None
    path: PathStatus
    active: bool
    searching_s: float | None
    candidates: Sequence[Candidate] | None
    own: NetInfo | None
    own_endpoints: Sequence[OwnEndpointStatus]
    own_ipv6: bool
    mapped: bool
    outcomes: Sequence[Outcome]
    theirs: NetInfo | None
    shown: Endpoint | None = None
    punching: Sequence[str]
    no_punching: str = ""
    punching_off: Literal["", "here", "there"] = ""
    turn: Sequence[str] = ()
    now: float


class Nat(NamedTuple):
    """What kind of NAT a side has; `seen`: the outside address that made it likely."""

    known: NatKnown
    seen: Endpoint | None = None

    @property
    def is_hard(self) -> bool:
        """Whether it is symmetric, for all that is known."""
        return self.known in ("hard", "likely-hard")


def own_nat(facts: Facts) -> Nat:
    """Return what this side's NAT is."""
    said = _said(facts.own)
    if said != "unknown" or facts.mapped:
        return Nat(said)
    local = [_endpoint(each) for each in facts.own_endpoints if each.source == "local"]
    seen = [_endpoint(each) for each in facts.own_endpoints if each.source == "stun"]
    ports = {each.port for each in local if each.is_v4}
    moved = [e for e in targets(seen) if e.port not in ports and e not in local]
    # Where the peer sees us as the server does, ports do not vary.
    alike = any(c.seen_as in moved for c in facts.candidates or ())
    return Nat("likely-hard", moved[0]) if ports and moved and not alike else Nat(said)


def their_nat(facts: Facts) -> Nat:
    """Return what the peer's NAT is, by its word or by what was seen of it.

    A stock client asks one server of each relay region, so that with a single region it cannot
    know (PROTOCOL §5.9).
    """
    said = _said(facts.theirs)
    if said != "unknown" or (facts.theirs is not None and facts.theirs.have_port_map):
        return Nat(said)
    known = list(facts.candidates or ())
    told = {c.endpoint for c in known if TOLD & c.sources}
    outside = {endpoint.ip for endpoint in targets(told)}
    for candidate in known:
        # It talks to us from a port that it does not know of.
        if candidate.endpoint.ip in outside and not TOLD & candidate.sources:
            return Nat("likely-hard", candidate.endpoint)
    answered = any(c.pongs for c in known if c.endpoint == facts.shown)
    return Nat(said) if facts.shown is None or answered else Nat("likely-hard", facts.shown)


def shared_address(facts: Facts) -> str:
    """Return the outside address that both sides have, where no ping to it was answered."""
    own = {_endpoint(known).ip for known in facts.own_endpoints if known.source != "local"}
    found = [c for c in facts.candidates or () if c.endpoint.ip in own and not c.pongs]
    return str(found[0].endpoint.ip) if found else ""


def is_hoped_for(endpoint: Endpoint, facts: Facts) -> bool:
    """Whether it is the peer's own port at its NAT's address, told in case that it is forwarded.

    Whose NAT is symmetric says so of itself (PROTOCOL §5.6).
    """
    told = [c.endpoint for c in facts.candidates or () if TOLD & c.sources]
    inside = {each.port for each in told if each.is_v4 and each not in targets(told)}
    return their_nat(facts).is_hard and endpoint in targets(told) and endpoint.port in inside


def own_families(facts: Facts) -> set[int]:
    """Return the IP versions that this side has."""
    return {_endpoint(each).ip.version for each in facts.own_endpoints}


def their_families(facts: Facts) -> set[int]:
    """Return the IP versions in which the peer told addresses."""
    return {c.endpoint.ip.version for c in facts.candidates or () if TOLD & c.sources}


def apart(facts: Facts) -> tuple[int, int] | None:
    """The one IP version of this side and the other one of the peer, if they share none."""
    here, there = own_families(facts), their_families(facts)
    return (here.pop(), there.pop()) if here and there and not here & there else None


class Blocked(NamedTuple):
    """Both sides have IPv6, and nothing passes by it. where: whose firewall it is."""

    where: Literal["here", "there", "either"]
    own: Endpoint
    theirs: Endpoint
    silent: bool = False
    """Not even a STUN server is reached by IPv6 from there."""


def blocked_ipv6(facts: Facts) -> Blocked | None:
    """Say whether pings by IPv6 should have passed and did not, and what holds them up.

    IPv6 is not translated, and two firewalls that let in what answers to something sent let two
    sides that ping each other through. So one of them does not.
    """
    own = _own_public_v6(facts)
    public = [c for c in facts.candidates or () if is_public_v6(c.endpoint.ip)]
    tried = [c for c in public if TOLD & c.sources and c.pings >= _ENOUGH_PINGS]
    if own is None or not tried or not all(is_silent(c, facts.now) for c in public):
        return None
    theirs = tried[0].endpoint
    here_works = facts.own is not None and facts.own.working_ipv6 is True
    there_works = facts.theirs is not None and facts.theirs.working_ipv6 is True
    if here_works != there_works:
        # Both ask the same servers.
        return Blocked("there" if here_works else "here", own, theirs, silent=True)
    if any(Source.PING in c.sources and not c.pongs for c in public):
        # What it sends comes in here, and what is sent back to it from here is lost there.
        return Blocked("there", own, theirs)
    return Blocked("either", own, theirs)


def is_silent(candidate: Candidate, now: float) -> bool:
    """Whether an address does not answer now, though it may have once."""
    if candidate.ponged_at is None or candidate.pinged_at is None:
        return candidate.ponged_at is None
    return candidate.pinged_at > candidate.ponged_at and now - candidate.ponged_at > TRUST_S


def is_public_v6(ip: IPv4Address | IPv6Address) -> bool:
    """Whether an address is an IPv6 one that leads beyond its network."""
    return ip.version == 6 and not (is_private(ip) or ip.is_link_local or ip.is_loopback)


def _own_public_v6(facts: Facts) -> Endpoint | None:
    known = [_endpoint(e) for e in sorted(facts.own_endpoints, key=lambda e: e.source == "local")]
    return next((endpoint for endpoint in known if is_public_v6(endpoint.ip)), None)


def _said(info: NetInfo | None) -> NatKnown:
    varies = None if info is None else info.mapping_varies_by_dest_ip
    if varies is None:
        return "unknown"
    return "hard" if varies else "easy"


def _endpoint(known: OwnEndpointStatus) -> Endpoint:
    return Endpoint.parse(known.address)
