"""Port numbers for programs that must know theirs before they start, as a server its own URL.

A port that was bound as 0, noted and closed is any program's again: the kernel gives it to the
next outgoing connection. Numbers here lie outside the range that the kernel gives from, and two
processes never give out the same one. Whoever can bind port 0 and keep the socket should.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from warren.lab.sandbox import LabUnavailable

FIRST_PORT, LAST_PORT = 10_000, 65_535
BLOCK_PORTS = 64
"""A process claims as many at once; `FIRST_PORT` and the next one begin a block, and so on."""

_GIVEN_BY_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
_WILDCARDS = ((socket.AF_INET, ""), (socket.AF_INET6, "::"))


def free_port() -> int:
    """Return a port on which nobody listens, for UDP and TCP, IPv4 and IPv6.

    No process of this network namespace that asks here gets the same one, as long as this process
    lives, nor does this process again. Raises LabUnavailable when none is left.
    """
    with _lock:
        # Every network namespace has all ports, and its own claims.
        namespace = os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116
        if namespace not in _given:
            _given[namespace] = _ports()
        for port in _given[namespace]:
            if _is_free(port):
                return port
        low, high = _kernel_range()
    raise LabUnavailable(
        f"no port is left outside {low} to {high}, from which the kernel takes those of outgoing "
        "connections; widen the rest with: sysctl net.ipv4.ip_local_port_range='32768 60999'"
    )


_lock = threading.Lock()
_given: dict[int, Iterator[int]] = {}
"""What is still to be given out, by network namespace."""
_claims: list[socket.socket] = []


def _forget() -> None:
    """In a forked child: the blocks belong to the parent."""
    global _lock
    _lock = threading.Lock()
    _given.clear()
    for claim in _claims:
        claim.close()
    _claims.clear()


os.register_at_fork(after_in_child=_forget)


def _kernel_range() -> tuple[int, int]:
    low, high = _GIVEN_BY_KERNEL.read_text().split()
    return int(low), int(high)


def _ports() -> Iterator[int]:
    """Yield ports of one claimed block after the other."""
    low, high = _kernel_range()
    starts = [
        start
        for start in range(FIRST_PORT, LAST_PORT - BLOCK_PORTS + 2, BLOCK_PORTS)
        if start + BLOCK_PORTS <= low or start > high
    ]
    # Processes that follow each other begin at different blocks.
    turn = os.getpid() % len(starts) if starts else 0
    for start in starts[turn:] + starts[:turn]:
        if _claim(start):
            yield from range(start, start + BLOCK_PORTS)


def _claim(start: int) -> bool:
    """Take a block for as long as this process lives; False if another process has it.

    The claim is a socket with an abstract name: the kernel keeps one of each name in a network
    namespace, and frees it with its process, however that ends.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0warren-lab-ports-{start}")
    except OSError as error:
        claim.close()
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    _claims.append(claim)
    return True


def _is_free(port: int) -> bool:
    for family, address in _WILDCARDS:
        for kind in _KINDS:
            try:
                with socket.socket(family, kind) as probe:
                    if family == socket.AF_INET6:
                        with suppress(OSError):
                            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
                if family == socket.AF_INET:
                    raise
                # A machine without IPv6: nobody listens there.
    return True
