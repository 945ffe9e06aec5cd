"""Locks: one row for each name that was ever locked; it stays, so that its token only grows."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.execute(
        """CREATE TABLE dj_lock (name TEXT PRIMARY KEY, holder TEXT NOT NULL, token BIGINT NOT NULL,
           since_us BIGINT NOT NULL, until_us BIGINT NOT NULL)"""
    )
