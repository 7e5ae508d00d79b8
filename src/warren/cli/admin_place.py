"""Which server `warren admin` means, for all of its commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from warren.coordinator.client import AdminClient

State = Annotated[
    str,
    typer.Option(
        envvar="WARREN_SERVER_STATE",
        help="The server's state directory [/var/lib/warren/server as root].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def client(state: str) -> AdminClient:
    """Return a client of the server with this state directory; empty: the usual place."""
    from warren.coordinator.client import AdminClient
    from warren.coordinator.config import state_directory

    return AdminClient(state_directory(state))
