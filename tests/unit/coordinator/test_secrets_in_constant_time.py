"""Secrets are compared by `hmac.compare_digest`: read off the source, so that none is forgotten."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import warren

SECRET = re.compile(r"(^|_)(secret|digest|password|token|mac|verifier|nonce|signature|hash)$")
NOT_SECRET = {
    "coordinator/login/accounts.py: user.password != checked": "both are hashes that are kept",
    "nat/dialects.py: response.nonce != self._nonce": "PCP's: it tells answers apart, and is sent "
    "in the clear",
    "nat/turn/server.py: kept != token": "names a reservation among those of its owner",
}
ROOT = Path(warren.__file__).parent


def compared(source: str) -> Iterator[str]:
    """Tell where something with a secret's name is compared with `==` or `!=`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        named = [
            side.id if isinstance(side, ast.Name) else getattr(side, "attr", "") for side in sides
        ]
        plain = [side for side in sides if isinstance(side, ast.Constant)]
        equal = any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
        if equal and any(map(SECRET.search, named)) and not plain:
            yield ast.unparse(node)


def test_none_is_compared_byte_by_byte() -> None:
    found = {
        f"{file.relative_to(ROOT)}: {text}"
        for file in ROOT.rglob("*.py")
        for text in compared(file.read_text())
    }
    assert found == NOT_SECRET.keys()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("record.digest == digest(secret)", True),
        ("given != self._secret", True),
        ("token == form['token']", True),
        ("password == ''", False),
        ("hmac.compare_digest(record.digest, digest)", False),
        ("name == other", False),
    ],
)
def test_what_is_looked_for(line: str, found: bool) -> None:
    assert bool(list(compared(line))) is found
