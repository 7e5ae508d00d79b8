"""Addresses and routes of the TUN device, by netlink.

Each peer gets a route of its own (/32, /128) in the main table instead of one for the whole of
100.64.0.0/10: several nodes on one machine, of one network or of several, then only claim what
they really reach, and a provider that uses 100.64.0.0/10 itself is not cut off. Where two nodes
reach the same peer, both routes stand side by side by metric, and the first that came wins; a
rule `from OWN-ADDRESS` leads what answers from the other node's address to its own device.

A route's `mtu` is what the path to its peer carries; local TCP and the kernel's ICMP follow it,
also under connections that stand. The `advmss` of a peer's own address is that of the device: what
a peer may send is for its own side of the path to know, and a connection that began before the
size was found can grow. Hosts behind a peer know nothing of the path between, so theirs is the
safe one.

Importing pyroute2 takes a tenth of a second, so this file is imported off the event loop.

Addresses and routes disappear with the device. A killed daemon leaves its rules behind, which
lead to empty tables; the next one takes them away.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_network

from warren.edge.linux.device import RouteProblem
from warren.edge.linux.netlink import IPRoute, NetlinkError
from warren.edge.linux.route_messages import Route, RouteSocket

_METRIC_FIRST = 1000
_SAFE_MTU_BYTES = 1280
_TABLE_MAIN = 254
_TABLE_FIRST = 82_000
"""A device's own routing table is this plus its index."""
_RULE_PRIORITY = 5182
_FAMILIES = (2, 10)


class TunRoutes:
    """What one TUN device has; `apply` leads from what it had to what it should have."""

    def __init__(self, device: str, mtu_bytes: int) -> None:
        self._device = device
        self._mtu_bytes = mtu_bytes
        self._addresses: set[str] = set()
        self._routes: dict[str, int] = {}
        self._index: int | None = None
        self._rules: set[str] = set()

    def apply(self, addresses: Iterable[str], routes: Mapping[str, int]) -> None:
        """Give the device these addresses (`/32`, `/128`) and routes, and bring it up.

        routes: prefix → the largest packet that goes there, in bytes.

        Blocks for some milliseconds. Raises RouteProblem; what could be done is done.
        """
        wanted_addresses = set(addresses)
        wanted_routes = {p: mtu for p, mtu in routes.items() if p not in wanted_addresses}
        problems: list[str] = []
        try:
            with IPRoute() as kernel:
                index = self._find(kernel)
                self._change_addresses(kernel, index, wanted_addresses, problems)
                self._change_routes(index, wanted_routes, problems)
                self._change_rules(kernel, index)
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
                self._addresses.clear()
                self._change_rules(kernel, index)
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
            self._remove_stale_rules(kernel, self._index)
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

    def _change_routes(self, index: int, wanted: Mapping[str, int], problems: list[str]) -> None:
        tables = (_TABLE_FIRST + index, _TABLE_MAIN)
        gone = sorted(self._routes.keys() - wanted.keys())
        has = {6 if ":" in address else 4 for address in self._addresses}
        fresh = [
            (prefix, mtu)
            for prefix, mtu in sorted(wanted.items())
            if self._routes.get(prefix) != mtu and (6 if ":" in prefix else 4) in has
        ]
        if not gone and not fresh:
            return
        with RouteSocket() as kernel:
            kernel.change(
                [self._route(p, index, table, self._routes[p]) for p in gone for table in tables],
                remove=True,
            )
            for prefix in gone:
                del self._routes[prefix]
            answers = iter(
                kernel.change(
                    [self._route(p, index, table, mtu) for p, mtu in fresh for table in tables]
                )
            )
            for prefix, mtu in fresh:
                refused = [text for text in (next(answers), next(answers)) if text]
                if refused:
                    problems.append(f"route {prefix}: {refused[0]}")
                else:
                    self._routes[prefix] = mtu

    def _change_rules(self, kernel: IPRoute, index: int) -> None:
        """Lead packets from each own address to the device's own table.

        A kernel without policy routing, or a refusal, only matters to a second node.
        """
        for prefix in sorted(self._rules - self._addresses):
            with suppress(NetlinkError):
                kernel.rule("del", **_rule(prefix, index))
            self._rules.discard(prefix)
        for prefix in sorted(self._addresses - self._rules):
            with suppress(NetlinkError):
                kernel.rule("add", **_rule(prefix, index))
            self._rules.add(prefix)

    def _remove_stale_rules(self, kernel: IPRoute, index: int) -> None:
        """Take away rules of ours whose device is gone, and those of this device's table."""
        devices = {link["index"] for link in kernel.get_links()} - {index}
        for family in _FAMILIES:
            for rule in list(kernel.get_rules(family=family)):
                table = rule.get("table") or 0
                ours = rule.get("priority") == _RULE_PRIORITY and table >= _TABLE_FIRST
                if ours and table - _TABLE_FIRST not in devices and rule.get("src"):
                    with suppress(NetlinkError):
                        prefix = f"{rule.get('src')}/{rule['src_len']}"
                        kernel.rule("del", **_rule(prefix, table - _TABLE_FIRST))

    def _route(self, prefix: str, index: int, table: int, mtu_bytes: int) -> Route:
        network = ip_network(prefix)
        headers = 40 if network.version == 4 else 60
        is_peer = network.prefixlen == network.max_prefixlen
        advmss = (self._mtu_bytes if is_peer else _SAFE_MTU_BYTES) - headers
        # The device's index makes the metric its own, so `replace` never takes another node's.
        return Route(network, index, table, _METRIC_FIRST + index, mtu_bytes, advmss)


def _split(prefix: str) -> dict[str, object]:
    address, _, length = prefix.partition("/")
    return {"address": address, "prefixlen": int(length), "family": 10 if ":" in address else 2}


def _rule(prefix: str, index: int) -> dict[str, object]:
    address, _, length = prefix.partition("/")
    return {
        "src": address,
        "src_len": int(length),
        "table": _TABLE_FIRST + index,
        "priority": _RULE_PRIORITY,
        "family": 10 if ":" in address else 2,
    }


def _text(error: Exception) -> str:
    if isinstance(error, NetlinkError):
        return str(error.args[1] if len(error.args) > 1 else error).lower()
    return (getattr(error, "strerror", None) or str(error)).lower()
