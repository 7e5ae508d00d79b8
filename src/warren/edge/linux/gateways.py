"""The routers that lead out of this machine's networks, and sockets to talk to them."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from typing import NamedTuple

from warren.netmap.endpoint import Endpoint

_TABLE_MAIN = 254
_MULTICAST_HOPS = 2


class Gateway(NamedTuple):
    """A router of a default route, and the address of ours that it sees."""

    ip: IPv4Address
    local_ip: IPv4Address


def default_gateways() -> list[Gateway]:
    """Return the IPv4 gateways of the default routes, the preferred first.

    A default route without a gateway (a point-to-point line) has none. Blocks for about a
    millisecond. Raises OSError.
    """
    # pyroute2 takes a quarter of a second to import: not while a daemon starts.
    from pyroute2 import IPRoute  # type: ignore[import-untyped]

    found: list[tuple[int, str]] = []
    with IPRoute() as kernel:
        for route in kernel.get_routes(family=socket.AF_INET, table=_TABLE_MAIN):
            if route["dst_len"] != 0:
                continue
            metric = route.get("priority") or 0
            hops = [route, *(route.get("multipath") or ())]
            found += [(metric, text) for hop in hops if (text := hop.get("gateway"))]
    gateways = []
    for _, text in sorted(found, key=lambda item: item[0]):
        ip = ip_address(text)
        if isinstance(ip, IPv4Address) and (local_ip := _address_towards(ip)) is not None:
            gateways.append(Gateway(ip, local_ip))
    return list(dict.fromkeys(gateways))


class DefaultRoute(NamedTuple):
    """A way out. gateway: empty for a point-to-point line."""

    interface: str
    gateway: str
    is_v6: bool


def default_routes() -> list[DefaultRoute]:
    """Return the default routes of both families, the preferred of each first.

    Blocks for about a millisecond. Raises OSError.
    """
    from pyroute2 import IPRoute

    found: list[tuple[int, DefaultRoute]] = []
    with IPRoute() as kernel:
        names = {link["index"]: str(link.get("ifname")) for link in kernel.get_links()}
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in kernel.get_routes(family=family, table=_TABLE_MAIN):
                name = names.get(route.get("oif") or 0)
                if route["dst_len"] != 0 or name is None:
                    continue
                way = DefaultRoute(name, route.get("gateway") or "", family == socket.AF_INET6)
                found.append((route.get("priority") or 0, way))
    return [way for _, way in sorted(found, key=lambda item: item[0])]


def router_socket(local_ip: IPv4Address) -> socket.socket:
    """Return a UDP socket that is bound to one of our addresses and multicasts from there.

    Raises OSError.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.bind((str(local_ip), 0))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local_ip.packed)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _MULTICAST_HOPS)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    except OSError:
        made.close()
        raise
    return made


def group_socket(group: Endpoint, local_ip: IPv4Address) -> socket.socket:
    """Return a UDP socket that hears what is multicast to a group in the network of `local_ip`.

    Others may listen at the same port. Raises OSError.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(group.ip), group.port))
        membership = group.ip.packed + local_ip.packed
        with suppress(OSError):
            # Of 224.0.0.1 every host is a member already, which some kernels call an error.
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    except OSError:
        made.close()
        raise
    return made


def _address_towards(ip: IPv4Address) -> IPv4Address | None:
    """The address of ours from which packets to `ip` would be sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(ip), 9))
        except OSError:
            return None
        return IPv4Address(probe.getsockname()[0])
