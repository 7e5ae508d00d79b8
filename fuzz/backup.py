"""A backup's file, and the rows in it, as an administrator hands them in."""

from __future__ import annotations

import io
from contextlib import suppress
from datetime import UTC, datetime

from warren.coordinator.backup.archive import (
    ArchiveWriter,
    MalformedArchive,
    open_archive_untrusted,
)
from warren.coordinator.store.dump import MalformedDump, decode_row_untrusted, row_shape
from warren.coordinator.store.tables import metadata

_SHAPES = {table.name: row_shape(table) for table in metadata.sorted_tables}
_USER = (
    b'{"id":1,"name":"ann","display_name":"Ann","created":"2026-03-01T12:00:00.5","role":"owner"}\n'
)


def archive(data: bytes) -> None:
    """Open it, and read every member to its end."""
    with suppress(MalformedArchive):
        opened = open_archive_untrusted(io.BytesIO(data))
        for file in opened.manifest.files().values():
            with suppress(MalformedArchive):
                opened.read_untrusted(file)
        for table in opened.manifest.tables().values():
            with suppress(MalformedArchive):
                assert sum(1 for _ in opened.lines_untrusted(table)) == table.rows


def archives() -> list[bytes]:
    """A small one and one with more in it."""
    return [_archive(1), _archive(200)]


def row(data: bytes) -> None:
    """Read it as a row of every table."""
    for name, shape in _SHAPES.items():
        with suppress(MalformedDump):
            assert set(decode_row_untrusted(data, name, 1, shape)) == set(
                metadata.tables[name].columns.keys()
            )


def rows() -> list[bytes]:
    """Rows with every type of column."""
    return [
        _USER,
        b'{"id":"c","kind":"api","user_id":1,"digest":"AAAA","scopes":"[]","tags":"[]",'
        b'"created":"2026-03-01T12:00:00","expiry":null,"description":""}\n',
        b'{"name":"last_id","value":"1"}\n',
    ]


def _archive(count: int) -> bytes:
    out = io.BytesIO()
    writer = ArchiveWriter(out)
    writer.add_file("noise.key", b"privkey:" + b"a" * 64)
    writer.add_file("relay.key", b"privkey:" + b"b" * 64)
    writer.add_table("users", [_USER] * count)
    writer.finish("0.1.0", "0003", datetime(2026, 3, 1, tzinfo=UTC))
    return out.getvalue()
