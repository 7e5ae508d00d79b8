"""Unix sockets for local APIs: bind one safely, and ask who is at the other end."""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

PATH_MAX_BYTES = 107
_CREDENTIALS = struct.Struct("3i")


class SocketProblem(Exception):
    """A local socket cannot be had. The text is one sentence with the way out."""


def listen_local(path: Path, *, mode: int) -> socket.socket:
    """Bind and listen on a Unix socket, taking the place of one that nobody serves.

    The directory is made (0755) if it is missing. Raises SocketProblem.
    """
    if len(os.fsencode(path)) > PATH_MAX_BYTES:
        raise SocketProblem(
            f"The socket path {path} is longer than {PATH_MAX_BYTES} bytes; "
            "choose a shorter one with --socket PATH."
        )
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # Nobody may connect between bind and chmod.
            before = os.umask(0o177)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            path.chmod(mode)
            listener.listen(64)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise SocketProblem(
            f"Cannot listen on {path} ({(error.strerror or str(error)).lower()}); "
            "choose another path with --socket PATH."
        ) from error
    return listener


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end of a connected Unix socket (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return int(uid)


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketProblem(f"{path} is in the way and is not a socket; use --socket PATH.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        with suppress(ConnectionRefusedError, FileNotFoundError):
            probe.connect(str(path))
            raise SocketProblem(
                f"Another warren daemon already listens on {path}; "
                "give this one its own --state and --socket."
            )
    with suppress(FileNotFoundError):
        path.unlink()
