"""Noticing that this machine came into another network, or slept: then its paths are of before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from warren.edge.clock import Clock
from warren.edge.linux.gateways import default_routes
from warren.edge.linux.interfaces import local_addresses
from warren.edge.linux.netmon import network_changes
from warren.edge.linux.sleep import suspended_s
from warren.node.surroundings import Change, Surroundings
from warren.node.waking import SLEEP_CHECK_S, WakeDetector

SETTLES_S = 0.3
"""Addresses and routes come one by one."""

log = structlog.get_logger(__name__)


async def watch_network(on_change: Callable[[Change], None]) -> None:
    """Tell of each change of addresses and of the way out, until cancelled."""
    before = await _look_around()
    try:
        async with network_changes() as changed:
            while True:
                await changed.wait()
                await asyncio.sleep(SETTLES_S)
                changed.clear()
                after = await _look_around()
                change, before = before.change_to(after), after
                if change is Change.NONE:
                    continue
                log.info(
                    "network changed",
                    addresses=sorted(text for text, _ in after.addresses),
                    way_out=after.way_out,
                )
                on_change(change)
    except OSError as error:
        log.warning("network changes cannot be watched", reason=str(error))


async def watch_sleep(clock: Clock, on_change: Callable[[Change], None]) -> None:
    """Tell of each sleep, until cancelled: NATs have forgotten us, and connections are dead."""
    wakes = WakeDetector(clock.now(), suspended_s())
    while True:
        await asyncio.sleep(SLEEP_CHECK_S)
        if wakes.note(clock.now(), suspended_s()):
            log.info("this machine slept")
            on_change(Change.OTHER)


async def _look_around() -> Surroundings:
    def look() -> Surroundings:
        return Surroundings.of(local_addresses(), default_routes())

    try:
        return await asyncio.to_thread(look)
    except OSError:
        return Surroundings(frozenset(), None)
