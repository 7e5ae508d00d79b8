"""Policies that a person would rather not have sent, over the API: a status and a place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from api_office import Office

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))

from test_policy_work import COSTLY  # isort: skip

from warren.policy.hujson import MAX_BYTES

AT = "/tailnet/-/acl"
WRONG: dict[str, tuple[bytes, str]] = {
    "a byte order mark": (b"\xef\xbb\xbf{}", "column 1: the policy begins with a byte order mark"),
    "another encoding": ("{}".encode("utf-16"), "text in UTF-8"),
    "a lone surrogate": (b'{"groups": {"group:\xed\xa0\x80": []}}', "text in UTF-8"),
    "a NUL": (b'{"groups": {"\0": []}}', "line 1, column 14: a string holds a control character"),
    "nothing": (b"", "line 1, column 1: the policy ends too early"),
    "too deep": (b"[" * 100_000, "line 1, column 66: nested more than 64 deep"),
    "too large": (b"{" + b" " * MAX_BYTES + b"}", "1048576 bytes at the most"),
    "twice": (b'{"acls": [],\r\n"acls": []}', 'line 2, column 1: "acls" is given twice'),
    "a circle": (b'{"groups": {"group:a": ["group:a"]}}', "column 24: groups"),
    "nobody's group": (b'{"acls": [{"action": "accept", "src": ["group:x"], "dst": []}]}',
                       'line 1, column 40: src=group not found: "group:x"'),
    "100,000 lines": (b"{" + b"\n" * 100_000 + b'"aclss": []}',
                      'line 100001, column 1: unknown field "aclss" (did you mean "acls"?)'),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_is_refused_and_the_old_one_stays(office: Office, name: str) -> None:
    content, said = WRONG[name]
    before = (await office.ask("GET", AT)).headers["etag"]
    answer = await office.ask("POST", AT, content=content)
    assert answer.status_code == 400 and said in answer.json()["message"], answer.text
    checked = await office.ask("POST", f"{AT}/validate", content=content)
    assert checked.status_code in (200, 400) and said in checked.json()["message"], checked.text
    asked = await office.ask("POST", f"{AT}/preview?type=user&previewFor=ann", content=content)
    assert asked.status_code == 400 and said in asked.json()["message"], asked.text
    assert (await office.ask("GET", AT)).headers["etag"] == before


@pytest.mark.parametrize("name", COSTLY)
async def test_what_costs_much_is_answered(office: Office, name: str) -> None:
    policy: dict[str, Any] = COSTLY[name]
    answer = await office.ask("POST", f"{AT}/validate", content=json.dumps(policy).encode())
    assert answer.status_code == 200 and len(answer.content) < 50_000


async def test_tests_alone_are_run_against_what_is_in_force(office: Office) -> None:
    office.world.clock.advance(1)
    for tests, said in (
        ([{"src": "ann", "accept": ["100.64.0.1:80"]}], "ann"),
        ([5], "tests: expected an object"),
        ([{"src": 5}], "tests.src: expected a string"),
        ([], None),
    ):
        answer = await office.told("POST", f"{AT}/validate", json=tests)
        assert (said in answer["message"]) if said else answer == {}, answer
