"""The tables of the drill's own workload."""

from __future__ import annotations

from alembic import op

from dujiang.drill.storage.probe import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables and the one row of the tally."""
    metadata.create_all(op.get_bind(), checkfirst=False)
    op.execute("INSERT INTO drill_tally (name, entries, echoes) VALUES ('all', 0, 0)")
