"""Brings to webhooks what waits for them: one request at a time each, again after a failure.

Where a name leads is decided here, for each request anew, and only a permitted address is asked:
whoever may make webhooks must not reach what stands beside the server (SSRF).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

import structlog

from warren.coordinator.audit import SERVER
from warren.coordinator.change import Facet
from warren.coordinator.delta import Delta
from warren.coordinator.records import DeliveryRecord, WebhookRecord
from warren.coordinator.registry import Registry
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import StoreProblem
from warren.coordinator.webhooks import outbox
from warren.coordinator.webhooks.events import expiries
from warren.coordinator.webhooks.messages import SIGNATURE_HEADER, body, signature
from warren.edge.aside import run_aside
from warren.edge.clock import Clock
from warren.edge.dial import reason, verified_tls
from warren.edge.fetch import FetchFailed
from warren.edge.post import Place, post
from warren.nat.turn.reach import Reach
from warren.netmap.endpoint import Endpoint

_log = structlog.get_logger("webhooks")

LOOKED = "webhooks.looked"
"""Until when the time's own events were made, in the settings; so none is told twice or not."""
ANSWER_WITHIN_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 3600.0
_LOOK_EVERY_S = 60.0
# What machines report of themselves all the time: nothing of it ends a key, and a look is at all.
_REPORTED = Facet.PATHS | Facet.PRESENCE | Facet.HOST

Address = IPv4Address | IPv6Address
Resolve = Callable[[str], list[Address]]


class _Trouble(NamedTuple):
    failures: int
    again_at: float
    why: str


def resolve(host: str) -> list[Address]:
    """Return a name's addresses. Blocks. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))


class Sender:
    """Sends what waits. reach: where it may go; what is allowed there by name may also be HTTP."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        reach: Reach,
        clock: Clock,
        *,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._reach = reach
        self._clock = clock
        self._resolve = resolve
        self._tls = tls
        self._looked: datetime | None = None
        self._wake = asyncio.Event()
        self._busy: set[str] = set()
        self._troubles: dict[str, _Trouble] = {}
        self.counts: Counter[str] = Counter({"sent": 0, "failed": 0, "dropped": 0})
        """Events that arrived, requests that failed, events given up."""
        registry.watch(self._changed)

    def trouble(self, hook_id: str) -> str:
        """Return why a webhook was not reached the last time; empty: it was, or nothing was."""
        known = self._troubles.get(hook_id)
        return known.why if known else ""

    async def run(self) -> None:
        """Send, for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                await self._look_at_the_time()
                snapshot, now = self._registry.snapshot, self._clock.now()
                self._troubles = {
                    hook: trouble
                    for hook, trouble in self._troubles.items()
                    if hook in snapshot.webhooks
                }
                for hook_id, queue in outbox.by_webhook(snapshot).items():
                    trouble = self._troubles.get(hook_id)
                    if hook_id in self._busy or (trouble and trouble.again_at > now):
                        continue
                    self._busy.add(hook_id)
                    batch = outbox.next_batch(queue)
                    tasks.create_task(self._deliver(snapshot.webhooks[hook_id], batch))
                try:
                    async with asyncio.timeout(self._pause_s()):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def _changed(self, delta: Delta) -> None:
        if delta.deliveries:
            self.counts["dropped"] += len(delta.removed_deliveries)
        changed = any(facets & ~_REPORTED for facets in delta.change.nodes.values())
        if delta.deliveries or changed or delta.webhooks:
            self._wake.set()

    def _pause_s(self) -> float:
        now = self._clock.now()
        waits = [trouble.again_at - now for trouble in self._troubles.values()]
        return max(0.05, min([_LOOK_EVERY_S, *(wait for wait in waits if wait > 0)]))

    async def _look_at_the_time(self) -> None:
        """Make the events that only the clock makes, and let go of what is too old."""
        snapshot, wall = self._registry.snapshot, self._clock.wall()
        if not snapshot.webhooks:
            return
        if old := outbox.too_old(snapshot, wall):
            self.counts["dropped"] += len(old)
            _log.warning("events were given up: nobody took them for a day", events=len(old))
            await self._registry.observe(lambda _: Delta(removed_deliveries=old))
        kept = snapshot.settings.get(LOOKED)
        since = datetime.fromisoformat(kept) if kept else wall
        if self._looked is not None:
            since = max(since, self._looked)
        self._looked = wall
        events = list(expiries(snapshot, since, wall))
        if not events:
            return

        def decide(before: Snapshot) -> tuple[Delta, None]:
            delta = Delta(settings={LOOKED: wall.isoformat()})
            return outbox.waiting(before, delta, events, wall), None

        try:
            await self._registry.commit(decide, SERVER)
        except StoreProblem as problem:
            self._looked = since  # made once more the next time
            _log.warning("events were not stored", problem=str(problem))

    async def _deliver(self, hook: WebhookRecord, batch: list[DeliveryRecord]) -> None:
        try:
            events = [outbox.event_of(one) for one in batch]
            content = body(events, hook.provider, self._settings.domain, self._settings.url)
            await self._post(hook, content)
            self.counts["sent"] += len(batch)
            self._troubles.pop(hook.id, None)
            gone = tuple(one.id for one in batch)
            await self._registry.observe(lambda _: Delta(removed_deliveries=gone))
        except FetchFailed as failed:
            self._failed(hook, str(failed))
        except (OSError, ValueError) as error:
            # Such as certificates of this machine that cannot be read: no reason to stop.
            self._failed(hook, f"it could not be asked: {reason(error)}")
        finally:
            # Only now: until they are gone from the queue they would be sent once more.
            self._busy.discard(hook.id)
            self._wake.set()

    def _failed(self, hook: WebhookRecord, why: str) -> None:
        before = self._troubles.get(hook.id)
        failures = before.failures if before else 0
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**failures)
        self._troubles[hook.id] = _Trouble(failures + 1, self._clock.now() + pause_s, why)
        self.counts["failed"] += 1
        _log.warning("a webhook was not reached", webhook=hook.id, reason=why, again_in_s=pause_s)

    async def _post(self, hook: WebhookRecord, content: bytes) -> None:
        """Send one request. Raises FetchFailed."""
        parts = urlsplit(hook.url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        ip = await self._address(host, secure)
        headers = [("content-type", "application/json")]
        if not hook.provider:
            headers.append((SIGNATURE_HEADER, signature(hook.secret, self._clock.wall(), content)))
        if secure and self._tls is None:
            self._tls = await asyncio.to_thread(verified_tls)
        place = Place(
            at=Endpoint(ip, parts.port or (443 if secure else 80)),
            host=host,
            authority=parts.netloc,
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            tls=self._tls if secure else None,
        )
        status = await post(place, headers, content, limit_s=ANSWER_WITHIN_S)
        if not 200 <= status < 300:
            raise FetchFailed(f"it answered {status}")

    async def _address(self, host: str, secure: bool) -> Address:
        """Return where to connect. Raises FetchFailed."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                found = await run_aside(lambda: self._resolve(host))
        except (OSError, UnicodeError, TimeoutError):
            raise FetchFailed(f"the name {host} has no address") from None
        allowed = self._reach.permits if secure else self._reach.names
        for ip in found:
            if allowed(getattr(ip, "ipv4_mapped", None) or ip):
                return ip
        if not secure:
            raise FetchFailed(f"http:// is only for what --webhook-allow names, and not for {host}")
        raise FetchFailed(
            f"{host} is not in the public network; --webhook-allow of the server may allow it"
        )
