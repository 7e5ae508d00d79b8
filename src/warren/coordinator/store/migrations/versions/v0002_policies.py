"""Policies with their versions, roles of users, approved routes and attributes of machines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them. The oldest user is the owner: the first start made it."""
    op.create_table(
        "policies",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("author", sa.String(254), nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_policies"),
    )
    op.add_column(
        "users", sa.Column("role", sa.String(32), nullable=False, server_default="member")
    )
    op.add_column(
        "nodes", sa.Column("approved_routes", sa.Text, nullable=False, server_default="[]")
    )
    op.add_column("nodes", sa.Column("attributes", sa.Text, nullable=False, server_default="{}"))
    users = sa.table("users", sa.column("id", sa.Integer), sa.column("role", sa.String))
    oldest = sa.select(sa.func.min(users.c.id)).scalar_subquery()
    first = op.get_bind().execute(sa.select(oldest)).scalar()
    if first is not None:
        op.execute(users.update().where(users.c.id == first).values(role="owner"))


def downgrade() -> None:
    """Remove them."""
    with op.batch_alter_table("nodes") as nodes:
        nodes.drop_column("attributes")
        nodes.drop_column("approved_routes")
    with op.batch_alter_table("users") as users:
        users.drop_column("role")
    op.drop_table("policies")
