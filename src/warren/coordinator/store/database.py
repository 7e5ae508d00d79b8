"""One engine, one writer thread, transactions one after the other.

Why a thread and not an asynchronous driver: SQLite has one writer anyway, and a single thread
that runs whole transactions keeps them serial without a lock, keeps the event loop free while
the disk syncs, and needs no second driver for each database.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple, Self

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    Connection,
    Engine,
    String,
    Table,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from warren.coordinator.audit import KEPT_ENTRIES
from warren.coordinator.delta import Delta
from warren.coordinator.records import AuditRecord
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import rows, tables

_MIGRATIONS = "warren.coordinator.store:migrations"


class AuditQuestion(NamedTuple):
    """Which entries of the audit log: at most `limit` with an id below `before_id`, in a time."""

    limit: int = 100
    before_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None


class StoreProblem(Exception):
    """The database cannot be used, or refused a change. The text is a sentence for a person."""


class Store:
    """The coordinator's database, opened and migrated."""

    def __init__(self, engine: Engine, shown: str) -> None:
        self._engine = engine
        self._shown = shown
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the database at an SQLAlchemy URL and bring its tables up to date.

        Blocks; meant for the start. Raises StoreProblem.
        """
        try:
            parsed = make_url(url)
            if parsed.drivername in ("postgres", "postgresql"):
                parsed = parsed.set(drivername="postgresql+psycopg")
            shown = (
                parsed.database or url
                if parsed.get_backend_name() == "sqlite"
                else (parsed.render_as_string(hide_password=True))
            )
        except ArgumentError as error:
            raise StoreProblem("the database URL is not one that SQLAlchemy can read") from error
        try:
            engine = create_engine(parsed, pool_size=1, max_overflow=0, pool_pre_ping=True)
        except ImportError as error:
            raise StoreProblem(f"the driver for {shown} is not installed: {error}") from error
        except (ArgumentError, TypeError) as error:
            raise StoreProblem(f"the database {shown} can't be used: {error}") from error
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_at_once)
        store = cls(engine, shown)
        try:
            store._migrate()
        except (SQLAlchemyError, CommandError) as error:
            engine.dispose()
            raise StoreProblem(store._explain(error)) from error
        return store

    def load(self) -> Snapshot:
        """Read everything. Blocks; meant for the start. Raises StoreProblem."""
        try:
            with self._engine.begin() as connection:
                return Snapshot(
                    users={r["id"]: rows.user_from(r) for r in _all(connection, tables.users)},
                    nodes={r["id"]: rows.node_from(r) for r in _all(connection, tables.nodes)},
                    auth_keys={
                        r["id"]: rows.auth_key_from(r) for r in _all(connection, tables.auth_keys)
                    },
                    pending={
                        r["id"]: rows.pending_from(r) for r in _all(connection, tables.pending)
                    },
                    credentials={
                        r["id"]: rows.credential_from(r)
                        for r in _all(connection, tables.credentials)
                    },
                    policies={
                        r["id"]: rows.policy_from(r) for r in _all(connection, tables.policies)
                    },
                    settings={r["name"]: r["value"] for r in _all(connection, tables.settings)},
                )
        except SQLAlchemyError as error:
            raise StoreProblem(self._explain(error)) from error
        except (ValueError, TypeError) as error:
            raise StoreProblem(
                f"the database {self._shown} holds a row that this version cannot read ({error})"
            ) from error

    async def write(self, delta: Delta) -> None:
        """Write a delta in one transaction: all of it, or nothing. Raises StoreProblem."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self.write_now, delta)

    def write_now(self, delta: Delta) -> None:
        """Do the same in the calling thread. Raises StoreProblem."""
        try:
            with self._engine.begin() as connection:
                _apply(connection, delta)
        except SQLAlchemyError as error:
            raise StoreProblem(self._explain(error)) from error

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
        try:
            with self._engine.begin() as connection:
                found = connection.execute(query).mappings()
                return [rows.audit_from(dict(row)) for row in found]
        except SQLAlchemyError as error:
            raise StoreProblem(self._explain(error)) from error

    def close(self) -> None:
        """Finish what is being written, then let go of the database."""
        self._writer.shutdown(wait=True)
        self._engine.dispose()

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", _MIGRATIONS)
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _explain(self, error: Exception) -> str:
        cause = getattr(error, "orig", None) or error
        text = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
            return "the disk that holds the database is full; the change was not made"
        if code is not None and code & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return (
                f"the database {self._shown} is damaged ({text}); restore it from a backup, "
                "or move it away to start a new network"
            )
        if isinstance(error, CommandError):
            return (
                f"the database {self._shown} was written by a newer version of warren ({text}); "
                "use that version, or a backup from before it"
            )
        if isinstance(error, OperationalError) and code is None:
            return f"the database {self._shown} does not answer: {text}"
        return f"the database {self._shown} refused: {text}"


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling would begin late and without a write lock.
    connection.isolation_level = None
    cursor = connection.cursor()
    # WAL with synchronous=NORMAL: a killed process loses nothing that was committed.
    for pragma in (
        "busy_timeout=5000",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_at_once(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _all(connection: Connection, table: Table) -> Iterable[rows.Row]:
    return [dict(row) for row in connection.execute(select(table)).mappings()]


def _apply(connection: Connection, delta: Delta) -> None:
    for removed, table in (
        (delta.removed_pending, tables.pending),
        (delta.removed_nodes, tables.nodes),
        (delta.removed_auth_keys, tables.auth_keys),
        (delta.removed_credentials, tables.credentials),
        (delta.removed_users, tables.users),
        (delta.removed_policies, tables.policies),
    ):
        if removed:
            connection.execute(table.delete().where(table.c.id.in_(removed)))
    for records, table in (
        (delta.users, tables.users),
        (delta.auth_keys, tables.auth_keys),
        (delta.nodes, tables.nodes),
        (delta.pending, tables.pending),
        (delta.policies, tables.policies),
        (delta.credentials, tables.credentials),
    ):
        for record in records:
            _replace(connection, table, "id", rows.to_row(record))
    for name, value in delta.settings.items():
        _replace(connection, tables.settings, "name", {"name": name, "value": value})
    if delta.audit:
        _note(connection, delta.audit)


def _note(connection: Connection, entries: Iterable[AuditRecord]) -> None:
    table = tables.audit
    noted = [rows.to_row(entry) for entry in entries]
    for row in noted:
        # The database counts; texts that came from outside are cut to what a column takes.
        del row["id"]
        for column in table.columns:
            if isinstance(column.type, String) and column.type.length is not None:
                row[column.name] = row[column.name][: column.type.length]
    connection.execute(table.insert(), noted)
    newest = connection.execute(select(func.max(table.c.id))).scalar_one()
    connection.execute(table.delete().where(table.c.id <= newest - KEPT_ENTRIES))


def _replace(connection: Connection, table: Table, key: str, row: dict[str, Any]) -> None:
    # Update, then insert: the one form of "upsert" that every database has.
    changed = connection.execute(table.update().where(table.c[key] == row[key]).values(row))
    if not changed.rowcount:
        connection.execute(table.insert().values(row))
