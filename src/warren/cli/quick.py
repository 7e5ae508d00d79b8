"""The plain forms of `warren status`, without building the whole command line.

Typer brings pydantic, a tenth of a second; monitoring asks for the status every few seconds.
Whatever is not one of these few words takes the full way, which alone knows help and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path


def quick_status(args: Sequence[str]) -> Callable[[], int] | None:
    """Return what runs `status` with only --json, --no-peers and --socket PATH, or None."""
    words = list(args)
    json, peers = False, True
    socket: Path | None = None
    while words:
        word = words.pop(0)
        if word == "--json":
            json = True
        elif word == "--no-peers":
            peers = False
        elif word == "--socket" and words and not words[0].startswith("-"):
            socket = Path(words.pop(0))
        else:
            return None

    def run() -> int:
        import typer

        from warren.cli.node import status

        try:
            status(json=json, peers=peers, socket=socket)
        except typer.Exit as end:
            return int(end.exit_code)
        return 0

    return run
