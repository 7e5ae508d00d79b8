"""What became of each address at which a peer was tried, and why it is not used, as a phrase."""

from __future__ import annotations

from typing import Literal

from warren.netmap.endpoint import Endpoint
from warren.node.schema import CandidateStatus
from warren.node.why_evidence import (
    Facts,
    blocked_ipv6,
    is_hoped_for,
    is_public_v6,
    is_silent,
    own_families,
    own_nat,
    shared_address,
    their_nat,
)
from warren.paths.candidates import Candidate
from warren.paths.scoring import advantage, is_private, worth_a_switch

UNDER_WAY_S = 1.0
"""An answer may take so long."""


def tell(facts: Facts) -> list[CandidateStatus]:
    """Tell of all: the one in use, those that answered last, those that were pinged most."""

    def rank(candidate: Candidate) -> tuple[bool, float, int]:
        heard = candidate.ponged_at if candidate.ponged_at is not None else float("-inf")
        return (str(candidate.endpoint) != facts.path.address, -heard, -candidate.pings)

    return [_status(candidate, facts) for candidate in sorted(facts.candidates or (), key=rank)]


def used(facts: Facts) -> Candidate | None:
    """Return the candidate that packets take."""
    found = (c for c in facts.candidates or () if str(c.endpoint) == facts.path.address)
    return next(found, None)


def _status(candidate: Candidate, facts: Facts) -> CandidateStatus:
    def ago(at: float | None) -> float | None:
        return None if at is None else max(0.0, facts.now - at)

    result, why = _verdict(candidate, facts)
    return CandidateStatus(
        address=str(candidate.endpoint),
        sources=sorted(source.value for source in candidate.sources),
        result=result,
        why=why,
        pings=candidate.pings,
        pongs=candidate.pongs,
        last_ping_ago_s=ago(candidate.pinged_at),
        last_pong_ago_s=ago(candidate.ponged_at),
        latency_ms=None if candidate.latency_s is None else candidate.latency_s * 1000,
        seen_as=str(candidate.seen_as) if candidate.seen_as else None,
    )


def _verdict(
    candidate: Candidate, facts: Facts
) -> tuple[Literal["used", "works", "lost", "silent", "asked", "untried"], str]:
    if str(candidate.endpoint) == facts.path.address:
        return "used", ""
    if candidate.pinged_at is None:
        return "untried", "not pinged yet"
    if candidate.ponged_at is None:
        if facts.now - candidate.pinged_at < UNDER_WAY_S and candidate.pings == 1:
            return "asked", "an answer may still come"
        return "silent", _why_silent(candidate.endpoint, facts)
    if is_silent(candidate, facts.now):
        silent_s = facts.now - candidate.ponged_at
        return "lost", f"answered until {silent_s:.0f} s ago, and not since"
    return "works", _why_not_used(candidate, facts)


def _why_silent(endpoint: Endpoint, facts: Facts) -> str:
    if facts.own is not None and facts.own.working_udp is False:
        return "UDP is blocked here"
    if facts.own_endpoints and endpoint.ip.version not in own_families(facts):
        return f"this machine has no IPv{endpoint.ip.version}"
    if facts.theirs is not None and facts.theirs.working_udp is False:
        return "UDP is blocked at the peer"
    if is_private(endpoint.ip):
        return "an address of a private network, which may be another one than ours"
    if is_public_v6(endpoint.ip):
        return _why_silent_v6(facts)
    if str(endpoint.ip) == shared_address(facts):
        return "our own outside address too: the NAT does not lead back in (no hairpin)"
    if is_hoped_for(endpoint, facts):
        return "the peer's own port, in case that its router forwards it; it does not"
    if (nat := their_nat(facts)).is_hard:
        seems = "is" if nat.known == "hard" else "seems to be"
        return f"the peer's NAT {seems} symmetric: this port is open for somebody else"
    if (nat := own_nat(facts)).is_hard:
        seems = "is" if nat.known == "hard" else "seems to be"
        return f"our NAT {seems} symmetric: the peer does not know from which port we ask"
    return "no answer: a NAT or firewall on the way drops the pings"


def _why_silent_v6(facts: Facts) -> str:
    blocked = blocked_ipv6(facts)
    where = "either" if blocked is None else blocked.where
    return {
        "here": "a firewall on our side drops IPv6",
        "there": "a firewall on the peer's side drops IPv6",
        "either": "no answer: a firewall on one of both sides drops IPv6",
    }[where]


def _why_not_used(candidate: Candidate, facts: Facts) -> str:
    best = used(facts)
    if best is None or best.latency_s is None or candidate.latency_s is None:
        return "answered; nothing was sent since"
    points = advantage(candidate.endpoint, candidate.latency_s, best.endpoint, best.latency_s)
    if worth_a_switch(points):
        return "better by its last answer; a switch follows if that holds"
    if points > 0:
        return "hardly better than the path in use: a switch is not worth it"
    slower = candidate.latency_s > best.latency_s
    return "slower than the path in use" if slower else "a longer way by its kind of address"
