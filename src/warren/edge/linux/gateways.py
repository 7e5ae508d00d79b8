"""The routers that lead out of this machine's networks, and sockets to talk to them."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from warren.netmap.endpoint import Endpoint

_TABLE_MAIN = 254
_MULTICAST_HOPS = 2
# Any address of the internet does, to learn which of ours packets to it would come from.
_SOMEWHERE_V6 = IPv6Address("2001:4860::1")
_UNIQUE_LOCAL = IPv6Network("fc00::/7")


class Gateway(NamedTuple):
    """A router of a default route, and the address of ours that it sees.

    scope: the interface's number, where `ip` is link-local IPv6, else 0.
    """

    ip: IPv4Address | IPv6Address
    local_ip: IPv4Address | IPv6Address
    scope: int = 0


def default_gateways() -> list[Gateway]:
    """Return the gateways of the default routes, IPv4 before IPv6, the preferred first.

    A default route without a gateway (a point-to-point line) has none, nor has IPv6 where this
    machine has no address of the internet. Blocks for some milliseconds. Raises OSError.
    """
    # It takes a tenth of a second to import: not while a daemon starts.
    from warren.edge.linux.netlink import IPRoute

    found: list[tuple[int, int, str, int]] = []
    with IPRoute() as kernel:
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in kernel.get_routes(family=family, table=_TABLE_MAIN):
                if route["dst_len"] != 0:
                    continue
                metric = route.get("priority") or 0
                for hop in (route, *(route.get("multipath") or ())):
                    if text := hop.get("gateway"):
                        found.append((family, metric, text, hop.get("oif") or 0))
    gateways = []
    for _, _, text, interface in sorted(found, key=lambda item: item[:2]):
        ip = ip_address(text)
        towards = ip if isinstance(ip, IPv4Address) else _SOMEWHERE_V6
        local_ip = _address_towards(towards)
        if local_ip is not None and not (local_ip.version == 6 and local_ip in _UNIQUE_LOCAL):
            scope = interface if ip.version == 6 and ip.is_link_local else 0
            gateways.append(Gateway(ip, local_ip, scope))
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
    from warren.edge.linux.netlink import IPRoute

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


def router_socket_v6(local_ip: IPv6Address, interface: int) -> socket.socket:
    """Return a UDP socket that is bound to one of our IPv6 addresses and multicasts from there.

    interface: its number; 0 leaves it to the kernel. Raises OSError.
    """
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.bind((str(local_ip), 0))
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
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


def group_socket_v6(group: Endpoint, interface: int) -> socket.socket:
    """As `group_socket` for a group of IPv6 in the network behind an interface.

    interface: its number; 0 leaves it to the kernel.
    """
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((str(group.ip), group.port, 0, interface))
        membership = group.ip.packed + struct.pack("@i", interface)
        with suppress(OSError):
            # As above, of ff02::1.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    except OSError:
        made.close()
        raise
    return made


def _address_towards(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address | None:
    """The address of ours from which packets to `ip` would be sent; nothing is sent."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(ip), 9))
            own = ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError:
        return None
    return None if own.version == 6 and own.is_link_local else own
