"""Jobs: what is known of each, and the results of their steps; and which subscriptions events are routed to.

A job's place in dj_ready, dj_running or dj_dead is its state while it is open; `state` in dj_job says how it ended, and is
written once.
"""

from __future__ import annotations

from alembic import op

from dujiang.data.portable import has_many_writers

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TABLE dj_job (job_id BIGINT PRIMARY KEY, sub_id INTEGER NOT NULL, tenant {key} NOT NULL, owner {key} NOT NULL,
       uniq {key}, created_us BIGINT NOT NULL, state INTEGER NOT NULL, attempts INTEGER NOT NULL, progress_ppm INTEGER NOT NULL, note TEXT NOT NULL,
       cancel_us BIGINT, finished_us BIGINT, expires_us BIGINT, result {bytes}){hot}""",
    """CREATE UNIQUE INDEX dj_job_uniq ON dj_job (sub_id, tenant, uniq) WHERE uniq IS NOT NULL""",
    """CREATE INDEX dj_job_cancel ON dj_job (job_id) WHERE cancel_us IS NOT NULL AND state = 0""",
    """CREATE INDEX dj_job_expires ON dj_job (expires_us) WHERE expires_us IS NOT NULL""",
    """CREATE TABLE dj_step (job_id BIGINT NOT NULL, name {key} NOT NULL, result {bytes} NOT NULL,
       PRIMARY KEY (job_id, name)){without}""",
    """CREATE INDEX dj_dead_work ON dj_dead (sub_id, seq)""",
    """ALTER TABLE dj_subscription ADD COLUMN routed INTEGER NOT NULL DEFAULT 1""",
)


def upgrade() -> None:
    """Create the tables."""
    many_writers = has_many_writers(op)
    words = (
        {"key": 'TEXT COLLATE "C"', "bytes": "BYTEA", "without": "", "hot": " WITH (fillfactor = 80)"}
        if many_writers
        else {"key": "TEXT", "bytes": "BLOB", "without": " WITHOUT ROWID", "hot": ""}
    )
    for text in STATEMENTS:
        op.execute(text.format(**words))
