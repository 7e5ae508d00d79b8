"""`warren server import`: take a network over from another coordinator."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warren.cli.server_place import Config, Database, State, place

if TYPE_CHECKING:
    from warren.coordinator.headscale.importing import Imported

_HEADSCALE = """Take over a network from Headscale's SQLite database (0.23 and later).

Users, machines with their keys, addresses, names, tags and approved routes, auth keys that are
still good, and the policy. Stop Headscale first, so that nothing changes meanwhile, and start this
server afterwards. A machine moves over without logging in again when the name of the old server
points to this one, or when it is pointed at the new URL. API keys are not taken over, and neither
is what stands in config.yaml: give --url, --domain and DNS to this server. Programs keep flags such
as --hostname for each server: say them again to `warren up --server URL`, or to
`tailscale up --login-server URL --force-reauth`.

Examples:

  warren server import headscale /var/lib/headscale/db.sqlite --dry-run

  warren server import headscale db.sqlite --policy acl.hujson --state /var/lib/warren/server
"""

app = typer.Typer(
    help="Take a network over from another coordinator.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _group() -> None:
    """Take a network over from another coordinator."""


@app.command("headscale", help=_HEADSCALE)
def _headscale(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    policy: Annotated[
        Path | None, typer.Option(help="Policy file, where Headscale has it in one.")
    ] = None,
    without_policy: Annotated[
        bool, typer.Option("--without-policy", help="Leave the database's policy out.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be taken over, and write nothing.")
    ] = False,
    config: Config = None,
    state: State = None,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from warren.coordinator.headscale.importing import PolicyChoice, import_headscale
    from warren.edge.clock import SystemClock
    from warren.edge.entropy import system_entropy

    if policy is not None and without_policy:
        raise typer.BadParameter("--policy and --without-policy exclude each other")
    text = policy.read_text("utf-8", "replace") if policy is not None else None
    directory, url = place(config, state, database)
    with _telling() as tell:
        imported = import_headscale(
            directory,
            url,
            file,
            PolicyChoice(text, without_policy),
            SystemClock().wall(),
            system_entropy,
            tell,
            only_look=dry_run,
        )
    if as_json:
        print(json.dumps({"file": str(file), "dry_run": dry_run, **asdict(imported)}))
        return
    for note in imported.notes:
        print(f"- {note}")
    print(_in_words(imported, directory, dry_run))


@contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """On a terminal say in one line, which vanishes at the end, what is being done."""
    shown = sys.stderr.isatty()

    def tell(what: str) -> None:
        if shown:
            print(f"\r{what} …\033[K", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _in_words(imported: Imported, directory: Path, dry_run: bool) -> str:
    counted = [
        f"{number} {word}{'' if number == 1 else 's'}"
        for number, word in (
            (imported.users, "user"),
            (imported.machines, "machine"),
            (imported.auth_keys, "auth key"),
        )
    ]
    policy = "the policy" if imported.policy else "no policy (everyone reaches everyone)"
    what = f"{', '.join(counted)} and {policy}"
    if dry_run:
        return f"Would take over {what}; nothing was written."
    return (
        f"Took over {what}. Start the server with: warren server --state {directory} "
        "--url URL, and let the old name point to it."
    )
