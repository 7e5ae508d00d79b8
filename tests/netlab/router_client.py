"""A PortMapping that runs on one host of the lab, to be asked from a test's thread."""

from __future__ import annotations

import asyncio
import threading

from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.edge.linux.gateways import default_gateways
from warren.lab.world import Part
from warren.nat.mapping import Finding, MapProtocol
from warren.netmap.endpoint import Endpoint
from warren.node.portmapping import PortMapping

PORT = 41641
EVERY = (MapProtocol.NATPMP, MapProtocol.PCP, MapProtocol.UPNP)


class Client:
    """A PortMapping that runs on one host, from `with` to its end."""

    def __init__(self, part: Part, *only: MapProtocol, port: int = PORT, port6: int = 0) -> None:
        self.part = part
        self.port = port
        self.port6 = port6
        self._disabled = [name for name in EVERY if only and name not in only]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._mapping: PortMapping | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=lambda: part.inside(self._run))

    def _run(self) -> None:
        gateways = default_gateways()

        async def main() -> None:
            made = PortMapping(
                SystemClock(),
                system_entropy,
                gateways=lambda: gateways,
                on_change=lambda: None,
                secret=self.part.name.encode(),
            )
            made.set_disabled(self._disabled)
            made.set_ports(self.port, self.port6)
            self._mapping, self._loop = made, asyncio.get_running_loop()
            self._task = self._loop.create_task(made.run())
            self._ready.set()
            await asyncio.wait([self._task])

        asyncio.run(main())

    def __enter__(self) -> Client:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._loop is not None and self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def it(self) -> PortMapping:
        assert self._mapping is not None
        return self._mapping

    def network_changed(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.it.network_changed)

    @property
    def external(self) -> Endpoint | None:
        return next(iter(self.it.endpoints), None)

    def wait_mapped(self, deadline_s: float = 40.0) -> Endpoint:
        return self.part.wait(lambda: self.external, deadline_s, "a port is mapped")

    def findings(self) -> dict[MapProtocol, Finding]:
        return {o.protocol: o.finding for router in self.it.routers for o in router.outcomes}

    def details(self) -> dict[MapProtocol, str]:
        return {o.protocol: o.detail for router in self.it.routers for o in router.outcomes}

    def wait_found(self, protocol: MapProtocol, finding: Finding, deadline_s: float = 40.0) -> None:
        what = f"{protocol} is {finding}"
        self.part.wait(lambda: self.findings().get(protocol) is finding, deadline_s, what)
