"""Store: the tables of sagas, and the statements on them.

    dj_saga          one row for each: state, part, phase; narrow but for the state, updated once for each step
    dj_saga_step     append-only: what happened, with what each step gave
    dj_saga_event    events that sagas wait for: those that came before their time, and those of one that has not begun yet

A saga is one piece of work of its own subscription, numbered by its id (messaging/direct.py): so it is claimed, fenced,
retried and buried as all work is, and where its work row lies says whether it waits, runs or is stuck. The row of dj_saga
says what is to be done when it runs. Each transition is one closing statement: ADVANCE, the record, and the fence or the
acknowledgement of the claim.

An event and the look of a saga that waits for it take turns by a lock on the key (`alone_on`), which need not have a row: the
event may come before its saga. Whoever is second sees what the first has done.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.data.transaction import Piece
from dujiang.messaging.deadletter import text_of
from dujiang.messaging.work import COLUMNS
from dujiang.saga.progress import GIVEN_UP, Progress, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.data.transaction import Transaction
    from dujiang.messaging.deadletter import DeadLetter
    from dujiang.messaging.work import Claim

TOPIC = "saga:"
KEY_MAX = 255
NOTE_MAX = 500
EVENT_KEEP_US = 14 * 86_400_000_000
KEEP_ABANDONED_US = 30 * 86_400_000_000

INSERT = Sql(
    "saga_insert",
    """INSERT INTO dj_saga (saga_id, sub_id, tenant, okey, version, phase, step, data, rev, wish, deadline_us, created_us,
                            updated_us, why)
       VALUES ($1, $2, $3, $4, $5, 0, $6, $7, 0, 0, $8, $9, $9, '') ON CONFLICT DO NOTHING RETURNING saga_id""",
    "Makes a saga; nothing when there is one with its key.",
)
FIELDS = "saga_id, okey, version, phase, step, data, rev, wish, deadline_us, until_us, why"
LOAD = Sql("saga_load", f"SELECT {FIELDS} FROM dj_saga WHERE saga_id = $1", "Reads a saga.")
RECORDS = Sql(
    "saga_records",
    "SELECT n, name, kind, result, note, at_us FROM dj_saga_step WHERE saga_id = $1 ORDER BY n",
    "Reads what has happened to a saga.",
)
ADVANCE = Sql(
    "saga_advance",
    """UPDATE dj_saga SET version = $4, phase = $5, step = $6, data = $7, rev = $8, wish = $9, until_us = NULL, waits = NULL,
              why = $10, updated_us = $11, finished_us = $12, expires_us = $13
       WHERE saga_id = $1 AND rev = $2 AND wish = $3 RETURNING 1""",
    "Takes a saga on, if it is where its run has left it.",
)
RECORD = Sql(
    "saga_record",
    "INSERT INTO dj_saga_step (saga_id, n, name, kind, result, note, at_us) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING 1",
    "Writes what has happened.",
)
WAITS = Sql(
    "saga_waits",
    """UPDATE dj_saga SET waits = $3, until_us = $4, updated_us = $5 WHERE saga_id = $1 AND rev = $2 AND wish = 0
       RETURNING 1""",
    "Says for what a saga waits, and until when.",
)
PARK = Sql(
    "saga_park",
    f"""INSERT INTO dj_ready ({COLUMNS}, run_at)
        SELECT sub_id, seq, okey, tenant, 0, 0, message_id, topic, $5, headers, payload, $5
        FROM dj_running WHERE sub_id = $1 AND seq = $2 AND attempt = $3 AND lease = $4 RETURNING 1""",
    "Puts the work of a saga back until a time, with a new account of tries.",
)
ALONE = Sql("saga_alone", "SELECT pg_advisory_xact_lock($1)", "Lets events and waits of one key take turns.")
ARRIVE = Sql(
    "saga_arrive",
    """INSERT INTO dj_saga_event (sub_id, tenant, okey, topic, message_id, seq, version, payload, arrived_us)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING 1""",
    "Keeps an event for a saga.",
)
ARRIVED = Sql(
    "saga_arrived",
    """SELECT message_id, version, payload FROM dj_saga_event WHERE sub_id = $1 AND tenant = $2 AND okey = $3 AND topic = $4
       ORDER BY seq, message_id LIMIT 1""",
    "Reads the first event that has come for a saga, in the order of commits.",
)
HEARD = Sql(
    "saga_heard",
    """DELETE FROM dj_saga_event WHERE sub_id = $1 AND tenant = $2 AND okey = $3 AND topic = $4 AND message_id = $5
       RETURNING 1""",
    "Takes an event that a saga has waited for.",
)
OF_KEY = Sql(
    "saga_of_key",
    "SELECT saga_id, finished_us, waits FROM dj_saga WHERE sub_id = $1 AND tenant = $2 AND okey = $3",
    "Finds the saga of a key.",
)
WAKE = Sql(
    "saga_wake",
    "UPDATE dj_ready SET run_at = $3, created_us = $3 WHERE sub_id = $1 AND seq = $2 AND run_at > $3 RETURNING 1",
    "Lets a saga go on that waits for its time.",
)
ABANDON = Sql(
    "saga_abandon",
    """UPDATE dj_saga SET phase = 4, finished_us = $2, expires_us = $3, updated_us = $2 WHERE saga_id = $1
       AND finished_us IS NULL RETURNING rev""",
    "Ends a saga that is given up as it stands.",
)
RETIRED = Sql(
    "saga_retired",
    """UPDATE dj_saga SET phase = 4, finished_us = $1, expires_us = $2, updated_us = $1 WHERE finished_us IS NULL
       AND sub_id IN (SELECT sub_id FROM dj_subscription WHERE active = 0 AND routed = 0)
       AND NOT EXISTS (SELECT 1 FROM dj_dead d WHERE d.sub_id = dj_saga.sub_id AND d.seq = dj_saga.saga_id)
       AND NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = dj_saga.sub_id AND u.seq = dj_saga.saga_id)""",
    "Ends the sagas whose work was cancelled with their kind.",
)
DELETE_SLICE = Sql(
    "saga_delete_slice",
    """DELETE FROM dj_saga WHERE saga_id IN (SELECT saga_id FROM dj_saga WHERE expires_us < $1 ORDER BY expires_us LIMIT 200)
       RETURNING saga_id, sub_id, tenant, okey""",
    "Forgets a slice of sagas whose time is over.",
)
DELETE_RECORDS = Sql("saga_delete_records", "DELETE FROM dj_saga_step WHERE saga_id = $1", "Forgets what has happened.")
DELETE_EVENTS = Sql(
    "saga_delete_events",
    "DELETE FROM dj_saga_event WHERE sub_id = $1 AND tenant = $2 AND okey = $3",
    "Forgets events of a saga that is forgotten.",
)
DELETE_OLD_EVENTS = Sql(
    "saga_delete_old_events",
    "DELETE FROM dj_saga_event WHERE arrived_us < $1",
    "Forgets events for which no saga has come.",
)
LOST = Sql(
    "law_sagas_lost",
    """SELECT s.saga_id, s.okey, s.step FROM dj_saga s WHERE s.finished_us IS NULL
       AND NOT EXISTS (SELECT 1 FROM dj_ready r WHERE r.sub_id = s.sub_id AND r.seq = s.saga_id)
       AND NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = s.sub_id AND u.seq = s.saga_id)
       AND NOT EXISTS (SELECT 1 FROM dj_dead d WHERE d.sub_id = s.sub_id AND d.seq = s.saga_id) LIMIT 100""",
    "Open sagas that nothing takes on.",
)


def progress_of(row: Sequence[Any], records: Sequence[Sequence[Any]]) -> Progress:
    """The progress of a row of LOAD and rows of RECORDS."""
    saga_id, key, version, phase, step, data, rev, wish, deadline_us, until_us, why = row
    read = tuple(
        Record(n, name, kind, None if result is None else bytes(result), note, at_us)
        for n, name, kind, result, note, at_us in records
    )
    return Progress(
        saga_id=saga_id,
        key=key,
        version=version,
        phase=phase,
        step=step,
        data=bytes(data),
        rev=rev,
        wish=wish,
        deadline_us=deadline_us,
        until_us=until_us,
        why=why,
        records=read,
    )


async def load(connection: Any, saga_id: int) -> Progress | None:
    """How far a saga is; None when there is none."""
    rows = await connection.fetch(LOAD, saga_id)
    if not rows:
        return None
    records = await connection.fetch(RECORDS, saga_id) if rows[0][6] else []
    return progress_of(rows[0], records)


def advance_pieces(before: Progress, after: Progress, now_us: int, expires_us: int | None, moved: Any) -> list[Piece]:
    """The closing pieces that take a saga on: the row, and the record that is new; `moved` makes the error of a lost race."""
    new = after.records[-1]
    row = (
        after.saga_id, before.rev, before.wish, after.version, after.phase, after.step, after.data, after.rev, after.wish,
        noted(after.why), now_us, None if expires_us is None else now_us, expires_us,
    )  # fmt: skip
    record = (after.saga_id, new.n, new.name, new.kind, new.result, noted(new.note), new.at_us)
    return [Piece("saga", ADVANCE, row, expect=1, otherwise=moved), Piece("saga_record", RECORD, record)]


def park_piece(claim: Claim, due_us: int) -> Piece:
    """The closing piece that puts the work of a saga back until a time; the acknowledgement follows it."""
    return Piece("saga_park", PARK, (claim.sub_id, claim.message.seq, claim.attempt, claim.lease, due_us))


def noted(text: str) -> str:
    """A text for people, as every database can keep it."""
    return text.replace("\x00", "")[:NOTE_MAX].encode("utf-8", "replace").decode()


def said(error: BaseException) -> str:
    """An error for people, in one line."""
    return noted(" ".join(text_of(error).split()))


async def alone_on(tx: Transaction, database: Database, sub_id: int, tenant: str, key: str) -> None:
    """Wait until no other transaction deals with the events of a key; where one writer works, none does."""
    if database.capabilities.many_writers:
        what = f"saga\x1f{sub_id}\x1f{tenant}\x1f{key}".encode()
        digest = hashlib.blake2b(what, digest_size=8, person=b"dujiang-saga").digest()
        await tx.fetch(ALONE, int.from_bytes(digest, "big", signed=True))


async def discarded(connection: Connection, letter: DeadLetter, seq: int, now_us: int) -> None:
    """A dead letter is given up; if it was a saga, it ends as it stands."""
    if letter.topic.startswith(TOPIC):
        rows = await connection.fetch(ABANDON, seq, now_us, now_us + KEEP_ABANDONED_US)
        if rows:
            note = f"given up by an operator after: {letter.reason}"
            await connection.fetch(RECORD, seq, rows[0][0] + 1, "", GIVEN_UP, None, noted(note), now_us)


async def retire(database: Database, now_us: int) -> None:
    """End the sagas of kinds that the app has given up; what waited was cancelled with its kind."""
    await database.write(lambda connection: connection.execute(RETIRED, now_us, now_us + KEEP_ABANDONED_US))


async def clean(database: Database, now_us: int) -> int:
    """Forget a slice of sagas whose time is over, and events that nobody has waited for; how many."""

    async def body(connection: Connection) -> int:
        rows = await connection.fetch(DELETE_SLICE, now_us)
        for saga_id, sub_id, tenant, key in rows:
            await connection.execute(DELETE_RECORDS, saga_id)
            await connection.execute(DELETE_EVENTS, sub_id, tenant, key)
        await connection.execute(DELETE_OLD_EVENTS, now_us - EVENT_KEEP_US)
        return len(rows)

    return await database.write(body)
