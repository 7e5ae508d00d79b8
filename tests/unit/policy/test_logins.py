"""Which log-in names and domains are the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warren.policy.logins import domain_key, login_key
from warren.policy.verdict import verdict_untrusted

UNICODE, PUNYCODE = "bücher.example", "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Example.COM", "example.com", True),
        (UNICODE, PUNYCODE, True),
        ("BÜCHER.example", "XN--Bcher-KVA.example", True),
        ("bu\u0308cher.example", UNICODE, True),
        ("straße.example", "strasse.example", False),
        ("b\u0435lla.example", "bella.example", False),  # a Cyrillic letter
        ("xn--zzzzzz-.example", "xn--zzzzzz-.EXAMPLE", True),
        ("xn--a" * 100, "xn--a" * 100, True),
        ("ž" * 300, "Ž" * 300, True),
        ("", "", True),
        ("a\ud800b", "a\ud800b", True),
    ],
)
def test_domains(one: str, other: str, same: bool) -> None:
    assert (domain_key(one) == domain_key(other)) is same
    assert (login_key(f"Ann@{one}") == login_key(f"ann@{other}")) is same


def test_only_the_domain_is_one() -> None:
    assert login_key(f"ü@{UNICODE}") != login_key(f"xn--tda@{UNICODE}")
    assert login_key("Ann") == "ann"


@pytest.mark.parametrize("there", [UNICODE, PUNYCODE])
@pytest.mark.parametrize("written", [UNICODE, PUNYCODE, UNICODE.upper()])
@pytest.mark.parametrize("form", ["ann@{}", "user:*@{}", "group:g", "group:synced@{}"])
def test_policies_mean_either_form(there: str, written: str, form: str) -> None:
    word = form.format(written)
    groups: dict[str, Any] = {"group:g": [f"ann@{written}"]}
    if form.startswith("group:synced"):
        groups[word] = []
    rule = {"action": "check", "src": [word], "dst": ["tag:a"], "users": [f"localpart:*@{written}"]}
    question = {
        "policy": json.dumps({
            "groups": groups, "tagOwners": {"tag:a": []}, "ssh": [rule],
            "grants": [{"src": [word], "dst": ["tag:a"], "ip": ["*"]}],
        }),
        "topology": {
            "users": [
                {"name": "ann", "email": f"ann@{there}", "groups": [f"group:synced@{there}"]},
            ],
            "nodes": {
                "pc": {"ipv4": "100.64.0.1", "user": "ann"},
                "srv": {"ipv4": "100.64.0.2", "tags": ["tag:a"]},
            },
        },
    }  # fmt: skip
    answer = verdict_untrusted(question)
    assert answer["http_code"] == 200, answer["http_message"]
    told = answer["nodes"]["srv"]
    assert told["packet_filter_rules"][0]["SrcIPs"] == ["100.64.0.1"]
    assert any("ann" in rule["sshUsers"] for rule in told["ssh_policy"]["rules"])
