"""The one place where state changes: decide, write, show, tell; one after the other.

A decision is a pure function from the present snapshot to a delta. Only once the database has the
delta does the snapshot show it and are the sessions told, so nobody acts on a change that a crash
could undo. What is asked while the database writes is decided together, each on what the ones
before it leave, and written in one transaction; where that is refused, each is decided anew and
written alone. Where showing takes long, a thread does what it can of that in between, and the next
change waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import structlog

from warren.coordinator import audit
from warren.coordinator.audit import SERVER, Actor
from warren.coordinator.change import Change, Facet
from warren.coordinator.compiled import Compiled
from warren.coordinator.delta import Delta
from warren.coordinator.doubt import Doubt
from warren.coordinator.records import AuditRecord
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import AuditQuestion, Store, StoreAway, StoreProblem
from warren.coordinator.webhooks.outbox import with_events
from warren.edge.aside import run_aside
from warren.edge.clock import Clock

_T = TypeVar("_T")
Listener = Callable[[Change], None]
Preparer = Callable[[Snapshot, Change], Callable[[], Compiled] | None]
Watcher = Callable[[Delta], None]

_log = structlog.get_logger("registry")

_WORTH_A_LINE = Facet.MEMBERSHIP | Facet.NAME | Facet.OWNER | Facet.PRESENCE

# Decisions that are written in one transaction.
_AT_ONCE = 100
# While decisions stand in line, more are waited for, this many times as long as writing took.
_PAUSE, _LONGEST_PAUSE_S = 2, 0.03
Decide = Callable[[Snapshot], tuple[Delta | None, Any]]


class _Asked(NamedTuple):
    """A decision that waits. by: whose it is; None: it is a report."""

    decide: Decide
    by: Actor | None
    answer: asyncio.Future[Any]


class _Draft(NamedTuple):
    """A decision on what those before it leave; its delta is in force once it is written."""

    asked: _Asked
    before: Snapshot
    after: Snapshot
    delta: Delta | None
    result: Any
    error: Exception | None


class Registry:
    """Holds the snapshot and the way to the next one."""

    def __init__(self, store: Store, snapshot: Snapshot, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._snapshot = snapshot
        self._doubt = Doubt()
        self._line: deque[_Asked] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._listeners: list[Listener] = []
        self._watchers: list[Watcher] = []
        self._preparer: Preparer = lambda snapshot, change: None

    @property
    def snapshot(self) -> Snapshot:
        """The present state; it never changes under the reader."""
        return self._snapshot

    def listen(self, listener: Listener) -> None:
        """Call `listener` after every change, in the event loop; it must not block."""
        self._listeners.append(listener)

    def prepare(self, preparer: Preparer) -> None:
        """Ask `preparer` what takes long of showing a change; a thread does it just before.

        Meanwhile the state stays as it was and other decisions wait, so that what is made is for
        the state that is shown next.
        """
        self._preparer = preparer

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
        found: _T = await self._ask(decide, by)
        return found

    async def observe(self, decide: Callable[[Snapshot], Delta | None]) -> None:
        """Put in force what nodes report (endpoints, presence, …).

        Unlike `commit` it goes on where the database refuses: with a full disk the network
        must still find its paths, and a node reports again after a restart.
        """
        await self._ask(lambda snapshot: (decide(snapshot), None), None)

    async def history(self, question: AuditQuestion) -> list[AuditRecord]:
        """Return entries of the audit log, newest first. Raises StoreProblem."""
        return await self._store.read_audit(question)

    async def settle(self) -> None:
        """Wait until every change that was begun is in force."""
        while self._worker is not None:
            await asyncio.wait([self._worker])

    async def _ask(self, decide: Decide, by: Actor | None) -> Any:
        """Stand in line. A change runs to its end, even if whoever asked for it goes away."""
        loop = asyncio.get_running_loop()
        asked = _Asked(decide, by, loop.create_future())
        # Whoever waits for an error gets it; if nobody does, it is no news.
        asked.answer.add_done_callback(lambda answer: answer.exception())
        self._line.append(asked)
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        return await asyncio.shield(asked.answer)

    async def _work(self) -> None:
        try:
            while self._line:
                count = min(len(self._line), _AT_ONCE)
                began = self._clock.now()
                await self._together([self._line.popleft() for _ in range(count)])
                if self._line:
                    # They come faster than one by one: a transaction of many costs little more.
                    took_s = self._clock.now() - began
                    await asyncio.sleep(min(_PAUSE * took_s, _LONGEST_PAUSE_S))
        finally:
            self._worker = None

    async def _together(self, line: list[_Asked]) -> None:
        """Decide all, write all, show each."""
        drafts: list[_Draft] = []
        snapshot = self._snapshot
        for asked in line:
            drafts.append(self._draft(asked, snapshot))
            snapshot = drafts[-1].after
        deltas = [draft.delta for draft in drafts if draft.delta is not None]
        try:
            if deltas:
                await self._write(deltas)
        except StoreProblem as problem:
            if len(line) > 1:
                # What one may not have, those after it must not build on.
                for asked in line:
                    await self._together([asked])
                return
            if line[0].by is not None:
                line[0].answer.set_exception(problem)
                return
            _log.warning("a report was not stored", problem=str(problem))
        for draft in drafts:
            self._answer(await self._prepared(draft))

    def _draft(self, asked: _Asked, before: Snapshot) -> _Draft:
        try:
            delta, result = asked.decide(before)
            if delta is None:
                return _Draft(asked, before, before, None, result, None)
            if asked.by is not None:
                wall = self._clock.wall()
                noted = audit.entries(before, delta, asked.by, wall)
                told = with_events(before, delta, asked.by, wall)
                # Beside what a delta changes it may tell of what happened and changes nothing.
                delta = replace(told, audit=delta.audit + noted)
            return _Draft(asked, before, before.after(delta), delta, result, None)
        except Exception as error:
            return _Draft(asked, before, before, None, None, error)

    async def _prepared(self, draft: _Draft) -> _Draft:
        """Return a draft with what a thread made for its change."""
        delta = draft.delta
        if delta is None or not delta.change:
            return draft
        try:
            work = self._preparer(draft.after, delta.change)
            if work is None:
                return draft
            change = replace(delta.change, compiled=await run_aside(work))
        except Exception:
            # It is in the database, so it is shown; who follows it has to do without.
            _log.exception("a change was not prepared")
            return draft
        return draft._replace(delta=replace(delta, change=change))

    def _answer(self, draft: _Draft) -> None:
        error = draft.error
        if draft.delta is not None:
            try:
                self._show(draft.delta, draft.before, draft.after)
            except Exception as failed:
                error = failed
        if error is not None:
            draft.asked.answer.set_exception(error)
        else:
            draft.asked.answer.set_result(draft.result)

    async def _write(self, deltas: list[Delta]) -> None:
        """Write deltas, and before them whatever the database may have missed."""
        repair = self._doubt.repair(self._snapshot)
        try:
            try:
                await self._store.write(*(() if repair is None else (repair,)), *deltas)
            except StoreAway:
                raise
            except StoreProblem as problem:
                if repair is None:
                    raise
                # What can't be stored must not keep out all that comes after.
                _log.warning("reports were not stored", problem=str(problem))
                await self._store.write(*deltas)
        except StoreAway:
            for delta in deltas:
                self._doubt.note(delta)
            raise
        self._doubt.clear()
        if repair is not None:
            _log.info("the database has what it missed")

    def _show(self, delta: Delta, before: Snapshot, after: Snapshot) -> None:
        self._snapshot = after
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
