"""Messages of rtnetlink against those that pyroute2 makes, and what the kernel makes of ours."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped]

from warren.edge.linux.route_messages import Route, encode


def by_pyroute2(route: Route, sequence: int, remove: bool) -> bytes:
    v4 = route.prefix.version == 4
    message = rtmsg()
    message["family"] = 2 if v4 else 10
    message["dst_len"] = route.prefix.prefixlen
    message["table"] = route.table if route.table < 256 else 252
    message["proto"] = 82
    message["scope"] = 253 if v4 else 0
    message["type"] = 1
    attributes = [
        ("RTA_DST", str(route.prefix.network_address)),
        ("RTA_OIF", route.device),
        ("RTA_PRIORITY", route.metric),
        ("RTA_TABLE", route.table),
    ]
    if not remove:
        sizes = [("RTAX_MTU", route.mtu_bytes), ("RTAX_ADVMSS", route.advmss)]
        attributes.append(("RTA_METRICS", {"attrs": sizes}))
    message["attrs"] = attributes
    message["header"]["type"] = 25 if remove else 24
    message["header"]["flags"] = 0x5 if remove else 0x505
    message["header"]["sequence_number"] = sequence
    message["header"]["pid"] = 0
    message.encode()
    return bytes(message.data)


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("table", [254, 255, 256, 82_003])
@pytest.mark.parametrize(
    "prefix", ["100.64.0.7/32", "10.0.0.0/8", "0.0.0.0/0", "fd7a:115c:a1e0::7/128", "::/0"]
)
def test_messages_are_those_of_pyroute2(prefix: str, table: int, remove: bool) -> None:
    network = ip_network(prefix)
    assert isinstance(network, IPv4Network | IPv6Network)
    route = Route(network, 3, table, 1003, 1440, 8901)
    assert encode(route, 2**32 - 1, remove=remove) == by_pyroute2(route, 2**32 - 1, remove)
