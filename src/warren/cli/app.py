"""The root of the command line: node commands, and placeholders for the groups."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from warren.cli import node
from warren.cli.groups import GROUPS

_HELP = """A mesh VPN that one person can run whole.

On a server: warren server --help. On a machine: warren up --server URL.
"""


def build(complete: bool = False) -> typer.Typer:
    """Make the application. `complete`: with the groups' own commands, for the shell."""
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=_root,
    )
    node.add_commands(app)
    for name, group in GROUPS.items():
        if complete:
            try:
                app.add_typer(import_module(group.module).app, name=name, help=group.summary)
            except ImportError:
                continue
        else:
            app.command(name, help=group.summary, rich_help_panel="Programs")(_elsewhere)
    return app


def _say_version(wanted: bool) -> None:
    if wanted:
        node.version()
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """What stands before a command's name."""


def _elsewhere() -> None:
    """Groups are called by `warren.cli.main` before this application is built."""
