"""Listening sockets, and what to tell a person when a port can't be had."""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import suppress
from pathlib import Path

BACKLOG = 4096
"""Connections that wait to be accepted, since all machines of a network may come back at once: one
that finds no room believes that it is connected, and waits."""


class PortProblem(Exception):
    """A port or socket file can't be listened on. The text is one sentence with the way out."""


def listen_tcp(host: str | None, port: int, flag: str) -> list[socket.socket]:
    """Return listening sockets; `host` None means every address of both families.

    flag: what the person can change. Raises PortProblem.
    """
    return _open(host, port, flag, socket.SOCK_STREAM)


def listen_udp(host: str | None, port: int, flag: str) -> list[socket.socket]:
    """Return bound UDP sockets, likewise."""
    return _open(host, port, flag, socket.SOCK_DGRAM)


def listen_unix(path: Path) -> socket.socket:
    """Return a listening socket file of mode 0600; a stale one is replaced. Raises PortProblem.

    The caller must know that no other program uses the path (it holds a lock).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode must be right from the start: a chmod afterwards would leave a gap.
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        sock.listen(64)
    except OSError as error:
        sock.close()
        too_long = "path too long" in str(error)
        reason = "the path is too long for a socket" if too_long else _reason(error)
        raise PortProblem(f"cannot make the socket {path}: {reason}") from error
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def raise_file_limit() -> None:
    """Allow as many open connections as the system lets this user have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open(host: str | None, port: int, flag: str, kind: socket.SocketKind) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host):
            try:
                sock = socket.socket(family, kind)
            except OSError:
                if host is None and family == socket.AF_INET6 and sockets:
                    break  # a machine without IPv6
                raise
            sockets.append(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((address, port))
            except OSError as error:
                if host is None and error.errno == errno.EADDRNOTAVAIL and len(sockets) > 1:
                    sockets.pop().close()
                    break
                raise
            if kind == socket.SOCK_STREAM:
                sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise PortProblem(_explain(error, host, port, flag)) from error
    return sockets


def _addresses(host: str | None) -> list[tuple[socket.AddressFamily, str]]:
    if host is None:
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]  # noqa: S104
    return [(socket.AF_INET6 if ":" in host else socket.AF_INET, host)]


def _explain(error: OSError, host: str | None, port: int, flag: str) -> str:
    where = f"port {port}" if host is None else f"{host} port {port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another program; stop it, or choose another with {flag}"
    if error.errno == errno.EACCES:
        return f"this user may not listen on {where}; use root, or a port above 1023 with {flag}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine does not have the address {host}; choose another with {flag}"
    return f"cannot listen on {where} ({flag}): {_reason(error)}"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
