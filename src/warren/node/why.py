"""Why the path to a peer is what it is, and what a person could change: from values to words.

Everything comes in as values of this moment (`why_evidence.Facts`); what goes out is
`schema.Explanation`, which the command line prints as a table and sentences, or as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from warren.nat.mapping import Finding, sentence
from warren.netmap.node import NetInfo
from warren.node import why_candidates
from warren.node.schema import Explanation, PathStatus, SideStatus
from warren.node.why_evidence import (
    Blocked,
    Facts,
    Nat,
    apart,
    blocked_ipv6,
    own_families,
    own_nat,
    shared_address,
    their_families,
    their_nat,
)
from warren.paths.candidates import Candidate, Source
from warren.paths.punching.roles import ATTRIBUTE_OFF

_SOURCES = {
    Source.MAP: "the map",
    Source.CALL: "a call over the relay",
    Source.PING: "its own ping",
    Source.PONG: "an answer",
}
_CAUSES_A_MAPPING_CURES = frozenset({"hard-hard", "hard", "silence"})
_CAUSES_OF_UDP = frozenset({"no-udp", "peer-no-udp"})
_CAUSES_BEFORE_FAMILIES = _CAUSES_OF_UDP | {"no-common-family"}
_CAUSES_IPV6_CURES = _CAUSES_A_MAPPING_CURES | {"same-nat", "ipv6-firewall"}

Cause = Literal[
    "", "offline", "no-disco", "idle", "young", "no-udp", "peer-no-udp", "no-common-family",
    "hard-hard", "same-nat", "hard", "ipv6-firewall", "silence", "no-candidates",
]  # fmt: skip


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
        candidates=why_candidates.tell(facts),
        reasons=[] if direct else [*_reasons(facts, cause)],
        advice=[] if direct else list(dict.fromkeys(_advice(facts, cause))),
        punching=list(facts.punching or ([facts.no_punching] if _may_punch(facts, cause) else [])),
        turn=list(facts.turn),
        own=_side(facts.own, own_nat(facts), facts.mapped),
        theirs=_side(facts.theirs, their_nat(facts), None),
        own_endpoints=list(facts.own_endpoints),
    )


def _may_punch(facts: Facts, cause: Cause) -> bool:
    """Whether it is of interest that no port was guessed."""
    return bool(facts.no_punching) and cause in _CAUSES_A_MAPPING_CURES


def _size(path: PathStatus) -> str:
    if not path.mtu_bytes:
        return ""
    times = "once" if path.mtu_fallbacks == 1 else f"{path.mtu_fallbacks} times"
    fell = f" (larger ones stopped arriving {times})" if path.mtu_fallbacks else ""
    return f", packets of up to {path.mtu_bytes} bytes{fell}"


def _summary(facts: Facts) -> str:
    path = facts.path
    if path.kind == "direct":
        took = _took(path)
        used = why_candidates.used(facts)
        known = f"; the address is known from {_sources(used)}" if used else ""
        return f"The path to {facts.peer} is direct: {path.address}{took}{_size(path)}{known}."
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
    if apart(facts):
        return "no-common-family"
    if not facts.active and not any(c.pings for c in facts.candidates):
        return "idle"
    if facts.searching_s is not None and facts.searching_s < why_candidates.UNDER_WAY_S:
        return "young"
    if own_families(facts) & their_families(facts) == {6} and blocked_ipv6(facts):
        return "ipv6-firewall"
    own_hard, peer_hard = own_nat(facts).is_hard, their_nat(facts).is_hard
    if own_hard and peer_hard:
        return "hard-hard"
    if shared_address(facts):
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
    elif cause == "no-udp" and facts.theirs is not None and facts.theirs.working_udp is False:
        yield f"UDP is blocked here, and at {peer} too: no STUN server answers{used}."
    elif cause == "no-udp":
        yield f"UDP is blocked here: no STUN server answered{used}."
    elif cause == "peer-no-udp":
        yield f"UDP is blocked at {peer}: it says that no STUN server answers it{used}."
    elif cause == "no-common-family":
        here, there = apart(facts) or (0, 0)
        yield (
            f"This machine has only IPv{here}, and {peer} has only IPv{there}: between them there "
            f"is no direct path{used}."
        )
    elif cause == "idle":
        yield "Nothing was sent of late, so no direct path was looked for."
    elif cause == "young":
        yield "The search for a direct path has just begun."
    elif cause == "hard-hard":
        yield from _both_hard(facts, used)
    elif cause == "same-nat":
        yield (
            f"This machine and {peer} are behind one NAT, at {shared_address(facts)}, which does "
            f"not connect its own customers with each other (no hairpin){used}."
        )
    elif cause == "hard":
        nat, whose = own_nat(facts), "This side's NAT"
        if not nat.is_hard:
            nat, whose = their_nat(facts), f"The NAT of {peer}"
        yield (
            f"{whose} {_is_symmetric(nat)}: each destination sees another port, and this one's "
            f"must be guessed{used}."
        )
    elif cause == "no-candidates":
        yield f"No address of {peer} is known{used}."
    elif cause == "silence":
        if tried:
            count = "the one address" if len(tried) == 1 else f"{len(tried)} addresses"
            yield f"Pings to {count} of {peer} got no answer: a NAT or firewall drops them."
        else:
            yield f"No address of {peer} was pinged yet."
    if cause in _CAUSES_OF_UDP and (versions := apart(facts)):
        yield f"Besides, this machine has only IPv{versions[0]}, and {peer} only IPv{versions[1]}."
    if cause in _CAUSES_IPV6_CURES and (blocked := blocked_ipv6(facts)):
        yield f"{_ipv6_reason(blocked, peer)}{used if cause == 'ipv6-firewall' else ''}."
    if cause in _CAUSES_A_MAPPING_CURES:
        yield from _router_reasons(facts)


def _both_hard(facts: Facts, used: str) -> Iterable[str]:
    own, theirs = own_nat(facts), their_nat(facts)
    if own.known == theirs.known == "hard":
        yield (
            "Both sides are symmetric (each destination sees another port): a direct path is not "
            f"possible without a mapping{used}."
        )
        return
    yield (
        f"This side's NAT {_is_symmetric(own)}, and that of {facts.peer} {_is_symmetric(theirs)}. "
        "Where each destination sees another port on both sides, a direct path is not possible "
        f"without a mapping{used}."
    )


def _is_symmetric(nat: Nat) -> str:
    if nat.known == "hard":
        return "is symmetric"
    return f"seems to be symmetric (at {nat.seen} it has another port than its own)"


def _ipv6_reason(blocked: Blocked, peer: str) -> str:
    if blocked.where == "either":
        return (
            "Both sides have IPv6, and nothing passes by it: a firewall in front of this machine "
            f"or of {peer} drops even what answers to something sent"
        )
    whose = "this machine" if blocked.where == "here" else peer
    if blocked.silent:
        return (
            f"Both sides have IPv6, and no STUN server answers {whose} by it: a firewall there "
            "drops UDP by IPv6"
        )
    return (
        f"Both sides have IPv6, and what {peer} sends by it arrives here, but nothing sent from "
        f"here arrives there: a firewall in front of {peer} drops it"
    )


def _router_reasons(facts: Facts) -> Iterable[str]:
    """Why no router's mapping helped."""
    if not facts.mapped:
        silent = [o.protocol.value for o in facts.outcomes if o.finding is Finding.SILENT]
        for outcome in facts.outcomes:
            told = (Finding.SPOKEN, Finding.MAPPED, Finding.UNKNOWN, Finding.SILENT)
            if outcome.finding not in told or (
                outcome.finding is Finding.SILENT and not silent[1:]
            ):
                yield sentence(outcome)
        if silent[1:]:
            yield f"Your router's {_listed(silent, 'and')} are off: they do not answer."
        if not facts.outcomes:
            yield "No router was found here that could be asked for a port."
    theirs = facts.theirs
    if theirs is not None and not theirs.have_port_map:
        spoken = {"UPnP": theirs.upnp, "NAT-PMP": theirs.pmp, "PCP": theirs.pcp}
        off = [name for name, said in spoken.items() if said is False]
        if off:
            yield f"The router of {facts.peer} does not speak {_listed(off, 'or')}."


def _listed(words: list[str], last: str) -> str:
    """`A`, `A or B`, `A, B or C`."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _advice(facts: Facts, cause: Cause) -> Iterable[str]:
    peer = facts.peer
    if cause == "no-udp":
        yield "Let UDP out in this network's firewall (to any port; at least 3478 and 41641)."
    if facts.theirs is not None and facts.theirs.working_udp is False and cause in _CAUSES_OF_UDP:
        yield f"Let UDP out in the firewall of the network of {peer}."
    if cause in _CAUSES_BEFORE_FAMILIES and (versions := apart(facts)):
        here, there = versions
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
    if cause in _CAUSES_IPV6_CURES and (blocked := blocked_ipv6(facts)):
        yield from _ipv6_advice(blocked, peer)
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
    yield from _ipv6_instead(facts)


def _ipv6_advice(blocked: Blocked, peer: str) -> Iterable[str]:
    """What to open, and where."""
    here = f"UDP port {blocked.own.port} inbound to this machine ([{blocked.own.ip}])"
    there = f"UDP port {blocked.theirs.port} inbound to {peer} ([{blocked.theirs.ip}])"
    where = "in the IPv6 firewall of the router"
    by_itself = "With PCP or UPnP on, the router opens this machine's port by itself."
    if blocked.where == "here":
        yield f"Let {here} {where}, and let UDP out."
        yield by_itself
    elif blocked.where == "there":
        out = ", and let UDP out" if blocked.silent else ""
        yield f"Let {there} {where} there{out}."
    else:
        yield f"Let {here} {where}, and {there}; a firewall on the machine itself counts too."
        yield by_itself


def _ipv6_instead(facts: Facts) -> Iterable[str]:
    """IPv6, where it would do without a mapping."""
    theirs = 6 in their_families(facts)
    if facts.own_ipv6 and not theirs:
        yield f"This machine has IPv6; with IPv6 at {facts.peer} as well no mapping is needed."
    elif theirs and not facts.own_ipv6:
        yield f"{facts.peer} has IPv6; with IPv6 here as well no mapping is needed."
    elif not theirs:
        yield "IPv6 on both sides needs no mapping."


def _sources(candidate: Candidate) -> str:
    words = [_SOURCES[source] for source in Source if source in candidate.sources]
    return " and ".join(words) or "an earlier network"


def _region(path: PathStatus) -> str:
    return path.region_code or str(path.region or "none")


def _side(info: NetInfo | None, nat: Nat, mapped: bool | None) -> SideStatus:
    if info is None:
        return SideStatus(nat=nat.known)
    return SideStatus(
        udp=info.working_udp,
        ipv6=info.working_ipv6,
        nat=nat.known,
        port_mapping=info.have_port_map if mapped is None else mapped,
        upnp=info.upnp,
        natpmp=info.pmp,
        pcp=info.pcp,
    )
