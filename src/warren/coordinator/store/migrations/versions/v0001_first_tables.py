"""The first tables: users, nodes, auth keys, pending registrations, settings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(254), nullable=False),
        sa.Column("display_name", sa.String(254), nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.UniqueConstraint("name", name="uq_users_name"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("stable_id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("machine_key", sa.String(80), nullable=False),
        sa.Column("node_key", sa.String(80), nullable=False),
        sa.Column("disco_key", sa.String(80), nullable=False),
        sa.Column("ipv4", sa.String(15), nullable=False),
        sa.Column("ipv6", sa.String(45), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("renamed", sa.Boolean, nullable=False),
        sa.Column("hostinfo", sa.Text, nullable=False),
        sa.Column("endpoints", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.Column("key_expiry", sa.DateTime),
        sa.Column("authorized", sa.Boolean, nullable=False),
        sa.Column("ephemeral", sa.Boolean, nullable=False),
        sa.Column("last_seen", sa.DateTime),
        sa.Column("auth_key_id", sa.String(32)),
        sa.UniqueConstraint("stable_id", name="uq_nodes_stable_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_nodes_user_id"),
        sa.UniqueConstraint("node_key", name="uq_nodes_node_key"),
        sa.UniqueConstraint("ipv4", name="uq_nodes_ipv4"),
        sa.UniqueConstraint("ipv6", name="uq_nodes_ipv6"),
        sa.UniqueConstraint("name", name="uq_nodes_name"),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_index("ix_nodes_user_id", "nodes", ["user_id"])
    op.create_index("ix_nodes_machine_key", "nodes", ["machine_key"])
    op.create_table(
        "auth_keys",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("reusable", sa.Boolean, nullable=False),
        sa.Column("ephemeral", sa.Boolean, nullable=False),
        sa.Column("pre_approved", sa.Boolean, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.Column("expiry", sa.DateTime),
        sa.Column("uses", sa.Integer, nullable=False),
        sa.Column("description", sa.String(254), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_auth_keys_user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_auth_keys"),
    )
    op.create_index("ix_auth_keys_user_id", "auth_keys", ["user_id"])
    op.create_table(
        "pending_registrations",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("machine_key", sa.String(80), nullable=False),
        sa.Column("node_key", sa.String(80), nullable=False),
        sa.Column("old_node_key", sa.String(80), nullable=False),
        sa.Column("hostinfo", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("ephemeral", sa.Boolean, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.Column("expiry", sa.DateTime, nullable=False),
        sa.Column("rejected", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pending_registrations"),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
    )


def downgrade() -> None:
    """Remove them."""
    for table in ("settings", "pending_registrations", "auth_keys", "nodes", "users"):
        op.drop_table(table)
