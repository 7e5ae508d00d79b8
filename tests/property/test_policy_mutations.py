"""A policy that is right, and then is not: whatever is changed in it, there is an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from fuzz.policy import POLICIES, TOPOLOGY
from hypothesis import given, settings
from hypothesis import strategies as st

from warren.policy.explain import difference, who_can
from warren.policy.malformed import MalformedPolicy
from warren.policy.topology import parse_topology_untrusted
from warren.policy.verdict import World, read, verdict_untrusted

WORDS = [
    "", "*", "a@b", "joe", "user:*@x.org", "*@x.org", "localpart:*@x.org", "group:a", "group:none",
    "tag:router", "tag:none", "tag:", "svc:x", "svc:x:80", "ipset:x", "ipset:none", "host:web",
    "add", "remove ", "remove ipset:x", "posture:p", "posture:none", "autogroup:self",
    "autogroup:internet", "autogroup:danger-all", "autogroup:nonroot", "autogroup:shared",
    "autogroup:tagged", "autogroup:", "10.0.0.0/8", "0.0.0.0/0", "::/0", "10.0.0.9-10.0.0.1",
    "10.0.0.1-", "1.2.3.4/33", "fe80::1%eth0", "::ffff:1.2.3.4", "[::1]:80", "*:*", ":80",
    "web:0-", "web:１", "tcp:1-2", "icmp:*", "256:*", "0", "-1h", "1e9h", "9" * 50 + "h",
    "node:os IN [", "node:tsVersion >= '1.x'", "\x00", "\x1b[31m", "\u202e", "ж", "x" * 300,
]  # fmt: skip
BEFORE = json.dumps(POLICIES[0])
values = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False),
    st.sampled_from(WORDS), st.lists(st.sampled_from(WORDS), max_size=3),
    st.dictionaries(st.sampled_from(WORDS), st.sampled_from(WORDS), max_size=2),
)  # fmt: skip


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return where every value within a value stands."""
    if where:
        yield where
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*where, key))


@st.composite
def mutated(draw: st.DrawFn, whole: Any = None) -> dict[str, Any]:
    """Return a policy, or `whole`, of which up to three values are others, elsewhere or gone."""
    policy: dict[str, Any] = deepcopy(whole or draw(st.sampled_from(POLICIES)))
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(sorted(places(policy), key=repr)))
        holder: Any = policy
        for key in where[:-1]:
            holder = holder[key]
        how = draw(st.integers(0, 4))
        if how == 0:
            del holder[where[-1]]
        elif how == 1:
            holder[where[-1]] = [holder[where[-1]]]
        elif how == 2 and isinstance(holder, dict):
            holder[draw(st.sampled_from(WORDS))] = holder[where[-1]]
        else:
            holder[where[-1]] = draw(values)
        if not policy:
            break
    return policy


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_every_mutation_compiles_or_is_refused_with_a_sentence(policy: dict[str, Any]) -> None:
    answer = verdict_untrusted({"policy": policy, "topology": TOPOLOGY})
    assert answer["http_code"] in (200, 400)
    if answer["http_code"] == 400:
        assert answer["http_message"]
        return
    assert set(answer["nodes"]) == set(TOPOLOGY["nodes"])
    json.dumps(answer)


@settings(max_examples=300, deadline=None)
@given(mutated(TOPOLOGY))
def test_a_topology_that_is_none_is_refused_with_a_sentence(topology: dict[str, Any]) -> None:
    answer = verdict_untrusted({"policy": POLICIES[0], "topology": topology})
    assert answer["http_code"] == 200 or answer["http_message"]
    json.dumps(answer)


@settings(max_examples=200, deadline=None)
@given(mutated())
def test_what_is_refused_has_a_place_that_is_in_the_file(policy: dict[str, Any]) -> None:
    source = json.dumps(policy, indent=1)
    lines = source.split("\n")
    try:
        checked = read(source, parse_topology_untrusted(TOPOLOGY))
        world = World(checked)
        world_before = World(read(BEFORE, parse_topology_untrusted(TOPOLOGY)))
    except MalformedPolicy as error:
        assert error.place is not None, error.message
        assert 1 <= error.place.line <= len(lines)
        assert 1 <= error.place.column <= len(lines[error.place.line - 1]) + 1
        assert error.sentence().isprintable()
        return
    for end in ("web:80", "tag:router:22", "10.1.2.3:53/udp", "8.8.8.8:443", "ann@example.com:1"):
        who_can(world, end)
    difference(world, world_before)
    for failure in checked.trial().run(checked.policy):
        assert 1 <= failure.place.line <= len(lines)
