"""Who can, why, and what would change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_verdict import BASE, TOPOLOGY
from typer.testing import CliRunner

from warren.cli.policy import app

SSH = {"action": "check", "src": ["bob@example.org"], "dst": ["tag:web"], "users": ["root"]}


def file(path: Path, **sections: Any) -> str:
    path.write_text(json.dumps(BASE | sections, indent=1))
    return str(path)


@pytest.fixture
def network(tmp_path: Path) -> list[str]:
    place = tmp_path / "nodes.json"
    place.write_text(json.dumps(TOPOLOGY))
    return ["--topology", str(place)]


def run(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output
    return result.output


def rule(src: str, dst: str, **more: Any) -> dict[str, Any]:
    return {"action": "accept", "src": [src], "dst": [dst]} | more


def test_who_gains_and_loses(tmp_path: Path, network: list[str]) -> None:
    old = file(tmp_path / "old", acls=[rule("ann@example.com", "tag:web:80-90"),
                                       rule("*", "bob@example.org:22", proto="tcp")])  # fmt: skip
    new = file(
        tmp_path / "new",
        acls=[rule("ann@example.com", "tag:web:85-100"),
              rule("*", "bob@example.org:22"), rule("tag:web", "10.1.2.0/24:*")],
        autoApprovers={"routes": {"10.0.0.0/8": ["tag:router"]}},
        ssh=[SSH],
    )  # fmt: skip
    lines = run("diff", old, new, *network).splitlines()
    assert [line for line in lines if "ann-pc → web" in line] == [
        "+ ann-pc → web: ports 91-100",
        "- ann-pc → web: ports 80-84",
    ]
    assert "+ web → router: 10.1.2.0/24 every port" in lines
    assert "+ bob-pc → web: after a check, log in as root" in lines
    assert "+ ann-pc → bob-pc: icmp/udp/ipv6-icmp port 22" in lines
    assert run("diff", old, old, *network) == "Nobody gains or loses anything.\n"
    told = json.loads(run("diff", old, new, *network, "--json"))
    assert {"source": "ann-pc", "target": "web", "what": "ports 80-84"} in told["lost"]


def test_the_rule_by_its_line(tmp_path: Path, network: list[str]) -> None:
    policy = tmp_path / "policy"
    policy.write_text(
        '{"tagOwners": {"tag:web": [], "tag:router": []},\n "acls": [\n'
        '  {"action": "accept", "src": ["*"], "dst": ["autogroup:self:22"]},\n'
        '  {"action": "accept", "src": ["tag:web"], "dst": ["bob@example.org:53"], "proto": "udp"},'
        '\n  {"action": "accept", "src": ["bob@example.org"], "dst": ["10.1.0.0/16:*"]},\n]}'
    )
    with_policy = ["--policy", str(policy), *network]
    assert run("why", "web", "bob-pc:53/udp", *with_policy) == (
        "web → bob-pc  (line 4: tag:web → bob@example.org)\n"
    )
    assert "No rule lets web reach bob-pc:53" in run(
        "why", "web", "bob-pc:53", *with_policy, code=1
    )
    assert "line 5" in run("why", "bob@example.org", "10.1.2.3:443", *with_policy)
    assert run("who-can", "100.64.0.2:53/udp", *with_policy).startswith("web → bob-pc")
    assert run("who-can", "web:22", *with_policy) == "Nobody.\n"
    (way,) = json.loads(run("who-can", "[fd7a:115c:a1e0::2]:53/udp", *with_policy, "--json"))
    assert (way["source"], way["line"]) == ("web", 4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["who-can", "nobody:22"], "nobody: no machine, host or address is called so"),
        (["who-can", "web"], "web: write HOST:PORT"),
        (["who-can", "web:x"], "invalid first integer"),
        (["who-can", "web:22/nope"], 'proto name "nope" not known'),
        (["why", "nobody", "web:22"], "nobody: no machine is called so"),
    ],
)
def test_bad_questions(tmp_path: Path, network: list[str], words: list[str], sentence: str) -> None:
    policy = file(tmp_path / "policy")
    output = run(*words, "--policy", policy, *network, code=1)
    assert sentence in output and "Traceback" not in output
