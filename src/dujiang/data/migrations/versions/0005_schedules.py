"""Schedules: when each is due next, by which text; and one row for each time that fired, or that somebody asked for.

The number of a schedule is that of its kind of jobs in dj_subscription, so that a new name of the one is that of the other.
"""

from __future__ import annotations

from alembic import op

from dujiang.data.portable import has_many_writers

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TABLE dj_schedule (schedule_id INTEGER PRIMARY KEY, spec TEXT NOT NULL, rev INTEGER NOT NULL, known TEXT NOT NULL,
       seen_us BIGINT NOT NULL, since_us BIGINT NOT NULL, next_us BIGINT NOT NULL, last_us BIGINT, paused_us BIGINT)""",
    """CREATE INDEX dj_schedule_next ON dj_schedule (next_us) WHERE paused_us IS NULL""",
    """CREATE TABLE dj_fire (schedule_id INTEGER NOT NULL, fire_us BIGINT NOT NULL, how INTEGER NOT NULL, state INTEGER NOT NULL,
       job_id BIGINT, made_us BIGINT NOT NULL, PRIMARY KEY (schedule_id, fire_us)){without}""",
    """CREATE INDEX dj_fire_wanted ON dj_fire (schedule_id) WHERE state = 0""",
    """CREATE INDEX dj_fire_job ON dj_fire (job_id) WHERE job_id IS NOT NULL""",
    """CREATE INDEX dj_fire_made ON dj_fire (made_us)""",
)


def upgrade() -> None:
    """Create the tables."""
    without = "" if has_many_writers(op) else " WITHOUT ROWID"
    for text in STATEMENTS:
        op.execute(text.format(without=without))
