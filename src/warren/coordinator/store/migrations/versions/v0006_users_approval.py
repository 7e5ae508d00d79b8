"""Whether an administrator has let a user in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it: whoever is there already is in."""
    op.add_column(
        "users", sa.Column("approved", sa.Boolean, nullable=False, server_default=sa.true())
    )


def downgrade() -> None:
    """Remove it; who still waits is shut out, as an older version knows it."""
    op.execute("UPDATE users SET suspended = true WHERE NOT approved")
    with op.batch_alter_table("users") as users:
        users.drop_column("approved")
