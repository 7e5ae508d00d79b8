"""Parts of a policy beside its rules: pools of addresses, IPv6 alone, recorders; and the idle."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from test_verdict import BASE, TOPOLOGY, ask
from typer.testing import CliRunner

from warren.cli.policy import app
from warren.policy.topology import parse_topology_untrusted
from warren.policy.verdict import read


def caps(answer: dict[str, Any], node: str) -> dict[str, Any]:
    assert answer["http_code"] == 200, answer["http_message"]
    found: dict[str, Any] = answer["nodes"][node]["self"]["CapMap"]
    return found


def test_without_ipv4_for_all_or_for_some() -> None:
    everyone = [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]
    answer = ask(grants=everyone, disableIPv4=True)
    for node in answer["nodes"].values():
        assert all(":" in ip for ip in node["self"]["AllowedIPs"])
        assert all(":" in ip for peer in node["peers"].values() for ip in peer["AllowedIPs"])
    some = [{"target": ["bob@example.org", "tag:web"], "attr": ["disable-ipv4"]}]
    answer = ask(grants=everyone, nodeAttrs=some)
    ann = answer["nodes"]["ann-pc"]
    assert ann["self"]["AllowedIPs"] == ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]
    assert ann["peers"]["web"]["AllowedIPs"] == ["fd7a:115c:a1e0::3/128"]
    assert answer["nodes"]["bob-pc"]["self"]["AllowedIPs"] == ["fd7a:115c:a1e0::2/128"]
    assert "disable-ipv4" in caps(answer, "bob-pc")


def test_one_route_is_for_macs() -> None:
    topology = json.loads(json.dumps(TOPOLOGY))
    topology["nodes"]["ann-pc"]["attributes"] = {"node:os": "macos"}
    for word, told in (("mac-always", "one-cgnat?v=true"), ("mac-never", "one-cgnat?v=false")):
        world = read(json.dumps(BASE | {"oneCGNATRoute": word}), parse_topology_untrusted(topology))
        granted = {n.name: world.attributes.granted(n) for n in world.targets.topology.nodes}
        assert granted["ann-pc"] == {told: None} and granted["bob-pc"] == {}


@pytest.mark.parametrize(
    ("pool", "reason"),
    [("10.0.0.0/8", "is a part of 100.64.0.0/10"), ("100.64.0.0/33", "invalid IP pool"),
     ("fd7a:115c:a1e0::/64", "is a part of"), ("web", "invalid IP pool"),
     ("100.0.0.0/8", "is a part of")],
)  # fmt: skip
def test_pools_that_are_none(pool: str, reason: str) -> None:
    answer = ask(nodeAttrs=[{"target": ["*"], "ipPool": [pool]}])
    assert (answer["http_code"], reason in answer["http_message"]) == (400, True)


def test_sessions_are_recorded_where_the_policy_says() -> None:
    rule = {
        "action": "accept", "src": ["ann@example.com"], "dst": ["tag:web"], "users": ["root"],
        "recorder": ["tag:router"],
    }  # fmt: skip
    (told,) = ask(ssh=[rule])["nodes"]["web"]["ssh_policy"]["rules"]
    assert told["action"]["recorders"] == ["100.64.0.4:80", "[fd7a:115c:a1e0::4]:80"]
    assert told["action"]["accept"] and "onRecordingFailure" not in told["action"]
    (told,) = ask(ssh=[rule | {"enforceRecorder": True}])["nodes"]["web"]["ssh_policy"]["rules"]
    assert set(told["action"]["onRecordingFailure"]) == {
        "RejectSessionWithMessage", "TerminateSessionWithMessage"
    }  # fmt: skip
    tags = BASE["tagOwners"] | {"tag:none": []}  # type: ignore[operator]
    nobody = rule | {"recorder": ["tag:none"], "enforceRecorder": True}
    (told,) = ask(ssh=[nobody], tagOwners=tags)["nodes"]["web"]["ssh_policy"]["rules"]
    assert told["action"].get("reject") and "accept" not in told["action"]
    for wrong in ({"recorder": ["web"]}, {"recorder": ["tag:nope"]},
                  {"recorder": [], "enforceRecorder": True}):  # fmt: skip
        assert ask(ssh=[rule | wrong])["http_code"] == 400, wrong


def test_what_has_no_effect_is_said_and_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "policy.hujson"
    file.write_text("""{
      "attrConfig": {"custom:tier": {"type": "string"}},
      "postures": {"posture:home": ["ip:country == 'DE'", "node:os IS SET", "custom:a == 1"]},
      "autoApprovers": {"services": {"svc:web": ["autogroup:admin"]}},
      "grants": [
        {"src": ["autogroup:shared"], "dst": ["svc:web"], "ip": ["443"]},
      ],
    }""")
    result = CliRunner().invoke(app, ["check", str(file)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    for number, words in (
        (2, "attrConfig has no effect"), (3, "ip:country, which this server never learns"),
        (4, "svc:web has no effect"), (6, "autogroup:shared means nobody"),
        (6, "svc:web means nobody"),
    ):  # fmt: skip
        assert any(f"line {number}, column" in line and words in line for line in lines), words
    assert len(lines) == 6 and lines[-1].endswith("this policy is right.")
    file.write_text('{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}')
    assert len(CliRunner().invoke(app, ["check", str(file)]).output.splitlines()) == 1


def test_pools_of_who_is_meant_first() -> None:
    source = json.dumps(BASE | {"nodeAttrs": [
        {"target": ["group:empty"], "ipPool": ["100.80.0.0/16"]},
        {"target": ["*"], "attr": ["funnel"]},
        {"target": ["ann@example.com", "tag:web"], "ipPool": ["100.81.0.0/16", "100.82.0.0/16"]},
        {"target": ["autogroup:tagged"], "ipPool": ["100.83.0.0/24"]},
    ]})  # fmt: skip
    checked = read(source, parse_topology_untrusted(TOPOLOGY))
    pools = {n.name: checked.attributes.pools(n) for n in checked.targets.topology.nodes}
    both = [IPv4Network("100.81.0.0/16"), IPv4Network("100.82.0.0/16")]
    assert pools == {
        "ann-pc": both, "bob-pc": [], "web": both, "router": [IPv4Network("100.83.0.0/24")],
    }  # fmt: skip
    assert IPv4Address("100.81.0.1") in both[0]
