"""Small cases of our own of what recorded verdicts teach."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from warren.cli.policy import app
from warren.policy.verdict import verdict_untrusted

POOLS = ["100.115.94.0-100.127.255.255", "100.64.0.0-100.115.91.255", "fd7a:115c:a1e0::/48"]
TOPOLOGY: dict[str, Any] = {
    "users": [
        {"id": 1, "name": "ann", "email": "ann@example.com"},
        {"id": 2, "name": "bob", "email": "bob@example.org"},
    ],
    "nodes": {
        "ann-pc": {"ipv4": "100.64.0.1", "ipv6": "fd7a:115c:a1e0::1", "user": "ann"},
        "bob-pc": {"ipv4": "100.64.0.2", "ipv6": "fd7a:115c:a1e0::2", "user": "bob"},
        "web": {"ipv4": "100.64.0.3", "ipv6": "fd7a:115c:a1e0::3", "tags": ["tag:web"]},
        "router": {
            "ipv4": "100.64.0.4",
            "ipv6": "fd7a:115c:a1e0::4",
            "tags": ["tag:router"],
            "routable_ips": ["10.1.0.0/16", "0.0.0.0/0", "::/0"],
        },
    },
}
BASE = {
    "groups": {"group:all": ["ann@example.com", "bob@example.org"], "group:empty": []},
    "hosts": {"net": "10.0.0.0/8", "far": "192.0.2.7"},
    "tagOwners": {"tag:web": ["ann@example.com"], "tag:router": []},
}


def ask(**sections: Any) -> dict[str, Any]:
    return verdict_untrusted({"policy": BASE | sections, "topology": TOPOLOGY, "id": 7})


def acl(src: list[str], dst: list[str], **more: Any) -> dict[str, Any]:
    return ask(acls=[{"action": "accept", "src": src, "dst": dst} | more])


def rules(answer: dict[str, Any], node: str) -> Any:
    assert answer["http_code"] == 200, answer["http_message"]
    return [
        (rule["SrcIPs"], [(end["IP"], *end["Ports"].values()) for end in rule["DstPorts"]])
        for rule in answer["nodes"][node]["packet_filter_rules"] or []
    ]


def test_everyone_is_the_pools_and_the_approved_routes() -> None:
    approve = {"routes": {"10.0.0.0/8": ["tag:router"]}}
    answer = ask(acls=[{"action": "accept", "src": ["*"], "dst": ["*:*"]}], autoApprovers=approve)
    assert rules(answer, "web") == [(["10.1.0.0/16", *POOLS], [("*", 0, 65535)])]
    assert answer["nodes"]["router"]["self"]["PrimaryRoutes"] == ["10.1.0.0/16"]
    assert "0.0.0.0/0" not in answer["nodes"]["router"]["self"]["AllowedIPs"]
    assert answer["id"] == 7


def test_neither_acls_nor_grants_allows_all_and_empty_ones_nothing() -> None:
    assert rules(ask(), "web") == [(POOLS, [("*", 0, 65535)])]
    answer = ask(acls=[])
    assert answer["nodes"]["web"]["packet_filter_rules"] is None
    assert answer["nodes"]["web"]["peers"] == {}


def test_rules_of_the_same_sources_merge_and_a_node_gets_only_its_own() -> None:
    one = {"action": "accept", "src": ["ann@example.com"], "dst": ["tag:web:80,443"]}
    two = {"action": "accept", "src": ["ann@example.com"], "dst": ["bob@example.org:22"]}
    answer = ask(acls=[one, two, one])
    ann = ["100.64.0.1", "fd7a:115c:a1e0::1"]
    web = [(ip, p, p) for ip in ("100.64.0.3", "fd7a:115c:a1e0::3") for p in (80, 443)]
    assert rules(answer, "web") == [(ann, web + web)]
    assert rules(answer, "ann-pc") == []
    assert set(answer["nodes"]["ann-pc"]["peers"]) == {"web", "bob-pc"}
    assert set(answer["nodes"]["web"]["peers"]) == {"ann-pc"}


def test_self_is_each_users_own_untagged_nodes_after_what_others_may() -> None:
    answer = acl(["*"], ["autogroup:self:22", "autogroup:member:80"])
    bob = ["100.64.0.2", "fd7a:115c:a1e0::2"]
    assert rules(answer, "bob-pc") == [
        (POOLS, [(ip, 80, 80) for ip in bob]),
        (bob, [(ip, 22, 22) for ip in bob]),
    ]
    assert rules(answer, "web") == []


def test_via_goes_to_routers_of_the_tag_that_serve_the_route() -> None:
    grant = {"src": ["*"], "dst": ["10.1.2.0/24", "192.0.2.0/24"], "ip": ["tcp:80"]}
    answer = ask(
        grants=[grant | {"via": ["tag:router"]}],
        autoApprovers={"routes": {"10.0.0.0/8": ["tag:router"]}},
    )
    ends = [end for _, ends in rules(answer, "router") for end in ends]
    assert ends == [("10.1.2.0/24", 80, 80)]
    assert rules(answer, "web") == []


def test_of_two_routers_the_older_serves() -> None:
    nodes = {
        name: {"ipv4": f"100.64.0.{n}", "tags": ["tag:web"], "routable_ips": ["10.9.0.0/16"],
               "approved_routes": ["10.9.0.0/16"], "id": 90 - n}
        for n, name in enumerate(("a", "b"), 1)
    }  # fmt: skip
    answer = verdict_untrusted({"policy": BASE, "topology": {"users": [], "nodes": nodes}})
    serving = {name: node["self"].get("PrimaryRoutes") for name, node in answer["nodes"].items()}
    assert serving == {"a": None, "b": ["10.9.0.0/16"]}


def test_drive_tells_the_sources_too() -> None:
    app_ = {"tailscale.com/cap/drive": [{"shares": ["*"]}]}
    answer = ask(grants=[{"src": ["ann@example.com"], "dst": ["tag:web"], "app": app_}])
    (there,) = answer["nodes"]["web"]["packet_filter_rules"]
    (back,) = answer["nodes"]["ann-pc"]["packet_filter_rules"]
    assert there["CapGrant"] == [
        {"Dsts": ["100.64.0.3/32", "fd7a:115c:a1e0::3/128"], "CapMap": app_}
    ]
    assert back["SrcIPs"] == ["100.64.0.3", "fd7a:115c:a1e0::3"]
    assert back["CapGrant"][0]["CapMap"] == {"tailscale.com/cap/drive-sharer": None}


def test_ssh_checks_come_first_and_root_is_named_only_if_meant() -> None:
    accept = {"action": "accept", "src": ["group:all"], "dst": ["tag:web"], "users": ["dev"]}
    check = {"action": "check", "src": ["bob@example.org"], "dst": ["tag:web"], "users": ["root"]}
    first, second = ask(ssh=[accept, check])["nodes"]["web"]["ssh_policy"]["rules"]
    assert "holdAndDelegate" in first["action"]
    assert first["sshUsers"] == {"root": "root"}
    assert second["sshUsers"] == {"root": "", "dev": "dev"}
    assert [p["nodeIP"] for p in second["principals"]][:2] == ["100.64.0.1", "100.64.0.2"]


def test_funnel_brings_its_ports() -> None:
    answer = ask(nodeAttrs=[{"target": ["tag:web"], "attr": ["funnel"]}])
    capabilities = answer["nodes"]["web"]["self"]["CapMap"]
    assert "https://tailscale.com/cap/funnel-ports?ports=443,8443,10000" in capabilities
    assert "funnel" not in answer["nodes"]["router"]["self"]["CapMap"]


SSH = {"action": "accept", "src": ["group:all"], "dst": ["tag:web"], "users": ["root"]}
REFUSED = [
    ({"acls": [{"action": "deny", "src": [], "dst": []}]}, 'action="deny" is not supported'),
    (
        {"acls": [{"action": "accept", "src": ["tag:no"], "dst": ["*:*"]}]},
        'src=tag not found: "tag:no"',
    ),
    (
        {"acls": [{"action": "accept", "src": ["*"], "dst": ["tag:web:x"]}]},
        'dst="tag:web:x": port range "x": invalid first integer',
    ),
    (
        {"acls": [{"action": "accept", "src": ["tag:web"], "dst": ["autogroup:self:*"]}]},
        "autogroup:self can only be used with users, groups, or supported autogroups",
    ),
    ({"grants": [{"src": ["*"], "dst": ["*"]}]}, "ip and app can not both be empty"),
    (
        {"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "via": ["web"]}]},
        "via can only be a tag",
    ),
    (
        {"grants": [{"src": ["*"], "dst": ["*"], "app": {"tailscale.com/cap/x": [{}]}}]},
        "capability name must not be in the tailscale.com domain",
    ),
    ({"ssh": [SSH | {"users": []}]}, "users must be specified"),
    ({"ssh": [SSH | {"action": "Accept"}]}, '"Accept" is not a valid action'),
    ({"ssh": [SSH | {"dst": ["net"]}]}, 'invalid dst "net"'),
    (
        {"ssh": [SSH | {"action": "check", "checkPeriod": "169h1m"}]},
        "checkPeriod 169h1m0s is above the max (168h)",
    ),
    (
        {"groups": {"group:a": ["group:b"], "group:b": ["group:a"]}},
        'groups["group:b"]: "group:a": group members cannot be recursive',
    ),
    ({"acls": [], "tests": [{"src": "tag:web", "accept": ["far:22"]}]}, "test(s) failed"),
    (
        {"tests": [{"src": "tag:web", "accept": ["net:22"]}]},
        "test(s) failed",
    ),
    (
        {"ssh": [SSH], "sshTests": [{"src": "tag:web", "dst": ["tag:web"], "accept": ["root"]}]},
        "test(s) failed",
    ),
    ({"acls": "*"}, "acls: expected a list"),
    ({"acls": [3]}, "acls: expected an object"),
]


@pytest.mark.parametrize(("sections", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused_is_refused_in_the_services_words(
    sections: dict[str, Any], message: str
) -> None:
    answer = ask(**sections)
    assert (answer["http_code"], answer["http_message"]) == (400, message)


@pytest.mark.parametrize(
    "question", [None, 3, {}, {"policy": None}, {"policy": "{}", "topology": 3}]
)
def test_a_question_that_is_none_is_answered(question: Any) -> None:
    assert verdict_untrusted(question)["http_code"] in (200, 400)


def test_ten_thousand_hosts_in_bounded_time() -> None:
    hosts = {f"h{n}": f"10.{n >> 8}.{n & 255}.1" for n in range(10_000)}
    started = time.monotonic()
    answer = ask(
        hosts=hosts, acls=[{"action": "accept", "src": ["*"], "dst": [f"{h}:22" for h in hosts]}]
    )
    assert answer["http_code"] == 200
    assert time.monotonic() - started < 20


def test_ipsets_add_and_remove() -> None:
    sets = {
        "ipset:a": ["add 10.1.0.0/30", "remove 10.1.0.0/31", "ipset:b"],
        "ipset:b": ["host:far"],
    }
    answer = ask(ipsets=sets, acls=[{"action": "accept", "src": ["ipset:a"], "dst": ["tag:web:1"]}])
    assert rules(answer, "web")[0][0] == ["10.1.0.2/31", "192.0.2.7"]
    sets["ipset:a"] += ["10.2.0.0-10.2.0.9", "remove 10.2.0.4", "add far"]
    answer = ask(ipsets=sets, acls=[{"action": "accept", "src": ["ipset:a"], "dst": ["tag:web:1"]}])
    assert rules(answer, "web")[0][0] == [
        "10.1.0.2/31", "10.2.0.0/30", "10.2.0.5-10.2.0.9", "192.0.2.7",
    ]  # fmt: skip


@pytest.mark.parametrize("lines", [3000, 1100])
def test_an_ipset_has_an_end(lines: int) -> None:
    many = {"ipset:a": [f"10.0.{n >> 7}.{n * 2 & 255}" for n in range(lines)]}
    answer = ask(ipsets=many)
    assert (answer["http_code"], "more than" in answer["http_message"]) == (400, True)


def test_a_chain_of_ipsets_as_long_as_a_file_allows() -> None:
    sets = {f"ipset:{n}": [f"ipset:{n + 1}", f"ipset:{n + 1}"] for n in range(5000)}
    sets["ipset:5000"] = ["10.1.2.3"]
    answer = ask(ipsets=sets, acls=[{"action": "accept", "src": ["ipset:0"], "dst": ["tag:web:1"]}])
    assert rules(answer, "web")[0][0] == ["10.1.2.3"]


def test_an_ipset_of_the_internet_is_for_exits() -> None:
    sets = {"ipset:most": ["autogroup:internet", "remove 192.0.2.0/24"]}
    grant = {"src": ["ann@example.com"], "dst": ["ipset:most"], "ip": ["tcp:443"]}
    answer = ask(ipsets=sets, grants=[grant], autoApprovers={"exitNode": ["tag:router"]})
    ends = {ip for ip, *_ in rules(answer, "router")[0][1]}
    assert "192.0.3.0-192.167.255.255" in ends
    assert not {"0.0.0.0/0", "192.0.2.0/24"} & ends
    assert rules(answer, "web") == []
    seen = answer["nodes"]["ann-pc"]["peers"]["router"]["AllowedIPs"]
    assert {"0.0.0.0/0", "::/0"} <= set(seen)
    assert "router" not in answer["nodes"]["bob-pc"]["peers"]


def test_a_person_is_told_the_place_and_the_right_spelling(tmp_path: Path) -> None:
    file = tmp_path / "policy.hujson"
    file.write_text('{\n  // who\n  "gruops": {},\n}')
    result = CliRunner().invoke(app, ["check", str(file)])
    assert result.exit_code == 1
    assert 'line 3, column 3: unknown field "gruops" (did you mean "groups"?)' in result.output
    file.write_text("{}")
    assert CliRunner().invoke(app, ["check", str(file)]).exit_code == 0
    missing = CliRunner().invoke(app, ["check", str(tmp_path / "none")])
    assert (missing.exit_code, "Traceback" in missing.output) == (1, False)


def test_a_file_runs_its_own_tests(tmp_path: Path) -> None:
    file, nodes = tmp_path / "policy.hujson", tmp_path / "nodes.json"
    rule = {"action": "accept", "src": ["ann@example.com"], "dst": ["tag:web:80"]}
    tests = [{"src": "ann@example.com", "accept": ["tag:web:80"], "deny": ["tag:web:22"]}]
    nodes.write_text(json.dumps(TOPOLOGY))
    file.write_text(json.dumps(BASE | {"acls": [rule], "tests": tests}))
    passed = CliRunner().invoke(app, ["test", str(file), "--topology", str(nodes)])
    assert passed.exit_code == 0, passed.output
    alone = CliRunner().invoke(app, ["test", str(file)])
    assert alone.exit_code == 0, alone.output
    file.write_text(json.dumps(BASE | {"acls": [], "tests": tests}))
    assert CliRunner().invoke(app, ["test", str(file), "--topology", str(nodes)]).exit_code == 1


def test_lines_in_lines_out() -> None:
    question = {"policy": BASE, "topology": TOPOLOGY, "id": "x"}
    result = CliRunner().invoke(app, ["compile"], input=json.dumps(question) + "\n\n")
    assert json.loads(result.stdout)["id"] == "x"
    odd = '{"id": "\\ud800", "policy": {"groups": {"\\ud800": []}}, "topology": {"nodes": {}}}'
    result = CliRunner().invoke(app, ["compile"], input=odd)
    assert json.loads(result.stdout)["http_code"] == 400
    broken = CliRunner().invoke(app, ["compile"], input="{")
    assert broken.exit_code == 1
