"""Outbox: the append-only log of committed events, and the cursor that reads it without losing one.

On a database with many writers a sequence number is drawn before its transaction commits, so a reader that remembers
only "the highest number seen" would lose what commits late. The cursor is a floor and the gaps below it (gaps.py):

    seq      41   42   43   44   45   46
    seen      x    x    .    x    .    x         floor 46, gaps 43 and 45

A gap is either still running or rolled back. It may be closed when every transaction that could own it has ended: the
number was drawn while its owner already had a transaction id (the closing statement forces it, data/transaction.py), the
gap was stamped with an id drawn after the read that noticed it, and the database reports the oldest id still running.
So `stamp < oldest running` and still unseen means: rolled back, for ever.

Rejected: stamping with the snapshot's upper end loses messages (a running transaction can have a larger id); one row
per message deleted after publishing leaves dead tuples at the head of the index; waiting at each gap stalls everybody
behind one long transaction. On the embedded store one writer commits in order, so there are no gaps.
tests/conformance/test_broker.py holds it with concurrent writers, rollbacks and a long transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.data.transaction import Piece, run_one
from dujiang.messaging.gaps import Gap, parsed
from dujiang.messaging.message import Message, headers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Database

INSERT_ARRAYS = Sql(
    "outbox_insert_arrays",
    """INSERT INTO dj_outbox (seq, message_id, topic, okey, created_us, headers, payload)
       SELECT nextval('dj_outbox_seq'), m, t, k, $5, h, p
       FROM own, unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $6::bytea[]) WITH ORDINALITY AS r(m, t, k, h, p, o)
       ORDER BY o RETURNING 1""",
    "Appends the events of one transaction, in the order in which they were published.",
)
INSERT_SINGLE = Sql(
    "outbox_insert_single",
    """INSERT INTO dj_outbox (seq, message_id, topic, okey, headers, created_us, payload)
       SELECT nextval('dj_outbox_seq'), $1, $2, $3, $4, $5, $6 FROM own RETURNING 1""",
    "Appends the only event of a transaction; without arrays, which cost more than the row.",
)
INSERT_ONE = Sql(
    "outbox_insert_one",
    """INSERT INTO dj_outbox (message_id, topic, okey, headers, created_us, payload) VALUES ($1, $2, $3, $4, $5, $6)
       RETURNING 1""",
    "Appends one event; the number is the row id, which one writer draws in commit order.",
)

# `h` is read in the same snapshot as the rows: every transaction below it has ended and is visible to this statement.
READ_WITH_HORIZON = Sql(
    "outbox_read_with_horizon",
    """SELECT h.x, o.seq, o.message_id, o.topic, o.okey, o.created_us, o.headers, o.payload
       FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS x) h
       LEFT JOIN ((SELECT late.* FROM unnest($1::bigint[], $2::bigint[]) AS g(first, final) CROSS JOIN LATERAL
                     (SELECT * FROM dj_outbox WHERE seq >= g.first AND seq <= g.final ORDER BY seq LIMIT $4) late
                   ORDER BY late.seq LIMIT $4)
                  UNION ALL
                  (SELECT * FROM dj_outbox WHERE seq > $3 ORDER BY seq LIMIT $4)) o ON true
       ORDER BY o.seq""",
    "Reads late and fresh events and the oldest transaction that still runs.",
)
READ_IN_ORDER = Sql(
    "outbox_read_in_order",
    """SELECT NULL, seq, message_id, topic, okey, created_us, headers, payload FROM dj_outbox
       WHERE seq > $1 ORDER BY seq LIMIT $2""",
    "Reads fresh events where one writer commits in order.",
)
BACKLOG = Sql(
    "outbox_backlog",
    """SELECT coalesce((SELECT max(seq) FROM dj_outbox), 0) - (SELECT floor_seq FROM dj_relay WHERE relay_id = 1),
              (SELECT created_us FROM dj_outbox WHERE seq > (SELECT floor_seq FROM dj_relay WHERE relay_id = 1)
               ORDER BY seq LIMIT 1)""",
    "How many numbers the relay has not passed yet, and when the oldest of them was written.",
)
BACKLOG_ROWS = Sql(
    "outbox_backlog_rows",
    """SELECT count(*) FROM (SELECT 1 FROM dj_outbox WHERE seq > (SELECT floor_seq FROM dj_relay WHERE relay_id = 1)
                             LIMIT $1) waiting""",
    "Counts the events that the relay has not passed yet, up to a number.",
)
OLDEST_NEEDED = Sql(
    "outbox_oldest_needed",
    """SELECT (SELECT floor_seq FROM dj_relay WHERE relay_id = 1),
              (SELECT min(seq) FROM dj_ready), (SELECT min(seq) FROM dj_running),
              (SELECT min(value) + 1 FROM dj_counter WHERE name >= 'arrived:' AND name < 'arrived;'),
              (SELECT gaps FROM dj_relay WHERE relay_id = 1)""",
    "The lowest numbers that the relay, open work or reconciliation still needs.",
)
DELETE_SLICE = Sql(
    "outbox_delete_slice",
    """DELETE FROM dj_outbox WHERE seq IN
       (SELECT seq FROM dj_outbox WHERE seq < $1 AND created_us < $2 ORDER BY seq LIMIT $3) RETURNING 1""",
    "Deletes a slice of events that nothing needs any more (stores without partitions).",
)


def insert_pieces(database: Database, rows: Sequence[tuple[bytes, str, str | None, str, int, bytes]]) -> list[Piece]:
    """The closing pieces that append these events: (message_id, topic, okey, headers, created_us, payload)."""
    if database.capabilities.arrays and len(rows) == 1:
        return [Piece("outbox", INSERT_SINGLE, rows[0])]
    if database.capabilities.arrays:
        ids, topics, keys, headers, times, payloads = zip(*rows, strict=True)
        args = (list(ids), list(topics), list(keys), list(headers), times[0], list(payloads))
        return [Piece("outbox", INSERT_ARRAYS, args)]
    return [Piece("outbox", INSERT_ONE, row) for row in rows]


async def read_batch(
    database: Database, floor: int, gaps: Sequence[Gap], limit: int
) -> tuple[int | None, list[Message]]:
    """Events above the floor and those that filled a gap, up to `limit` of each, by number; and the horizon if there is one."""
    if database.capabilities.xid_horizon:
        firsts, finals = [gap.first for gap in gaps], [gap.final for gap in gaps]
        rows = await database.read(lambda c: c.fetch(READ_WITH_HORIZON, firsts, finals, floor, limit))
        horizon = rows[0][0]
    else:
        rows = await database.read(lambda c: c.fetch(READ_IN_ORDER, floor, limit))
        horizon = None
    return horizon, [message_of(row[1:]) for row in rows if row[1] is not None]


def message_of(row: Sequence[Any]) -> Message:
    """A message from (seq, message_id, topic, okey, created_us, headers, payload)."""
    seq, message_id, topic, okey, created_us, headers, payload = row
    return Message(seq, message_id, topic, okey, created_us, headers_of(headers), payload)


async def backlog(database: Database, limit: int) -> tuple[int, int | None]:
    """How many events wait for the relay, and the time of the oldest in microseconds, or None.

    Up to `limit` it is the distance of numbers, gaps included, which costs nothing; beyond it events are counted, to
    `limit` + 1 at most, because a sequence that jumped is no backlog.
    """
    distance, oldest_us = (await database.read(lambda c: c.fetch(BACKLOG)))[0]
    if distance is not None and distance > limit:
        distance = (await database.read(lambda c: c.fetch(BACKLOG_ROWS, limit + 1)))[0][0]
    return max(0, distance or 0), oldest_us


async def needed_from(database: Database) -> int:
    """The lowest number that somebody still needs; everything below may go once it is old enough."""
    numbers: Any = (await database.read(lambda c: c.fetch(OLDEST_NEEDED)))[0]
    floor, ready, running, arriving, gaps = numbers
    open_numbers = [gap.first for gap in parsed(gaps)]  # A transaction may still bring these.
    needed: int = min(number for number in (floor + 1, ready, running, arriving, *open_numbers) if number is not None)
    return needed


async def delete_slice(database: Database, below: int, before_us: int, limit: int = 500) -> int:
    """Delete up to `limit` events below a number and older than a time; how many went."""
    return len(await run_one(database, DELETE_SLICE, below, before_us, limit))
