"""This machine's own addresses, from the kernel. Calls block for about a millisecond."""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
)
from typing import NamedTuple

_IFF_UP = 1
_FLAG_TEMPORARY_OR_DEAD = 0x20 | 0x40  # IFA_F_DEPRECATED, IFA_F_TENTATIVE


class LocalAddress(NamedTuple):
    """An address, and the interface that has it."""

    ip: IPv4Address | IPv6Address
    interface: str
    is_tun: bool


def local_addresses() -> list[LocalAddress]:
    """Return the addresses of interfaces that are up, loopback included, in kernel order.

    Deprecated and tentative IPv6 addresses are left out. Raises OSError.
    """
    # It takes a tenth of a second to import: not while a daemon starts.
    from warren.edge.linux.netlink import IPRoute

    found = []
    with IPRoute() as kernel:
        links = {link["index"]: link for link in kernel.get_links()}
        for message in kernel.get_addr():
            link = links.get(message["index"])
            text = message.get("local") or message.get("address")
            if link is None or not link["flags"] & _IFF_UP or not text:
                continue
            ip = ip_address(text)
            if ip.version == 6 and (message.get("flags") or 0) & _FLAG_TEMPORARY_OR_DEAD:
                continue
            kind = link.get(("linkinfo", "kind"))
            found.append(LocalAddress(ip, str(link.get("ifname")), kind == "tun"))
    return found


def local_networks() -> list[IPv4Network | IPv6Network]:
    """Return the networks that this machine has an address in, loopback included.

    Raises OSError.
    """
    from warren.edge.linux.netlink import IPRoute

    found = []
    with IPRoute() as kernel:
        for message in kernel.get_addr():
            text = message.get("local") or message.get("address")
            if text:
                found.append(ip_interface(f"{text}/{message['prefixlen']}").network)
    return found
