"""`warren policy …`: a policy file checked, tested and compiled, without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from warren.policy.document import parse_policy_untrusted
from warren.policy.hujson import MAX_BYTES
from warren.policy.malformed import MalformedPolicy
from warren.policy.standins import stand_ins
from warren.policy.topology import Topology, parse_topology_untrusted
from warren.policy.verdict import name_users, read, verdict_untrusted

_MAX_LINE_BYTES = 64 << 20

app = typer.Typer(
    help="Check, test and compile a policy file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_File = Annotated[Path, typer.Argument(help="A policy file (HuJSON).")]
_Topology = Annotated[
    Path | None,
    typer.Option(help="Users and nodes as JSON, to test with; without it, one node for each name."),
]


def _leave(sentence: str) -> typer.Exit:
    typer.echo(sentence, err=True)
    return typer.Exit(1)


def _read(file: Path, limit: int) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise _leave(f"{file}: {error.strerror}") from None
    if len(data) > limit:
        raise _leave(f"{file}: larger than {limit} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _leave(f"{file}: not UTF-8 text") from None


def _topology(file: Path | None, source: str) -> Topology:
    if file is None:
        return stand_ins(parse_policy_untrusted(source))
    try:
        return parse_topology_untrusted(json.loads(_read(file, _MAX_LINE_BYTES)))
    except (MalformedPolicy, ValueError, RecursionError) as error:
        raise _leave(f"{file}: {error}") from None


@app.command("check")
def check(file: _File) -> None:
    """Say whether a policy file is right; if not, where and what would be."""
    try:
        # Whose domain a network has is known to its server alone.
        read(_read(file, MAX_BYTES), Topology([], []))
    except MalformedPolicy as error:
        raise _leave(f"{file}: {error.sentence()}") from None
    typer.echo(f"{file}: this policy is right.")


@app.command("test")
def test(file: _File, topology: _Topology = None) -> None:
    """Run a policy file's own tests."""
    try:
        source = _read(file, MAX_BYTES)
        known = _topology(topology, source)
        name_users(source, known)
        checked = read(source, known)
        failures = checked.trial().run(checked.policy)
    except MalformedPolicy as error:
        raise _leave(f"{file}: {error.sentence()}") from None
    for failure in failures:
        typer.echo(f"{file}: line {failure.place.line}: {failure.message}", err=True)
    count = len(checked.policy.tests) + len(checked.policy.ssh_tests)
    if failures:
        raise _leave(f"{file}: {len(failures)} expectations of {count} tests failed.")
    typer.echo(f"{file}: {count} tests passed.")


@app.command("compile")
def compile_lines() -> None:
    """Answer JSON lines `{policy, topology, …}` on standard input, one object a line."""
    number = 0
    while line := sys.stdin.buffer.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            raise _leave(f"line {number}: larger than {_MAX_LINE_BYTES} bytes")
        if not line.strip():
            continue
        try:
            question: Any = json.loads(line)
        except (ValueError, RecursionError):
            raise _leave(f"line {number}: not JSON") from None
        sys.stdout.write(json.dumps(verdict_untrusted(question)) + "\n")
        sys.stdout.flush()
