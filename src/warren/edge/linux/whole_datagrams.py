"""UDP sockets whose datagrams are never fragmented, so that it shows how large a path is."""

from __future__ import annotations

import socket

# From linux/in.h and linux/in6.h; Python names them only on some builds.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_PROBE = 3


def open_whole(version: int) -> socket.socket:
    """Return a bound, non-blocking UDP socket of IP `version` that always sets Don't Fragment.

    Sending more than the link takes raises OSError (EMSGSIZE). Raises OSError where the machine
    has no such IP.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        sock.bind(("::" if version == 6 else "0.0.0.0", 0))  # noqa: S104
    except OSError:
        sock.close()
        raise
    return sock
