"""Own endpoints: what is measured and what routers gave, whichever comes first."""

from __future__ import annotations

import asyncio
import threading
from ipaddress import ip_address

from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.edge.linux.interfaces import LocalAddress
from warren.nat.rejected import Rejected
from warren.nat.stun import binding_response, parse_binding_request_untrusted
from warren.netmap.derpmap import DERPMap, DERPNode, DERPRegion
from warren.netmap.endpoint import Endpoint
from warren.node.measuring import Measuring

MAPPED = Endpoint.parse("198.51.100.7:41641")


async def test_a_port_mapped_while_addresses_are_read_is_told() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def addresses() -> list[LocalAddress]:
        reading.set()
        assert go_on.wait(10)
        return []

    measured = asyncio.Event()
    measuring = Measuring(
        SystemClock(),
        system_entropy,
        send=lambda to, data: None,
        addresses=addresses,
        is_busy=lambda: False,
        relay_is_up=lambda region: False,
        on_result=measured.set,
    )
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(measuring.run())
        measuring.want()
        assert await asyncio.to_thread(reading.wait, 10)
        measuring.set_mapped((MAPPED,))
        go_on.set()
        await measured.wait()
        running.cancel()
    assert [own.endpoint for own in measuring.endpoints] == [MAPPED]


async def test_a_measuring_is_given_up_when_the_network_changes() -> None:
    """What began where nobody answers is not waited for once there is another network."""
    asked: list[Endpoint] = []
    measured = asyncio.Event()
    measuring = Measuring(
        SystemClock(),
        system_entropy,
        send=lambda to, data: asked.append(to),
        addresses=list,
        is_busy=lambda: False,
        relay_is_up=lambda region: False,
        on_result=measured.set,
    )
    server = DERPNode(name="1a", region_id=1, host_name="192.0.2.1", ipv4="192.0.2.1", ipv6="none")
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(measuring.run())
        measuring.set_ports(41641, 0)
        measuring.set_map(DERPMap(regions={1: DERPRegion(region_id=1, nodes=[server])}), ())
        while not asked:
            await asyncio.sleep(0.01)
        # Nobody answers, so it would go on for seconds; a relay in this network is asked anew.
        measuring.network_changed()
        asked.clear()
        while not asked:
            assert not measured.is_set()
            await asyncio.sleep(0.01)
        # And whoever waits for a measuring gets that of the last network.
        await measuring.measure_now()
        assert measured.is_set()
        running.cancel()
    assert measuring.report is not None
    assert not measuring.report.udp


async def test_answers_that_are_none_are_counted_by_their_reason() -> None:
    """Three servers of IPv6, one of which lies; each answer is followed by a stranger's."""
    servers = [
        DERPNode(name=f"{n}a", region_id=n, host_name=f"r{n}", ipv4="none", ipv6=f"2001:db8::{n}")
        for n in (1, 2, 3)
    ]
    own, lie = Endpoint.parse("[2001:db8:1::7]:7"), Endpoint.parse("[2001:db8:bad::6]:6")
    measured = asyncio.Event()

    def answer(to: Endpoint, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        tx_id = parse_binding_request_untrusted(data)
        for said, src in (
            (Endpoint.parse("[ff02::1]:1"), to),
            (lie if to.ip == ip_address("2001:db8::2") else own, to),
            (lie, to),
            (lie, own),
        ):
            asyncio.get_running_loop().call_soon(
                measuring.receive, binding_response(tx_id, said), src, now
            )

    measuring = Measuring(
        SystemClock(),
        system_entropy,
        send=answer,
        addresses=list,
        is_busy=lambda: False,
        relay_is_up=lambda region: False,
        on_result=measured.set,
    )
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        measuring.set_ports(0, 41641)
        regions = {n: DERPRegion(region_id=n, nodes=[node]) for n, node in enumerate(servers, 1)}
        measuring.set_map(DERPMap(regions=regions), ())
        running = tasks.create_task(measuring.run())
        await measured.wait()
        running.cancel()
    measuring.receive(b"\x01\x01", own, 0.0)
    assert measuring.report is not None
    assert measuring.report.mapped_v6 == (own,)
    asked = 3
    assert measuring.drops == {
        Rejected.RESERVED.value: asked,
        Rejected.WRONG_ID.value: asked,
        Rejected.FOREIGN.value: asked,
        Rejected.OUTVOTED.value: 1,
        Rejected.MALFORMED.value: 1,
    }
