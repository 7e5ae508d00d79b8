"""A slow and obvious reading of a policy accepts what the compiled filters accept."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from warren.policy.hujson import parse_hujson_untrusted
from warren.policy.ranges import parse_spans
from warren.policy.verdict import verdict_untrusted

USERS = {"ann": "ann@x.org", "bob": "bob@x.org"}
NODES: dict[str, dict[str, Any]] = {
    name: {"ipv4": f"100.64.0.{n}", "ipv6": f"fd7a:115c:a1e0::{n}", **who}
    for n, (name, who) in enumerate(
        {
            "a1": {"user": "ann"},
            "a2": {"user": "ann"},
            "b1": {"user": "bob"},
            "s1": {"tags": ["tag:s"]},
            "t1": {"tags": ["tag:t", "tag:s"]},
        }.items(),
        1,
    )
}
GROUPS = {"group:g": ["ann@x.org"], "group:none": []}
SOURCES = ["*", "ann@x.org", "bob@x.org", "group:g", "group:none", "tag:s", "tag:t",
           "autogroup:member", "autogroup:tagged", "100.64.0.3"]  # fmt: skip
PORTS = {"*": range(65536), "22": range(22, 23), "80-90": range(80, 91), "22,443": (22, 443)}
PEOPLE = ["*", "ann@x.org", "bob@x.org", "group:g", "autogroup:member"]

plain = st.fixed_dictionaries(
    {
        "src": st.lists(st.sampled_from(SOURCES), min_size=1, max_size=3),
        "dst": st.lists(
            st.tuples(st.sampled_from(SOURCES), st.sampled_from(sorted(PORTS))), max_size=3
        ),
    }
)
own = st.fixed_dictionaries(
    {
        "src": st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=2),
        "dst": st.just([("autogroup:self", "22")]),
    }
)


def is_meant(word: str, node: dict[str, Any]) -> bool:
    """The obvious reading of one word for one node."""
    login, tags = USERS.get(node.get("user", "")), node.get("tags", [])
    return (
        word in ("*", login, node["ipv4"])
        or word in tags
        or login in GROUPS.get(word, ())
        or (word == "autogroup:member" and login is not None)
        or (word == "autogroup:tagged" and bool(tags))
    )


def accepts(rules: list[dict[str, Any]], source: str, target: str, port: int) -> bool:
    one, other = NODES[source], NODES[target]
    for rule in rules:
        if not any(is_meant(word, one) for word in rule["src"]):
            continue
        for word, ports in rule["dst"]:
            if port in PORTS[ports] and (
                is_meant(word, other)
                or (word == "autogroup:self" and one.get("user") == other.get("user") is not None)
            ):
                return True
    return False


def filtered(filters: list[dict[str, Any]] | None, source: str, target: str, port: int) -> bool:
    def inside(form: str, address: str) -> bool:
        found = ip_address(address)
        return any(s.family == found.version and s.first <= int(found) <= s.last
                   for s in parse_spans(form))  # fmt: skip

    return any(
        inside(form, source) and inside(end["IP"], target)
        and end["Ports"]["First"] <= port <= end["Ports"]["Last"]
        for rule in filters or []
        for form in rule["SrcIPs"]
        for end in rule["DstPorts"]
    )  # fmt: skip


@settings(max_examples=150)
@given(st.lists(st.one_of(plain, own), max_size=4))
def test_filters_accept_what_the_rules_say(rules: list[dict[str, Any]]) -> None:
    policy = {
        "groups": GROUPS,
        "tagOwners": {"tag:s": [], "tag:t": []},
        "acls": [
            {"action": "accept", "src": r["src"], "dst": [f"{w}:{p}" for w, p in r["dst"]]}
            for r in rules
        ],
    }
    users = [{"name": name, "email": login} for name, login in USERS.items()]
    answer = verdict_untrusted({"policy": policy, "topology": {"users": users, "nodes": NODES}})
    assert answer["http_code"] == 200, answer["http_message"]
    for source, one in NODES.items():
        for target, other in NODES.items():
            told = answer["nodes"][target]["packet_filter_rules"]
            for port in (1, 22, 85, 443):
                wanted = accepts(rules, source, target, port)
                assert filtered(told, one["ipv4"], other["ipv4"], port) == wanted
                if wanted and source != target:
                    assert target in answer["nodes"][source]["peers"]
                    assert source in answer["nodes"][target]["peers"]


texts = st.text(st.characters(codec="utf-8"))
scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | texts


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)


@given(st.recursive(scalars, containers))
def test_json_is_hujson(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert parse_hujson_untrusted(text).root.plain() == value
