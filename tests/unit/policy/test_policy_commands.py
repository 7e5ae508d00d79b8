"""`warren policy …` as someone new meets it: each wrong file's place, spelling and way out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from warren.cli.policy import app

HEAD = """{
  // who is who
  "groups": {"group:dev": ["ann@example.com"]},
  "hosts": {"db": "10.1.2.3"},
  "tagOwners": {"tag:web": ["group:dev"]},
"""


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ('"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}', 'expected "," or "]"'),
        ('"alcs": []}', 'unknown field "alcs" (did you mean "acls"?)'),
        ('"acls": [{"action": "accept", "scr": ["*"], "dst": []}]}', '(did you mean "src"?)'),
        ('"acls": [{"action": "acept", "src": ["*"], "dst": []}]}', 'the only action of acls'),
        ('"acls": [{"action": "accept", "src": ["tag:wbe"], "dst": []}]}', '"tag:web"?)'),
        ('"acls": [{"action": "accept", "src": ["tag:x"], "dst": []}]}', "named in tagOwners"),
        ('"acls": [{"action": "accept", "src": ["group:dve"], "dst": []}]}', '"group:dev"?)'),
        ('"acls": [{"action": "accept", "src": ["group:x"], "dst": []}]}', "in its section first"),
        ('"acls": [{"action": "accept", "src": ["joe"], "dst": []}]}', "write *, a user, group:…"),
        ('"acls": [{"action": "accept", "src": ["*"], "dst": ["db"]}]}', "write TARGET:PORTS"),
        ('"acls": [{"action": "accept", "src": ["*"], "dst": ["db:ssh"]}]}', "ports are *, 443"),
        ('"acls": [{"action": "accept", "src": ["*"], "dst": ["db:9-8"]}]}', "lower port first"),
        ('"acls": [{"action": "accept", "src": ["*"], "dst": ["db:1"], "proto": "tpc"}]}',
         '(did you mean "tcp"?)'),
        ('"acls": [{"action": "accept", "src": "*", "dst": []}]}', "expected a list of strings"),
        ('"grants": [{"src": ["*"], "dst": ["*"]}]}', 'such as "ip": ["*"]'),
        ('"grants": [{"src": ["autogroup:membr"], "dst": [], "ip": ["*"]}]}',
         '"autogroup:member"?)'),
        ('"ssh": [{"src": ["group:dev"], "dst": ["tag:web"], "users": ["root"]}]}',
         'write "action": "accept" or "check"'),
        ('"ssh": [{"action": "check", "src": ["group:dev"], "dst": ["tag:web"]}]}',
         "such as autogroup:nonroot"),
        ('"autoApprovers": {"exitNodes": []}}', '(did you mean "exitNode"?)'),
        ('"nodeAttrs": [{"target": ["tag:webb"], "attr": ["funnel"]}]}', '"tag:web"?)'),
        ('"randomizeClientPort": "yes"}', "expected true or false"),
    ],
)  # fmt: skip
def test_every_wrong_file_has_a_place_and_a_way_out(tmp_path: Path, rest: str, said: str) -> None:
    file = tmp_path / "policy.hujson"
    file.write_text(HEAD + "  " + rest + "\n")
    result = CliRunner().invoke(app, ["check", str(file)])
    assert result.exit_code == 1
    assert re.match(rf"{re.escape(str(file))}: line [67], column \d+: ", result.stderr)
    assert said in result.stderr and result.stderr.count("\n") == 1
    told = json.loads(CliRunner().invoke(app, ["check", str(file), "--json"]).stdout)
    assert told["right"] is False
    (problem,) = told["problems"]
    assert problem["line"] in (6, 7) and problem["column"] and problem["message"]
    near = re.search(r'did you mean "(.*)"', result.stderr)
    assert problem["nearest"] == (near[1] if near else None)


def test_a_failing_test_is_told_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "policy.hujson"
    file.write_text(
        HEAD + '  "acls": [{"action": "accept", "src": ["group:dev"], "dst": ["tag:web:80"]}],\n'
        '  "tests": [{"src": "ann@example.com",\n   "accept": ["tag:web:80", "tag:web:22"]}]}'
    )
    result = CliRunner().invoke(app, ["test", str(file)])
    assert result.exit_code == 1
    wanted = "line 8, column 29: ann@example.com → tag:web:22: expected accept"
    assert wanted in result.stderr
    asked = CliRunner().invoke(app, ["test", str(file), "--json"])
    assert asked.exit_code == 1
    assert json.loads(asked.stdout) == {
        "tests": 1,
        "failures": [{"message": wanted.partition(": ")[2], "line": 8, "column": 29}],
    }


def test_what_is_right_is_said_in_json_too(tmp_path: Path) -> None:
    file = tmp_path / "policy.hujson"
    file.write_text(HEAD + '  "acls": [], "attrConfig": {}}')
    checked = CliRunner().invoke(app, ["check", str(file), "--json"])
    assert checked.exit_code == 0
    told = json.loads(checked.stdout)
    assert told["right"] and not told["problems"]
    assert [(one["line"], one["column"]) for one in told["idle"]] == [(6, 15)]
    tested = CliRunner().invoke(app, ["test", str(file), "--json"])
    assert (tested.exit_code, json.loads(tested.stdout)) == (0, {"tests": 0, "failures": []})


@pytest.mark.parametrize("name", ["check", "test", "diff", "who-can", "why", "compile"])
def test_every_command_has_an_example(name: str) -> None:
    told = CliRunner().invoke(app, [name, "--help"])
    assert told.exit_code == 0 and f"Example: warren policy {name} " in told.stdout
