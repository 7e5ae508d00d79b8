"""Hearing that the machine's network changed: links, addresses, default routes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Multicast groups of rtnetlink(7).
_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV4_ROUTE = 0x40
_RTMGRP_IPV6_IFADDR = 0x100
_RTMGRP_IPV6_ROUTE = 0x400
_GROUPS = (
    _RTMGRP_LINK
    | _RTMGRP_IPV4_IFADDR
    | _RTMGRP_IPV4_ROUTE
    | _RTMGRP_IPV6_IFADDR
    | _RTMGRP_IPV6_ROUTE
)
_READ_BYTES = 64 * 1024


@asynccontextmanager
async def network_changes() -> AsyncIterator[asyncio.Event]:
    """Give an event that is set whenever something changed; the user clears it.

    Only that something changed is told: what it means is read anew. Raises OSError.
    """
    changed = asyncio.Event()
    monitor = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    loop = asyncio.get_running_loop()

    def drain() -> None:
        try:
            while monitor.recv(_READ_BYTES):
                pass
        except OSError:
            # Empty (EAGAIN), or it overflowed (ENOBUFS): then something changed all the more.
            pass
        changed.set()

    try:
        monitor.bind((0, _GROUPS))
        loop.add_reader(monitor.fileno(), drain)
        yield changed
    finally:
        loop.remove_reader(monitor.fileno())
        monitor.close()
