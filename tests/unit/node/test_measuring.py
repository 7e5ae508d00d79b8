"""Own endpoints: what is measured and what routers gave, whichever comes first."""

from __future__ import annotations

import asyncio
import threading

from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.edge.linux.interfaces import LocalAddress
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
