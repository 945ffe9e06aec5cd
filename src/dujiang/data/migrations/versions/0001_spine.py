"""The platform's first tables: processes, outbox, relay, subscriptions, work, inbox, outcomes, dead letters, keys.

Times are microseconds since the Unix epoch, ids of messages are 16 bytes, key text compares by bytes on every database.
Where a store has partitions, what only grows (outbox, inbox, outcomes) is partitioned, so that clean-up drops a part whole
and leaves no dead rows behind.
"""

from __future__ import annotations

from alembic import op

from dujiang.data.portable import has_many_writers

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

HOT = "WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)"

WORK_COLUMNS = """
  sub_id INTEGER NOT NULL, seq BIGINT NOT NULL, okey {key}, tenant {key} NOT NULL, attempt INTEGER NOT NULL,
  crashes INTEGER NOT NULL, message_id {bytes} NOT NULL, topic {key}, created_us BIGINT, headers TEXT, payload {bytes}"""

TABLES = (
    """CREATE TABLE dj_counter (name {key} PRIMARY KEY, value BIGINT NOT NULL)""",
    """CREATE TABLE dj_process (process_id INTEGER PRIMARY KEY, holder TEXT NOT NULL, lease BIGINT NOT NULL UNIQUE,
       expires_us BIGINT NOT NULL, high_us BIGINT NOT NULL, info TEXT NOT NULL)""",
    """CREATE TABLE dj_subscription (sub_id INTEGER PRIMARY KEY, name {key} NOT NULL UNIQUE, topic {key} NOT NULL,
       ordered INTEGER NOT NULL, active INTEGER NOT NULL)""",
    """CREATE TABLE dj_relay (relay_id INTEGER PRIMARY KEY, owner_lease BIGINT NOT NULL, lease BIGINT NOT NULL,
       floor_seq BIGINT NOT NULL, gaps TEXT NOT NULL)""",
    """CREATE TABLE dj_ready ("""
    + WORK_COLUMNS
    + """, run_at BIGINT NOT NULL, PRIMARY KEY (sub_id, seq)){without} {hot}""",
    """CREATE INDEX dj_ready_free ON dj_ready (sub_id, run_at, seq) WHERE okey IS NULL""",
    """CREATE UNIQUE INDEX dj_ready_keyed ON dj_ready (sub_id, okey, seq) WHERE okey IS NOT NULL""",
    """CREATE TABLE dj_running ("""
    + WORK_COLUMNS
    + """, lease BIGINT NOT NULL, started_us BIGINT NOT NULL,
       PRIMARY KEY (sub_id, seq)){without} {hot}""",
    """CREATE UNIQUE INDEX dj_running_key ON dj_running (sub_id, okey) WHERE okey IS NOT NULL""",
    """CREATE INDEX dj_running_lease ON dj_running (lease)""",
    """CREATE TABLE dj_dead (dead_id BIGINT PRIMARY KEY, sub_id INTEGER NOT NULL, seq BIGINT NOT NULL, message_id {bytes} NOT NULL,
       topic {key} NOT NULL, okey {key}, tenant {key} NOT NULL, reason {key} NOT NULL, error TEXT NOT NULL,
       fingerprint {key} NOT NULL, created_us BIGINT NOT NULL, died_us BIGINT NOT NULL, attempts INTEGER NOT NULL,
       crashes INTEGER NOT NULL, headers TEXT NOT NULL, payload {bytes} NOT NULL)""",
    """CREATE INDEX dj_dead_subscription ON dj_dead (sub_id, fingerprint)""",
    """CREATE TABLE dj_hold (sub_id INTEGER NOT NULL, okey {key} NOT NULL, since_us BIGINT NOT NULL, dead_id BIGINT NOT NULL,
       PRIMARY KEY (sub_id, okey, dead_id))""",
    """CREATE INDEX dj_hold_dead ON dj_hold (dead_id)""",
    """CREATE TABLE dj_idempotency (scope {key} NOT NULL, okey {key} NOT NULL, fingerprint {bytes} NOT NULL, status INTEGER NOT NULL,
       headers TEXT NOT NULL, body {bytes} NOT NULL, fingerprint_version INTEGER NOT NULL, expires_us BIGINT NOT NULL,
       PRIMARY KEY (scope, okey)){without} {hot}""",
    """CREATE INDEX dj_idempotency_expires ON dj_idempotency (expires_us)""",
)
ONE_WRITER = (
    """CREATE TABLE dj_outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, message_id BLOB NOT NULL, topic TEXT NOT NULL, okey TEXT,
       created_us BIGINT NOT NULL, headers TEXT NOT NULL, payload BLOB NOT NULL)""",
    """CREATE TABLE dj_inbox (message_id BLOB NOT NULL, sub_id INTEGER NOT NULL, PRIMARY KEY (message_id, sub_id)) WITHOUT ROWID""",
    """CREATE TABLE dj_outcome (sub_id INTEGER NOT NULL, seq BIGINT NOT NULL, state INTEGER NOT NULL,
       finished_us BIGINT NOT NULL, attempts INTEGER NOT NULL, duration_us BIGINT NOT NULL)""",
    """CREATE INDEX dj_outcome_finished ON dj_outcome (finished_us)""",
)
MANY_WRITERS = (
    # CACHE 1: a cached range would let a later transaction draw a lower number than an earlier one.
    """CREATE SEQUENCE dj_outbox_seq CACHE 1""",
    """CREATE TABLE dj_outbox (seq BIGINT NOT NULL PRIMARY KEY, message_id BYTEA NOT NULL, topic TEXT COLLATE "C" NOT NULL,
       okey TEXT COLLATE "C", created_us BIGINT NOT NULL, headers TEXT NOT NULL, payload BYTEA NOT NULL)
       PARTITION BY RANGE (seq)""",
    """CREATE TABLE dj_inbox (message_id BYTEA NOT NULL, sub_id INTEGER NOT NULL, PRIMARY KEY (message_id, sub_id))
       PARTITION BY RANGE (message_id)""",
    """CREATE TABLE dj_outcome (sub_id INTEGER NOT NULL, seq BIGINT NOT NULL, state INTEGER NOT NULL,
       finished_us BIGINT NOT NULL, attempts INTEGER NOT NULL, duration_us BIGINT NOT NULL) PARTITION BY RANGE (finished_us)""",
)
ROWS = (
    "INSERT INTO dj_counter (name, value) VALUES ('lease', 0)",
    # Until the first start has filled the store with the modules' seeds, or decided not to.
    "INSERT INTO dj_counter (name, value) VALUES ('unseeded', 1)",
    "INSERT INTO dj_relay (relay_id, owner_lease, lease, floor_seq, gaps) VALUES (1, 0, 0, 0, '')",
)


def upgrade() -> None:
    """Create the tables."""
    many_writers = has_many_writers(op)
    words = (
        {"key": 'TEXT COLLATE "C"', "bytes": "BYTEA", "without": "", "hot": HOT}
        if many_writers
        else {"key": "TEXT", "bytes": "BLOB", "without": " WITHOUT ROWID", "hot": ""}
    )
    for text in (*TABLES, *(MANY_WRITERS if many_writers else ONE_WRITER), *ROWS):
        op.execute(text.format(**words))
