"""The shop's first tables."""

from __future__ import annotations

from dujiang.systems.shop.tables import metadata
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    metadata.create_all(op.get_bind(), checkfirst=False)
