"""Sagas: how far each is, what has happened to it, and the events that it waits for; saga/store.py owns them."""

from __future__ import annotations

from alembic import op

from dujiang.data.portable import has_many_writers

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TABLE dj_saga (saga_id BIGINT PRIMARY KEY, sub_id INTEGER NOT NULL, tenant {key} NOT NULL, okey {key} NOT NULL,
       version INTEGER NOT NULL, phase INTEGER NOT NULL, step {key} NOT NULL, waits {key}, until_us BIGINT, data {bytes} NOT NULL,
       rev INTEGER NOT NULL, wish INTEGER NOT NULL, deadline_us BIGINT NOT NULL, created_us BIGINT NOT NULL,
       updated_us BIGINT NOT NULL, finished_us BIGINT, expires_us BIGINT, why TEXT NOT NULL){hot}""",
    """CREATE UNIQUE INDEX dj_saga_key ON dj_saga (sub_id, tenant, okey)""",
    """CREATE INDEX dj_saga_open ON dj_saga (saga_id) WHERE finished_us IS NULL""",
    """CREATE INDEX dj_saga_expires ON dj_saga (expires_us) WHERE expires_us IS NOT NULL""",
    """CREATE TABLE dj_saga_step (saga_id BIGINT NOT NULL, n INTEGER NOT NULL, name {key} NOT NULL, kind INTEGER NOT NULL,
       result {bytes}, note TEXT NOT NULL, at_us BIGINT NOT NULL, PRIMARY KEY (saga_id, n)){without}""",
    """CREATE TABLE dj_saga_event (sub_id INTEGER NOT NULL, tenant {key} NOT NULL, okey {key} NOT NULL, topic {key} NOT NULL,
       message_id {bytes} NOT NULL, seq BIGINT NOT NULL, version INTEGER NOT NULL, payload {bytes} NOT NULL, arrived_us BIGINT NOT NULL,
       PRIMARY KEY (sub_id, tenant, okey, topic, message_id)){without}""",
    """CREATE INDEX dj_saga_event_arrived ON dj_saga_event (arrived_us)""",
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
