"""The TUN device's addresses and routes, kept as the map wants them, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from warren.edge.linux.device import DeviceRoutes, RouteProblem

log = structlog.get_logger(__name__)


class DeviceKeeper:
    """Gives the device what was wanted last, one change after another.

    make: gives the device's routes, called in a thread; None in userspace mode, where there is
    no device and nothing to wait for. on_change: called when `ready` or `problem` may be new.
    """

    def __init__(
        self, make: Callable[[], DeviceRoutes] | None, on_change: Callable[[], None]
    ) -> None:
        self._make = make
        self._on_change = on_change
        self._routes: DeviceRoutes | None = None
        self._wanted: tuple[list[str], dict[str, int]] = ([], {})
        self._news = asyncio.Event()
        self.ready = make is None
        """Whether the node's own addresses are on the device."""
        self.problem = ""
        """Why the kernel refused the last change; one sentence, else empty."""

    def want(self, addresses: list[str], routes: dict[str, int]) -> None:
        """Take the prefixes that the device is to have, routes with the MTU of their peer's path.

        None of both clears it.
        """
        if self._wanted != (addresses, routes):
            self._wanted = (addresses, routes)
            self._news.set()

    async def run(self) -> None:
        """Follow `want` until cancelled."""
        if self._make is None:
            return
        # pyroute2 would take the running loop for its own, and uvloop knows no netlink.
        routes = self._routes = await asyncio.to_thread(self._make)
        while True:
            await self._news.wait()
            self._news.clear()
            addresses, prefixes = self._wanted
            try:
                await asyncio.to_thread(routes.apply, addresses, prefixes)
                self.problem = ""
            except RouteProblem as error:
                log.error("routes", reason=str(error))
                self.problem = str(error)
            self.ready = bool(addresses)
            self._on_change()

    async def clear(self) -> None:
        """Take everything back, when `run` has ended."""
        if self._routes is not None:
            with suppress(RouteProblem):
                await asyncio.to_thread(self._routes.clear)
