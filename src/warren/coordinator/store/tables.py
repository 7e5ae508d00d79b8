"""The tables as the newest migration leaves them. A change here needs a migration beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored as UTC without a zone: SQLite has no type that keeps one."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Aware time → naive UTC."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Naive UTC → aware time."""
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(254), nullable=False, unique=True),
    Column("display_name", String(254), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("role", String(32), nullable=False),
    Column("issuer", String(254), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("groups", Text, nullable=False),
    Column("password", String(254), nullable=False),
    Column("password_set", UtcDateTime),
    Column("suspended", Boolean, nullable=False),
    Column("last_login", UtcDateTime),
    Column("approved", Boolean, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("stable_id", String(32), nullable=False, unique=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("machine_key", String(80), nullable=False, index=True),
    Column("node_key", String(80), nullable=False, unique=True),
    Column("disco_key", String(80), nullable=False),
    Column("ipv4", String(15), nullable=False, unique=True),
    Column("ipv6", String(45), nullable=False, unique=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("renamed", Boolean, nullable=False),
    Column("hostinfo", Text, nullable=False),
    Column("endpoints", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("tags", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("key_expiry", UtcDateTime),
    Column("authorized", Boolean, nullable=False),
    Column("ephemeral", Boolean, nullable=False),
    Column("last_seen", UtcDateTime),
    # Not a foreign key: a node outlives the key that it joined with.
    Column("auth_key_id", String(32)),
    Column("approved_routes", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("attribute_expiries", Text, nullable=False),
)

auth_keys = Table(
    "auth_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("reusable", Boolean, nullable=False),
    Column("ephemeral", Boolean, nullable=False),
    Column("pre_approved", Boolean, nullable=False),
    Column("tags", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("expiry", UtcDateTime),
    Column("uses", Integer, nullable=False),
    Column("description", String(254), nullable=False),
)

pending = Table(
    "pending_registrations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("machine_key", String(80), nullable=False),
    Column("node_key", String(80), nullable=False),
    Column("old_node_key", String(80), nullable=False),
    Column("hostinfo", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("ephemeral", Boolean, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("expiry", UtcDateTime, nullable=False),
    Column("rejected", Boolean, nullable=False),
)

policies = Table(
    "policies",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("author", String(254), nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

credentials = Table(
    "credentials",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("expiry", UtcDateTime),
    Column("description", String(254), nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("url", Text, nullable=False),
    Column("provider", String(32), nullable=False),
    Column("subscriptions", Text, nullable=False),
    Column("secret", String(128), nullable=False),
    # A name: a webhook outlives who made it.
    Column("creator", String(254), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("modified", UtcDateTime, nullable=False),
)

deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("webhook_id", ForeignKey("webhooks.id"), nullable=False, index=True),
    Column("created", UtcDateTime, nullable=False),
    Column("event", Text, nullable=False),
)

invites = Table(
    "invites",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("expiry", UtcDateTime, nullable=False),
    Column("renames", Boolean, nullable=False),
)

ssh_passes = Table(
    "ssh_passes",
    metadata,
    Column("id", String(128), primary_key=True),
    # Not foreign keys: ids are never given again, and what is left of one goes when its time is up.
    Column("source", Integer, nullable=False),
    Column("user_id", Integer, nullable=False),
    Column("target", Integer, nullable=False),
    Column("local_user", String(64), nullable=False),
    Column("passed", UtcDateTime, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("wall", UtcDateTime, nullable=False, index=True),
    Column("actor_kind", String(16), nullable=False),
    Column("actor", String(254), nullable=False),
    Column("origin", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("target_kind", String(16), nullable=False),
    Column("target", String(64), nullable=False),
    Column("target_name", String(254), nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
