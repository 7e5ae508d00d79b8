"""Addresses and routes of the TUN device, by netlink.

Each peer gets a route of its own (/32, /128) in the main table instead of one for the whole of
100.64.0.0/10: several nodes on one machine, of one network or of several, then only claim what
they really reach, and a provider that uses 100.64.0.0/10 itself is not cut off. Where two nodes
reach the same peer, both routes stand side by side by metric, and the first that came wins.

Importing pyroute2 takes a quarter of a second, so this file is imported off the event loop.

Everything here disappears with the device, so a killed daemon leaves nothing behind.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_network

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from warren.edge.linux.device import RouteProblem

ROUTE_PROTOCOL = 82
"""Marks routes as ours in `ip route` (the kernel leaves 5 to 255 to programs)."""
_METRIC_FIRST = 1000


class TunRoutes:
    """What one TUN device has; `apply` leads from what it had to what it should have."""

    def __init__(self, device: str, mtu_bytes: int) -> None:
        self._device = device
        self._mtu_bytes = mtu_bytes
        self._addresses: set[str] = set()
        self._routes: set[str] = set()
        self._index: int | None = None

    def apply(self, addresses: Iterable[str], routes: Iterable[str]) -> None:
        """Give the device these addresses (`/32`, `/128`) and routes, and bring it up.

        Blocks for some milliseconds. Raises RouteProblem; what could be done is done.
        """
        wanted_addresses, wanted_routes = set(addresses), set(routes) - set(addresses)
        problems: list[str] = []
        try:
            with IPRoute() as kernel:
                index = self._find(kernel)
                self._change_addresses(kernel, index, wanted_addresses, problems)
                self._change_routes(kernel, index, wanted_routes, problems)
        except (NetlinkError, OSError) as error:
            problems.append(_text(error))
        if problems:
            raise RouteProblem(f"The kernel refused to set up {self._device}: {problems[0]}.")

    def clear(self) -> None:
        """Take everything back and bring the device down. Raises RouteProblem."""
        try:
            with IPRoute() as kernel:
                index = self._find(kernel)
                kernel.link("set", index=index, state="down")
                kernel.flush_addr(index=index)
        except (NetlinkError, OSError) as error:
            raise RouteProblem(f"{self._device} cannot be cleared: {_text(error)}.") from error
        finally:
            self._addresses.clear()
            self._routes.clear()

    def _find(self, kernel: IPRoute) -> int:
        if self._index is None:
            found = kernel.link_lookup(ifname=self._device)
            if not found:
                raise OSError(errno.ENODEV, "no such device")
            self._index = int(found[0])
        return self._index

    def _change_addresses(
        self, kernel: IPRoute, index: int, wanted: set[str], problems: list[str]
    ) -> None:
        for prefix in sorted(self._addresses - wanted):
            with suppress(NetlinkError):
                kernel.addr("del", index=index, **_split(prefix))
            self._addresses.discard(prefix)
        if not wanted:
            return
        kernel.link("set", index=index, mtu=self._mtu_bytes, state="up")
        for prefix in sorted(wanted - self._addresses):
            try:
                # No tentative phase: duplicate detection makes no sense on a tunnel.
                extra = {"flags": 0x02} if ":" in prefix else {}
                kernel.addr("replace", index=index, **_split(prefix), **extra)
                self._addresses.add(prefix)
            except NetlinkError as error:
                if ":" in prefix and error.code in (errno.EACCES, errno.EOPNOTSUPP, errno.EPERM):
                    continue  # IPv6 is switched off on this machine: IPv4 carries on.
                problems.append(f"address {prefix}: {_text(error)}")

    def _change_routes(
        self, kernel: IPRoute, index: int, wanted: set[str], problems: list[str]
    ) -> None:
        for prefix in sorted(self._routes - wanted):
            with suppress(NetlinkError):
                kernel.route("del", **self._route(prefix, index))
            self._routes.discard(prefix)
        has = {6 if ":" in address else 4 for address in self._addresses}
        for prefix in sorted(wanted - self._routes):
            if ip_network(prefix).version not in has:
                continue
            try:
                kernel.route("replace", **self._route(prefix, index))
                self._routes.add(prefix)
            except NetlinkError as error:
                problems.append(f"route {prefix}: {_text(error)}")

    def _route(self, prefix: str, index: int) -> dict[str, object]:
        # The device's index makes the metric its own, so `replace` never takes another node's.
        return {
            "dst": prefix,
            "oif": index,
            "proto": ROUTE_PROTOCOL,
            "priority": _METRIC_FIRST + index,
            "family": 10 if ":" in prefix else 2,
            **({} if ":" in prefix else {"scope": 253}),
        }


def _split(prefix: str) -> dict[str, object]:
    address, _, length = prefix.partition("/")
    return {"address": address, "prefixlen": int(length), "family": 10 if ":" in address else 2}


def _text(error: Exception) -> str:
    if isinstance(error, NetlinkError):
        return str(error.args[1] if len(error.args) > 1 else error).lower()
    return (getattr(error, "strerror", None) or str(error)).lower()
