"""One engine, one writer thread, transactions one after the other.

Why a thread and not an asynchronous driver: SQLite has one writer anyway, and a single thread
that runs whole transactions keeps them serial without a lock, keeps the event loop free while
the disk syncs, and needs no second driver for each database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

from alembic.util import CommandError
from sqlalchemy import (
    Connection,
    Table,
    select,
)
from sqlalchemy.exc import SQLAlchemyError

from warren.coordinator.delta import Delta
from warren.coordinator.records import AuditRecord
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import rows, schema, tables
from warren.coordinator.store.connecting import (
    Database,
    StoreAway,
    StoreProblem,
    connect,
    explain,
)
from warren.coordinator.store.postgresql import DatabaseInUse
from warren.coordinator.store.writing import apply

_FAILURES = (SQLAlchemyError, DatabaseInUse)
# A server that is away is not asked again for as long as it took to find that out, at most this.
_LONGEST_PAUSE_S = 10.0


class AuditQuestion(NamedTuple):
    """Which entries of the audit log: at most `limit` with an id below `before_id`, in a time."""

    limit: int = 100
    before_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None


Measure = Callable[[float, bool], None]


class Store:
    """The coordinator's database, opened and migrated."""

    def __init__(self, database: Database) -> None:
        self._engine, self._shown = database
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        # Until when a server that is away is not asked again (monotonic seconds), and why.
        self._pause: tuple[float, str] | None = None
        self._measure: Measure = lambda seconds, taken: None

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the database at an SQLAlchemy URL and bring its tables up to date.

        Blocks; meant for the start. Raises StoreProblem.
        """
        database = connect(url)
        store = cls(database)
        try:
            if database.engine.dialect.name == "sqlite":
                aside = schema.migrating(connect(url).engine)
                try:
                    with aside.begin() as connection:
                        schema.migrate(connection)
                finally:
                    aside.dispose()
            else:
                with database.engine.begin() as connection:
                    schema.migrate(connection)
        except (*_FAILURES, CommandError) as error:
            store.close()
            raise explain(error, database.shown) from error
        return store

    @staticmethod
    def look(url: str) -> None:
        """Look whether `open` could work, and change nothing. Raises StoreProblem."""
        database = connect(url, writing=False)
        engine, file = database.engine, database.engine.url.database
        if engine.dialect.name == "sqlite" and file and not Path(file).exists():
            if not Path(file).parent.is_dir():
                raise StoreProblem(f"the database {file} can't be made: there is no such directory")
            return
        try:
            with engine.begin() as connection:
                found = schema.present(connection)
        except (*_FAILURES, CommandError) as error:
            raise explain(error, database.shown) from error
        finally:
            engine.dispose()
        if found is not None and found not in schema.revisions():
            raise StoreProblem(
                f"the database {database.shown} was written by a newer version of warren; use that "
                "version, or a backup from before it"
            )

    def load(self) -> Snapshot:
        """Read everything. Blocks; meant for the start. Raises StoreProblem."""
        try:
            with self._engine.begin() as connection:
                return snapshot_in(connection)
        except _FAILURES as error:
            raise explain(error, self._shown) from error
        except rows.UNREADABLE as error:
            raise StoreProblem(
                f"the database {self._shown} holds a row that this version cannot read ({error})"
            ) from error

    async def write(self, *deltas: Delta) -> None:
        """Write deltas in their order in one transaction: all of it, or nothing.

        Raises StoreProblem.
        """
        began, taken = time.monotonic(), False
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self.write_now, *deltas)
            taken = True
        finally:
            self._measure(time.monotonic() - began, taken)

    def measure(self, measure: Measure) -> None:
        """Call `measure` after each write with its seconds, line included, and whether taken."""
        self._measure = measure

    def write_now(self, *deltas: Delta) -> None:
        """Do the same in the calling thread. Raises StoreProblem."""
        with self._transaction() as connection:
            apply(connection, deltas)

    async def read_audit(self, question: AuditQuestion) -> list[AuditRecord]:
        """Return entries of the audit log, newest first. Raises StoreProblem."""
        return await asyncio.get_running_loop().run_in_executor(
            self._writer, self._read_audit_now, question
        )

    def _read_audit_now(self, question: AuditQuestion) -> list[AuditRecord]:
        table = tables.audit
        query = select(table).order_by(table.c.id.desc()).limit(question.limit)
        if question.before_id is not None:
            query = query.where(table.c.id < question.before_id)
        if question.since is not None:
            query = query.where(table.c.wall >= question.since)
        if question.until is not None:
            query = query.where(table.c.wall < question.until)
        with self._transaction() as connection:
            return [rows.audit_from(dict(row)) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        """Finish what is being written, then let go of the database."""
        self._writer.shutdown(wait=True)
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A transaction. Raises StoreProblem, at once where the server is known to be away.

        One that does not even refuse takes seconds to find out; whoever waits in line would
        wait for all before them.
        """
        began = time.monotonic()
        if self._pause is not None and began < self._pause[0]:
            raise StoreAway(self._pause[1])
        self._pause = None
        try:
            with self._engine.begin() as connection:
                yield connection
        except _FAILURES as error:
            problem = explain(error, self._shown)
            if isinstance(problem, StoreAway):
                now = time.monotonic()
                self._pause = now + min(now - began, _LONGEST_PAUSE_S), str(problem)
            raise problem from error


def snapshot_in(connection: Connection) -> Snapshot:
    """Read everything. Raises rows.UNREADABLE for a row that we cannot have written."""
    return Snapshot(
        users={r["id"]: rows.user_from(r) for r in _all(connection, tables.users)},
        nodes={r["id"]: rows.node_from(r) for r in _all(connection, tables.nodes)},
        auth_keys={r["id"]: rows.auth_key_from(r) for r in _all(connection, tables.auth_keys)},
        pending={r["id"]: rows.pending_from(r) for r in _all(connection, tables.pending)},
        credentials={
            r["id"]: rows.credential_from(r) for r in _all(connection, tables.credentials)
        },
        webhooks={r["id"]: rows.webhook_from(r) for r in _all(connection, tables.webhooks)},
        deliveries={r["id"]: rows.delivery_from(r) for r in _all(connection, tables.deliveries)},
        invites={r["id"]: rows.invite_from(r) for r in _all(connection, tables.invites)},
        ssh_passes={r["id"]: rows.ssh_pass_from(r) for r in _all(connection, tables.ssh_passes)},
        policies={r["id"]: rows.policy_from(r) for r in _all(connection, tables.policies)},
        settings={r["name"]: r["value"] for r in _all(connection, tables.settings)},
    )


def _all(connection: Connection, table: Table) -> Iterable[rows.Row]:
    return [dict(row) for row in connection.execute(select(table)).mappings()]
