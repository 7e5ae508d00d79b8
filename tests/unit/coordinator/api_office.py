"""A network of one machine, its HTTP API without a socket, and what opens it, for tests."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from coordinator_world import World
from msgspec.structs import replace

from warren.coordinator.api.application import PREFIX, Api
from warren.coordinator.api.operation import Context
from warren.coordinator.auth import credentials
from warren.coordinator.auth.credentials import API, Gate
from warren.coordinator.auth.flow import Registration
from warren.coordinator.delta import Delta
from warren.coordinator.registry import Registry
from warren.coordinator.roles import ROLES
from warren.coordinator.store import Store


@cache
def empty_database() -> Path:
    """A database with the newest tables and nothing in them: made once, it is copied for each."""
    directory = TemporaryDirectory(prefix="warren-tests-")
    atexit.register(directory.cleanup)
    file = Path(directory.name) / "empty.db"
    Store.open(f"sqlite:///{file}").close()
    return file


class Office:
    """A network of one machine, its API, and what opens it."""

    def __init__(self, directory: Path, world: World) -> None:
        self.world = world
        self.owner = world.user("ann")
        world.register("m", "n", auth_key=world.auth_key(self.owner)[0], hostname="one")
        self.tokens = {role: self.token(role) for role in ROLES}
        file = directory / "warren.db"
        shutil.copy(empty_database(), file)
        self.store = Store.open(f"sqlite:///{file}")
        snapshot = world.snapshot
        self.store.write_now(
            Delta(
                users=tuple(snapshot.users.values()),
                nodes=tuple(snapshot.nodes.values()),
                auth_keys=tuple(snapshot.auth_keys.values()),
                credentials=tuple(snapshot.credentials.values()),
                settings=snapshot.settings,
            )
        )
        self.registry = Registry(self.store, self.store.load(), world.clock)
        self.registration = Registration(self.registry, world.settings, world.clock, world.entropy)
        context = Context(
            registry=self.registry,
            settings=world.settings,
            clock=world.clock,
            entropy=world.entropy,
            registration=self.registration,
            trouble=lambda webhook: self.trouble(webhook),
        )
        self.trouble: Callable[[str], str] = lambda webhook: ""
        api = Api(context, Gate(b"secret"))
        transport = httpx.ASGITransport(api.application(), client=("192.0.2.7", 1))
        self.http = httpx.AsyncClient(transport=transport, base_url=f"http://x{PREFIX}")

    def token(self, role: str) -> str:
        """Return a token of a user with that role."""
        user_id = self.world.user(role)
        user = self.world.snapshot.users[user_id]
        self.world.apply(Delta(users=(replace(user, role=role),)))
        return self.credential(API, user_id)

    def credential(self, kind: str, user_id: int, **fields: Any) -> str:
        text, record = credentials.mint(
            kind,
            user_id=user_id,
            wall=self.world.clock.wall(),
            entropy=self.world.entropy,
            life=None,
            **fields,
        )
        self.world.apply(Delta(credentials=(record,)))
        return text

    async def ask(
        self, method: str, path: str, token: str | None = None, **more: Any
    ) -> httpx.Response:
        token = self.tokens["owner"] if token is None else token
        headers = {"authorization": f"Bearer {token}", **more.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **more)

    async def told(self, method: str, path: str, **more: Any) -> Any:
        status = more.pop("status", 200)
        answer = await self.ask(method, path, **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    @property
    def node(self) -> str:
        return str(next(iter(self.registry.snapshot.nodes)))
