"""Direct work: rows of dj_ready that the wanting transaction inserts itself; no event is published and no broker asked.

    enqueue ──► dj_ready, with its whole message ──► claim, run, retry, bury: as in work.py ──► gone
                    └──► taken out: cancelled

The row carries its message, as that of a replayed letter does, and its number is the id of the job: the outbox is not
used. A job may wait for weeks, and the outbox can be cleaned only below the oldest number that somebody still needs. The
cost is that a message is written again whenever its row moves; the limit of a body bounds it.

There is nothing that could repeat such work: who takes the row has it. So the inbox is not asked either. The row in
dj_running, compared by lease and attempt, is the fence of everything that a run commits (`fence_piece`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.data.transaction import Piece
from dujiang.messaging.broker import Received
from dujiang.messaging.work import OUTCOME_ONE, STATE_CANCELLED, LeaseLost, claim_free, claim_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.broker import Feed
    from dujiang.messaging.tx import Tx
    from dujiang.messaging.work import Claim, KeyCursor

# sub_id, seq, tenant, message_id, topic, created_us, headers, payload, run_at
Row = tuple[int, int, str, bytes, str, int, str, bytes, int]

INSERT_ONE = Sql(
    "direct_insert_one",
    """INSERT INTO dj_ready (sub_id, seq, okey, tenant, attempt, crashes, message_id, topic, created_us, headers, payload,
                             run_at) VALUES ($1, $2, NULL, $3, 0, 0, $4, $5, $6, $7, $8, $9) RETURNING 1""",
    "Makes one piece of work, with its own message.",
)
INSERT_ARRAYS = Sql(
    "direct_insert_arrays",
    """INSERT INTO dj_ready (sub_id, seq, okey, tenant, attempt, crashes, message_id, topic, created_us, headers, payload,
                             run_at)
       SELECT s, n, NULL, t, 0, 0, m, o, c, h, p, r
       FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bytea[], $5::text[], $6::bigint[], $7::text[], $8::bytea[],
                   $9::bigint[]) AS w(s, n, t, m, o, c, h, p, r) RETURNING 1""",
    "Makes many pieces of work in one statement.",
)
NEXT_DUE = Sql(
    "direct_next_due",
    "SELECT run_at FROM dj_ready WHERE sub_id = $1 AND okey IS NULL ORDER BY run_at LIMIT 1",
    "Says when the next work is due.",
)
HOLD = Sql(
    "direct_hold",
    "UPDATE dj_running SET lease = lease WHERE sub_id = $1 AND seq = $2 AND attempt = $3 AND lease = $4 RETURNING 1",
    "Finds a claim if it is still ours, and keeps it so until the transaction ends.",
)
ALONE = Sql(
    "direct_alone",
    "SELECT 1 FROM dj_subscription WHERE sub_id = $1 FOR UPDATE",
    "Lets one process at a time claim limited work; what it counts then is true until it commits.",
)
RUNNING = Sql("direct_running", "SELECT count(*) FROM dj_running WHERE sub_id = $1", "Counts what runs anywhere.")
TAKE_OUT = Sql(
    "direct_take_out",
    "DELETE FROM dj_ready WHERE sub_id = $1 AND seq = $2 RETURNING attempt",
    "Takes out what has not begun.",
)


def insert_pieces(database: Database, rows: Sequence[Row]) -> list[Piece]:
    """The closing pieces that make work of these rows."""
    if len(rows) > 1 and database.capabilities.arrays:
        return [Piece("work", INSERT_ARRAYS, tuple(list(column) for column in zip(*rows, strict=True)))]
    return [Piece("work", INSERT_ONE, row) for row in rows]


def fence_piece(name: str, claim: Claim) -> Piece:
    """The closing piece that lets a transaction commit only while a claim is ours; else LeaseLost."""

    def lost() -> Exception:
        return LeaseLost(subscription=name, count=1)

    args = (claim.sub_id, claim.message.seq, claim.attempt, claim.lease)
    return Piece("fence", HOLD, args, expect=1, otherwise=lost)


async def take_out(tx: Tx, sub_id: int, seq: int) -> int | None:
    """Cancel work that waits, and count it; how often it was run, or None when it does not wait."""
    rows = await tx.fetch(TAKE_OUT, sub_id, seq)
    if rows:
        await tx.fetch(OUTCOME_ONE, sub_id, seq, rows[0][0], STATE_CANCELLED, tx.now_us, 0)
    return rows[0][0] if rows else None


class Waiting:
    """The source of direct work.

    Args:
        database: Where the tables are.
        now_us: The present time.
        most: Runs at once over all processes; 0 = no limit.
    """

    def __init__(self, database: Database, now_us: Callable[[], int], most: int = 0) -> None:
        self._database = database
        self._now_us = now_us
        self._most = most

    async def attend(self, feed: Feed, heard: Callable[[], None]) -> None:
        """Nothing to bring: work is where it is claimed."""

    async def leave(self, sub_id: int) -> None:
        """Nothing to give back."""

    async def receive(self, sub_id: int, lease: int, limit: int, cursor: KeyCursor | None) -> Received:
        """Claim what is due; or say when the next is."""
        if self._most:
            return await self._limited(sub_id, lease, limit)
        claims = await claim_free(self._database, sub_id, lease, self._now_us(), limit)
        if claims:
            return Received(tuple(claims))
        return await self._next(sub_id)

    async def _limited(self, sub_id: int, lease: int, limit: int) -> Received:
        """Claim no more than may run. Processes take turns: the count is a statement of its own, after the lock."""

        async def body(connection: Connection) -> list[Claim] | None:
            if self._database.capabilities.skip_locked:
                await connection.fetch(ALONE, sub_id)
            room = self._most - (await connection.fetch(RUNNING, sub_id))[0][0]
            if room <= 0:
                return None
            return await claim_inside(self._database, connection, sub_id, lease, self._now_us(), min(limit, room))

        claims = await self._database.write(body)
        if claims is None:
            return Received(())  # The bell rings when one of them ends.
        return Received(tuple(claims)) if claims else await self._next(sub_id)

    async def _next(self, sub_id: int) -> Received:
        rows = await self._database.read(lambda connection: connection.fetch(NEXT_DUE, sub_id))
        return Received((), rows[0][0] if rows else None)
