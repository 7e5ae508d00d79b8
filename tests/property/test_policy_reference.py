"""What is compiled, answered and mended agrees with a slow and obvious reading of the policy."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from reference import DEFAULT, Packet, Reference, within

from warren.netmap.filterrule import FilterRule
from warren.policy.explain import ways, who_can
from warren.policy.malformed import MalformedPolicy
from warren.policy.ranges import parse_spans
from warren.policy.topology import parse_topology_untrusted
from warren.policy.verdict import World, read, read_stored

USERS = [{"name": name, "email": f"{name}@x.org"} for name in ("ann", "bob", "cid")]
HOLDERS: list[dict[str, Any]] = [
    {"user": "ann"}, {"user": "ann"}, {"user": "bob"}, {"tags": ["tag:a"]},
    {"tags": ["tag:b"]}, {"tags": ["tag:a", "tag:b"]},
]  # fmt: skip
VIA6 = "fd7a:115c:a1e0:b1a:0:7:a01:100/120"
ROUTES: list[list[str]] = [
    [], [], ["10.0.0.0/8"], ["10.1.0.0/16", "192.168.7.0/24"], ["10.1.2.0/24"], [VIA6],
    ["0.0.0.0/0", "::/0"], ["10.1.0.0/16", "0.0.0.0/0", "::/0"],
]  # fmt: skip
BEHIND = ["10.1.0.1", "10.1.2.3", "10.2.0.1", "192.168.7.9", "fd7a:115c:a1e0:b1a:0:7:a01:105"]
OUTSIDE = ["8.8.8.8", "198.51.100.7", "2001:db8::8"]
SAMPLES = BEHIND + OUTSIDE
PEOPLE = ["ann@x.org", "bob@x.org", "group:g", "autogroup:member", "autogroup:owner",
          "autogroup:admin"]  # fmt: skip
TAGS = ["tag:a", "tag:b", "autogroup:tagged"]
NAMES = [*PEOPLE, *TAGS]
PLACES = ["100.64.0.2", "100.64.0.0/30", "100.64.0.2-100.64.0.4", "fd7a:115c:a1e0::3", "fast",
          "site", "10.1.2.3", "10.1.0.0/16", "10.1.2.0-10.2.0.9", VIA6, "ipset:s", "ipset:out",
          "fd7a:115c:a1e0::/48"]  # fmt: skip
SOURCES = ["*", "autogroup:danger-all", *NAMES, *PLACES]
TARGETS = ["*", "autogroup:internet", *NAMES, *PLACES]
IP = ["*", "22", "80-90", "tcp:443", "udp:53", "icmp:*", "sctp:9", "ipv6-icmp:*"]
PORTS = ["*", "22", "80-90", "22,443"]
BASE = {
    "groups": {"group:g": ["ann@x.org", "cid@x.org"]},
    "tagOwners": {"tag:a": [], "tag:b": []},
    "hosts": {"fast": "100.64.0.2", "site": "10.1.0.0/16"},
    "ipsets": {
        "ipset:s": ["add 100.64.0.0/29", "remove 100.64.0.1", "ipset:t", "remove 10.1.2.3"],
        "ipset:t": ["host:site", "remove 10.1.2.0/25", "add 10.1.2.3"],
        "ipset:out": ["autogroup:internet", "remove 198.51.100.0/24"],
    },
    "postures": {"posture:linux": ["node:os == 'linux'"]},
}
PROBES = [(6, 22), (6, 443), (17, 53), (17, 85), (1, 0), (58, 0), (132, 9)]


def some(words: list[str], most: int = 3) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(words), min_size=1, max_size=most, unique=True)


grants = st.one_of(
    st.fixed_dictionaries(
        {"src": some(SOURCES), "dst": some(TARGETS), "ip": some(IP)},
        optional={"srcPosture": st.just(["posture:linux"]),
                  "via": some(["tag:a", "tag:b"], 1)},
    ),
    st.fixed_dictionaries(
        {"src": some(PEOPLE), "dst": st.just(["autogroup:self"]), "ip": some(IP)},
        optional={"srcPosture": st.just(["posture:linux"])},
    ),
    st.fixed_dictionaries(
        {"src": some(SOURCES), "dst": some(["*", *NAMES, *PLACES]),
         "app": st.just({"x.org/cap": [1]})},
    ),
)  # fmt: skip


@st.composite
def acls(draw: st.DrawFn) -> dict[str, Any]:
    protocol = draw(st.sampled_from(["", "", "tcp", "udp", "icmp"]))
    port = ["*"] if protocol == "icmp" else PORTS
    words = draw(some(TARGETS))
    sources = SOURCES
    if draw(st.integers(0, 4)) == 0:
        words, sources = [*words[:1], "autogroup:self"], ["*", *PEOPLE]
    dst = [f"[{w}]" if w.count(":") > 1 and "/" not in w else w for w in words]
    made = {
        "action": "accept",
        "src": draw(some(sources)),
        "dst": [f"{word}:{draw(st.sampled_from(port))}" for word in dst],
    }
    return made | ({"proto": protocol} if protocol else {})


@st.composite
def topologies(draw: st.DrawFn) -> dict[str, Any]:
    nodes = {}
    for number in range(1, draw(st.integers(2, 6)) + 1):
        both, routes = draw(st.integers(0, 4)) > 0, draw(st.sampled_from(ROUTES))
        nodes[f"n{number}"] = {
            "id": number,
            "ipv4": f"100.64.0.{number}",
            **({"ipv6": f"fd7a:115c:a1e0::{number}"} if both else {}),
            **draw(st.sampled_from(HOLDERS)),
            "routable_ips": routes,
            "approved_routes": routes,
            "attributes": {"node:os": draw(st.sampled_from(["linux", "windows"]))},
        }
    return {"users": USERS, "nodes": nodes}


policies = st.builds(
    lambda some_grants, some_acls: BASE | {"grants": some_grants, "acls": some_acls},
    st.lists(grants, max_size=3),
    st.lists(acls(), max_size=2),
)


def world(policy: dict[str, Any], topology: dict[str, Any]) -> World:
    return World(read(json.dumps(policy), parse_topology_untrusted(deepcopy(topology))))


def told(policy: dict[str, Any], topology: dict[str, Any], *more: Any) -> str:
    """Return what a failure is about."""
    rules = {name: policy.get(name) for name in ("grants", "acls")}
    return json.dumps([rules, topology["nodes"], [str(one) for one in more]])


def inside(form: str, address: str) -> bool:
    found = ip_address(address)
    return any(s.family == found.version and s.first <= int(found) <= s.last
               for s in parse_spans(form))  # fmt: skip


def passes(rules: list[FilterRule], packet: Packet) -> bool:
    """Whether a filter, as it travels, lets a packet in (PROTOCOL §3.8, a first packet)."""
    return any(
        packet.protocol in (rule.ip_proto or DEFAULT)
        and any(inside(form, packet.source) for form in rule.src_ips)
        and any(
            inside(end.ip, packet.target) and end.ports.first <= packet.port <= end.ports.last
            for end in rule.dst_ports
        )
        for rule in rules
    )


def packets(plain: Reference, at: str) -> list[Packet]:
    """Return packets that may come to a node: for itself, for what it serves, for the internet."""
    ends = [
        *plain.addresses(at),
        *(s for s in BEHIND if any(within(s, r) for r in plain.routes(at))),
    ]
    ends += [s for s in OUTSIDE if plain.is_exit(at)]
    starts = [a for name in plain.nodes if name != at for a in plain.addresses(name)]
    starts += [*BEHIND, "203.0.113.5"]
    return [
        Packet(start, end, protocol, port)
        for start in starts
        for end in ends
        if (":" in start) == (":" in end)
        for protocol, port in PROBES
        if protocol not in ((58,) if ":" not in start else (1,))
    ]


@settings(max_examples=40, deadline=None)
@given(policies, topologies())
def test_filters_let_in_what_the_rules_say(
    policy: dict[str, Any], topology: dict[str, Any]
) -> None:
    made, plain = world(policy, topology), Reference(policy, topology)
    for node in made.nodes:
        rules = made.compiler.filters(node)
        for packet in packets(plain, node.name):
            wanted = bool(plain.accepted_by(packet, node.name))
            assert passes(rules, packet) == wanted, (packet, node.name)


@settings(max_examples=40, deadline=None)
@given(policies, topologies())
def test_who_sees_whom_is_who_has_to_do_with_whom(
    policy: dict[str, Any], topology: dict[str, Any]
) -> None:
    made, plain = world(policy, topology), Reference(policy, topology)
    for one in made.nodes:
        for other in made.nodes:
            if one is not other:
                wanted = plain.sees(one.name, other.name, SAMPLES)
                assert made.sight.sees(one, other) == wanted, told(policy, topology, one, other)


def found_by(plain: Reference, one: str, other: str, protocol: int, port: int) -> set[int]:
    """Return the rules by which a packet of one node gets in at another."""
    return {
        number
        for start in plain.addresses(one)
        for end in plain.addresses(other)
        if (":" in start) == (":" in end)
        for number in plain.accepted_by(Packet(start, end, protocol, port), other)
    }


@settings(max_examples=50, deadline=None)
@given(policies, topologies())
def test_why_and_who_can_say_what_the_rules_say(
    policy: dict[str, Any], topology: dict[str, Any]
) -> None:
    made, plain = world(policy, topology), Reference(policy, topology)
    for other in made.nodes:
        for protocol, name, port in ((6, "tcp", 22), (17, "udp", 85)):
            end = f"{other.name}:{port}/{name}"
            reaching = {way.source for way in who_can(made, end)}
            for one in made.nodes:
                if one is other:
                    continue
                wanted = found_by(plain, one.name, other.name, protocol, port)
                said = ways(made, one, end)
                assert len(said) == len(wanted), told(policy, topology, one.name, end, said)
                assert (one.name in reaching) is bool(wanted)
                if len(wanted) == 1:
                    check_only_way(policy, topology, wanted.pop(), (one.name, end))


def check_only_way(
    policy: dict[str, Any], topology: dict[str, Any], number: int, way: tuple[str, str]
) -> None:
    """Without the only rule that lets a node through, nothing does."""
    count = len(policy["grants"])
    section, place = ("grants", number) if number < count else ("acls", number - count)
    less = policy | {section: policy[section][:place] + policy[section][place + 1 :]}
    made = world(less, topology)
    (source,) = (node for node in made.nodes if node.name == way[0])
    assert not ways(made, source, way[1]), told(policy, topology, way)


@settings(max_examples=40, deadline=None)
@given(
    policies, topologies(), st.sampled_from([*NAMES, "100.64.0.2", "fast"]),
    st.sampled_from(["ann@x.org", "tag:a", "tag:b", "100.64.0.3", "fast"]),
    st.sampled_from(["", "tcp", "udp"]), st.sampled_from([22, 85, 443]),
)  # fmt: skip
def test_a_policy_s_own_tests_say_what_the_rules_say(
    policy: dict[str, Any], topology: dict[str, Any], source: str, target: str, name: str, port: int
) -> None:
    # A test tells the posture of its source itself, and `autogroup:self` is one person's.
    alone = "@" in source
    policy = policy | {
        "grants": [g for g in policy["grants"]
                   if "srcPosture" not in g and (alone or "autogroup:self" not in g["dst"])],
        "acls": [a for a in policy["acls"] if alone or "autogroup:self" not in str(a["dst"])],
    }  # fmt: skip
    plain = Reference(policy, topology)

    def meant(word: str) -> list[str]:
        if not plain.is_name(word):
            return [policy["hosts"].get(word, word)]
        return [a for n in plain.nodes if plain.names(word, n) for a in plain.addresses(n)]

    starts, ends = meant(source), meant(target)
    if not starts or not ends or any(plain.at(end) is None for end in ends):
        return  # nothing that packets could show
    protocols = [{"tcp": 6, "udp": 17}[name]] if name else [6, 17]
    wanted = all(
        any(plain.accepted_by(Packet(start, end, one, port), plain.at(end) or "")
            for one in protocols)
        for start in starts
        for end in ends
    )  # fmt: skip
    test = {"src": source, "accept": [f"{target}:{port}"]} | ({"proto": name} if name else {})
    checked = read(json.dumps(policy | {"tests": [test]}), parse_topology_untrusted(topology))
    failed = checked.trial().run(checked.policy)
    assert bool(failed) is not wanted, told(policy, topology, test)


@settings(max_examples=40, deadline=None)
@given(
    policies, topologies(),
    st.lists(st.sampled_from([("groups", "group:g"), ("tagOwners", "tag:a"), ("tagOwners", "tag:b"),
                              ("hosts", "fast"), ("hosts", "site"), ("ipsets", "ipset:s")]),
             min_size=1, max_size=2),
)  # fmt: skip
def test_what_is_mended_allows_less_and_never_more(
    policy: dict[str, Any], topology: dict[str, Any], gone: list[tuple[str, str]]
) -> None:
    """An older version took words that stand for nobody; this one leaves them out."""
    broken = deepcopy(policy)
    for section, name in gone:
        broken[section].pop(name, None)
    before = world(policy, topology)
    try:
        checked, _ = read_stored(json.dumps(broken), parse_topology_untrusted(deepcopy(topology)))
    except MalformedPolicy:
        return  # and nobody reaches anybody
    after, plain = World(checked), Reference(policy, topology)
    for node, whole in zip(after.nodes, before.nodes, strict=True):
        less, more = after.compiler.filters(node), before.compiler.filters(whole)
        for packet in packets(plain, node.name):
            assert passes(more, packet) or not passes(less, packet), told(policy, topology, packet)
        for other, whole_other in zip(after.nodes, before.nodes, strict=True):
            seen = after.sight.sees(node, other)
            assert before.sight.sees(whole, whole_other) or not seen
