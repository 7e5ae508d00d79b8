"""How far the relays are where UDP is dead: the time that a TCP handshake takes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from warren.edge.clock import Clock
from warren.engine.commands import RelayNode
from warren.netmap.endpoint import Endpoint, MalformedEndpoint

LIMIT_S = 1.5
_REGIONS_MAX = 64
_ADDRESSES_MAX = 2


async def handshake_times(
    regions: Mapping[int, Sequence[RelayNode]], clock: Clock, limit_s: float = LIMIT_S
) -> dict[int, float]:
    """Return seconds by region, for those whose first relay takes a connection in time.

    The relay sees a connection that says nothing. A network that has only an HTTP proxy gives no
    times, and home is then chosen without.
    """
    found: dict[int, float] = {}

    async def measure(region: int, address: str) -> None:
        with suppress(OSError, MalformedEndpoint, TimeoutError):
            at = Endpoint.parse(address)
            began = clock.now()
            _, writer = await asyncio.open_connection(str(at.ip), at.port)
            took = clock.now() - began
            writer.close()
            found[region] = min(took, found.get(region, took))

    first = [(region, relays[0]) for region, relays in sorted(regions.items()) if relays]
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await asyncio.gather(
                *(
                    measure(region, address)
                    for region, relay in first[:_REGIONS_MAX]
                    for address in relay.addrs[:_ADDRESSES_MAX]
                )
            )
    return found
