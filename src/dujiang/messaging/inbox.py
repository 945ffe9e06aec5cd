"""Inbox: remembers which subscription has handled which message, in the handler's own transaction.

The row is inserted first: among all deliveries of one message to one subscription at most one handler's transaction
commits it. A repeat that comes at the same moment waits on the unique index until the first has decided.

Rows are kept for the horizon (14 days by default). A message older than that is not handled; it becomes a dead letter
with the reason `beyond_dedupe_horizon`, because nobody could say any more whether it was handled before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.data.transaction import run_one
from dujiang.telemetry.crash import crash_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Database
    from dujiang.messaging.tx import Tx

HORIZON_US = 14 * 86_400_000_000

INSERT_ARRAYS = Sql(
    "inbox_insert_arrays",
    """INSERT INTO dj_inbox (message_id, sub_id) SELECT m, $2 FROM unnest($1::bytea[]) AS r(m)
       ON CONFLICT DO NOTHING RETURNING message_id""",
    "Claims messages for a subscription; returns those that were not handled before.",
)
INSERT_ONE = Sql(
    "inbox_insert_one",
    "INSERT INTO dj_inbox (message_id, sub_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING message_id",
    "Claims one message for a subscription.",
    claims="SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM dj_inbox WHERE message_id = $1 AND sub_id = $2)",
)
HANDLED = Sql(
    "inbox_handled",
    "SELECT 1 FROM dj_inbox WHERE message_id = $1 AND sub_id = $2",
    "Says whether a subscription has handled a message.",
)
DELETE_SLICE = Sql(
    "inbox_delete_slice",
    "DELETE FROM dj_inbox WHERE message_id IN (SELECT message_id FROM dj_inbox WHERE message_id < $1 LIMIT $2) RETURNING 1",
    "Deletes a slice of rows beyond the horizon (stores without partitions).",
)


async def first_time(tx: Tx, database: Database, sub_id: int, message_ids: Sequence[bytes]) -> set[bytes]:
    """Claim messages for a subscription inside `tx`; those that nobody handled before. An id may come twice in a batch."""
    if database.capabilities.arrays:
        rows = await tx.fetch(INSERT_ARRAYS, list(message_ids), sub_id)
    else:
        rows = [row for one in message_ids for row in await tx.fetch(INSERT_ONE, one, sub_id)]
    crash_point("inbox_inserted")
    return {bytes(row[0]) for row in rows}


async def handled(database: Database, sub_id: int, message_id: bytes) -> bool:
    """Whether a subscription has handled a message already; for handlers that run outside the transaction of their row."""
    return bool(await database.read(lambda connection: connection.fetch(HANDLED, message_id, sub_id)))


async def delete_slice(database: Database, before_us: int, limit: int = 500) -> int:
    """Delete up to `limit` rows whose message is older than a time; how many went."""
    below = ((before_us // 1000) << 80).to_bytes(16, "big")
    return len(await run_one(database, DELETE_SLICE, below, limit))
