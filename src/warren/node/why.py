"""Why the path to a peer is what it is, and what a person could change: from values to words.

Everything comes in as values of this moment; what goes out is `schema.Explanation`, which the
command line prints as a table and sentences, or as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from warren.nat.mapping import Finding, Outcome, sentence
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import NetInfo
from warren.node.schema import (
    CandidateStatus,
    Explanation,
    OwnEndpointStatus,
    PathStatus,
    SideStatus,
)
from warren.paths.candidates import Candidate, Source
from warren.paths.punching.roles import ATTRIBUTE_OFF
from warren.paths.scoring import advantage, is_private, worth_a_switch
from warren.paths.timing import TRUST_S

_SOURCES = {
    Source.MAP: "the map",
    Source.CALL: "a call over the relay",
    Source.PING: "its own ping",
    Source.PONG: "an answer",
}
_UNDER_WAY_S = 1.0
_CAUSES_A_MAPPING_CURES = frozenset({"hard-hard", "hard", "silence"})

Cause = Literal[
    "", "offline", "no-disco", "idle", "young", "no-udp", "peer-no-udp", "no-common-family",
    "hard-hard", "same-nat", "hard", "silence", "no-candidates",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of both sides now. Times are monotonic seconds.

    candidates: None where the peer has no disco key, so that no path can be searched. own: None
    before the first measuring. theirs: None where the peer's coordinator does not tell. outcomes:
    what routers said, the preferred one's first. punching, turn: sentences about what was tried.
    punching_off: the side whose policy turns punching off.
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
    punching: Sequence[str]
    punching_off: Literal["", "here", "there"] = ""
    turn: Sequence[str] = ()
    now: float


def explain(facts: Facts) -> Explanation:
    """Put it into words."""
    cause = _cause(facts)
    direct = facts.path.kind == "direct"
    return Explanation(
        peer=facts.peer,
        address=facts.address,
        path=facts.path,
        summary=_summary(facts),
        cause=cause,
        candidates=[_candidate(c, facts) for c in _ordered(facts)],
        reasons=[] if direct else [*_reasons(facts, cause)],
        advice=[] if direct else list(dict.fromkeys(_advice(facts, cause))),
        punching=list(facts.punching),
        turn=list(facts.turn),
        own=_side(facts.own, facts.mapped),
        theirs=_side(facts.theirs, None),
        own_endpoints=list(facts.own_endpoints),
    )


def _summary(facts: Facts) -> str:
    path = facts.path
    if path.kind == "direct":
        took = _took(path)
        used = _used(facts)
        known = f"; the address is known from {_sources(used)}" if used else ""
        return f"The path to {facts.peer} is direct: {path.address}{took}{known}."
    if path.kind == "peer-relay":
        return f"Packets to {facts.peer} take a peer relay, another machine, at {path.address}."
    if path.kind == "turn":
        whose = f"this machine's at {path.server}" if path.server else f"that of {facts.peer}"
        return (
            f"Packets to {facts.peer} take a TURN server, by the relayed address {path.address} "
            f"({whose}){_took(path)}."
        )
    if path.kind == "relay":
        return f"Packets to {facts.peer} take the relay in region {_region(path)}."
    return f"There is no path to {facts.peer}: no relay region of it is known either."


def _took(path: PathStatus) -> str:
    return "" if path.latency_ms is None else f", {path.latency_ms:.1f} ms"


def _cause(facts: Facts) -> Cause:
    """Name the one thing that keeps the path from being direct; empty if it is direct."""
    own, theirs = facts.own, facts.theirs
    if facts.path.kind == "direct":
        return ""
    if facts.candidates is None:
        return "no-disco"
    if facts.online is False:
        return "offline"
    # None where nobody knows: then it is not what keeps them apart, as far as anybody can say.
    if own is not None and own.working_udp is False:
        return "no-udp"
    if theirs is not None and theirs.working_udp is False:
        return "peer-no-udp"
    if _apart(facts):
        return "no-common-family"
    if not facts.active and not any(c.pings for c in facts.candidates):
        return "idle"
    if facts.searching_s is not None and facts.searching_s < _UNDER_WAY_S:
        return "young"
    own_hard = own is not None and own.mapping_varies_by_dest_ip is True
    peer_hard = theirs is not None and theirs.mapping_varies_by_dest_ip is True
    if own_hard and peer_hard:
        return "hard-hard"
    if _shared_address(facts):
        return "same-nat"
    if own_hard or peer_hard:
        return "hard"
    return "silence" if facts.candidates else "no-candidates"


def _reasons(facts: Facts, cause: Cause) -> Iterable[str]:
    peer, where = facts.peer, _region(facts.path)
    used = f"; the relay in region {where} is used" if facts.path.kind == "relay" else ""
    used = "; a TURN server is used" if facts.path.kind == "turn" else used
    tried = [c for c in facts.candidates or () if c.pings]
    if cause == "offline":
        yield f"The coordinator says that {peer} is offline."
    elif cause == "no-disco":
        yield f"{peer} has no disco key now, so no path to it can be searched{used}."
    elif cause == "no-udp":
        yield f"UDP is blocked here: no STUN server answered{used}."
    elif cause == "peer-no-udp":
        yield f"UDP is blocked at {peer}: it says that no STUN server answers it{used}."
    elif cause == "no-common-family":
        here, there = _apart(facts) or (0, 0)
        yield (
            f"This machine has only IPv{here}, and {peer} has only IPv{there}: between them there "
            f"is no direct path{used}."
        )
    elif cause == "idle":
        yield "Nothing was sent of late, so no direct path was looked for."
    elif cause == "young":
        yield "The search for a direct path has just begun."
    elif cause == "hard-hard":
        yield (
            "Both sides are symmetric (each destination sees another port): a direct path is not "
            f"possible without a mapping{used}."
        )
    elif cause == "same-nat":
        yield (
            f"This machine and {peer} are behind one NAT, at {_shared_address(facts)}, which does "
            f"not connect its own customers with each other (no hairpin){used}."
        )
    elif cause == "hard":
        whose = (
            "This side's NAT is" if _is_hard(facts.own) else f"The NAT of {peer} is"
        ) + " symmetric: each destination sees another port, and this one's must be guessed"
        yield f"{whose}{used}."
    elif cause == "no-candidates":
        yield f"No address of {peer} is known{used}."
    elif cause == "silence":
        if tried:
            count = "the one address" if len(tried) == 1 else f"{len(tried)} addresses"
            yield f"Pings to {count} of {peer} got no answer: a NAT or firewall drops them."
        else:
            yield f"No address of {peer} was pinged yet."
    if cause in _CAUSES_A_MAPPING_CURES:
        yield from _router_reasons(facts)


def _router_reasons(facts: Facts) -> Iterable[str]:
    """Why no router's mapping helped."""
    if not facts.mapped:
        for outcome in facts.outcomes:
            if outcome.finding not in (Finding.SPOKEN, Finding.MAPPED, Finding.UNKNOWN):
                yield sentence(outcome)
        if not facts.outcomes:
            yield "No router was found here that could be asked for a port."
    theirs = facts.theirs
    if theirs is not None and not theirs.have_port_map:
        spoken = {"UPnP": theirs.upnp, "NAT-PMP": theirs.pmp, "PCP": theirs.pcp}
        off = [name for name, said in spoken.items() if said is False]
        if off:
            yield f"The router of {facts.peer} does not speak {' or '.join(off)}."


def _advice(facts: Facts, cause: Cause) -> Iterable[str]:
    peer = facts.peer
    if cause == "no-udp":
        yield "Let UDP out in this network's firewall (to any port; at least 3478 and 41641)."
    elif cause == "peer-no-udp":
        yield f"Let UDP out in the firewall of the network of {peer}."
    elif cause == "no-common-family":
        here, there = _apart(facts) or (0, 0)
        yield (
            f"Give this machine IPv{there} or {peer} IPv{here}, by its router or provider: one of "
            "both is enough."
        )
    elif cause in ("idle", "young"):
        yield f"Look for one now: warren ping --until-direct {peer}"
    elif cause == "offline":
        yield f"Start {peer}, or run `warren up` there."
    elif cause == "no-disco":
        yield f"Restart Warren (or Tailscale) on {peer}."
    elif cause == "same-nat":
        yield (
            "Switch on NAT loopback (hairpinning) if the router that both are behind is yours; if "
            "it is a carrier's, use IPv6 on both sides or ask for a public address."
        )
    elif cause == "hard" and facts.punching_off:
        where = "this machine" if facts.punching_off == "here" else peer
        yield (
            f"Let ports be guessed: the policy's node attribute {ATTRIBUTE_OFF} turns punching off "
            f"for {where}. Without it the two would try to connect directly."
        )
    if cause not in _CAUSES_A_MAPPING_CURES:
        return
    findings = {outcome.finding for outcome in facts.outcomes}
    if facts.mapped:
        pass
    elif Finding.SECOND_NAT in findings:
        yield "Ask the provider for a public address, or forward ports on both routers."
    elif findings and findings <= {Finding.DISABLED}:
        yield "Allow port mapping on this machine: the policy's node attribute turns it off."
    elif Finding.REFUSED in findings:
        yield "Allow this machine to map ports in your router's settings."
    elif findings - {Finding.UNKNOWN}:
        yield "Turn on UPnP, NAT-PMP or PCP in your router, or forward Warren's UDP port to here."
    else:
        yield "Forward Warren's UDP port to this machine in your router."
    if facts.theirs is None or not facts.theirs.have_port_map:
        yield f"The same at {peer} helps as well: one side is enough."
    if not facts.own_ipv6:
        yield "IPv6 on both sides needs no mapping."


def _shared_address(facts: Facts) -> str:
    """Return the outside address that both sides have, where no ping to it was answered."""
    own = {
        Endpoint.parse(known.address).ip for known in facts.own_endpoints if known.source != "local"
    }
    found = [c for c in facts.candidates or () if c.endpoint.ip in own and not c.pongs]
    return str(found[0].endpoint.ip) if found else ""


def _candidate(candidate: Candidate, facts: Facts) -> CandidateStatus:
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
    """What became of one candidate, and why it is not used, as a phrase."""
    if str(candidate.endpoint) == facts.path.address:
        return "used", ""
    if candidate.pinged_at is None:
        return "untried", "not pinged yet"
    if candidate.ponged_at is None:
        if facts.now - candidate.pinged_at < _UNDER_WAY_S and candidate.pings == 1:
            return "asked", "an answer may still come"
        return "silent", _why_silent(candidate.endpoint, facts)
    silent_s = facts.now - candidate.ponged_at
    if candidate.pinged_at > candidate.ponged_at and silent_s > TRUST_S:
        return "lost", f"answered until {silent_s:.0f} s ago, and not since"
    return "works", _why_not_used(candidate, facts)


def _why_silent(endpoint: Endpoint, facts: Facts) -> str:
    if facts.own is not None and facts.own.working_udp is False:
        return "UDP is blocked here"
    if facts.own_endpoints and endpoint.ip.version not in _own_families(facts):
        return f"this machine has no IPv{endpoint.ip.version}"
    if is_private(endpoint.ip):
        return "an address of a private network, which may be another one than ours"
    if _is_hard(facts.theirs):
        return "the peer's NAT is symmetric: this port is open for somebody else"
    if _is_hard(facts.own):
        return "our NAT is symmetric: the peer does not know from which port we ask"
    return "no answer: a NAT or firewall on the way drops the pings"


def _own_families(facts: Facts) -> set[int]:
    return {6 if each.address.startswith("[") else 4 for each in facts.own_endpoints}


def _apart(facts: Facts) -> tuple[int, int] | None:
    """The one IP version of this side and the other one of the peer, if they share none."""
    here = _own_families(facts)
    told = {Source.MAP, Source.CALL}
    there = {c.endpoint.ip.version for c in facts.candidates or () if told & c.sources}
    return (here.pop(), there.pop()) if here and there and not here & there else None


def _why_not_used(candidate: Candidate, facts: Facts) -> str:
    used = _used(facts)
    if used is None or used.latency_s is None or candidate.latency_s is None:
        return "answered; nothing was sent since"
    points = advantage(candidate.endpoint, candidate.latency_s, used.endpoint, used.latency_s)
    if worth_a_switch(points):
        return "better by its last answer; a switch follows if that holds"
    if points > 0:
        return "hardly better than the path in use: a switch is not worth it"
    slower = candidate.latency_s > used.latency_s
    return "slower than the path in use" if slower else "a longer way by its kind of address"


def _ordered(facts: Facts) -> list[Candidate]:
    """The one in use, then those that answered last, then those that were pinged most."""

    def rank(candidate: Candidate) -> tuple[bool, float, int]:
        heard = candidate.ponged_at if candidate.ponged_at is not None else float("-inf")
        return (str(candidate.endpoint) != facts.path.address, -heard, -candidate.pings)

    return sorted(facts.candidates or (), key=rank)


def _used(facts: Facts) -> Candidate | None:
    found = (c for c in facts.candidates or () if str(c.endpoint) == facts.path.address)
    return next(found, None)


def _sources(candidate: Candidate) -> str:
    words = [_SOURCES[source] for source in Source if source in candidate.sources]
    return " and ".join(words) or "an earlier network"


def _region(path: PathStatus) -> str:
    return path.region_code or str(path.region or "none")


def _is_hard(info: NetInfo | None) -> bool:
    return info is not None and info.mapping_varies_by_dest_ip is True


def _side(info: NetInfo | None, mapped: bool | None) -> SideStatus:
    if info is None:
        return SideStatus()
    varies = info.mapping_varies_by_dest_ip
    nat: Literal["unknown", "easy", "hard"] = "unknown"
    if varies is not None:
        nat = "hard" if varies else "easy"
    return SideStatus(
        udp=info.working_udp,
        ipv6=info.working_ipv6,
        nat=nat,
        port_mapping=info.have_port_map if mapped is None else mapped,
        upnp=info.upnp,
        natpmp=info.pmp,
        pcp=info.pcp,
    )
