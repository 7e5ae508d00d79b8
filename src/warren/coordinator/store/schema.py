"""The schema's versions: which one a database has, and how it gets to another.

A step runs in the caller's transaction, DDL included: both databases take that back, too.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import IntegrityError

_MIGRATIONS = "warren.coordinator.store:migrations"


def revisions() -> list[str]:
    """Return every revision that this version knows, oldest first."""
    script = ScriptDirectory.from_config(_config())
    return [step.revision for step in reversed(list(script.walk_revisions()))]


def present(connection: Connection) -> str | None:
    """Return a database's revision, known or not; None: there are no tables of ours."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables up, or down, to `revision` (`base`: remove them).

    On SQLite the connection must come from `migrating`. Raises CommandError for a revision that
    is not known, and what SQLAlchemy raises.
    """
    config = _config()
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        # A large table takes its time.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
    known = revisions()
    order = {None: 0, "base": 0, "head": len(known)}
    order |= {name: place for place, name in enumerate(known, 1)}
    now = present(connection)
    if order.get(now, 0) > order.get(revision, len(known)):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)
    if connection.dialect.name == "sqlite":
        broken = connection.execute(text("PRAGMA foreign_key_check")).first()
        if broken is not None:
            cause = Exception(f"a row of {broken[0]} would point to nothing")
            raise IntegrityError(str(cause), None, cause)


def migrating(engine: Engine) -> Engine:
    """Let the engine's next connections be fit for `migrate`; return it.

    SQLite rebuilds a table to alter it, which foreign keys must not see, and they can only be
    switched outside a transaction. Dispose of the connections afterwards.
    """
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda made, _: made.execute("PRAGMA foreign_keys=OFF"))
    return engine


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)
    return config
