"""The one place where state changes: decide, write, show, tell; one after the other.

A decision is a pure function from the present snapshot to a delta. Only once the database has
the delta does the snapshot show it and are the sessions told, so nobody acts on a change that
a crash could undo.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from warren.coordinator import audit
from warren.coordinator.audit import SERVER, Actor
from warren.coordinator.change import Change, Facet
from warren.coordinator.delta import Delta
from warren.coordinator.doubt import Doubt
from warren.coordinator.records import AuditRecord
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import AuditQuestion, Store, StoreAway, StoreProblem
from warren.coordinator.webhooks.outbox import with_events
from warren.edge.clock import Clock

_T = TypeVar("_T")
Listener = Callable[[Change], None]
Watcher = Callable[[Delta], None]

_log = structlog.get_logger("registry")

_WORTH_A_LINE = Facet.MEMBERSHIP | Facet.NAME | Facet.OWNER | Facet.PRESENCE


class Registry:
    """Holds the snapshot and the way to the next one."""

    def __init__(self, store: Store, snapshot: Snapshot, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._snapshot = snapshot
        self._doubt = Doubt()
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._listeners: list[Listener] = []
        self._watchers: list[Watcher] = []

    @property
    def snapshot(self) -> Snapshot:
        """The present state; it never changes under the reader."""
        return self._snapshot

    def listen(self, listener: Listener) -> None:
        """Call `listener` after every change, in the event loop; it must not block."""
        self._listeners.append(listener)

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` with every delta once it is in force; it must not block."""
        self._watchers.append(watcher)

    async def commit(
        self, decide: Callable[[Snapshot], tuple[Delta | None, _T]], by: Actor = SERVER
    ) -> _T:
        """Take a decision and put it in force; return the decision's second part.

        What changes is noted in the audit log, and kept for webhooks until they heard of it, in the
        same transaction. by: whose decision it is.
        Raises what `decide` raises, and StoreProblem where the database refuses; then nothing
        has changed.
        """

        async def work() -> _T:
            delta, result = decide(self._snapshot)
            if delta is not None:
                wall = self._clock.wall()
                noted = audit.entries(self._snapshot, delta, by, wall)
                delta = replace(with_events(self._snapshot, delta, by, wall), audit=noted)
                await self._write(delta)
                self._show(delta)
            return result

        return await self._in_turn(work)

    async def observe(self, decide: Callable[[Snapshot], Delta | None]) -> None:
        """Put in force what nodes report (endpoints, presence, …).

        Unlike `commit` it goes on where the database refuses: with a full disk the network
        must still find its paths, and a node reports again after a restart.
        """

        async def work() -> None:
            delta = decide(self._snapshot)
            if delta is None:
                return
            try:
                await self._write(delta)
            except StoreProblem as problem:
                _log.warning("a report was not stored", problem=str(problem))
            self._show(delta)

        await self._in_turn(work)

    async def history(self, question: AuditQuestion) -> list[AuditRecord]:
        """Return entries of the audit log, newest first. Raises StoreProblem."""
        return await self._store.read_audit(question)

    async def settle(self) -> None:
        """Wait until every change that was begun is in force."""
        while self._running:
            await asyncio.wait(self._running)

    async def _write(self, delta: Delta) -> None:
        """Write a delta, and before it whatever the database may have missed."""
        repair = self._doubt.repair(self._snapshot)
        try:
            try:
                await self._store.write(*(() if repair is None else (repair,)), delta)
            except StoreAway:
                raise
            except StoreProblem as problem:
                if repair is None:
                    raise
                # What can't be stored must not keep out all that comes after.
                _log.warning("reports were not stored", problem=str(problem))
                await self._store.write(delta)
        except StoreAway:
            self._doubt.note(delta)
            raise
        self._doubt.clear()
        if repair is not None:
            _log.info("the database has what it missed")

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run one change to its end, even if whoever asked for it goes away meanwhile.

        Stopped between the database and the snapshot, the two would differ.
        """

        async def turn() -> _T:
            async with self._turn:
                return await work()

        task = asyncio.get_running_loop().create_task(turn())
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it gets it; if nobody does, it is no news

    def _show(self, delta: Delta) -> None:
        before, self._snapshot = self._snapshot, self._snapshot.after(delta)
        if delta.change:
            _tell_log(delta.change, self._snapshot, before)
            for listener in self._listeners:
                listener(delta.change)
        for watcher in self._watchers:
            watcher(delta)


def _tell_log(change: Change, now: Snapshot, before: Snapshot) -> None:
    """Log who joined, left or was changed; what nodes merely report is not worth a line."""
    for node_id, facets in change.nodes.items():
        node = now.nodes.get(node_id) or before.nodes.get(node_id)
        if node is None:
            continue
        say = _log.info if facets & _WORTH_A_LINE else _log.debug
        say(
            ", ".join(sorted(change.why)),
            node=node.name,
            id=node_id,
            address=str(node.ipv4),
            key=str(node.node_key),
        )
