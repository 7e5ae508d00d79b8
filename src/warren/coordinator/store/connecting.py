"""From an URL to an engine, and from a driver's error to a sentence."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError

from warren.coordinator.store import postgresql


class StoreProblem(Exception):
    """The database cannot be used, or refused a change. The text is a sentence for a person."""


class StoreAway(StoreProblem):
    """The database did not answer, or no more: nobody knows whether it took the change."""


class Database(NamedTuple):
    """An engine of one connection, and what the database is called before people."""

    engine: Engine
    shown: str


def connect(url: str, *, writing: bool = True) -> Database:
    """Return the engine for an SQLAlchemy URL; nothing is opened yet.

    writing: begin each transaction as the only writer, and on PostgreSQL keep other servers
    out. Otherwise transactions see one moment, and hold nobody up. Raises StoreProblem.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreProblem("the database URL is not one that SQLAlchemy can read") from error
    shown = _shown(parsed, url)
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        parsed = postgresql.with_limits(parsed)
    elif parsed.get_backend_name() != "sqlite":
        raise StoreProblem(
            f"the database {shown} is not one that warren can use; give postgresql:// or sqlite://"
        )
    try:
        engine = create_engine(parsed, pool_size=1, max_overflow=0, pool_pre_ping=True)
    except ImportError as error:
        raise StoreProblem(
            f"the driver for {shown} is not installed ({error}); get it with: "
            "pip install 'warren[postgres]'"
        ) from error
    except (ArgumentError, TypeError) as error:
        raise StoreProblem(f"the database {shown} can't be used: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_at_once if writing else _begin_to_read)
    elif writing:
        postgresql.keep_others_out(engine)
    else:
        engine = engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
    return Database(engine, shown)


def explain(error: BaseException, shown: str) -> StoreProblem:
    """Return what to tell a person of an error of SQLAlchemy, Alembic or the driver."""
    if isinstance(error, StoreProblem):
        return error
    if isinstance(error, postgresql.DatabaseInUse):
        return StoreAway(
            f"another warren server uses the database {shown}; stop it, or give this one another "
            "--database"
        )
    cause = getattr(error, "orig", None) or error
    text = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
        return StoreProblem("the disk that holds the database is full; the change was not made")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreProblem(
            f"the database {shown} is damaged ({text}); restore it from a backup, "
            "or move it away to start a new network"
        )
    if isinstance(error, CommandError):
        return StoreProblem(
            f"the database {shown} was written by a newer version of warren ({text}); "
            "use that version, or a backup from before it"
        )
    if (refusal := postgresql.refusal(cause)) is not None:
        return StoreAway(f"the server of the database {shown} does not let us in: {refusal}")
    if code is None and unreachable(error):
        return StoreAway(f"the database {shown} does not answer: {text}")
    return StoreProblem(f"the database {shown} refused: {text}")


def unreachable(error: BaseException) -> bool:
    """Whether this is a connection that failed or broke, and not a statement."""
    cause = getattr(error, "orig", None)
    # A broken connection has no SQLSTATE, or one of class 08 or 57P (shut down).
    state = getattr(cause, "sqlstate", None) or ""
    return (
        isinstance(error, OperationalError | InterfaceError)
        and getattr(cause, "sqlite_errorcode", None) is None
        and (not state or state.startswith(("08", "57P")))
    )


def _shown(url: URL, text: str) -> str:
    if url.get_backend_name() == "sqlite":
        return url.database or text
    # Without password and options.
    plain = URL.create(url.get_backend_name(), url.username, None, url.host, url.port, url.database)
    return plain.render_as_string()


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


def _begin_to_read(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN DEFERRED")
