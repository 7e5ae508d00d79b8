"""`warren lab`: networks of namespaces with every kind of NAT."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from warren.cli import show
from warren.lab import runs, sandbox
from warren.lab.kinds import KINDS

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Build networks of namespaces with every kind of NAT.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example: sudo warren lab clean")
def clean(json: Json = False) -> None:
    """Remove what lab runs left behind that ended without cleaning up."""
    missing = sandbox.missing_packages()
    if missing:
        raise sandbox.LabUnavailable(f"Missing programs; apt install {' '.join(missing)}.")
    removed = runs.clean()
    if json:
        show.json({"removed": removed})
    else:
        print(f"Removed {len(removed)} dead runs." if removed else "There was nothing to remove.")


@app.command(epilog="Example: warren lab kinds --json")
def kinds(json: Json = False) -> None:
    """List the kinds of routers that the lab can build."""
    if json:
        show.json([asdict(kind) for kind in KINDS.values()])
        return
    rows = [["kind", "known as", "mapping", "filtering"]]
    rows += [
        [kind.name, kind.everyday, kind.mapping or "-", kind.filtering or "-"]
        for kind in KINDS.values()
    ]
    show.table(rows)
