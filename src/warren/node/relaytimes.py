"""How far the relays are where UDP is dead: the time that a TCP handshake takes.

Through an HTTP proxy it is the time that the proxy takes to connect, and the way to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from warren.edge.clock import Clock
from warren.edge.dial import DialFailed, Stream, tunnel
from warren.engine.commands import RelayNode
from warren.netmap.endpoint import Endpoint, MalformedEndpoint

LIMIT_S = 1.5
_REGIONS_MAX = 64
_ADDRESSES_MAX = 2


async def handshake_times(
    regions: Mapping[int, Sequence[RelayNode]], clock: Clock, limit_s: float = LIMIT_S
) -> dict[int, float]:
    """Return seconds by region, for those whose first relay takes a connection in time.

    The relay sees a connection that says nothing.
    """
    found: dict[int, float] = {}

    async def measure(region: int, relay: RelayNode, address: str) -> None:
        with suppress(OSError, MalformedEndpoint, TimeoutError):
            at = Endpoint.parse(address)
            # A proxy may know the name and not the address, or in a closed network the reverse.
            names = (f"{relay.server_name}:{at.port}", address) if relay.proxy else (address,)
            for to in names:
                with suppress(DialFailed):
                    began = clock.now()
                    stream = await _open(to, at, relay.proxy)
                    took = clock.now() - began
                    stream.writer.close()
                    found[region] = min(took, found.get(region, took))
                    return

    first = [(region, relays[0]) for region, relays in sorted(regions.items()) if relays]
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await asyncio.gather(
                *(
                    measure(region, relay, address)
                    for region, relay in first[:_REGIONS_MAX]
                    for address in relay.addrs[:_ADDRESSES_MAX]
                )
            )
    return found


async def _open(to: str, at: Endpoint, proxy: str | None) -> Stream:
    if proxy is None:
        return Stream(*await asyncio.open_connection(str(at.ip), at.port))
    through = Endpoint.parse(proxy)
    return await tunnel(to, str(through.ip), through.port)
