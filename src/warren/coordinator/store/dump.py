"""All rows as JSON lines, table by table, and back: the same from and to either database.

The tables are read from the database itself, not from this version's `tables`: so a dump of an
older schema goes in as it is, and is then migrated as the database itself would have been.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
from alembic.util import CommandError
from sqlalchemy import (
    Boolean,
    Connection,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from warren.coordinator.store import rows, schema, tables
from warren.coordinator.store.connecting import StoreProblem, connect, explain
from warren.coordinator.store.database import snapshot_in
from warren.coordinator.store.postgresql import DatabaseInUse

_AT_ONCE = 500
"""Rows in one statement."""
_VERSION_TABLE = "alembic_version"


class MalformedDump(ValueError):
    """The lines are not rows of ours. The text says what is wrong, for a sentence."""


class Contents:
    """One moment of a database. `revision` is its schema's."""

    def __init__(self, connection: Connection, revision: str) -> None:
        self.revision = revision
        self._connection = connection
        # No step has ever removed a table; what else lies in the database is not ours.
        self._tables = [table for table in _reflect(connection) if table.name in _OURS]

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has, tables that others point to first."""
        return {
            table.name: self._connection.execute(select(func.count()).select_from(table)).scalar()
            or 0
            for table in self._tables
        }

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield a table's rows: a JSON object each, with a line feed; bytes are base64."""
        (table,) = (table for table in self._tables if table.name == name)
        query = select(table).order_by(*table.primary_key.columns)
        found = self._connection.execution_options(yield_per=_AT_ONCE).execute(query)
        for row in found.mappings():
            yield msgspec.json.encode(rows.fitting(table, dict(row))) + b"\n"


class Filling:
    """An empty database whose tables are there."""

    def __init__(self, connection: Connection, made: list[Table]) -> None:
        self._connection = connection
        self._tables = {table.name: table for table in made}

    @property
    def names(self) -> list[str]:
        """Tables in the order in which they must be filled."""
        return list(self._tables)

    def add_untrusted(self, name: str, lines: Iterable[bytes]) -> None:
        """Put a table's rows in. Raises MalformedDump."""
        table = self._tables[name]
        shape = row_shape(table)
        decoded = (decode_row_untrusted(line, name, n, shape) for n, line in enumerate(lines, 1))
        while batch := list(islice(decoded, _AT_ONCE)):
            self._connection.execute(table.insert(), batch)


@contextmanager
def reading(url: str) -> Iterator[Contents]:
    """Give a database's contents at one moment; whoever writes meanwhile is not held up.

    Raises StoreProblem.
    """
    engine, shown = connect(url, writing=False)
    path = make_url(url).database
    if engine.dialect.name == "sqlite" and path and not Path(path).exists():
        raise StoreProblem(f"there is no database {shown}; name the server's with --database")
    try:
        with engine.begin() as connection:
            revision = schema.present(connection)
            if revision is None:
                raise StoreProblem(f"the database {shown} holds nothing of a warren server")
            if revision not in schema.revisions():
                raise StoreProblem(
                    f"the database {shown} was written by a newer version of warren; use that one"
                )
            yield Contents(connection, revision)
    except SQLAlchemyError as error:
        raise explain(error, shown) from error
    finally:
        engine.dispose()


@contextmanager
def filling(url: str, revision: str) -> Iterator[Filling]:
    """Give an empty database with the tables of a revision; afterwards bring it up to date.

    All in one transaction: after an exception the database is empty as before. Raises
    StoreProblem, and MalformedDump for rows that make no network.
    """
    engine, shown = connect(url)
    schema.migrating(engine)
    try:
        with engine.begin() as connection:
            before = set(inspect(connection).get_table_names())
            if before & {*_OURS, _VERSION_TABLE}:
                raise StoreProblem(
                    f"the database {shown} is not empty; restore into one that was made just now"
                )
            schema.migrate(connection, revision)
            made = [table for table in _reflect(connection) if table.name not in before]
            yield Filling(connection, made)
            _count_on(connection, made)
            schema.migrate(connection)
            _check(connection)
    except (SQLAlchemyError, CommandError, DatabaseInUse) as error:
        raise explain(error, shown) from error
    finally:
        engine.dispose()


def row_shape(table: Table) -> type[msgspec.Struct]:
    """Return the type that a line of this table must have."""
    fields: list[tuple[str, Any]] = []
    for column in table.columns:
        kind = _kind(column.type)
        fields.append((str(column.name), kind | None if column.nullable else kind))
    return msgspec.defstruct(str(table.name), fields, forbid_unknown_fields=True)


def _kind(column_type: Any) -> Any:
    match column_type:
        case Boolean():
            return bool
        case Integer():
            return Annotated[int, msgspec.Meta(ge=-rows.INT4_MAX, le=rows.INT4_MAX)]
        case DateTime() | tables.UtcDateTime():
            return Annotated[datetime, msgspec.Meta(tz=False)]
        case LargeBinary():
            return bytes
        case String():
            return Annotated[str, msgspec.Meta(max_length=column_type.length)]
    raise TypeError(f"no shape for {column_type!r}")


def decode_row_untrusted(
    line: bytes, name: str, number: int, shape: type[msgspec.Struct]
) -> dict[str, Any]:
    """Read a line as a row of the table `name`. Raises MalformedDump."""
    try:
        return msgspec.structs.asdict(msgspec.json.decode(line, type=shape))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedDump(f"line {number} of {name} is no row of it ({error})") from error


def _reflect(connection: Connection) -> list[Table]:
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != _VERSION_TABLE]


def _count_on(connection: Connection, made: list[Table]) -> None:
    """Let the database's counters go on after the rows that came with their ids."""
    if connection.dialect.name != "postgresql":
        return
    for table in made:
        for column in table.primary_key.columns:
            if column.server_default is not None:
                newest = select(func.coalesce(func.max(column), 0)).scalar_subquery()
                sequence = func.pg_get_serial_sequence(table.name, column.name)
                connection.execute(select(func.setval(sequence, newest + 1, text("false"))))


def _check(connection: Connection) -> None:
    """See that a server could start from these rows. Raises MalformedDump."""
    try:
        snapshot_in(connection)
        entries = connection.execution_options(yield_per=_AT_ONCE).execute(select(tables.audit))
        for row in entries.mappings():
            rows.audit_from(dict(row))
    except rows.UNREADABLE as error:
        raise MalformedDump(f"a row of it cannot be read ({error})") from error


_OURS = frozenset(tables.metadata.tables)
