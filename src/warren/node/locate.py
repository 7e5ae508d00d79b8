"""Where a node keeps its state and its socket, by environment and by who runs it.

Imported by the commands too, so it stays light.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

SOCKET_NAME = "warren.sock"
SOCKET_PATH_MAX_BYTES = 107


class Places(NamedTuple):
    """The directory of the node's state and the path of its local API socket."""

    state: Path
    socket: Path


def places(state: Path | None = None, socket: Path | None = None) -> Places:
    """Fill in what the caller left open: environment first, then the user's defaults.

    Root has /var/lib/warren and /run/warren; others have their own state directory. A chosen
    state directory holds its socket too, so that one option is enough for a second node.
    """
    if state is None and (text := os.environ.get("WARREN_STATE")):
        state = Path(text)
    if socket is None and (text := os.environ.get("WARREN_SOCKET")):
        socket = Path(text)
    if state is None:
        state = default_state()
        default_socket = _default_socket(state)
    else:
        default_socket = state / SOCKET_NAME
    return Places(state.absolute(), (socket or default_socket).absolute())


def default_state() -> Path:
    """Return the state directory of a node that was given none."""
    if os.geteuid() == 0:
        return Path("/var/lib/warren")
    from platformdirs import user_state_path

    return user_state_path("warren", appauthor=False)


def _default_socket(state: Path) -> Path:
    if os.geteuid() == 0:
        return Path("/run/warren") / SOCKET_NAME
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "warren" / SOCKET_NAME
    return state / SOCKET_NAME
