"""The plain forms of `warren status` and `warren daemon`, without the whole command line.

Typer brings pydantic and rich: a tenth of a second, where monitoring asks for the status every
few seconds, and 20 MB for as long as the daemon lives. Whatever is not one of these few words
takes the full way, which alone knows help and errors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from warren.cli.limits import MAX_PORT, MAX_THREADS

_DAEMON_OPTIONS = ("state", "socket", "tun", "port", "proxy", "threads")


def quick(args: Sequence[str]) -> Callable[[], int] | None:
    """Return what runs a whole command line, if it is one of the plain forms, or None."""
    match args[:1]:
        case ["status"]:
            return quick_status(args[1:])
        case ["daemon"]:
            return quick_daemon(args[1:])
        case _:
            return None


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
        return print_status(json, peers, socket)

    return run


def print_status(json: bool, peers: bool, socket: Path | None) -> int:
    """Show this machine, and its peers if wanted. Return 1 unless it runs, else 0.

    Raises NodeError. It is here so that it comes without a command line's parts.
    """
    from warren.cli import show
    from warren.node.client import NodeClient
    from warren.node.locate import places

    found = NodeClient(places(None, socket).socket).status(peers=peers)
    if json:
        show.json(found)
    else:
        show.status(found)
    return 0 if found.state == "running" else 1


def quick_daemon(args: Sequence[str]) -> Callable[[], int] | None:
    """Return what runs `daemon` with options given as two words each, or None.

    Variables of the environment stand in for options as on the full way.
    """
    chosen = {name: os.environ.get(f"WARREN_{name.upper()}") or None for name in _DAEMON_OPTIONS}
    words = list(args)
    while words:
        name = words.pop(0)
        if name[:2] != "--" or name[2:] not in chosen or not words or words[0].startswith("-"):
            return None
        chosen[name[2:]] = words.pop(0)
    numbers: dict[str, int | None] = {}
    for name, most in (("port", MAX_PORT), ("threads", MAX_THREADS)):
        text = chosen[name]
        if text is not None and not (text.isascii() and text.isdigit() and int(text) <= most):
            return None
        numbers[name] = None if text is None else int(text)
    state, socket = (Path(text) if (text := chosen[name]) else None for name in _DAEMON_OPTIONS[:2])

    def run() -> int:
        # structlog takes rich along for a console that the daemon does not have: 4 MB.
        with _absent("rich"):
            from warren.node.daemon import run_daemon
        from warren.node.locate import places

        run_daemon(
            places(state, socket),
            tun=chosen["tun"],
            port=numbers["port"],
            proxy=chosen["proxy"],
            threads=numbers["threads"] or 0,
        )
        return 0

    return run


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """While it lasts, importing `module` fails, as if it were not installed."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # what the import system documents
    try:
        yield
    finally:
        del sys.modules[module]
