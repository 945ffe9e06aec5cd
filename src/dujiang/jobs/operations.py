"""Operations: what an operator sees of all jobs, whoever asked for them, and what can be done with one.

    asked for              walked
    any, or an end         dj_job by its primary key, newest first; an id tells the time, so the newest are found at once
    ready, later           dj_ready, the kinds of jobs only
    running                dj_running, the same
    dead                   dj_dead, and those of dj_job that were discarded

A page picks its ids in that narrow table first and looks the rest up for these alone, so what is open is found among what is
open, and not among a million that have ended. An end that is rare walks back over the jobs that are kept: they are kept for
a day, or as long as `keep=` says. Rejected: an index by state; it would be written twice for each job, and read by nobody but
an operator. Counts are one pass over dj_job in one statement, so they are those of one instant; 300,000 jobs take 0.15 s, and
the process that owns an embedded store stands for so long.

To cancel is what `DELETE` of the job's own address does, without asking who is its owner; to retry is to replay its dead
letter. Nothing here has a way of its own into the tables of work.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from dujiang.data.sql import Sql
from dujiang.jobs import store
from dujiang.jobs.arguments import TOPIC
from dujiang.jobs.running import BELL, cancel_waiting
from dujiang.jobs.schedules import shown
from dujiang.jobs.view import STATES, state_of
from dujiang.kernel.context import current
from dujiang.kernel.errors import DujiangError
from dujiang.messaging.message import headers_of
from dujiang.messaging.work import STATE_DEAD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.deadletter import DeadLetters
    from dujiang.messaging.tx import Tx

LIMIT_MAX = 1000
ID_MAX = 2**63 - 1
RESULT_SHOWN, STEP_SHOWN, STEPS_SHOWN = 64 * 1024, 1024, 1000

OPEN = f"""SELECT w.seq AS job_id FROM dj_subscription k JOIN dj_{{table}} w ON w.sub_id = k.sub_id
           WHERE k.topic LIKE '{TOPIC}%' AND ($1 = 0 OR k.sub_id = $1) AND w.seq < $2 {{more}} ORDER BY w.seq DESC LIMIT $3"""
ENDED = """SELECT k.job_id FROM dj_job k
           WHERE ($1 = 0 OR k.sub_id = $1) AND k.job_id < $2 {more} ORDER BY k.job_id DESC LIMIT $3"""
COLUMNS = """j.job_id, n.name, j.state, j.progress_ppm, j.note, j.cancel_us, j.created_us, j.finished_us, j.attempts,
             r.run_at, r.attempt, u.attempt, d.reason, d.attempts"""
PLACES = """JOIN dj_subscription n ON n.sub_id = j.sub_id
            LEFT JOIN dj_ready r ON r.sub_id = j.sub_id AND r.seq = j.job_id
            LEFT JOIN dj_running u ON u.sub_id = j.sub_id AND u.seq = j.job_id
            LEFT JOIN dj_dead d ON d.sub_id = j.sub_id AND d.seq = j.job_id"""

# Most jobs have ended: for those nothing is looked up, which halves the time of a count.
PLACES_OF_OPEN = PLACES.replace(" AND ", " AND j.state = 0 AND ")


def listing(name: str, picked: str, says: str) -> Sql:
    """The statement that lists the jobs whose ids are picked."""
    # A cross join is one to every planner, but SQLite also keeps its order: what was picked first, then its rows.
    joined = f"({picked}) p CROSS JOIN dj_job j {PLACES} WHERE j.job_id = p.job_id ORDER BY p.job_id DESC"
    text = f"SELECT {COLUMNS} FROM {joined}"
    return Sql(f"job_list_{name}", text, f"Lists jobs, newest first: {says}.")


DISCARDED = ENDED.format(more=f"AND k.state = {STATE_DEAD}")
LISTS = {
    "": listing("any", ENDED.format(more=""), "all of them"),
    "ready": listing("ready", OPEN.format(table="ready", more="AND w.run_at <= $4"), "those that wait for a worker"),
    "later": listing("later", OPEN.format(table="ready", more="AND w.run_at > $4"), "those that wait for their time"),
    "running": listing("running", OPEN.format(table="running", more=""), "those that run"),
    "dead": listing(
        "dead",
        f"""SELECT job_id FROM (SELECT * FROM ({OPEN.format(table="dead", more="")}) a
            UNION ALL SELECT * FROM ({DISCARDED}) b) c ORDER BY job_id DESC LIMIT $3""",
        "those that are dead",
    ),
    **{
        word: listing(word, ENDED.format(more=f"AND k.state = {state}"), f"those that are {word}")
        for state, word in store.WORD.items()
        if state != STATE_DEAD
    },
}
COUNTS = Sql(
    "job_counts",
    f"""SELECT n.name, CASE {" ".join(f"WHEN j.state = {state} THEN '{word}'" for state, word in store.WORD.items())}
              WHEN u.seq IS NOT NULL THEN 'running' WHEN r.run_at > $1 THEN 'later' WHEN r.seq IS NOT NULL THEN 'ready'
              WHEN d.seq IS NOT NULL THEN 'dead' ELSE 'cancelled' END AS word, count(*)
       FROM dj_job j {PLACES_OF_OPEN} GROUP BY 1, 2 ORDER BY 1, 2""",
    "Counts jobs by kind and state.",
)
SHOW = Sql(
    "job_show",
    f"""SELECT {COLUMNS}, j.tenant, j.owner, j.uniq, j.expires_us, length(j.result), substr(j.result, 1, {RESULT_SHOWN}),
              coalesce(u.headers, r.headers, d.headers), o.holder, d.dead_id, d.error
       FROM dj_job j {PLACES} LEFT JOIN dj_process o ON o.lease = u.lease WHERE j.job_id = $1""",
    "Reads a job, and where its work lies.",
)
STEPS = Sql(
    "job_steps",
    f"""SELECT name, length(result), substr(result, 1, {STEP_SHOWN}) FROM dj_step WHERE job_id = $1
        ORDER BY name LIMIT {STEPS_SHOWN}""",
    "Reads the steps of a job that have ended.",
)
WISH = Sql(
    "job_wish",
    "UPDATE dj_job SET cancel_us = coalesce(cancel_us, $2) WHERE job_id = $1 AND state = 0 RETURNING sub_id",
    "Says that a job shall be cancelled, whoever asked for it.",
)
KINDS = Sql(
    "job_kinds", f"SELECT name, sub_id FROM dj_subscription WHERE topic LIKE '{TOPIC}%'", "Reads the kinds of jobs."
)


@dataclass(eq=False, kw_only=True)
class JobMissing(DujiangError):
    """The store has no such job."""

    code = "job_missing"
    move = "choose"
    status = 404
    says = "no job has the id {job_id}"
    cure = "`dujiang jobs list` shows them; one that has ended is known for as long as `keep=` says"

    job_id: int


@dataclass(eq=False, kw_only=True)
class JobStands(DujiangError):
    """A job stands where it cannot be cancelled, or retried."""

    code = "job_stands"
    move = "choose"
    says = "job {job_id} is {state}; it cannot be {wanted}"
    cure = "{how}"

    job_id: int
    state: str
    wanted: str
    how: str


@dataclass(eq=False, kw_only=True)
class JobFilterRefused(DujiangError):
    """Jobs are asked for by a kind or a state that there is not."""

    code = "job_filter_refused"
    move = "choose"
    status = 422
    says = "there is no {what} {given} of jobs"
    cure = "{how}"

    what: str
    given: str
    how: str


class JobOperations:
    """The operations on jobs.

    Args:
        database: Where they are.
        transact: Runs a function in a transaction of its own.
        now_us: The present time.
        deadletters: Replays the letter of a dead one.
    """

    def __init__(
        self,
        database: Database,
        transact: Callable[..., Awaitable[Any]],
        now_us: Callable[[], int],
        deadletters: DeadLetters,
    ) -> None:
        self._database = database
        self._transact = transact
        self._now_us = now_us
        self._deadletters = deadletters

    async def counts(self) -> list[dict[str, Any]]:
        """How many jobs there are of each kind in each state; what is nought is left out."""
        rows = await self._database.read(lambda connection: connection.fetch(COUNTS, self._now_us()))
        return [{"kind": kind, "state": state, "jobs": count} for kind, state, count in rows]

    async def list(self, name: str = "", state: str = "", *, before: int = 0, limit: int = 50) -> dict[str, Any]:
        """Jobs, newest first: `jobs`, and `next`, which is `before` of the page behind, or None.

        Args:
            name: Of this kind only; empty = of all.
            state: In this state only; empty = in any.
            before: Only those with a smaller id; 0 = from the newest.
            limit: At most so many.

        Raises:
            JobFilterRefused: There is no such kind, or no such state.
        """
        if state and state not in STATES:
            raise JobFilterRefused(
                what="state", given=state, how=f"{near(state, STATES)}states are {', '.join(STATES)}"
            )
        most, now_us = max(1, min(limit, LIMIT_MAX)), self._now_us()

        async def look(connection: Connection) -> Sequence[Sequence[Any]]:
            sub_id = 0
            if name:
                kinds = {row[0]: row[1] for row in await connection.fetch(KINDS)}
                if name not in kinds:
                    how = f"{near(name, list(kinds))}`dujiang jobs` shows the kinds that have some"
                    raise JobFilterRefused(what="kind", given=name, how=how)
                sub_id = kinds[name]
            args = (sub_id, min(before, ID_MAX) or ID_MAX, most + 1)
            times = (now_us,) if state in ("ready", "later") else ()
            return await connection.fetch(LISTS[state], *args, *times)

        rows = [line_of(row, now_us) for row in await self._database.read(look)]
        return {"jobs": rows[:most], "next": rows[most - 1]["id"] if len(rows) > most else None}

    async def show(self, job_id: int) -> dict[str, Any]:
        """One job with its result, its steps and its dead letter, as JSON values. Raises JobMissing."""

        async def look(connection: Connection) -> tuple[Sequence[Any], Sequence[Sequence[Any]]]:
            return await row_of(connection, job_id), await connection.fetch(STEPS, job_id)

        row, steps = await self._database.read(look)
        tenant, owner, unique, expires_us, size, result, headers, holder, dead_id, error = row[14:24]
        deadline_us = headers_of(headers).get("deadline_us") if headers else None
        return {
            **line_of(row, self._now_us()),
            "why": error,
            "dead_letter": None if dead_id is None else str(dead_id),
            "deadline": moment(deadline_us),
            "unique": unique,
            "tenant": tenant,
            "owner": owner,
            "process": holder,
            "kept_until": moment(expires_us),
            "result": valued(result, size),
            "result_bytes": size,
            "steps": [{"name": name, "bytes": count, "result": valued(kept, count)} for name, count, kept in steps],
        }

    async def cancel(self, job_id: int) -> dict[str, Any]:
        """Cancel a job: at once if it waits; if it runs it is asked to end. How it stands then.

        Raises:
            JobMissing: There is none.
            JobStands: It is dead, or has ended in another way than by being cancelled.
        """
        if job_id > ID_MAX:
            raise JobMissing(job_id=job_id)

        async def body(tx: Tx) -> dict[str, Any]:
            rows = await tx.fetch(WISH, job_id, tx.now_us)
            if rows and not await cancel_waiting(tx, rows[0][0], job_id):
                bells = current().runtime.bells
                tx.after_commit.append(lambda: bells.ring_far(BELL))  # Heard by the process that runs it.
            found = line_of(await row_of(tx, job_id), tx.now_us)
            if found["state"] == "dead":
                how = f"`dujiang jobs retry {job_id}` runs it again, and `dujiang deadletter discard` gives it up"
                raise JobStands(job_id=job_id, state="dead", wanted="cancelled", how=how)
            if found["state"] in ("done", "expired"):
                raise JobStands(job_id=job_id, state=found["state"], wanted="cancelled", how="it has ended already")
            return found

        found: dict[str, Any] = await self._transact(body, what="jobs.cancel")
        return found

    async def retry(self, job_id: int) -> dict[str, Any]:
        """Replay the dead letter of a job; how it stood before.

        Raises:
            JobMissing: There is none.
            JobStands: It is not dead, or its letter was discarded.
        """
        row = await self._database.read(lambda connection: row_of(connection, job_id))
        found, dead_id = line_of(row, self._now_us()), row[22]
        if found["state"] != "dead" or dead_id is None:
            how = "only a dead one is retried; this one goes on by itself"
            if found["ended"] is not None:
                how = "it has ended, and its letter is gone; ask for a new one"
            raise JobStands(job_id=job_id, state=found["state"], wanted="retried", how=how)
        await self._deadletters.replay(dead_id)
        return found


async def row_of(db: Connection | Tx, job_id: int) -> Sequence[Any]:
    """The row of SHOW of a job. Raises JobMissing."""
    rows = await db.fetch(SHOW, job_id) if job_id <= ID_MAX else []
    if not rows:
        raise JobMissing(job_id=job_id)
    row: Sequence[Any] = rows[0]
    return row


def line_of(row: Sequence[Any], now_us: int) -> dict[str, Any]:
    """The line of a job in a list, from a row of COLUMNS, as JSON values."""
    job_id, name, ended, ppm, note, cancel_us, created_us, finished_us, attempts = row[:9]
    run_at, waited, runs, reason, died = row[9:14]
    state = state_of(ended, runs, run_at, reason, now_us)
    return {
        "id": str(job_id),
        "kind": name,
        "state": state,
        "attempt": next((count for count in (runs, waited, died) if count is not None), attempts),
        "progress": ppm / 1_000_000,
        "note": note,
        "cancelling": state == "running" and cancel_us is not None,
        "created": moment(created_us),
        "due": moment(run_at),
        "ended": moment(finished_us),
        "error": reason if state == "dead" else None,
    }


def moment(at_us: object) -> str | None:
    """A time as JSON has it; None when there is none."""
    return shown(at_us) if isinstance(at_us, int) else None


def valued(raw: bytes | None, size: int | None) -> Any:
    """What a result says; of one that was cut, its beginning as text."""
    if raw is None:
        return None
    return from_json(bytes(raw)) if len(raw) == size else bytes(raw).decode("utf-8", "replace") + "..."


def near(given: str, known: Sequence[str]) -> str:
    """The question whether a known name was meant; empty when none is near."""
    found = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {found[0]!r}? " if found else ""
