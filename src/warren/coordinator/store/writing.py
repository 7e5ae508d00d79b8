"""Deltas as statements: few of them, each with many rows, since a busy loop waits for each."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite

from warren.coordinator.audit import KEPT_ENTRIES
from warren.coordinator.delta import KINDS, Delta
from warren.coordinator.records import AuditRecord
from warren.coordinator.store import rows, tables

_TABLES: dict[str, Table] = {kind: getattr(tables, kind) for kind in KINDS}


def apply(connection: Connection, deltas: Iterable[Delta]) -> None:
    """Write deltas as if one after the other; of what several of them change, the last counts."""
    records: dict[str, dict[Any, Any]] = {kind: {} for kind in KINDS}
    settings: dict[str, str] = {}
    noted: list[AuditRecord] = []
    for delta in deltas:
        if any(map(delta.removed, KINDS)):
            _write_records(connection, records)
            _remove(connection, delta)
        for name, known in records.items():
            known.update((record.id, record) for record in getattr(delta, name))
        settings.update(delta.settings)
        noted += delta.audit
    _write_records(connection, records)
    named = [{"name": name, "value": value} for name, value in settings.items()]
    _replace(connection, tables.settings, "name", named)
    if noted:
        _note(connection, noted)


def _write_records(connection: Connection, records: dict[str, dict[Any, Any]]) -> None:
    """Write what was collected, and forget it."""
    for kind, table in _TABLES.items():
        made = [rows.fitting(table, rows.to_row(record)) for record in records[kind].values()]
        _replace(connection, table, "id", made)
        records[kind].clear()


def _remove(connection: Connection, delta: Delta) -> None:
    if delta.removed_webhooks:
        # Some may be here alone: that they went was perhaps not stored.
        left = tables.deliveries.c.webhook_id.in_(delta.removed_webhooks)
        connection.execute(tables.deliveries.delete().where(left))
    for kind, table in reversed(_TABLES.items()):
        if removed := delta.removed(kind):
            connection.execute(table.delete().where(table.c.id.in_(removed)))


def _note(connection: Connection, entries: Iterable[AuditRecord]) -> None:
    table = tables.audit
    noted = [rows.fitting(table, rows.to_row(entry)) for entry in entries]
    for row in noted:
        del row["id"]  # the database counts
    connection.execute(table.insert(), noted)
    newest = connection.execute(select(func.max(table.c.id))).scalar_one()
    connection.execute(table.delete().where(table.c.id <= newest - KEPT_ENTRIES))


def _replace(connection: Connection, table: Table, key: str, made: list[dict[str, Any]]) -> None:
    if made:
        connection.execute(_upsert(table, key, connection.dialect.name), made)


@lru_cache(maxsize=64)
def _upsert(table: Table, key: str, dialect: str) -> Any:
    """Return "insert or else update", which both databases write alike, and SQLAlchemy twice."""
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    new = insert(table)
    others = {column.name: new.excluded[column.name] for column in table.c if column.name != key}
    return new.on_conflict_do_update(index_elements=[key], set_=others)
