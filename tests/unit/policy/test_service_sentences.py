"""What the service says of a wrong policy, of one scheme for features that recordings show and
for those beside them. Sources: recorded verdicts; the stock client's parsers of ports, protocols
and tags, which the service shares; the wordings that another server took over from recordings.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_verdict import BASE, ask

from warren.policy.malformed import MalformedPolicy
from warren.policy.topology import Topology
from warren.policy.verdict import read

NOT_FOUND = 'tag not found: "tag:none"'
FOREIGN = "is not associated with this Tailnet and cannot be used in user:*@<domain> expressions"


def acl(**changed: Any) -> dict[str, Any]:
    return {"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]} | changed]}


def grant(**changed: Any) -> dict[str, Any]:
    return {"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]} | changed]}


def ssh(**changed: Any) -> dict[str, Any]:
    rule = {"action": "accept", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["root"]}
    return {"acls": [], "ssh": [rule | changed]}


def ssh_test(*dst: str) -> dict[str, Any]:
    return ssh() | {"sshTests": [{"src": "ann@example.com", "dst": list(dst), "accept": ["root"]}]}


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        # A tag that is not there: before an acl's source and target their names, elsewhere nothing.
        (acl(src=["tag:none"]), f"src={NOT_FOUND}"),
        (acl(dst=["tag:none:22"]), f'dst="tag:none": {NOT_FOUND}'),
        (acl(dst=["group:none:22"]), 'dst="group:none": group not found: "group:none"'),
        (acl(dst=["none:22"]), 'dst="none": invalid address'),
        (grant(src=["tag:none"]), f"src={NOT_FOUND}"),
        (grant(dst=["tag:none"]), NOT_FOUND),
        (ssh(src=["tag:none"]), NOT_FOUND),
        (ssh(dst=["tag:none"]), NOT_FOUND),
        ({"nodeAttrs": [{"target": ["tag:none"], "attr": ["x"]}]}, NOT_FOUND),
        # Ports and protocols.
        (acl(dst=["tag:web"]), 'dst="tag:web": port range "web": invalid first integer'),
        (acl(dst=["*:1-2-3"]), 'dst="*:1-2-3": port range "1-2-3": too many dashes(-)'),
        (acl(dst=["*:1-x"]), 'dst="*:1-x": port range "1-x": invalid last integer'),
        (acl(dst=["*:9-8"]), 'dst="*:9-8": port range "9-8": first port must be >= last port'),
        (acl(dst=["*:"]), 'dst="*:": invalid port list: ""'),
        (acl(dst=["*"]), 'dst="*": hostport must contain a colon (":")'),
        (acl(dst=["[100.64.0.1]:1"]),
         'dst="[100.64.0.1]:1": square brackets are only valid around IPv6 addresses'),
        (acl(proto="tpc"), 'proto name "tpc" not known; use protocol number 0-255'),
        (acl(proto="06"), 'leading 0 not permitted in protocol number: "06"'),
        (grant(ip=["tpc:1"]), 'proto name "tpc" not known; use protocol number 0-255'),
        (grant(ip=[""]), "empty string"),
        (grant(ip=[":1"]), "empty protocol"),
        (grant(ip=["80,90"]), 'port range "80,90": invalid first integer'),
        # Capabilities.
        (grant(app={"https://example.com/cap": []}),
         "capability name must have the form {domain}/{path}"),
        (grant(app={"cap": []}), "capability name must have the form {domain}/{path}"),
        # Who may be a source.
        (grant(src=["autogroup:internet"]),
         '"autogroup:internet" not valid on the src side of a rule'),
        (ssh(src=["autogroup:self"]), '"autogroup:self" not valid on the src side of a rule'),
        (ssh(src=["autogroup:internet"]),
         '"autogroup:internet" not valid on the src side of a rule'),
        # Log-ins.
        (ssh(users=[""]), 'user "" is not valid'),
        (ssh(users=["root", "*"]), 'user "*" is not valid'),
        (ssh(dst=["*"]), 'invalid dst "*"'),
        (ssh(users=["localpart:*@*"]), f"* {FOREIGN}"),
        (ssh_test("10.0.0.0/8"), 'SSH tests dst contains disallowed element "10.0.0.0/8"'),
        (ssh_test("net"), 'SSH tests dst contains disallowed element "net"'),
        (ssh_test("tag:web", "autogroup:internet"),
         'SSH tests dst contains disallowed element "autogroup:internet"'),
        (ssh_test("tag:web:22"), 'SSH tests dst contains unknown tag "tag:web:22"'),
        # Names.
        ({"tagOwners": {"tag:": []}}, 'tagOwners["tag:"]: tag names must not be empty'),
        ({"tagOwners": {"tag:1a": []}},
         "tagOwners[\"tag:1a\"]: tag names must start with a letter, after 'tag:'"),
        ({"tagOwners": {"tag:a_b": []}},
         'tagOwners["tag:a_b"]: tag names can only contain numbers, letters, or dashes'),
        ({"hosts": {"tag:x": "192.0.2.1"}}, 'hosts["tag:x"]: a host\'s name has no ":"'),
        ({"nodeAttrs": [{"target": ["autogroup:self"], "attr": ["x"]}]},
         '"autogroup:self" not valid as a target of nodeAttrs'),
        ({"nodeAttrs": [{"target": ["autogroup:internet"], "attr": ["x"]}]},
         '"autogroup:internet" not valid as a target of nodeAttrs'),
    ],
)  # fmt: skip
def test_the_sentence(sections: dict[str, Any], sentence: str) -> None:
    answer = ask(**sections)
    assert (answer["http_code"], answer["http_message"]) == (400, sentence)


@pytest.mark.parametrize(
    "sections",
    [
        acl(proto=6),
        acl(proto="dccp"),
        acl(proto="ICMPv6"),
        grant(ip=["*:443"]),
        ssh(src=["user:*@passkey"]),
        ssh(users=["localpart:*@passkey"]),
        ssh_test("100.64.0.3/32"),
        {"ssh": []},
    ],
)
def test_what_is_right(sections: dict[str, Any]) -> None:
    answer = ask(**sections)
    assert answer["http_code"] == 200, answer["http_message"]


def test_names_of_members_are_the_same_in_any_case() -> None:
    # The stock client's own types have `tagowners`, and files of old look like this one.
    source = """{"Groups": {"group:a": ["ann@example.com"]}, "tagowners": {"tag:web": ["group:a"]},
    "ACLs": [{"Action": "accept", "Users": ["group:a"], "Ports": ["tag:web:80"]}],
    "AutoApprovers": {"ExitNode": ["tag:web"]},
    "Tests": [{"User": "ann@example.com", "Allow": ["tag:web:80"]}]}"""
    checked = read(source, Topology([], []))
    assert checked.policy.tag_owners == {"tag:web": ["group:a"]}
    assert checked.policy.exit_approvers == ["tag:web"]
    assert checked.grants[0].sources == ["group:a"] and checked.grants[0].targets == ["tag:web"]
    assert checked.policy.tests[0].words("accept", "allow") == ["tag:web:80"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ('{"acls": [],\n "ACLs": []}', 'line 2, column 2: "acls" is given twice'),
        ('{"ACL": []}', 'line 1, column 2: unknown field "ACL" (did you mean "acls"?)'),
        ('{"TagOwner": {}}', 'unknown field "TagOwner" (did you mean "tagOwners"?)'),
    ],
)
def test_names_in_any_case_are_told_apart_from_wrong_ones(source: str, sentence: str) -> None:
    with pytest.raises(MalformedPolicy) as caught:
        read(source, Topology([], []))
    assert sentence in caught.value.sentence()


def test_a_tagged_source_is_told_what_it_may_do_to_itself() -> None:
    """As a person's machines are, where a rule has local parts."""
    rule = {"action": "accept", "src": ["tag:web"], "dst": ["tag:router"],
            "users": ["localpart:*@example.com", "ubuntu"]}  # fmt: skip
    answer = ask(**BASE | {"ssh": [rule]})
    (told,) = answer["nodes"]["web"]["ssh_policy"]["rules"]
    mine = {one["nodeIP"] for one in told["principals"]}
    assert mine == {"100.64.0.3", "fd7a:115c:a1e0::3"}
    assert told["sshUsers"] == {"root": "", "ubuntu": "ubuntu"}
    json.dumps(answer)
