"""How users log in: identities at providers, passwords, invite links; who is suspended."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("issuer", sa.String(254), nullable=False, server_default=""),
        sa.Column("subject", sa.String(255), nullable=False, server_default=""),
        sa.Column("groups", sa.Text, nullable=False, server_default="[]"),
        sa.Column("password", sa.String(254), nullable=False, server_default=""),
        sa.Column("password_set", sa.DateTime),
        sa.Column("suspended", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("last_login", sa.DateTime),
    ]


def upgrade() -> None:
    """Add them."""
    for column in _columns():
        op.add_column("users", column)
    op.create_table(
        "invites",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.Column("expiry", sa.DateTime, nullable=False),
        sa.Column("renames", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_invites"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_invites_user_id"),
    )
    op.create_index("ix_invites_user_id", "invites", ["user_id"])


def downgrade() -> None:
    """Remove them."""
    op.drop_table("invites")
    with op.batch_alter_table("users") as users:
        for column in reversed(_columns()):
            users.drop_column(column.name)
