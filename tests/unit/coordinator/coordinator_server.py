"""A whole server in this process, over loopback sockets, and machines that join it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from api_office import empty_database
from coordinator_machine import Machine

from warren.coordinator.admin import shapes
from warren.coordinator.client import AdminClient
from warren.coordinator.config import Config
from warren.coordinator.daemon import Ready, Server
from warren.coordinator.store import Store
from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.lab.ports import free_port


class Running:
    """A server that listens, its ports, and its administration."""

    def __init__(self, state: Path, **settings: Any) -> None:
        self.state = state
        self.http, self.tls, self.stun = free_port(), free_port(), free_port()
        self.settings = settings
        self.join = ""

    async def start(self) -> None:
        config = Config(
            url=f"http://127.0.0.1:{self.http}",
            listen=f"127.0.0.1:{self.tls}",
            http=f"127.0.0.1:{self.http}",
            stun=f"127.0.0.1:{self.stun}",
            **self.settings,
        )
        file = self.state / "warren.db"
        if not file.exists():
            shutil.copy(empty_database(), file)
        self.store = Store.open(f"sqlite:///{file}")
        self.server = Server(config, self.state, self.store, SystemClock(), system_entropy)
        listening = asyncio.Event()

        def ready(told: Ready) -> None:
            if told.first is not None:
                self.join, self.owner = told.first
            listening.set()

        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self.server.run(ready))
        waiting = loop.create_task(listening.wait())
        await asyncio.wait({self.task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            self.task.result()

    async def stop(self) -> None:
        self.server._stopping.set()
        await asyncio.wait_for(self.task, 5)
        self.store.close()

    async def admin(self, work: Callable[[AdminClient], Any]) -> Any:
        return await asyncio.to_thread(work, AdminClient(self.state))

    async def key(self, **fields: Any) -> str:
        fields.setdefault("reusable", True)
        new = shapes.NewAuthKey(user="admin", **fields)
        made = await self.admin(lambda client: client.create_key(new))
        return made.key

    async def join_machine(self, name: str, key: str) -> Machine:
        machine = await Machine(self.http, name).connect()
        response = await machine.register(auth_key=key)
        assert response.machine_authorized, response.error
        machine.poll()
        await machine.until(lambda view: view.node is not None)
        return machine


@contextlib.asynccontextmanager
async def joined(running: Running, *names: str) -> AsyncIterator[list[Machine]]:
    key = await running.key()
    machines = [await running.join_machine(name, key) for name in names]
    try:
        yield machines
    finally:
        for machine in machines:
            await machine.close()
