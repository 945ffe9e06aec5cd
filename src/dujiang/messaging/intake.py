"""Intake: deliveries of a broker outside the store become work, in one statement or one short transaction.

    delivery ──► the key is free       ──► dj_running, under our lease: a claim
             └─► the key has work here ──► dj_ready, behind it; it is claimed like any other work

"Has work here" means: an event of the key runs, waits for a retry, or is dead and holds the key; then a later one may
not overtake it. The rows of dj_ready are claimed by their number, so whatever the order of arrival, the order of commits
decides among those that wait.

A repeat whose work is still open meets its own row and changes nothing. A repeat of something handled becomes a claim
and ends as a duplicate by the inbox (messaging/inbox.py), like every repeat. Only one kind of repeat would do harm: a
dead letter would be run, and die, a second time. So deliveries that are marked as repeated are looked for among the
letters first; those that are not marked cannot have died before.

Rows hold no body: the outbox has it, and is kept until everything in it has arrived (messaging/reconcile.py). A message
of another program is in no outbox; its number is negative, and it becomes a row of dj_ready with its whole self.

The reads of these statements are hints and the unique indexes decide, as in messaging/work.py: when a row appears
between the look and the insert, the insert does nothing and the delivery goes to dj_ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.messaging.message import received_text
from dujiang.messaging.outbox import message_of
from dujiang.messaging.work import Claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.broker import Feed
    from dujiang.messaging.carrier import Delivery
    from dujiang.messaging.message import Message

RUNNING = "sub_id, seq, okey, tenant, attempt, crashes, message_id, lease, started_us"
READY = "sub_id, seq, okey, tenant, attempt, crashes, message_id, run_at"
HELD = "EXISTS (SELECT 1 FROM dj_hold h WHERE h.sub_id = $1 AND h.okey = {halt})"
BUSY = """EXISTS (SELECT 1 FROM dj_ready e WHERE e.sub_id = $1 AND e.okey IS NOT NULL AND e.okey = {key})
          OR EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = $1 AND u.okey IS NOT NULL AND u.okey = {key})
          OR EXISTS (SELECT 1 FROM dj_hold h WHERE h.sub_id = $1 AND h.okey IN ({key}, {halt}))"""
HALT_ARRAYS, HALT_ONE = "E'\\x01'", "char(1)"

FREE_ARRAYS = Sql(
    "intake_free_arrays",
    f"""WITH x AS (SELECT * FROM unnest($2::bigint[], $3::bytea[]) AS r(seq, message_id)),
        i AS (INSERT INTO dj_running ({RUNNING})
              SELECT $1, x.seq, NULL, '', 1, 0, x.message_id, $4, $5 FROM x
              WHERE NOT EXISTS (SELECT 1 FROM dj_ready e WHERE e.sub_id = $1 AND e.seq = x.seq)
              AND NOT {HELD.format(halt=HALT_ARRAYS)} ON CONFLICT DO NOTHING RETURNING seq),
        w AS (INSERT INTO dj_ready ({READY}) SELECT $1, x.seq, NULL, '', 0, 0, x.message_id, $5 FROM x
              WHERE {HELD.format(halt=HALT_ARRAYS)}
              AND NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = $1 AND u.seq = x.seq)
              ON CONFLICT DO NOTHING RETURNING seq)
        SELECT seq, 1 FROM i UNION ALL SELECT seq, 0 FROM w""",
    "Claims deliveries without a key; of a halted subscription they wait.",
)
KEYED_ARRAYS = Sql(
    "intake_keyed_arrays",
    f"""WITH x AS (SELECT * FROM unnest($2::bigint[], $3::bytea[], $6::text[]) AS r(seq, message_id, okey)),
        f AS (SELECT DISTINCT ON (x.okey) x.* FROM x WHERE NOT ({BUSY.format(key="x.okey", halt=HALT_ARRAYS)})
              ORDER BY x.okey, x.seq),
        i AS (INSERT INTO dj_running ({RUNNING}) SELECT $1, seq, okey, '', 1, 0, message_id, $4, $5 FROM f
              ON CONFLICT DO NOTHING RETURNING seq),
        w AS (INSERT INTO dj_ready ({READY}) SELECT $1, x.seq, x.okey, '', 0, 0, x.message_id, $5 FROM x
              WHERE x.seq NOT IN (SELECT seq FROM i)
              AND NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = $1 AND u.seq = x.seq)
              ON CONFLICT DO NOTHING RETURNING seq)
        SELECT seq, 1 FROM i UNION ALL SELECT seq, 0 FROM w""",
    "Claims the first delivery of each key that has no work here; the others wait behind it.",
)
# The same where lists are no parameters: one row after another in one transaction, each seeing those before it.
FREE_ONE = Sql(
    "intake_free_one",
    f"""INSERT INTO dj_running ({RUNNING}) SELECT $1, $2, NULL, '', 1, 0, $3, $4, $5
        WHERE NOT EXISTS (SELECT 1 FROM dj_ready e WHERE e.sub_id = $1 AND e.seq = $2)
        AND NOT {HELD.format(halt=HALT_ONE)} ON CONFLICT DO NOTHING RETURNING 1""",
    "Claims one delivery without a key.",
)
KEYED_ONE = Sql(
    "intake_keyed_one",
    f"""INSERT INTO dj_running ({RUNNING}) SELECT $1, $2, $6, '', 1, 0, $3, $4, $5
        WHERE NOT ({BUSY.format(key="$6", halt=HALT_ONE)}) ON CONFLICT DO NOTHING RETURNING 1""",
    "Claims one delivery whose key has no work here.",
)
WAIT_ONE = Sql(
    "intake_wait_one",
    f"""INSERT INTO dj_ready ({READY}) SELECT $1, $2, $5, '', 0, 0, $3, $4
        WHERE NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = $1 AND u.seq = $2)
        ON CONFLICT DO NOTHING RETURNING 1""",
    "Lets one delivery wait.",
)
FOREIGN_ONE = Sql(
    "intake_foreign_one",
    """INSERT INTO dj_ready (sub_id, seq, okey, tenant, attempt, crashes, message_id, topic, created_us, headers, payload,
                             run_at)
       SELECT $1, $2, NULL, '', 0, 0, $3, $4, $5, $6, $7, $8
       WHERE NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = $1 AND u.seq = $2)
       ON CONFLICT DO NOTHING RETURNING 1""",
    "Lets one message of another program wait, with its own copy.",
)
DIED_ARRAYS = Sql(
    "intake_died_arrays",
    "SELECT seq FROM dj_dead WHERE sub_id = $1 AND seq = ANY($2::bigint[])",
    "Finds dead letters among deliveries that came before.",
)
DIED_ONE = Sql("intake_died_one", "SELECT seq FROM dj_dead WHERE sub_id = $1 AND seq = $2", "As above, for one.")
WHOLE = Sql(
    "intake_whole",
    "SELECT seq, message_id, topic, okey, created_us, headers, payload FROM dj_outbox WHERE seq = $1",
    "Reads a message that did not fit into its envelope.",
)


async def take_in(
    database: Database, feed: Feed, lease: int, now_us: int, deliveries: Sequence[Delivery]
) -> list[Claim]:
    """Make work of a feed's deliveries; those that could be claimed, in the order of their numbers.

    What has another topic is left out: it comes from the time before the subscription was declared on this one.
    """
    sub_id, topic, ordered = feed.sub_id, feed.topic, feed.ordered
    messages = {one.message.seq: one.message for one in deliveries if one.message.topic == topic}
    for died in await _died(database, sub_id, [one.message.seq for one in deliveries if one.repeated]):
        messages.pop(died, None)
    for seq in [one.message.seq for one in deliveries if one.partial and one.message.seq in messages]:
        whole = await database.read(lambda connection, seq=seq: connection.fetch(WHOLE, seq))  # type: ignore[misc]
        if whole:
            messages[seq] = message_of(whole[0])
    foreign = [messages.pop(seq) for seq in [seq for seq in messages if seq < 0]]
    if foreign:
        await database.write(lambda connection: _keep(connection, sub_id, now_us, foreign))
    keyed = [one for one in messages.values() if ordered and one.okey is not None]
    free = [one for one in messages.values() if not (ordered and one.okey is not None)]
    rows: list[tuple[int, bool]] = []
    if database.capabilities.arrays:
        rows = await _many(database, sub_id, lease, now_us, free, keyed)
    else:
        rows = await database.write(
            lambda connection: _each(connection, sub_id, lease, now_us, [*free, *keyed], ordered=ordered)
        )
    taken = sorted(seq for seq, runs in rows if runs)
    return [Claim(sub_id, 1, 0, lease, messages[seq]) for seq in taken]


async def _keep(connection: Connection, sub_id: int, now_us: int, foreign: Sequence[Message]) -> None:
    for one in foreign:
        headers = received_text(one.headers)
        row = (sub_id, one.seq, one.message_id, one.topic, one.created_us, headers, one.payload, now_us)
        await connection.fetch(FOREIGN_ONE, *row)


async def _died(database: Database, sub_id: int, seqs: list[int]) -> set[int]:
    if not seqs:
        return set()
    if database.capabilities.arrays:
        rows = await database.read(lambda connection: connection.fetch(DIED_ARRAYS, sub_id, seqs))
        return {row[0] for row in rows}
    found = [await database.read(lambda c, seq=seq: c.fetch(DIED_ONE, sub_id, seq)) for seq in set(seqs)]  # type: ignore[misc]
    return {row[0] for rows in found for row in rows}


async def _many(
    database: Database, sub_id: int, lease: int, now_us: int, free: Sequence[Message], keyed: Sequence[Message]
) -> list[tuple[int, bool]]:
    rows = []
    if free:
        seqs, ids = [one.seq for one in free], [one.message_id for one in free]
        rows += await database.statement(FREE_ARRAYS, sub_id, seqs, ids, lease, now_us)
    if keyed:
        seqs, ids = [one.seq for one in keyed], [one.message_id for one in keyed]
        keys = [one.okey for one in keyed]
        rows += await database.statement(KEYED_ARRAYS, sub_id, seqs, ids, lease, now_us, keys)
    return [(row[0], bool(row[1])) for row in rows]


async def _each(
    connection: Connection, sub_id: int, lease: int, now_us: int, messages: Sequence[Message], *, ordered: bool
) -> list[tuple[int, bool]]:
    rows = []
    for one in sorted(messages, key=lambda message: message.seq):
        okey = one.okey if ordered else None
        if okey is None:
            runs = await connection.fetch(FREE_ONE, sub_id, one.seq, one.message_id, lease, now_us)
        else:
            runs = await connection.fetch(KEYED_ONE, sub_id, one.seq, one.message_id, lease, now_us, okey)
        if runs or await connection.fetch(WAIT_ONE, sub_id, one.seq, one.message_id, now_us, okey):
            rows.append((one.seq, bool(runs)))
    return rows
