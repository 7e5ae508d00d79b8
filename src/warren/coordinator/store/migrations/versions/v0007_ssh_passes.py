"""Checks of log-ins by SSH that were passed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them: until now none was kept."""
    op.create_table(
        "ssh_passes",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("source", sa.Integer, nullable=False),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("target", sa.Integer, nullable=False),
        sa.Column("local_user", sa.String(64), nullable=False),
        sa.Column("passed", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ssh_passes"),
    )


def downgrade() -> None:
    """Remove them; people are asked again."""
    op.drop_table("ssh_passes")
