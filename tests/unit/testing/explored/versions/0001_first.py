"""The first table."""

import sqlalchemy as sa
from alembic import op

from dujiang import columns

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it."""
    op.create_table(
        "explored_pot",
        sa.Column("pot_id", columns.Id, primary_key=True),
        sa.Column("left", columns.Id, nullable=False),
    )
