"""The table of situations: what is known of both sides → what a person is told, word for word."""

from __future__ import annotations

import dataclasses

import pytest

from warren.nat.mapping import Finding, MapProtocol, Outcome
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import NetInfo
from warren.node.schema import OwnEndpointStatus, PathStatus
from warren.node.why import explain
from warren.node.why_evidence import Facts
from warren.paths.candidates import Candidate, Source

NOW = 1000.0
OUTSIDE, INSIDE = "198.51.100.7:41641", "192.168.7.2:41641"
OTHER_PORT = "198.51.100.7:20716"
SIX, OWN_SIX = "[2001:db8:b::2]:41642", "[2001:db8:a::2]:41641"

EASY = NetInfo(mapping_varies_by_dest_ip=False, working_udp=True, working_ipv6=False)
HARD = NetInfo(mapping_varies_by_dest_ip=True, working_udp=True, working_ipv6=False)
EASY6 = NetInfo(mapping_varies_by_dest_ip=False, working_udp=True, working_ipv6=True)
HARD6 = NetInfo(mapping_varies_by_dest_ip=True, working_udp=True, working_ipv6=True)
UNSURE = NetInfo(working_udp=True, working_ipv6=False)
ONLY6 = NetInfo(working_udp=True, working_ipv6=True)
NO_UDP = NetInfo(working_udp=False, working_ipv6=False)
LOCAL = OwnEndpointStatus(address="192.168.1.2:41641", source="local")
STUN = OwnEndpointStatus(address="203.0.113.1:41641", source="stun")
STUN_MOVED = OwnEndpointStatus(address="203.0.113.1:30303", source="stun")
STUN6 = OwnEndpointStatus(address=OWN_SIX, source="stun")
LOCAL6 = OwnEndpointStatus(address=OWN_SIX, source="local")
ALL_OFF = [Outcome(name, Finding.SILENT) for name in MapProtocol]

ROUTER_OFF = "Your router's NAT-PMP, PCP and UPnP are off: they do not answer."
TURN_ON = "Turn on UPnP, NAT-PMP or PCP in your router, or forward Warren's UDP port to here."
AS_WELL = "The same at bob helps as well: one side is enough."
IPV6_BOTH = "IPv6 on both sides needs no mapping."
IPV6_THERE = "This machine has IPv6; with IPv6 at bob as well no mapping is needed."
IPV6_HERE = "bob has IPv6; with IPv6 here as well no mapping is needed."


def silent(
    *texts: str, pings: int = 4, sources: frozenset[Source] = frozenset({Source.MAP})
) -> list[Candidate]:
    return [
        Candidate(Endpoint.parse(text), NOW - 30, set(sources), pings=pings, pinged_at=NOW - 3)
        for text in texts
    ]


def from_elsewhere(text: str) -> list[Candidate]:
    return silent(text, sources=frozenset({Source.PING}))


def lost(text: str) -> list[Candidate]:
    (candidate,) = silent(text)
    candidate.sources.add(Source.PING)
    candidate.record_pong(0.01, Endpoint.parse("203.0.113.1:4"), NOW - 40)
    return [candidate]


FACTS = Facts(
    peer="bob",
    address="100.64.0.2",
    online=True,
    path=PathStatus(kind="relay", region=900, region_code="home"),
    active=True,
    searching_s=12.0,
    candidates=silent(OUTSIDE, INSIDE),
    own=EASY,
    own_endpoints=[STUN, LOCAL],
    own_ipv6=False,
    mapped=False,
    outcomes=ALL_OFF,
    theirs=EASY,
    punching=[],
    now=NOW,
)
V6 = {"own_endpoints": [STUN, STUN6, LOCAL], "own_ipv6": True}
V6_ALONE = {"own_endpoints": [STUN6], "own_ipv6": True, "own": ONLY6, "theirs": ONLY6}
BOTH = silent(OUTSIDE, INSIDE, SIX)
NONE_PASSES = (
    "Both sides have IPv6, and nothing passes by it: a firewall in front of this machine or of bob "
    "drops even what answers to something sent"
)
THEIRS_DROPS = (
    "Both sides have IPv6, and what bob sends by it arrives here, but nothing sent from here "
    "arrives there: a firewall in front of bob drops it"
)
OPEN_EITHER = (
    "Let UDP port 41641 inbound to this machine ([2001:db8:a::2]) in the IPv6 firewall of the "
    "router, and UDP port 41642 inbound to bob ([2001:db8:b::2]); a firewall on the machine itself "
    "counts too."
)
BY_ITSELF = "With PCP or UPnP on, the router opens this machine's port by itself."
OPEN_THERE = (
    "Let UDP port 41642 inbound to bob ([2001:db8:b::2]) in the IPv6 firewall of the router there"
)
BOTH_HARD = (
    "Both sides are symmetric (each destination sees another port): a direct path is not possible "
    "without a mapping; the relay in region home is used."
)
GUESSED = "each destination sees another port, and this one's must be guessed"

SITUATIONS = {
    "both symmetric": (
        {"own": HARD, "theirs": HARD},
        "hard-hard",
        [BOTH_HARD, ROUTER_OFF],
        [TURN_ON, AS_WELL, IPV6_BOTH],
    ),
    "symmetric here": (
        {"own": HARD},
        "hard",
        [
            f"This side's NAT is symmetric: {GUESSED}; the relay in region home is used.",
            ROUTER_OFF,
        ],
        [TURN_ON, AS_WELL, IPV6_BOTH],
    ),
    "symmetric there": (
        {"theirs": HARD},
        "hard",
        [
            f"The NAT of bob is symmetric: {GUESSED}; the relay in region home is used.",
            ROUTER_OFF,
        ],
        [TURN_ON, AS_WELL, IPV6_BOTH],
    ),
    "a client that cannot know, whose NAT gave it another port": (
        {
            "theirs": UNSURE,
            "candidates": silent(OTHER_PORT, INSIDE),
            "shown": Endpoint.parse(OTHER_PORT),
        },
        "hard",
        [
            f"The NAT of bob seems to be symmetric (at {OTHER_PORT} it has another port than its "
            f"own): {GUESSED}; the relay in region home is used.",
            ROUTER_OFF,
        ],
        [TURN_ON, AS_WELL, IPV6_BOTH],
    ),
    "a client that cannot know, and pings from a port that it did not tell": (
        {
            "theirs": UNSURE,
            "candidates": silent(OUTSIDE, INSIDE) + from_elsewhere(OTHER_PORT),
        },
        "hard",
        [
            f"The NAT of bob seems to be symmetric (at {OTHER_PORT} it has another port than its "
            f"own): {GUESSED}; the relay in region home is used.",
            ROUTER_OFF,
        ],
        [TURN_ON, AS_WELL, IPV6_BOTH],
    ),
    "its other port is a mapping of its router": (
        {
            "theirs": NetInfo(working_udp=True, have_port_map=True),
            "candidates": silent(OTHER_PORT, INSIDE),
            "shown": Endpoint.parse(OTHER_PORT),
        },
        "silence",
        ["Pings to 2 addresses of bob got no answer: a NAT or firewall drops them.", ROUTER_OFF],
        [TURN_ON, IPV6_BOTH],
    ),
    "nobody can tell here, and the own port is another outside": (
        {"own": UNSURE, "own_endpoints": [STUN_MOVED, LOCAL], "theirs": HARD},
        "hard-hard",
        [
            "This side's NAT seems to be symmetric (at 203.0.113.1:30303 it has another port than "
            "its own), and that of bob is symmetric. Where each destination sees another port on "
            "both sides, a direct path is not possible without a mapping; the relay in region home "
            "is used.",
            ROUTER_OFF,
        ],
        [
            TURN_ON,
            AS_WELL,
            IPV6_BOTH,
        ],
    ),
    "easy on both sides, and silence": (
        {},
        "silence",
        ["Pings to 2 addresses of bob got no answer: a NAT or firewall drops them.", ROUTER_OFF],
        [TURN_ON, AS_WELL, IPV6_BOTH],
    ),
    "no UDP here": (
        {"own": NO_UDP, "own_endpoints": [LOCAL]},
        "no-udp",
        [
            "UDP is blocked here: no STUN server answered; the relay in region home is used.",
        ],
        ["Let UDP out in this network's firewall (to any port; at least 3478 and 41641)."],
    ),
    "no UDP there": (
        {"theirs": NO_UDP, "candidates": silent(INSIDE)},
        "peer-no-udp",
        [
            "UDP is blocked at bob: it says that no STUN server answers it; the relay in region "
            "home is used.",
        ],
        ["Let UDP out in the firewall of the network of bob."],
    ),
    "no UDP on either side": (
        {"own": NO_UDP, "theirs": NO_UDP, "candidates": silent(INSIDE)},
        "no-udp",
        [
            "UDP is blocked here, and at bob too: no STUN server answers; the relay in region home "
            "is used.",
        ],
        [
            "Let UDP out in this network's firewall (to any port; at least 3478 and 41641).",
            "Let UDP out in the firewall of the network of bob.",
        ],
    ),
    "no UDP there, and another family": (
        {"theirs": NO_UDP, "own_endpoints": [STUN6], "own_ipv6": True, "own": ONLY6},
        "peer-no-udp",
        [
            "UDP is blocked at bob: it says that no STUN server answers it; the relay in region "
            "home is used.",
            "Besides, this machine has only IPv6, and bob only IPv4.",
        ],
        [
            "Let UDP out in the firewall of the network of bob.",
            "Give this machine IPv4 or bob IPv6, by its router or provider: one of both is enough.",
        ],
    ),
    "IPv6 there only": (
        {"own": HARD, "theirs": HARD6, "candidates": BOTH},
        "hard-hard",
        [BOTH_HARD, ROUTER_OFF],
        [TURN_ON, AS_WELL, IPV6_HERE],
    ),
    "IPv6 here only": (
        {"own": HARD6, "theirs": HARD, **V6},
        "hard-hard",
        [BOTH_HARD, ROUTER_OFF],
        [TURN_ON, AS_WELL, IPV6_THERE],
    ),
    "IPv6 on both sides, and nothing passes": (
        {"own": HARD6, "theirs": HARD6, "candidates": BOTH, **V6},
        "hard-hard",
        [BOTH_HARD, f"{NONE_PASSES}.", ROUTER_OFF],
        [OPEN_EITHER, BY_ITSELF, TURN_ON, AS_WELL],
    ),
    "IPv6 alone, and nothing passes": (
        {"candidates": silent(SIX), **V6_ALONE},
        "ipv6-firewall",
        [f"{NONE_PASSES}; the relay in region home is used."],
        [OPEN_EITHER, BY_ITSELF],
    ),
    "IPv6 alone, and pings arrive": (
        {
            "candidates": silent(SIX, sources=frozenset({Source.MAP, Source.PING})),
            **V6_ALONE,
        },
        "ipv6-firewall",
        [f"{THEIRS_DROPS}; the relay in region home is used."],
        [f"{OPEN_THERE}."],
    ),
    "IPv6 that worked until now says nothing of whose firewall it is": (
        {"candidates": lost(SIX), **V6_ALONE},
        "ipv6-firewall",
        [f"{NONE_PASSES}; the relay in region home is used."],
        [OPEN_EITHER, BY_ITSELF],
    ),
    "UDP by IPv6 is blocked here": (
        {"own": HARD, "theirs": HARD6, "candidates": BOTH, **V6},
        "hard-hard",
        [
            BOTH_HARD,
            "Both sides have IPv6, and no STUN server answers this machine by it: a firewall there "
            "drops UDP by IPv6.",
            ROUTER_OFF,
        ],
        [
            "Let UDP port 41641 inbound to this machine ([2001:db8:a::2]) in the IPv6 firewall of "
            "the router, and let UDP out.",
            BY_ITSELF,
            TURN_ON,
            AS_WELL,
        ],
    ),
    "UDP by IPv6 is blocked there": (
        {"own": HARD6, "theirs": HARD, "candidates": BOTH, **V6},
        "hard-hard",
        [
            BOTH_HARD,
            "Both sides have IPv6, and no STUN server answers bob by it: a firewall there drops "
            "UDP by IPv6.",
            ROUTER_OFF,
        ],
        [f"{OPEN_THERE}, and let UDP out.", TURN_ON, AS_WELL],
    ),
    "IPv4 here and IPv6 there": (
        {"own": EASY, "theirs": ONLY6, "candidates": silent(SIX, pings=0)},
        "no-common-family",
        [
            "This machine has only IPv4, and bob has only IPv6: between them there is no direct "
            "path; the relay in region home is used.",
        ],
        [
            "Give this machine IPv6 or bob IPv4, by its router or provider: one of both is enough.",
        ],
    ),
    "one NAT without hairpin": (
        {"candidates": silent("203.0.113.1:41642", INSIDE)},
        "same-nat",
        [
            "This machine and bob are behind one NAT, at 203.0.113.1, which does not connect its "
            "own customers with each other (no hairpin); the relay in region home is used.",
        ],
        [
            "Switch on NAT loopback (hairpinning) if the router that both are behind is yours; if "
            "it is a carrier's, use IPv6 on both sides or ask for a public address.",
        ],
    ),
    "a second NAT": (
        {
            "own": HARD,
            "theirs": HARD,
            "outcomes": [
                Outcome(MapProtocol.UPNP, Finding.SECOND_NAT, "it is 100.64.1.2"),
                Outcome(MapProtocol.PCP, Finding.SILENT),
            ],
        },
        "hard-hard",
        [
            BOTH_HARD,
            "Your router is itself behind a NAT (UPnP says: it is 100.64.1.2); a mapping on it is "
            "of no use.",
            "Your router's PCP is off: it does not answer.",
        ],
        [
            "Ask the provider for a public address, or forward ports on both routers.",
            AS_WELL,
            IPV6_BOTH,
        ],
    ),
    "a TURN server is used meanwhile": (
        {
            "own": HARD,
            "theirs": HARD,
            "path": PathStatus(kind="turn", address="198.51.100.9:5000"),
        },
        "hard-hard",
        [BOTH_HARD.replace("the relay in region home", "a TURN server"), ROUTER_OFF],
        [TURN_ON, AS_WELL, IPV6_BOTH],
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_situation(situation: str) -> None:
    changes, cause, reasons, advice = SITUATIONS[situation]
    found = explain(dataclasses.replace(FACTS, **changes))  # type: ignore[arg-type]
    assert found.cause == cause
    assert found.reasons == reasons
    assert found.advice == advice


NO_ANSWER = "no answer: a NAT or firewall on the way drops the pings"
PRIVATE = "an address of a private network, which may be another one than ours"
CANDIDATES: dict[str, tuple[dict[str, object], dict[str, str]]] = {
    "easy on both sides": ({}, {OUTSIDE: NO_ANSWER, INSIDE: PRIVATE}),
    "no UDP here": (
        {"own": NO_UDP, "theirs": NO_UDP},
        {OUTSIDE: "UDP is blocked here", INSIDE: "UDP is blocked here"},
    ),
    "no UDP there": (
        {"theirs": NO_UDP, "candidates": silent(INSIDE)},
        {INSIDE: "UDP is blocked at the peer"},
    ),
    "symmetric there": (
        {"theirs": HARD, "candidates": silent(OTHER_PORT, INSIDE)},
        {
            OTHER_PORT: "the peer's NAT is symmetric: this port is open for somebody else",
            INSIDE: PRIVATE,
        },
    ),
    "likely symmetric there": (
        {
            "theirs": UNSURE,
            "candidates": silent(OTHER_PORT),
            "shown": Endpoint.parse(OTHER_PORT),
        },
        {OTHER_PORT: "the peer's NAT seems to be symmetric: this port is open for somebody else"},
    ),
    "symmetric here": (
        {"own": HARD, "candidates": silent(OUTSIDE)},
        {OUTSIDE: "our NAT is symmetric: the peer does not know from which port we ask"},
    ),
    "likely symmetric here": (
        {"own": UNSURE, "own_endpoints": [STUN_MOVED, LOCAL], "candidates": silent(OUTSIDE)},
        {OUTSIDE: "our NAT seems to be symmetric: the peer does not know from which port we ask"},
    ),
    "a port that would have to be forwarded": (
        {"theirs": HARD, "candidates": silent(OTHER_PORT, OUTSIDE, INSIDE)},
        {
            OTHER_PORT: "the peer's NAT is symmetric: this port is open for somebody else",
            OUTSIDE: "the peer's own port, in case that its router forwards it; it does not",
            INSIDE: PRIVATE,
        },
    ),
    "one NAT without hairpin": (
        {"candidates": silent("203.0.113.1:41642", INSIDE)},
        {
            "203.0.113.1:41642": (
                "our own outside address too: the NAT does not lead back in (no hairpin)"
            ),
            INSIDE: PRIVATE,
        },
    ),
    "no IPv6 here": (
        {"candidates": silent(SIX)},
        {SIX: "this machine has no IPv6"},
    ),
    "IPv6 on both sides, and nothing passes": (
        {"own": HARD6, "theirs": HARD6, "candidates": silent(SIX), **V6},
        {SIX: "no answer: a firewall on one of both sides drops IPv6"},
    ),
    "UDP by IPv6 is blocked there": (
        {"own": EASY6, "candidates": silent(SIX), **V6},
        {SIX: "a firewall on the peer's side drops IPv6"},
    ),
    "UDP by IPv6 is blocked here": (
        {"theirs": EASY6, "candidates": silent(SIX), **V6},
        {SIX: "a firewall on our side drops IPv6"},
    ),
    "it worked until now": (
        {"own": HARD6, "theirs": HARD6, "candidates": lost(SIX), **V6},
        {SIX: "answered until 40 s ago, and not since"},
    ),
}


@pytest.mark.parametrize("situation", CANDIDATES)
def test_why_each_candidate_failed(situation: str) -> None:
    changes, expected = CANDIDATES[situation]
    found = explain(dataclasses.replace(FACTS, **changes))  # type: ignore[arg-type]
    assert {each.address: each.why for each in found.candidates} == expected


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"own": HARD, "theirs": HARD}, True),
        ({"theirs": NO_UDP}, False),
        ({"candidates": silent("203.0.113.1:41642")}, False),
        ({"path": PathStatus(kind="direct", address=OUTSIDE)}, False),
        ({"own": HARD, "punching": ["Punching hit no port."]}, False),
    ],
)
def test_that_no_port_was_guessed_is_told_where_it_matters(
    changes: dict[str, object], told: bool
) -> None:
    why_not = "No ports were guessed: ports vary on both sides."
    facts = dataclasses.replace(FACTS, no_punching=why_not, **changes)  # type: ignore[arg-type]
    assert (why_not in explain(facts).punching) is told


def test_a_path_that_works_is_proof_against_a_symmetric_nat() -> None:
    """The port that the server saw answers us, and the peer sees us as the server does."""
    (candidate,) = silent(OTHER_PORT)
    unsure = {"own": UNSURE, "own_endpoints": [STUN_MOVED, LOCAL], "theirs": UNSURE}
    unsure |= {"shown": Endpoint.parse(OTHER_PORT), "candidates": [candidate]}
    found = explain(dataclasses.replace(FACTS, **unsure))  # type: ignore[arg-type]
    assert (found.own.nat, found.theirs.nat) == ("likely-hard", "likely-hard")
    candidate.record_pong(0.01, Endpoint.parse(STUN_MOVED.address), NOW - 1)
    found = explain(dataclasses.replace(FACTS, **unsure))  # type: ignore[arg-type]
    assert (found.own.nat, found.theirs.nat) == ("unknown", "unknown")
