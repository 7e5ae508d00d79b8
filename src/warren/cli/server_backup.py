"""`warren server backup` and `warren server restore`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warren.cli.server_place import Config, Database, State, place

if TYPE_CHECKING:
    from warren.coordinator.backup.archive import Manifest

_BACKUP = """Write the server's keys, certificates and database to one file, mode 0600.

The server may run meanwhile: the database is read at one moment, and nobody waits for that. The
file holds secrets: whoever has it can pretend to be this server. Settings (--config) are not in it.

Examples:

  warren server backup /var/backups/warren-2026-03-01.zip

  warren server backup backup.zip --config /etc/warren/server.toml
"""
_RESTORE = """Restore a backup into an empty state directory and an empty database.

It is no matter whether the backup came from SQLite or PostgreSQL. An older schema is brought up
to date. Start the server afterwards, with the settings that it had.

Examples:

  warren server restore backup.zip --state /var/lib/warren/server

  warren server restore backup.zip --database postgresql://warren@db.example.com/warren
"""
_QUIET_S, _BETWEEN_S = 1.0, 0.25

_File = Annotated[Path, typer.Argument(metavar="FILE", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Add both commands to `warren server`."""
    app.command("backup", help=_BACKUP)(_backup)
    app.command("restore", help=_RESTORE)(_restore)


def _backup(
    file: _File,
    config: Config = None,
    state: State = None,
    database: Database = None,
    as_json: _Json = False,
) -> None:
    from warren.coordinator.backup.making import make_backup
    from warren.edge.clock import SystemClock

    directory, url = place(config, state, database)
    with _progress("backing up") as tell:
        manifest = make_backup(directory, url, file, SystemClock().wall(), tell)
    if as_json:
        _print_json(file, manifest)
        return
    print(f"{file} holds {_in_words(manifest)}. It contains secrets: keep it as safe as a key.")


def _restore(
    file: _File,
    config: Config = None,
    state: State = None,
    database: Database = None,
    as_json: _Json = False,
) -> None:
    from warren.coordinator.backup.restoring import restore_backup

    directory, url = place(config, state, database)
    with _progress("restoring") as tell:
        manifest = restore_backup(directory, url, file, tell)
    if as_json:
        _print_json(file, manifest)
        return
    print(
        f"Restored {_in_words(manifest)}, as of {manifest.created:%Y-%m-%d %H:%M} UTC, into "
        f"{directory}. Start it with: warren server --state {directory} and its other settings."
    )


@contextmanager
def _progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """After a second say how far it is; on a terminal in one line that vanishes at the end."""
    next_at, shown = time.monotonic() + _QUIET_S, False

    def tell(done: int, total: int) -> None:
        nonlocal next_at, shown
        now = time.monotonic()
        if now < next_at:
            return
        next_at, shown = now + (_BETWEEN_S if sys.stderr.isatty() else 10 * _QUIET_S), True
        line = f"{doing}: {done:,} of {total:,} rows"
        print(
            f"\r{line}\033[K" if sys.stderr.isatty() else line,
            end="" if sys.stderr.isatty() else "\n",
            file=sys.stderr,
            flush=True,
        )

    try:
        yield tell
    finally:
        if shown and sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _in_words(manifest: Manifest) -> str:
    rows = {table: member.rows for table, member in manifest.tables().items()}
    parts = [
        f"{rows.get(table, 0)} {word if rows.get(table) == 1 else more}"
        for table, word, more in (
            ("users", "user", "users"),
            ("nodes", "machine", "machines"),
            ("audit", "entry of the audit log", "entries of the audit log"),
        )
    ]
    return f"{', '.join(parts)} and the server's keys"


def _print_json(file: Path, manifest: Manifest) -> None:
    print(
        json.dumps(
            {
                "file": str(file),
                "bytes": file.stat().st_size,
                "version": manifest.version,
                "schema": manifest.schema,
                "created": manifest.created.isoformat(),
                "rows": {table: member.rows for table, member in manifest.tables().items()},
                "files": list(manifest.files()),
            }
        )
    )
