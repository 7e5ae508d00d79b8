"""`warren policy …`: a policy file checked, tested and compiled, and compared for real machines."""

from __future__ import annotations

import json as codec
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from warren.cli import show
from warren.cli.admin_place import Json, State, client, reach_from_anywhere
from warren.policy.document import parse_policy_untrusted
from warren.policy.explain import Way, difference, find_nodes, ways, who_can
from warren.policy.hujson import MAX_BYTES
from warren.policy.idle import idle_parts
from warren.policy.malformed import MalformedPolicy, Place
from warren.policy.standins import stand_ins
from warren.policy.topology import Topology, parse_topology_untrusted
from warren.policy.verdict import World, name_users, read, verdict_untrusted

_MAX_LINE_BYTES = 64 << 20
_MAX_TOLD = 50

app = typer.Typer(
    help="Check, test, compile and compare policy files.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_File = Annotated[Path, typer.Argument(help="A policy file (HuJSON).")]
_Topology = Annotated[
    Path | None,
    typer.Option(help="Users and nodes as JSON, to test with; without it, one node for each name."),
]

_Text = Annotated[str, typer.Argument(help="A policy file, or `current`: the one in force.")]
_Policy = Annotated[
    str, typer.Option("--policy", help="A policy file; `current` is the one in force.")
]
_End = Annotated[str, typer.Argument(metavar="HOST:PORT", help="Such as web-1:443 or db:53/udp.")]


def _leave(sentence: str) -> typer.Exit:
    typer.echo(sentence, err=True)
    return typer.Exit(1)


def _at(place: Place | None) -> dict[str, int]:
    return {"line": place.line, "column": place.column} if place else {}


def _problem(error: MalformedPolicy) -> dict[str, Any]:
    near = error.hint.strip('"') if error.hint else None
    return {"message": error.message, "nearest": near} | _at(error.place)


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
        return parse_topology_untrusted(codec.loads(_read(file, _MAX_LINE_BYTES)))
    except (MalformedPolicy, ValueError, RecursionError) as error:
        raise _leave(f"{file}: {error}") from None


@app.command("check")
def check(file: _File, json: Json = False) -> None:
    """Say whether a policy file is right; if not, where and what would be.

    What has no effect on this kind of server is told, too, and is no error. Exits with 1 where the
    file is wrong.

    Example: warren policy check policy.hujson
    """
    try:
        # Whose domain a network has is known to its server alone.
        checked = read(_read(file, MAX_BYTES), Topology([], []))
    except MalformedPolicy as error:
        if json:
            show.json({"right": False, "problems": [_problem(error)], "idle": []})
            raise typer.Exit(1) from None
        raise _leave(f"{file}: {error.sentence()}") from None
    idle = idle_parts(checked.policy)
    if json:
        told = [{"message": part.reason} | _at(part.place) for part in idle]
        show.json({"right": True, "problems": [], "idle": told})
        return
    for part in idle[:_MAX_TOLD]:
        typer.echo(f"{file}: {part.sentence()}", err=True)
    if len(idle) > _MAX_TOLD:
        typer.echo(f"{file}: {len(idle) - _MAX_TOLD} more have no effect.", err=True)
    typer.echo(f"{file}: this policy is right.")


@app.command("test")
def test(file: _File, topology: _Topology = None, json: Json = False) -> None:
    """Run a policy file's own tests. Exits with 1 where one fails, or the file is wrong.

    Example: warren policy test policy.hujson
    """
    try:
        source = _read(file, MAX_BYTES)
        known = _topology(topology, source)
        name_users(source, known)
        checked = read(source, known)
        failures = checked.trial().run(checked.policy)
    except MalformedPolicy as error:
        if json:
            show.json({"tests": 0, "failures": [_problem(error)]})
            raise typer.Exit(1) from None
        raise _leave(f"{file}: {error.sentence()}") from None
    count = len(checked.policy.tests) + len(checked.policy.ssh_tests)
    if json:
        told = [{"message": one.message} | _at(one.place) for one in failures]
        show.json({"tests": count, "failures": told})
        raise typer.Exit(1 if failures else 0)
    for failure in failures:
        typer.echo(f"{file}: {failure.sentence()}", err=True)
    if failures:
        raise _leave(f"{file}: {len(failures)} expectations of {count} tests failed.")
    typer.echo(f"{file}: {count} tests passed.")


@app.command("diff")
def diff(
    old: _Text, new: _Text, topology: _Topology = None, state: State = "", json: Json = False
) -> None:
    """Say who gains and who loses what from one policy to another, for real machines.

    Example: warren policy diff current policy.hujson
    """
    network = _network(topology, state)
    gained, lost = difference(_world(old, network(), state), _world(new, network(), state))
    if json:
        show.json(
            {"gained": [asdict(one) for one in gained], "lost": [asdict(one) for one in lost]}
        )
        return
    for sign, found in (("+", gained), ("-", lost)):
        for one in found:
            typer.echo(f"{sign} {one.source} → {one.target}: {one.what}")
    if not (gained or lost):
        typer.echo("Nobody gains or loses anything.")


@app.command("who-can")
def who_can_(
    end: _End, file: _Policy = "current", topology: _Topology = None, state: State = "",
    json: Json = False,
) -> None:  # fmt: skip
    """List the machines that reach a port, each with the rule that lets it.

    Example: warren policy who-can db-1:5432
    """
    try:
        found = who_can(_world(file, _network(topology, state)(), state), end)
    except MalformedPolicy as error:
        raise _leave(error.sentence()) from None
    if json:
        show.json([asdict(way) for way in found])
        return
    for way in found:
        typer.echo(_told(way))
    if not found:
        typer.echo("Nobody.")


@app.command("why")
def why(
    source: Annotated[str, typer.Argument(help="A machine, address, user, group or tag.")],
    end: _End, file: _Policy = "current", topology: _Topology = None, state: State = "",
    json: Json = False,
) -> None:  # fmt: skip
    """Say which rules let a machine reach a port. Exits with 1 where none does.

    Example: warren policy why alice@example.com web-1:443
    """
    world = _world(file, _network(topology, state)(), state)
    nodes = find_nodes(world, source)
    if not nodes:
        raise _leave(f"{source}: no machine is called so")
    try:
        found = [way for node in nodes for way in ways(world, node, end)]
    except MalformedPolicy as error:
        raise _leave(error.sentence()) from None
    if json:
        show.json([asdict(way) for way in found])
    for way in found if not json else ():
        typer.echo(_told(way))
    if not found:
        raise _leave(f"No rule lets {source} reach {end}.")


def _told(way: Way) -> str:
    rule = f"line {way.line}: {way.rule}" if way.line else way.rule
    return f"{way.source} → {way.target}  ({rule})"


def _network(file: Path | None, state: str) -> Callable[[], Topology]:
    """Return what makes the topology, of a file or of the server; each world takes its own."""
    if file is not None:
        text = _read(file, _MAX_LINE_BYTES)
        try:
            data = codec.loads(text)
        except (ValueError, RecursionError):
            raise _leave(f"{file}: not JSON") from None
    else:
        data = client(state).topology()

    def make() -> Topology:
        try:
            return parse_topology_untrusted(data)
        except MalformedPolicy as error:
            raise _leave(f"{file or 'the server'}: {error}") from None

    return make


def _world(name: str, topology: Topology, state: str) -> World:
    """Compile a file, or the policy in force, for a topology."""
    source = client(state).policy().text if name == "current" else _read(Path(name), MAX_BYTES)
    try:
        name_users(source, topology)
        return World(read(source, topology))
    except MalformedPolicy as error:
        raise _leave(f"{name}: {error.sentence()}") from None


@app.command("compile")
def compile_lines() -> None:
    """Answer JSON lines `{policy, topology, …}` on standard input, one object a line.

    Example: warren policy compile < questions.jsonl
    """
    number = 0
    while line := sys.stdin.buffer.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            raise _leave(f"line {number}: larger than {_MAX_LINE_BYTES} bytes")
        if not line.strip():
            continue
        try:
            question: Any = codec.loads(line)
        except (ValueError, RecursionError):
            raise _leave(f"line {number}: not JSON") from None
        sys.stdout.write(codec.dumps(verdict_untrusted(question)) + "\n")
        sys.stdout.flush()


reach_from_anywhere(app)
