"""Reads Headscale's SQLite database, as versions 0.23 and later leave it.

What each table means was read from its public schema (`hscontrol/db/schema.sql`). The file is
opened for reading alone, so Headscale may run meanwhile, but what changes after that is not seen.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_NEEDED = ("users", "nodes", "pre_auth_keys")
_MAX_ROWS = 1_000_000
_UNSET_YEAR = 1
"""Go's zero time, which stands for none."""
# What Go's driver writes, and what Go prints: the zone's name may follow.
_GO_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?) ?(Z|[+-]\d\d:?\d\d)?(?: .*)?")

Row = Mapping[str, Any]


class NotHeadscale(ValueError):
    """The file is no database of Headscale's, or none that can be read. The text is a sentence."""


@dataclass(frozen=True, kw_only=True)
class SourceUser:
    """A row of `users`. `name` is what Headscale shows: the e-mail address, else the name."""

    id: int
    name: str
    display_name: str
    created: datetime | None


@dataclass(frozen=True, kw_only=True)
class SourceKey:
    """A row of `pre_auth_keys`. Older ones are kept as text, newer ones as a bcrypt hash."""

    id: int
    text: str
    prefix: str
    bcrypt_hash: bytes
    user_id: int | None
    description: str
    reusable: bool
    ephemeral: bool
    used: bool
    revoked: bool
    tags: tuple[str, ...]
    created: datetime | None
    expiry: datetime | None


@dataclass(frozen=True, kw_only=True)
class SourceNode:
    """A row of `nodes`, keys and addresses still as text."""

    id: int
    machine_key: str
    node_key: str
    disco_key: str
    endpoints: tuple[str, ...]
    hostinfo: bytes
    ipv4: str
    ipv6: str
    hostname: str
    given_name: str
    user_id: int | None
    tags: tuple[str, ...]
    auth_key_id: int | None
    approved_routes: tuple[str, ...]
    created: datetime | None
    last_seen: datetime | None
    expiry: datetime | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that is taken over; `policy` is empty where Headscale reads it from a file."""

    users: tuple[SourceUser, ...]
    keys: tuple[SourceKey, ...]
    nodes: tuple[SourceNode, ...]
    policy: str


def read_source_untrusted(file: Path) -> Source:
    """Read a database. Raises NotHeadscale."""
    if not file.is_file():
        raise NotHeadscale(f"there is no file {file}; Headscale's is usually db.sqlite")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            # Text that is no UTF-8 comes as bytes rather than ending the whole import.
            database.text_factory = lambda data: data.decode("utf-8", "replace")
            return _read(database, file)
    except sqlite3.Error as error:
        raise NotHeadscale(f"{file} cannot be read as Headscale's database: {error}") from error


def _read(database: sqlite3.Connection, file: Path) -> Source:
    found = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    if "machines" in found and "nodes" not in found:
        raise NotHeadscale(
            f"{file} is of a Headscale before 0.23; start a newer Headscale on it once"
        )
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise NotHeadscale(f"{file} is no database of Headscale's: it has no table {missing[0]}")
    database.execute("BEGIN")
    routes = _by_node(database, "routes", "prefix", "enabled") if "routes" in found else {}
    key_tags = (
        _by_key(database, "pre_auth_key_acl_tags") if "pre_auth_key_acl_tags" in found else {}
    )
    return Source(
        users=tuple(user_from(row) for row in _rows(database, "users")),
        keys=tuple(key_from(row, key_tags) for row in _rows(database, "pre_auth_keys")),
        nodes=tuple(node_from(row, routes) for row in _rows(database, "nodes")),
        policy=_newest_policy(database) if "policies" in found else "",
    )


def user_from(row: Row) -> SourceUser:
    """Read a row of `users`, whatever is in its columns."""
    name = _text(row, "email") or _text(row, "name") or _text(row, "provider_identifier")
    return SourceUser(
        id=_number(row, "id") or 0,
        name=name,
        display_name=_text(row, "display_name"),
        created=_time(row, "created_at"),
    )


def key_from(row: Row, tags: Mapping[int, tuple[str, ...]]) -> SourceKey:
    """Read a row of `pre_auth_keys`; tags: of keys whose version kept them in another table."""
    number = _number(row, "id") or 0
    value = row.get("hash")
    return SourceKey(
        id=number,
        text=_text(row, "key"),
        prefix=_text(row, "prefix"),
        bcrypt_hash=value if isinstance(value, bytes) else _text(row, "hash").encode(),
        user_id=_number(row, "user_id"),
        description=_text(row, "description"),
        reusable=bool(_number(row, "reusable")),
        ephemeral=bool(_number(row, "ephemeral")),
        used=bool(_number(row, "used")),
        revoked=_time(row, "revoked") is not None,
        tags=_words(row, "tags") or tags.get(number, ()),
        created=_time(row, "created_at"),
        expiry=_time(row, "expiration"),
    )


def node_from(row: Row, routes: Mapping[int, tuple[str, ...]]) -> SourceNode:
    """Read a row of `nodes`; routes: enabled ones, of versions that kept them in a table."""
    number = _number(row, "id") or 0
    return SourceNode(
        id=number,
        machine_key=_text(row, "machine_key"),
        node_key=_text(row, "node_key"),
        disco_key=_text(row, "disco_key"),
        endpoints=_words(row, "endpoints"),
        hostinfo=_text(row, "host_info").encode(),
        ipv4=_text(row, "ipv4"),
        ipv6=_text(row, "ipv6"),
        hostname=_text(row, "hostname"),
        given_name=_text(row, "given_name"),
        user_id=_number(row, "user_id"),
        tags=_words(row, "tags") or _words(row, "forced_tags"),
        auth_key_id=_number(row, "auth_key_id"),
        approved_routes=_words(row, "approved_routes") or routes.get(number, ()),
        created=_time(row, "created_at"),
        last_seen=_time(row, "last_seen"),
        expiry=_time(row, "expiry"),
    )


def _rows(database: sqlite3.Connection, table: str) -> Iterator[Row]:
    """Yield the rows that Headscale did not mark as deleted, oldest first."""
    cursor = database.execute(f"SELECT * FROM {table} ORDER BY id LIMIT {_MAX_ROWS}")  # noqa: S608 - our own words
    names = [column[0] for column in cursor.description]
    for values in cursor:
        row = dict(zip(names, values, strict=True))
        if not row.get("deleted_at"):
            yield row


def _by_node(
    database: sqlite3.Connection, table: str, column: str, condition: str
) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for row in _rows(database, table):
        node = _number(row, "node_id")
        if node is not None and row.get(condition):
            found[node] = (*found.get(node, ()), _text(row, column))
    return found


def _by_key(database: sqlite3.Connection, table: str) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for row in _rows(database, table):
        key = _number(row, "pre_auth_key_id")
        if key is not None:
            found[key] = (*found.get(key, ()), _text(row, "tag"))
    return found


def _newest_policy(database: sqlite3.Connection) -> str:
    newest = ""
    for row in _rows(database, "policies"):
        newest = _text(row, "data")
    return newest


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.strip() if isinstance(value, str) else ""


def _number(row: Row, name: str) -> int | None:
    value = row.get(name)
    if isinstance(value, str) and value in ("true", "false"):
        return int(value == "true")
    return value if isinstance(value, int) else None


def _words(row: Row, name: str) -> tuple[str, ...]:
    """A list of texts that is kept as JSON; what is none counts as empty."""
    try:
        value = json.loads(_text(row, name) or "[]")
    except (ValueError, RecursionError):
        return ()
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


def _time(row: Row, name: str) -> datetime | None:
    match = _GO_TIME.fullmatch(_text(row, name))
    if match is None:
        return None
    try:
        moment = datetime.fromisoformat(match[1])
        if match[2]:
            moment = datetime.fromisoformat(match[1] + match[2])
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return None if aware.year <= _UNSET_YEAR else aware.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
