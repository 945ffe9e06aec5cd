"""Store: the tables dj_job and dj_step; what is known of a job beside its work row.

    open      state 0; where its row lies says the rest: dj_ready (ready, or later), dj_running (running), dj_dead (dead)
    ended     done, cancelled, expired; written once, in the transaction that ends the claim; kept until `expires_us`

Progress, note and the wish to cancel are columns of the same row: it is narrow, because the message travels with the work
(messaging/direct.py), and none of them is indexed. Every write of a run is fenced: the row in dj_running must be its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.data.transaction import Piece
from dujiang.messaging.closing import Closing, Instead
from dujiang.messaging.work import OUTCOME_ONE, STATE_CANCELLED, STATE_DEAD, STATE_DONE, STATE_EXPIRED, end_claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.deadletter import DeadLetter
    from dujiang.messaging.work import Claim

WORD = {STATE_DONE: "done", STATE_DEAD: "dead", STATE_CANCELLED: "cancelled", STATE_EXPIRED: "expired"}
KEEP_DISCARDED_US = 86_400_000_000

# job_id, sub_id, tenant, owner, uniq, created_us
Row = tuple[int, int, str, str, str | None, int]

INSERT_ONE = Sql(
    "job_insert_one",
    """INSERT INTO dj_job (job_id, sub_id, tenant, owner, uniq, created_us, state, attempts, progress_ppm, note)
       VALUES ($1, $2, $3, $4, $5, $6, 0, 0, 0, '') ON CONFLICT DO NOTHING RETURNING job_id""",
    "Makes a job; nothing when an open one of its kind has the same unique key.",
)
INSERT_ARRAYS = Sql(
    "job_insert_arrays",
    """INSERT INTO dj_job (job_id, sub_id, tenant, owner, uniq, created_us, state, attempts, progress_ppm, note)
       SELECT j, s, t, o, u, c, 0, 0, 0, ''
       FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::bigint[]) AS w(j, s, t, o, u, c)
       ON CONFLICT DO NOTHING RETURNING job_id""",
    "Makes many jobs in one statement.",
)
OF_UNIQUE = Sql(
    "job_of_unique",
    "SELECT job_id FROM dj_job WHERE sub_id = $1 AND tenant = $2 AND uniq = $3",
    "Finds the open job that has a unique key.",
)
NUMBER = Sql("job_number", "SELECT sub_id FROM dj_subscription WHERE name = $1", "Reads the number of a kind of jobs.")
VIEW = Sql(
    "job_view",
    """SELECT j.state, j.progress_ppm, j.note, j.cancel_us, j.created_us, j.finished_us, j.result, s.name,
              r.run_at, r.attempt, u.attempt, d.reason, d.attempts, j.attempts
       FROM dj_job j JOIN dj_subscription s ON s.sub_id = j.sub_id
       LEFT JOIN dj_ready r ON r.sub_id = j.sub_id AND r.seq = j.job_id
       LEFT JOIN dj_running u ON u.sub_id = j.sub_id AND u.seq = j.job_id
       LEFT JOIN dj_dead d ON d.sub_id = j.sub_id AND d.seq = j.job_id
       WHERE j.job_id = $1 AND j.tenant = $2 AND j.owner = $3""",
    "Reads a job of this tenant and owner, and where its work lies.",
)
PROGRESS = Sql(
    "job_progress",
    """UPDATE dj_job SET progress_ppm = $2, note = $3 WHERE job_id = $1 AND state = 0
       AND EXISTS (SELECT 1 FROM dj_running WHERE sub_id = $4 AND seq = $1 AND attempt = $5 AND lease = $6)""",
    "Writes how far a run is, while it is the one that has the claim.",
)
FINISH = Sql(
    "job_finish",
    """UPDATE dj_job SET state = $2, result = $3, progress_ppm = 1000000, finished_us = $4, expires_us = $5, uniq = NULL,
              attempts = $6
       WHERE job_id = $1 AND state = 0 AND cancel_us IS NULL RETURNING 1""",
    "Writes the result of a job that nobody wants cancelled.",
)
END = Sql(
    "job_end",
    """UPDATE dj_job SET state = $2, finished_us = $3, expires_us = $4, uniq = NULL, attempts = $5
       WHERE job_id = $1 AND state = 0 RETURNING 1""",
    "Ends a job without a result.",
)
WANT_CANCEL = Sql(
    "job_want_cancel",
    """UPDATE dj_job SET cancel_us = coalesce(cancel_us, $2) WHERE job_id = $1 AND tenant = $3 AND owner = $4 AND state = 0
       RETURNING sub_id""",
    "Says that a job shall be cancelled.",
)
CANCELLED = Sql(
    "job_cancelled",
    "SELECT job_id, sub_id FROM dj_job WHERE cancel_us IS NOT NULL AND state = 0 ORDER BY job_id LIMIT $1",
    "Finds open jobs that shall be cancelled.",
)
RETIRED = Sql(
    "job_retired",
    """UPDATE dj_job SET state = 4, finished_us = $1, expires_us = $2, uniq = NULL WHERE state = 0
       AND sub_id IN (SELECT sub_id FROM dj_subscription WHERE active = 0 AND routed = 0)
       AND NOT EXISTS (SELECT 1 FROM dj_dead d WHERE d.sub_id = dj_job.sub_id AND d.seq = dj_job.job_id)
       AND NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = dj_job.sub_id AND u.seq = dj_job.job_id)""",
    "Ends the jobs whose work was cancelled with their kind.",
)
STEP_READ = Sql("job_step_read", "SELECT name, result FROM dj_step WHERE job_id = $1", "Reads the steps of a job.")
STEP_WRITE = Sql(
    "job_step_write",
    "INSERT INTO dj_step (job_id, name, result) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING 1",
    "Keeps the result of a step.",
)
DELETE_SLICE = Sql(
    "job_delete_slice",
    """DELETE FROM dj_job WHERE job_id IN (SELECT job_id FROM dj_job WHERE expires_us < $1 ORDER BY expires_us LIMIT 500)
       RETURNING job_id""",
    "Forgets a slice of jobs whose time is over.",
)
DELETE_STEPS = Sql("job_delete_steps", "DELETE FROM dj_step WHERE job_id = $1", "Forgets the steps of a job.")


def insert_pieces(database: Database, rows: Sequence[Row]) -> list[Piece]:
    """The closing pieces that make jobs without unique keys."""
    if len(rows) > 1 and database.capabilities.arrays:
        return [Piece("jobs", INSERT_ARRAYS, tuple(list(column) for column in zip(*rows, strict=True)))]
    return [Piece("jobs", INSERT_ONE, row) for row in rows]


def done(claim: Claim, result: bytes | None, keep_us: int) -> Closing:
    """The end of a job that has its result; cancelled instead if somebody has asked for that before."""

    def instead() -> Exception:
        return Instead(ended(claim, STATE_CANCELLED, keep_us))

    def pieces(now_us: int) -> list[Piece]:
        args = (claim.message.seq, STATE_DONE, result, now_us, now_us + keep_us, claim.attempt)
        return [Piece("job", FINISH, args, expect=1, otherwise=instead)]

    return Closing(STATE_DONE, "done", pieces)


def ended(claim: Claim, state: int, keep_us: int) -> Closing:
    """The end of a job without a result."""

    def pieces(now_us: int) -> list[Piece]:
        return [Piece("job", END, (claim.message.seq, state, now_us, now_us + keep_us, claim.attempt))]

    return Closing(state, WORD[state], pieces)


async def end_from_outside(database: Database, name: str, claim: Claim, keep_us: int, now_us: int) -> None:
    """Cancel a run that does not end by itself: its claim is taken away, so it can commit nothing any more.

    Raises:
        LeaseLost: It has ended meanwhile.
    """

    async def body(connection: Connection) -> None:
        await end_claim(connection, name, claim)
        seq = claim.message.seq
        await connection.fetch(OUTCOME_ONE, claim.sub_id, seq, claim.attempt, STATE_CANCELLED, now_us, 0)
        await connection.fetch(END, seq, STATE_CANCELLED, now_us, now_us + keep_us, claim.attempt)

    await database.write(body)


async def discarded(connection: Connection, letter: DeadLetter, seq: int, now_us: int) -> None:
    """A dead letter is given up; if it was a job, that is its end."""
    if letter.topic.startswith("job:"):
        await connection.fetch(END, seq, STATE_DEAD, now_us, now_us + KEEP_DISCARDED_US, letter.attempts)


async def clean(database: Database, now_us: int) -> int:
    """Forget a slice of jobs whose results have expired, with their steps; how many."""

    async def body(connection: Connection) -> int:
        rows: list[Any] = await connection.fetch(DELETE_SLICE, now_us)
        for (job_id,) in rows:
            await connection.execute(DELETE_STEPS, job_id)
        return len(rows)

    return await database.write(body)
