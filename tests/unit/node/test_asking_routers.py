"""What the node makes of its routers' answers: NetInfo, endpoints, attributes."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address

from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.edge.linux.gateways import Gateway
from warren.nat.mapping import MapProtocol
from warren.netmap.node import NetInfo
from warren.node.portmapping import PortMapping, disabled_protocols

# A router at our own loopback that nobody plays: it answers with ICMP at most.
NOBODY = Gateway(IPv4Address("127.0.0.2"), IPv4Address("127.0.0.3"))


def test_attributes() -> None:
    assert disabled_protocols(None) == frozenset()
    assert disabled_protocols({"funnel": None}) == frozenset()
    assert disabled_protocols({"debug-disable-upnp": None}) == {MapProtocol.UPNP}


async def test_nothing_is_known_before_there_is_a_router() -> None:
    changes: list[int] = []
    mapping = PortMapping(
        SystemClock(),
        system_entropy,
        gateways=lambda: [NOBODY],
        on_change=lambda: changes.append(1),
    )
    mapping.set_ports(41641, 0)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(mapping.run())
        await asyncio.sleep(0.1)
        # Loopback is no network that a router could lead out of.
        assert mapping.routers == () and mapping.endpoints == ()
        task.cancel()
    info = mapping.add_to(NetInfo(preferred_derp=1))
    assert info == NetInfo(preferred_derp=1)
    assert (info.have_port_map, info.upnp, info.pmp, info.pcp) == (False, None, None, None)


async def test_routes_that_cannot_be_read() -> None:
    def unreadable() -> list[Gateway]:
        raise OSError("no netlink here")

    mapping = PortMapping(
        SystemClock(), system_entropy, gateways=unreadable, on_change=lambda: None
    )
    mapping.set_ports(41641, 0)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(mapping.run())
        await asyncio.sleep(0.1)
        assert not task.done()
        task.cancel()
