"""The log of what cached answers must no longer be given; messaging/forgotten.py owns it."""

from __future__ import annotations

from alembic import op

from dujiang.data.portable import has_many_writers

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the log, empty and not cut."""
    if has_many_writers(op):
        op.execute("CREATE TABLE dj_forgotten (xid xid8 NOT NULL, created_us BIGINT NOT NULL, names TEXT NOT NULL)")
        # Not unique: a restored dump brings the ids of another server, which must not stand in the way of a write.
        op.execute("CREATE INDEX dj_forgotten_xid ON dj_forgotten (xid)")
    else:
        op.execute(
            "CREATE TABLE dj_forgotten (seq INTEGER PRIMARY KEY AUTOINCREMENT, created_us BIGINT NOT NULL,"
            " names TEXT NOT NULL)"
        )
    op.execute("INSERT INTO dj_counter (name, value) VALUES ('forgotten_cut', 0)")
