"""Where a server's state and database are: options of the commands that work beside a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(envvar="WARREN_SERVER_CONFIG", help="TOML file with the server's settings."),
]
State = Annotated[
    str | None,
    typer.Option(
        envvar="WARREN_SERVER_STATE",
        help="The server's state directory [/var/lib/warren/server as root].",
    ),
]
Database = Annotated[
    str | None,
    typer.Option(
        envvar="WARREN_SERVER_DATABASE", help="SQLAlchemy URL of its database [SQLite in --state]."
    ),
]


def place(config: Path | None, state: str | None, database: str | None) -> tuple[Path, str]:
    """Return the state directory, and the database's URL (empty: SQLite in that directory)."""
    from warren.coordinator.config import load, state_directory

    settings = load(config, {"state": state, "database": database})
    return state_directory(settings.state), settings.database
