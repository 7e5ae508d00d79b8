"""Unix sockets for local APIs: bind one safely, and ask who is at the other end."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PATH_MAX_BYTES = 107
_CREDENTIALS = struct.Struct("3i")
_PROC = Path("/proc")
# What the kernel says of a process that nobody has logged in for (audit(7)'s AUDIT_UID_UNSET).
_NOBODY_LOGGED_IN = 2**32 - 1


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


class Peer(NamedTuple):
    """Who is at the other end of a Unix socket: a process, and the user that it runs as."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return who has connected a Unix socket (unix(7), SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Peer(int(pid), int(uid))


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end of a connected Unix socket."""
    return peer_of(connection).uid


def account_name(uid: int) -> str:
    """Return what an account is called; `uid N` if it has no name. May ask a directory: blocks."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return f"uid {uid}"


def login_uid(pid: int, proc: Path = _PROC) -> int | None:
    """Return the user who once logged in and began what led to a process, whoever it runs as now.

    That is what `sudo` and `su` do not change (proc(5), `loginuid`). None: nobody has logged in,
    or it cannot be told.
    """
    try:
        uid = int((proc / str(pid) / "loginuid").read_text())
    except (OSError, ValueError):
        return None
    return uid if 0 <= uid < _NOBODY_LOGGED_IN else None


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
