"""Keeps the relay regions as files and URLs have them, while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from warren.coordinator.region_sources import FETCH_S, LOOK_S, RETRY_S, RegionSources
from warren.coordinator.regions import RegionProblem, Regions, combine
from warren.netmap.derpmap import DERPMap

_log = structlog.get_logger("regions")


class RegionKeeper:
    """Our own region and those of `sources`, which it reads. Raises RegionProblem.

    changed: called after each change, with the regions that are in force from now on.
    """

    def __init__(
        self, own: DERPMap, sources: RegionSources, changed: Callable[[Regions], Awaitable[None]]
    ) -> None:
        self._own = own
        self._sources = sources
        self._changed = changed
        self._asked = asyncio.Event()
        self._conflict = ""
        sources.load()
        self.regions: Regions = combine(own, sources.maps())

    def problems(self) -> list[str]:
        """Return why some of the regions are old, or not there; each a sentence."""
        found = [*self._sources.problems.values(), *([self._conflict] if self._conflict else [])]
        return sorted(found)

    def look(self) -> None:
        """Read and fetch everything anew, soon."""
        self._asked.set()

    async def run(self) -> None:
        """Follow the files and URLs, for ever."""
        loop = asyncio.get_running_loop()
        fetch_at = loop.time()
        while True:
            asked = self._asked.is_set()
            self._asked.clear()
            fresh = self._sources.reload(all_of_them=asked)
            if self._sources.has_urls and (asked or loop.time() >= fetch_at):
                fresh |= await self._sources.fetch()
                wait_s = RETRY_S if self._sources.problems else FETCH_S
                fetch_at = loop.time() + wait_s
            if fresh:
                await self._renew()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._asked.wait()

    async def _renew(self) -> None:
        try:
            found = combine(self._own, self._sources.maps())
        except RegionProblem as problem:
            self._conflict = str(problem)
            _log.error("relay regions stay as they were", problem=self._conflict)
            return
        self._conflict = ""
        if found != self.regions:
            self.regions = found
            _log.info("relay regions changed", regions=sorted(found.sources))
            await self._changed(found)
