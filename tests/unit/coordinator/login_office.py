"""The pages of a server over a database, without a socket, and browsers of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from argon2 import PasswordHasher
from coordinator_world import World, machine_key, request
from web_browser import Browser, Page

from warren.coordinator import members
from warren.coordinator.auth.flow import Registration
from warren.coordinator.delta import Delta
from warren.coordinator.login import invites
from warren.coordinator.login.passwords import Passwords
from warren.coordinator.login.sessions import Sessions
from warren.coordinator.login.site import Site
from warren.coordinator.records import UserRecord
from warren.coordinator.registry import Registry
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.ssh_checks import SshChecks
from warren.coordinator.store import Store
from warren.coordinator.web import site

PASSWORD = "correct horse battery"
SECRET = "seal of the tests"
_QUICK = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


class Office:
    """A server. providers: to log in by, by name."""

    def __init__(
        self,
        directory: Path,
        world: World,
        base: str = "http://warren.test",
        providers: Mapping[str, Any] | None = None,
    ) -> None:
        self.world = world
        self.store = Store.open(f"sqlite:///{directory / 'warren.db'}")
        self.registry = Registry(self.store, self.store.load(), world.clock)
        self.registration = Registration(self.registry, world.settings, world.clock, world.entropy)
        sessions = Sessions(SECRET.encode(), base.startswith("https:"), world.clock, world.entropy)
        self.check_s: float | None = 3600.0
        self.checks = SshChecks(
            lambda: self.registry.snapshot,
            lambda source, target, local_user: self.check_s,
            base,
            world.clock,
            world.entropy,
        )
        pages = Site(
            self.registry,
            self.registration,
            providers or {},
            sessions,
            _QUICK,
            world.clock,
            world.entropy,
            self.checks,
        )
        self.app, self.base = site(pages.routes()), base

    def browser(self, address: str = "192.0.2.7") -> Browser:
        """Return a browser that asks us without a socket, and all others with one."""
        here = httpx.ASGITransport(self.app, client=(address, 1))
        return Browser(httpx.AsyncClient(mounts={self.base: here}, base_url=self.base))

    async def user(self, name: str, role: str = "member") -> str:
        """Make a user; return their link."""

        def decide(snapshot: Snapshot) -> tuple[Delta, str]:
            made = members.create_user(snapshot, name, "", self.world.clock.wall())
            world = self.world
            delta, link = invites.make(
                snapshot, made.users[0], wall=world.clock.wall(),
                life=timedelta(days=1), entropy=world.entropy,
            )  # fmt: skip
            user = made.users[0]
            return Delta(users=(user,), invites=delta.invites, settings=made.settings), link

        return f"{invites.PATH}{await self.registry.commit(decide)}"

    async def logged_in(self, name: str) -> tuple[Browser, Page]:
        """Accept a new user's link, with the password of these tests."""
        link, browser = await self.user(name), self.browser()
        page = await browser.submit(await browser.get(link), link, new=PASSWORD)
        return browser, page

    async def waiting(self, hostname: str = "laptop", **fields: object) -> str:
        """Let a machine wait; return its page."""
        answer = await self.registration.register(
            machine_key("m").public(), request("n", hostname=hostname, **fields)
        )
        return answer.auth_url.removeprefix("http://warren.test")

    def known(self, name: str) -> UserRecord:
        found = self.registry.snapshot.user_named(name)
        assert found is not None
        return found
