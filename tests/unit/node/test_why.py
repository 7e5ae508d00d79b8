"""What a person is told about the path to a peer, from values."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.nat.mapping import Finding, MapProtocol, Outcome
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import NetInfo
from warren.node.schema import Explanation, OwnEndpointStatus, PathStatus
from warren.node.why import explain
from warren.node.why_evidence import Facts
from warren.paths.candidates import Candidate, Source
from warren.paths.punching.roles import ATTRIBUTE_OFF

NOW = 1000.0
PUBLIC = Endpoint.parse("198.51.100.7:41641")
LAN = Endpoint.parse("192.168.1.7:41641")
SIX = Endpoint.parse("[2001:db8::7]:41641")
EASY = NetInfo(mapping_varies_by_dest_ip=False, working_udp=True)
HARD = NetInfo(mapping_varies_by_dest_ip=True, working_udp=True)
NO_UDP = NetInfo(working_udp=False)
RELAYED = PathStatus(kind="relay", region=900, region_code="home")
UPNP_OFF = Outcome(MapProtocol.UPNP, Finding.SILENT)


def silent(endpoint: Endpoint, pings: int = 4) -> Candidate:
    return Candidate(endpoint, NOW - 30, {Source.MAP}, pings=pings, pinged_at=NOW - 3)


def alive(endpoint: Endpoint, latency_s: float, ago_s: float = 1.0) -> Candidate:
    candidate = Candidate(endpoint, NOW - 30, {Source.MAP, Source.PING}, pings=3)
    candidate.pinged_at = NOW - ago_s - latency_s
    candidate.record_pong(latency_s, Endpoint.parse("203.0.113.1:4"), NOW - ago_s)
    return candidate


HEARD = silent(SIX)
HEARD.sources.add(Source.PING)
FACTS = Facts(
    peer="bob",
    address="100.64.0.2",
    online=True,
    path=RELAYED,
    active=True,
    searching_s=12.0,
    candidates=[silent(PUBLIC), silent(LAN)],
    own=EASY,
    own_endpoints=[OwnEndpointStatus(address="203.0.113.1:41641", source="stun")],
    own_ipv6=False,
    mapped=False,
    outcomes=[UPNP_OFF],
    theirs=EASY,
    punching=[],
    now=NOW,
)


def told(**changes: object) -> tuple[Explanation, str]:
    found = explain(dataclasses.replace(FACTS, **changes))  # type: ignore[arg-type]
    return found, " ".join([found.summary, *found.reasons, *found.advice])


def test_both_sides_symmetric() -> None:
    found, text = told(own=HARD, theirs=HARD)
    assert found.cause == "hard-hard"
    assert "Both sides are symmetric" in text
    assert "not possible without a mapping; the relay in region home is used." in text
    assert "Your router's UPnP is off" in text
    assert "Turn on UPnP" in text


@pytest.mark.parametrize(
    ("changes", "cause", "words"),
    [
        ({"own": NO_UDP}, "no-udp", "UDP is blocked here"),
        ({"theirs": NO_UDP}, "peer-no-udp", "UDP is blocked at bob"),
        ({"own": HARD}, "hard", "This side's NAT is symmetric"),
        ({"theirs": HARD}, "hard", "The NAT of bob is symmetric"),
        ({"theirs": None}, "silence", "Pings to 2 addresses of bob got no answer"),
        ({"own": None, "theirs": None}, "silence", "a NAT or firewall drops them"),
        (
            {"candidates": [silent(SIX, 0)], "active": False},
            "no-common-family",
            "This machine has only IPv4, and bob has only IPv6: between them there is no direct "
            "path; the relay in region home is used. Give this machine IPv6 or bob IPv4",
        ),
        (
            {"own_endpoints": [OwnEndpointStatus(address="[2001:db8::1]:1", source="local")]},
            "no-common-family",
            "Give this machine IPv4 or bob IPv6",
        ),
        ({"candidates": []}, "no-candidates", "No address of bob is known"),
        ({"candidates": None}, "no-disco", "no disco key"),
        ({"online": False}, "offline", "offline"),
        ({"searching_s": 0.2}, "young", "just begun"),
        ({"active": False, "searching_s": None, "candidates": [silent(LAN, 0)]}, "idle", "of late"),
    ],
)
def test_causes(changes: dict[str, object], cause: str, words: str) -> None:
    found, text = told(**changes)
    assert found.cause == cause
    assert words in text
    assert found.summary == "Packets to bob take the relay in region home."
    assert found.advice or cause == "no-candidates"


def test_a_policy_that_turns_punching_off_is_named() -> None:
    for off, whose in (("here", "this machine"), ("there", "bob")):
        text = told(own=HARD, punching_off=off)[1]
        assert f"{ATTRIBUTE_OFF} turns punching off for {whose}." in text
    assert ATTRIBUTE_OFF not in told(own=HARD)[1]
    assert ATTRIBUTE_OFF not in told(own=HARD, theirs=HARD, punching_off="here")[1]


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (Finding.SECOND_NAT, "Ask the provider for a public address"),
        (Finding.REFUSED, "Allow this machine to map ports"),
        (Finding.DISABLED, "Allow port mapping on this machine"),
        (Finding.SILENT, "Turn on UPnP"),
        (Finding.UNKNOWN, "Forward Warren's UDP port"),
    ],
)
def test_advice_follows_what_the_router_said(finding: Finding, words: str) -> None:
    assert words in told(own=HARD, outcomes=[Outcome(MapProtocol.UPNP, finding)])[1]


def test_a_router_that_gave_a_mapping_is_no_reason() -> None:
    assert "Your router" not in told(own=HARD, theirs=HARD, mapped=True)[1]


def test_a_direct_path_names_what_the_others_lack() -> None:
    path = PathStatus(kind="direct", address=str(LAN), latency_ms=1.0)
    slow = Endpoint.parse("198.51.100.8:1")
    gone = alive(Endpoint.parse("198.51.100.9:1"), 0.01, ago_s=20)
    gone.pinged_at = NOW - 1
    candidates = [silent(SIX), gone, alive(slow, 0.05), alive(LAN, 0.001)]
    found, _ = told(path=path, candidates=candidates)
    assert found.cause == ""
    assert found.reasons == found.advice == []
    assert "direct: 192.168.1.7:41641, 1.0 ms" in found.summary
    assert "the map and its own ping" in found.summary
    results = {each.address: (each.result, each.why) for each in found.candidates}
    assert found.candidates[0].address == str(LAN)
    assert results[str(LAN)] == ("used", "")
    assert results[str(slow)] == ("works", "slower than the path in use")
    assert results["198.51.100.9:1"][0] == "lost"
    assert results[str(SIX)] == ("silent", "this machine has no IPv6")


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (0, "packets of up to 1280 bytes;"),
        (1, "packets of up to 1280 bytes (larger ones stopped arriving once);"),
        (3, "packets of up to 1280 bytes (larger ones stopped arriving 3 times);"),
    ],
)
def test_a_path_that_carries_less_than_it_did_is_told(times: int, words: str) -> None:
    path = PathStatus(kind="direct", address=str(LAN), mtu_bytes=1280, mtu_fallbacks=times)
    assert words in told(path=path)[0].summary


def test_a_peer_relay_is_named() -> None:
    found, _ = told(path=PathStatus(kind="peer-relay", address="203.0.113.5:7"), own=HARD)
    assert found.summary.endswith("peer relay, another machine, at 203.0.113.5:7.")
    assert found.cause == "hard"


def test_a_first_ping_under_way_and_one_not_sent() -> None:
    young = Candidate(PUBLIC, NOW, {Source.CALL}, pings=1, pinged_at=NOW - 0.1)
    found, _ = told(candidates=[young, Candidate(LAN, NOW, {Source.MAP})])
    assert [each.result for each in found.candidates] == ["asked", "untried"]


infos = st.none() | st.builds(
    NetInfo,
    mapping_varies_by_dest_ip=st.sampled_from([None, True, False]),
    working_udp=st.sampled_from([None, True, False]),
    working_ipv6=st.sampled_from([None, True, False]),
    have_port_map=st.booleans(),
    upnp=st.sampled_from([None, True, False]),
)
outcomes = st.builds(
    Outcome, st.sampled_from(list(MapProtocol)), st.sampled_from(list(Finding)), st.just("why")
)


endpoints = st.lists(
    st.builds(
        OwnEndpointStatus,
        address=st.sampled_from(
            ["203.0.113.1:41641", "203.0.113.1:3", "192.168.1.2:41641", "[2001:db8::1]:1"]
        ),
        source=st.sampled_from(["local", "stun", "port mapping"]),
    ),
    max_size=4,
)


@given(
    infos,
    infos,
    st.lists(outcomes, max_size=4),
    st.none()
    | st.lists(st.sampled_from([silent(PUBLIC), silent(LAN, 0), alive(SIX, 0.02), HEARD])),
    st.booleans(),
    st.sampled_from([None, True, False]),
    st.sampled_from(
        [RELAYED, PathStatus(kind="none"), PathStatus(kind="direct", address=str(SIX))]
    ),
    st.none() | st.just(PUBLIC),
    endpoints,
    st.booleans(),
)
def test_there_is_always_a_whole_sentence(
    own: NetInfo | None,
    theirs: NetInfo | None,
    said: list[Outcome],
    candidates: list[Candidate] | None,
    active: bool,
    online: bool | None,
    path: PathStatus,
    shown: Endpoint | None,
    own_endpoints: list[OwnEndpointStatus],
    own_ipv6: bool,
) -> None:
    """Whatever is known: a summary, a reason unless the path is direct, and no loose ends."""
    found, _ = told(
        own=own,
        theirs=theirs,
        outcomes=said,
        candidates=candidates,
        active=active,
        online=online,
        path=path,
        shown=shown,
        own_endpoints=own_endpoints,
        own_ipv6=own_ipv6,
    )
    assert bool(found.reasons) is (path.kind != "direct")
    assert bool(found.cause) is (path.kind != "direct")
    for text in (found.summary, *found.reasons, *found.advice):
        assert re.fullmatch(r"[A-Zb][^\n]*(\.|bob)", text), text
        assert "None" not in text
    assert all(each.why or each.result == "used" for each in found.candidates)
    assert len(set(found.advice)) == len(found.advice)


def test_both_behind_one_nat_without_hairpin() -> None:
    there = silent(Endpoint.parse("203.0.113.1:50000"))
    found, text = told(candidates=[there, silent(LAN)])
    assert found.cause == "same-nat"
    assert "behind one NAT, at 203.0.113.1" in text and "firewall" not in text
    assert "hairpin" in text and "UPnP" not in text
    # Who answers there is not kept away by that.
    assert told(candidates=[alive(there.endpoint, 0.01), silent(PUBLIC)])[0].cause == "silence"
