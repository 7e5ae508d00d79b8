"""What is PostgreSQL's own: connecting with limits, one server a database, its refusals.

The lock that keeps a second server out is held by the very session that writes. A session that
broke takes its lock with it, and the next one must have it again before it writes a row, so no
server ever writes beside another, whatever happened in between.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, Dialect, Engine, event

CONNECT_TIMEOUT_S = 5
"""How long a server that does not answer at all holds a change up."""
_LOCK_TIMEOUT_MS = 3000
# Of the writing session. A killed server's session ends at once, but after a lost network it
# lives on until the database server misses its client: this soon.
_SESSION = {
    "application_name": "warren server",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "statement_timeout": "30000",
    "idle_in_transaction_session_timeout": "60000",
}
_LOCK = 0x57415252
"""`WARR`; beside it the schema's name, so that a database can hold several networks."""
_FATAL = re.compile(r"FATAL:\s*(.*)")


class DatabaseInUse(Exception):
    """Another server has the lock."""


def with_limits(url: URL) -> URL:
    """Return the URL with our driver, and with limits on waiting where it names none."""
    limits = {
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "15000",
    }
    own = {name: value for name, value in limits.items() if name not in url.query}
    return url.set(drivername="postgresql+psycopg").update_query_dict(own)


def keep_others_out(engine: Engine) -> None:
    """Let every connection of the engine hold the lock; connecting raises DatabaseInUse."""

    @event.listens_for(engine, "do_connect")
    def connect(
        dialect: Dialect, _record: Any, args: list[Any], settings: Mapping[str, Any]
    ) -> Any:
        connection = dialect.connect(*args, **settings)
        try:
            _lock(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def refusal(error: BaseException) -> str | None:
    """Return why the server let nobody in (wrong password, no such database), in its words."""
    found = _FATAL.search(str(error))
    return found[1].strip() if found else None


def _lock(connection: Any) -> None:
    with connection.cursor() as cursor:
        for name, value in _SESSION.items():
            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        # A server that was killed just now may still be on its way out.
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{_LOCK_TIMEOUT_MS}",))
        try:
            cursor.execute(
                "SELECT pg_advisory_lock(%s, hashtext(coalesce(current_schema(), '')))", (_LOCK,)
            )
        except Exception as error:
            if getattr(error, "sqlstate", None) == "55P03":  # lock_not_available
                raise DatabaseInUse from error
            raise
    connection.commit()
