"""Policies as large as may be, made to cost as much as they can: bounded work, or a sentence.

The times are far from what is measured (a second or two); what is quadratic takes minutes.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from test_verdict import BASE

from warren.policy.hujson import MAX_BYTES
from warren.policy.malformed import MalformedPolicy
from warren.policy.standins import stand_ins
from warren.policy.topology import Topology
from warren.policy.verdict import World, parse_policy_untrusted, read

PEOPLE = {"group:g": [f"u{n}@x.org" for n in range(3000)]}
HOSTS = {f"h{n}": f"10.{n >> 8}.{n & 255}.1" for n in range(10_000)}
VALUES = ",".join(["'7'"] * 100_000)
THOUSAND = ",".join(str(n) for n in range(1, 1001))
PORTS = ",".join([THOUSAND] * 150)
LOGIN = {"action": "accept", "src": ["group:g"], "dst": ["tag:a"], "users": ["root"]}
COSTLY: dict[str, dict[str, Any]] = {
    "a test for each host, a rule for each host": {
        "hosts": dict(list(HOSTS.items())[:3000]),
        "acls": [
            {"action": "accept", "src": [f"h{n}"], "dst": [f"h{2999 - n}:*"]} for n in range(3000)
        ],
        "tests": [{"src": f"h{n}", "deny": ["h5:80"]} for n in range(2990)],
    },
    "one test of many ends, many rules for everyone": {
        "hosts": dict(list(HOSTS.items())[:300]),
        "acls": [
            {"action": "accept", "src": ["*"], "dst": [f"h{n % 300}:{n + 81}"]} for n in range(7000)
        ],
        "tests": [{"src": "1.2.3.4", "deny": [f"h{n % 300}:80" for n in range(20_000)]}],
    },
    "a group to itself": {
        "groups": PEOPLE,
        "acls": [{"action": "accept", "src": ["group:g"], "dst": ["group:g:80"]}],
        "tests": [{"src": "group:g", "accept": ["group:g:80"]}],
    },
    "log-ins of a group, for each of its members": {
        "groups": PEOPLE,
        "tagOwners": {"tag:a": []},
        "ssh": [LOGIN] * 150,
        "sshTests": [
            {"src": f"u{n % 3000}@x.org", "dst": ["tag:a"], "deny": ["joe"]} for n in range(5000)
        ],
    },
    "a posture that lists a hundred thousand values": {
        "postures": {"posture:p": [f"node:os IN [{VALUES}]"]},
    },
    "a chain of ipsets": {
        "ipsets": {f"ipset:{n}": [f"ipset:{n + 1}"] * 2 for n in range(9000)}
        | {"ipset:9000": ["10.0.0.1"]},
        "acls": [{"action": "accept", "src": ["ipset:0"], "dst": ["*:*"]}],
    },
    "attributes for many hosts, each in many rules": {
        "hosts": dict(list(HOSTS.items())[:5000]),
        "tagOwners": {f"tag:a{n}": [] for n in range(300)},
        "nodeAttrs": [
            {"target": [f"h{m}" for m in range(5000)], "attr": [f"a{n}"]} for n in range(15)
        ],
    },
    "names that are nearly each other": {
        "hosts": {f"{n:05}{'ab' * 20}{n % 7}": "10.0.0.1" for n in range(9000)},
        "acls": [{"action": "accept", "src": ["ba" * 22], "dst": ["*:*"]}],
    },
    "a hundred thousand ports of everyone's machines": {
        "acls": [{"action": "accept", "src": ["*"], "dst": ["autogroup:member:" + PORTS]}],
    },
    "a thousand ports each of a hundred rules": {
        "acls": [{"action": "accept", "src": ["*"], "dst": ["autogroup:member:" + THOUSAND]}] * 100,
    },
    "many ports of many hosts": {
        "hosts": HOSTS,
        "grants": [{"src": ["*"], "dst": [*HOSTS], "ip": [str(n + 1) for n in range(9000)]}],
    },
    "a name of half a megabyte": {
        "acls": [{"action": "accept", "src": ["tag:" + "ab" * 250_000], "dst": ["*:*"]}],
        "tagOwners": {"tag:a" + "ba" * 10_000: []},
    },
}


def tried(policy: dict[str, Any]) -> str:
    """Compile a policy for stand-ins, and run its tests; return what is said of it."""
    source = json.dumps(policy)
    assert len(source) <= MAX_BYTES
    try:
        checked = read(source, stand_ins(parse_policy_untrusted(source)))
        failures = checked.trial().run(checked.policy)
        world = World(checked)
        for node in world.nodes:
            checked.attributes.granted(node)
            world.compiler.filters(node)
    except MalformedPolicy as error:
        assert error.place is not None
        return error.sentence()
    return f"{len(failures)} failures"


@pytest.mark.parametrize("name", COSTLY)
def test_work_is_bounded(name: str) -> None:
    started = time.process_time()
    said = tried(COSTLY[name])
    assert time.process_time() - started < 25
    assert len(said) < 700


def test_tests_that_take_too_long_are_refused_with_a_place() -> None:
    tests = [{"src": f"u{n % 3000}@x.org", "dst": ["tag:a"], "deny": ["j"]} for n in range(4000)]
    policy = {
        "groups": PEOPLE, "tagOwners": {"tag:a": []}, "ssh": [LOGIN] * 1000, "sshTests": tests
    }  # fmt: skip
    assert "these tests take too long" in tried(policy)


def test_more_ports_than_anybody_means_are_refused_with_a_place() -> None:
    def rule(ports: str) -> dict[str, Any]:
        return {"action": "accept", "src": ["*"], "dst": ["*:" + ports]}

    assert tried({"acls": [rule(THOUSAND)] * 200}) == "0 failures"
    for policy, said in (
        ({"acls": [rule(THOUSAND + ",7")]}, "more than 1,000 port ranges of one destination"),
        ({"acls": [rule(THOUSAND)] * 201}, "have more than 200,000 port ranges"),
        (
            {"grants": [{"src": ["*"], "dst": ["*"], "ip": [*THOUSAND.split(","), "7"]}]},
            "more than 1,000 port ranges of one destination",
        ),
        (
            {
                "hosts": HOSTS,
                "grants": [{"src": ["*"], "dst": [*HOSTS], "ip": THOUSAND.split(",")}],
            },
            "more than 200,000 port ranges of all destinations",
        ),
    ):
        assert said in tried(policy)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("\ufeff{}", "line 1, column 1: the policy begins with a byte order mark"),
        ('{"acls": [\x00]}', "line 1, column 11: expected a value"),
        ('{"hosts": {\n "a\x00": ""}}', "line 2, column 4: a string holds a control character"),
        ('{"hosts": {"a\n": ""}}', "line 1, column 12: the string does not end on its line"),
        ('{"groups": {"\\ud800": []}}', "line 1, column 13: a string with a bad escape"),
        ('{\r\n"acls": [],\r\n"x": 1}', 'line 3, column 1: unknown field "x"'),
        ('{"acls": [],\n "acls": []}', 'line 2, column 2: "acls" is given twice'),
        ('{"hosts": ' + "9" * 5000 + "}", "line 1, column 11: a number with too many digits"),
        ("[" * 100_000, "line 1, column 66: nested more than 64 deep"),
        ('{"a":' * 100_000, "nested more than 64 deep"),
        ("{/* " + "/* " * 100_000, "line 1, column 2: the comment does not end"),
        ('{"\x1b[31m": 1}', "line 1, column 3: a string holds a control character"),
        ('{"\\u001b[31m": 1}', 'line 1, column 2: unknown field "\\x1b[31m"'),
        ('{"\\u202eacls": []}', 'unknown field "\\u202eacls" (did you mean "acls"?)'),
        ("", "line 1, column 1: the policy ends too early"),
        ("[]", "line 1, column 1: a policy is an object in braces"),
        ('{"ssh": 7}', "line 1, column 9: ssh: expected a list"),
        ('{"ssh": [7]}', "line 1, column 10: ssh: expected an object"),
        ('{"grants": [{"src": [[]]}]}', "line 1, column 22: grants.src: expected a string"),
        ('{"randomizeClientPort": "yes"}', "randomizeClientPort: expected true or false"),
        ('{"disableIPv4": 1}', "line 1, column 17: disableIPv4: expected true or false"),
        ('{"oneCGNATRoute": "never"}', 'oneCGNATRoute: expected one of "", "mac-always"'),
        ('{"attrConfig": []}', "line 1, column 16: attrConfig: expected an object"),
        ('{"hosts": {"a": "fe80::1%eth0"}}', 'hosts["a"]: "fe80::1%eth0": invalid address'),
        ('{"groups": {"group:a": ["tag:x"]}}', 'column 25: groups["group:a"]: "tag:x": expected'),
        ('{"groups": {"group:a": ["*"]}}', 'column 25: groups["group:a"]: "*": expected a user'),
        (
            '{"groups": {"group:ops": []},\n"tagOwners": {"tag:a": ["group:op"]}}',
            'line 2, column 25: tagOwners["tag:a"]: group not found: "group:op" (did you mean',
        ),
        ('{"tagOwners": {"tag:a": ["joe"]}}', "expected a user, a group, a tag or an autogroup"),
        ('{"tagOwners": {"tag:a": ["autogroup:self"]}}', "cannot own anything"),
        (
            '{"autoApprovers": {"routes": {\n"web": ["tag:a"]}}}',
            'line 2, column 1: autoApprovers.routes["web"]: expected a network, such as 10.0.0.0/8',
        ),
        ('{"autoApprovers": {"exitNode": ["tag:a"]}}', 'exitNode: tag not found: "tag:a"'),
        (
            '{"ipsets": {"ipset:a": [\n "ipset:b"], "ipset:b": ["add ipset:a"]}}',
            'line 2, column 2: ipsets["ipset:a"]: "ipset:b": IP sets cannot contain themselves',
        ),
        ('{"ipsets": {"ipset:a": ["drop 10.0.0.1"]}}', '"drop 10.0.0.1": expected add or remove'),
        ('{"ipsets": {"ipset:a": ["add host:x"]}}', "column 25: ipsets["),
        ('{"ipsets": {"ipset:a": ["tag:x"]}}', "expected add or remove with an address"),
        ('{"ipsets": {"ipset:a": ["ipset:b"]}}', 'ipset not found: "ipset:b"'),
        ('{"ipsets": {"a": []}}', "names of IP sets must start with 'ipset:'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(source: str, sentence: str) -> None:
    with pytest.raises(MalformedPolicy) as caught:
        read(source, Topology([], []))
    assert sentence in caught.value.sentence()
    assert caught.value.place is not None


def test_a_message_is_a_line_whatever_the_file_quotes() -> None:
    word = "h" * 400_000 + "\x1b]0;title\x07"
    source = json.dumps(BASE | {"acls": [{"action": "accept", "src": [word], "dst": ["*:*"]}]})
    with pytest.raises(MalformedPolicy) as caught:
        read(source, Topology([], []))
    said = caught.value.sentence()
    assert len(said) < 500
    assert said.isprintable()
    assert said.startswith("line 1, column ")


def test_what_a_test_says_is_a_line_too() -> None:
    word = "zoe\x1b[31m" + "e" * 100_000 + "@example.com"
    source = json.dumps(BASE | {"acls": [], "tests": [{"src": word, "accept": ["tag:web:80"]}]})
    checked = read(source, Topology([], []))
    (failure,) = checked.trial().run(checked.policy)
    assert failure.sentence().isprintable() and len(failure.sentence()) < 400


def test_compiling_changes_nothing_of_what_was_parsed() -> None:
    # It is shared by all who ask for the same text.
    source = json.dumps(BASE | {"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]})
    before = repr(parse_policy_untrusted(source))
    checked = read(source, stand_ins(parse_policy_untrusted(source)))
    checked.trial().run(checked.policy)
    world = World(checked)
    for node in world.nodes:
        world.node(node)
    assert repr(parse_policy_untrusted(source)) == before
