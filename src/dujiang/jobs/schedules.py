"""Schedules: the tables dj_schedule and dj_fire; what the store knows of each schedule, and what an operator may ask for.

    dj_schedule    one row for each: its text, when it is due next, whether it is paused
    dj_fire        one row for each time: wanted ──► fired, with its job
                                          (due)  └─► passed over: an earlier run had not ended

The unique key of dj_fire is the promise: a time of a schedule makes one job, however many processes found it due, and
whoever else asks for it, because a time that was run by hand or in a backfill is the same row. Its job is made in the
transaction that writes the row.

An operator writes wishes and makes no jobs: a wish needs neither a lease nor ids of its own, so a command works with no
process up, and who runs `backfill` twice has asked once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.jobs.cron import NotCron
from dujiang.jobs.schedule import BACKFILL, BY_HAND, Schedule
from dujiang.kernel.clock import instant, microseconds
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.data.database import Connection, Database

WANTED, FIRED, PASSED_OVER = 0, 1, 2
HOW = ("due", "late", "by hand", "backfill")
STATE = ("wanted", "fired", "passed over")
# Who owns the jobs that are made by the clock: nobody who could ask over HTTP.
OWNER = "*schedule"

BELL = "schedules"
BACKFILL_MAX = 1000
NEXT_SHOWN, FIRES_SHOWN = 5, 20
KEEP_FIRES_US = 30 * 86_400_000_000
LATE_US = 15 * 60_000_000

ROWS = Sql(
    "schedule_rows",
    """SELECT d.schedule_id, s.name, d.spec, d.rev, d.known, d.seen_us, d.next_us, d.last_us, d.paused_us
       FROM dj_schedule d JOIN dj_subscription s ON s.sub_id = d.schedule_id WHERE s.active = 1 ORDER BY s.name""",
    "Reads every schedule.",
)
PAUSE = Sql(
    "schedule_pause",
    "UPDATE dj_schedule SET paused_us = coalesce(paused_us, $2) WHERE schedule_id = $1",
    "Pauses a schedule.",
)
RESUME = Sql(
    "schedule_resume",
    "UPDATE dj_schedule SET paused_us = NULL, since_us = $2, next_us = $3 WHERE schedule_id = $1 AND paused_us IS NOT NULL",
    "Lets a schedule go on, from now.",
)
WANT = Sql(
    "schedule_want",
    """INSERT INTO dj_fire (schedule_id, fire_us, how, state, made_us) VALUES ($1, $2, $3, 0, $4)
       ON CONFLICT (schedule_id, fire_us) DO UPDATE SET state = 0, how = excluded.how, made_us = excluded.made_us
       WHERE dj_fire.state = 2 RETURNING 1""",
    "Asks for one firing; nothing when that time has fired or is asked for.",
)
FIRES = Sql(
    "schedule_fires",
    """SELECT fire_us, how, state, job_id, made_us FROM dj_fire WHERE schedule_id = $1 ORDER BY fire_us DESC LIMIT $2""",
    "Reads the last firings of a schedule.",
)
WAITING = Sql(
    "schedule_waiting",
    "SELECT schedule_id, count(*) FROM dj_fire WHERE state = 0 GROUP BY schedule_id",
    "Counts wishes.",
)
RETIRED = Sql(
    "schedule_retired",
    "DELETE FROM dj_schedule WHERE schedule_id IN (SELECT sub_id FROM dj_subscription WHERE active = 0)",
    "Forgets the schedules whose kind of jobs was given up.",
)
RETIRED_WISHES = Sql(
    "schedule_retired_wishes",
    "DELETE FROM dj_fire WHERE state = 0 AND schedule_id IN (SELECT sub_id FROM dj_subscription WHERE active = 0)",
    "Forgets what was asked for of them.",
)
OLD_FIRES = Sql(
    "schedule_old_fires",
    """SELECT f.schedule_id, f.fire_us FROM dj_fire f WHERE f.made_us < $1 AND f.state <> 0
       AND NOT EXISTS (SELECT 1 FROM dj_job j WHERE j.job_id = f.job_id) ORDER BY f.made_us LIMIT 500""",
    "Finds a slice of old firings whose jobs are forgotten.",
)
DELETE_FIRE = Sql(
    "schedule_delete_fire", "DELETE FROM dj_fire WHERE schedule_id = $1 AND fire_us = $2", "Forgets a firing."
)


@dataclass(eq=False, kw_only=True)
class ScheduleUnknown(DujiangError):
    """The store knows no schedule of that name."""

    code = "schedule_unknown"
    move = "fix"
    status = 404
    says = "there is no schedule {name}"
    cure = "`dujiang schedules list` shows their names; a new one is known once a process with the role scheduler has started"

    name: str


@dataclass(eq=False, kw_only=True)
class BackfillRefused(DujiangError):
    """A range of times cannot be fired."""

    code = "backfill_refused"
    move = "fix"
    says = "{name} cannot be backfilled: {why}"
    cure = "{how}"

    name: str
    why: str
    how: str


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule as the store has it.

    Attributes:
        number: Of its kind of jobs.
        name: Its stored name.
        spec: Its text.
        rev: How often the text was changed, from 1.
        known: Fingerprints of the texts that it has had.
        seen_us: When a process that says this text was last there.
        next_us: The first time that nobody has dealt with.
        last_us: The last time that was dealt with.
        paused_us: Since when it is paused.
    """

    number: int
    name: str
    spec: str
    rev: int
    known: str
    seen_us: int
    next_us: int
    last_us: int | None
    paused_us: int | None

    @property
    def schedule(self) -> Schedule | None:
        """What the text says; None when it is of a version that knows more."""
        try:
            return Schedule.read(self.spec)
        except (ValueError, NotCron):
            return None


async def rows_of(connection: Connection) -> dict[str, Row]:
    """Every schedule by name."""
    return {row[1]: Row(*row) for row in await connection.fetch(ROWS)}


async def waiting_of(connection: Connection) -> dict[int, int]:
    """How many firings somebody has asked for, by schedule."""
    return {row[0]: row[1] for row in await connection.fetch(WAITING)}


class Schedules:
    """What an operator sees of schedules, and may ask for.

    Args:
        database: Where they are.
        now_us: The present time.
        wake: Wakes those who fire.
    """

    def __init__(self, database: Database, now_us: Callable[[], int], wake: Callable[[], None]) -> None:
        self._database = database
        self._now_us = now_us
        self._wake = wake

    async def list(self) -> list[dict[str, Any]]:
        """Every schedule."""

        async def body(connection: Connection) -> tuple[dict[str, Row], dict[int, int]]:
            rows = await rows_of(connection)
            return rows, await waiting_of(connection)

        rows, waiting = await self._database.read(body)
        return [self._public(row, waiting.get(row.number, 0)) for row in rows.values()]

    async def show(self, name: str) -> dict[str, Any]:
        """One schedule with its next times and its last firings. Raises ScheduleUnknown."""

        async def body(connection: Connection) -> tuple[Row, Sequence[Any], int]:
            row = await self._row(connection, name)
            fires = await connection.fetch(FIRES, row.number, FIRES_SHOWN)
            return row, fires, (await waiting_of(connection)).get(row.number, 0)

        row, fires, waiting = await self._database.read(body)
        schedule, upcoming, at_us = row.schedule, [], max(row.next_us, self._now_us()) - 1
        for _ in range(NEXT_SHOWN if schedule is not None and row.paused_us is None else 0):
            assert schedule is not None
            at_us = schedule.after(at_us)
            upcoming.append(shown(at_us))
        return {
            **self._public(row, waiting),
            "upcoming": upcoming,
            "fires": [
                {"due": shown(at), "how": HOW[how], "state": STATE[state], "job": job and str(job), "made": shown(made)}
                for at, how, state, job, made in fires
            ],
        }

    def _public(self, row: Row, waiting: int) -> dict[str, Any]:
        schedule = row.schedule
        rules = {} if schedule is None else {"misfire": schedule.misfire, "overlap": schedule.overlap}
        state = "paused" if row.paused_us is not None else "late" if row.next_us < self._now_us() - LATE_US else "on"
        return {
            "name": row.name,
            "when": row.spec if schedule is None else schedule.text,
            "tz": "" if schedule is None or schedule.step_us is not None else schedule.tz,
            "state": state,
            "next": None if row.paused_us is not None else shown(row.next_us),
            "last": None if row.last_us is None else shown(row.last_us),
            "wanted": waiting,
            "rev": row.rev,
            **rules,
        }

    async def pause(self, name: str) -> None:
        """Fire nothing more until it is resumed. Raises ScheduleUnknown."""

        async def body(connection: Connection) -> None:
            row = await self._row(connection, name)
            await connection.execute(PAUSE, row.number, self._now_us())

        await self._database.write(body)
        self._wake()

    async def resume(self, name: str) -> None:
        """Go on from now; the times of the pause are not made up for. Raises ScheduleUnknown."""

        async def body(connection: Connection) -> None:
            row, now_us = await self._row(connection, name), self._now_us()
            schedule = row.schedule
            next_us = row.next_us if schedule is None else schedule.after(now_us)
            await connection.execute(RESUME, row.number, now_us, next_us)

        await self._database.write(body)
        self._wake()

    async def run(self, name: str) -> int:
        """Ask for one run now; its time, microseconds. Paused or not. Raises ScheduleUnknown."""

        async def body(connection: Connection) -> int:
            row, now_us = await self._row(connection, name), self._now_us()
            await connection.fetch(WANT, row.number, now_us, BY_HAND, now_us)
            return now_us

        asked_us = await self._database.write(body)
        self._wake()
        return asked_us

    async def backfill(self, name: str, first_us: int, until_us: int) -> int:
        """Ask for every time of a range in the past that has not fired; how many that are.

        Raises:
            ScheduleUnknown: There is none.
            BackfillRefused: The range is empty, not over, or holds too many times.
        """

        async def body(connection: Connection) -> int:
            row, now_us = await self._row(connection, name), self._now_us()
            schedule = row.schedule
            if schedule is None:
                how = "ask with the version of the program that declares it"
                raise BackfillRefused(name=name, why="a newer version has written its text", how=how)
            if not first_us <= until_us <= now_us:
                how = "give a range that begins before it ends, and ends before now"
                raise BackfillRefused(name=name, why=f"{shown(first_us)} to {shown(until_us)}", how=how)
            times, asked = schedule.times(first_us, until_us), 0
            for count, at_us in enumerate(times):
                if count == BACKFILL_MAX:
                    why = f"from {shown(first_us)} on there are more than {BACKFILL_MAX} times"
                    raise BackfillRefused(
                        name=name, why=why, how=f"ask for them in parts; this one ends before {shown(at_us)}"
                    )
                asked += len(await connection.fetch(WANT, row.number, at_us, BACKFILL, now_us))
            return asked

        asked = await self._database.write(body)
        self._wake()
        return asked

    async def retire(self) -> None:
        """Forget the schedules of jobs that the app has given up; were they declared again, nothing would have been missed."""

        async def body(connection: Connection) -> None:
            await connection.execute(RETIRED)
            await connection.execute(RETIRED_WISHES)

        await self._database.write(body)

    async def _row(self, connection: Connection, name: str) -> Row:
        found = (await rows_of(connection)).get(name)
        if found is None:
            raise ScheduleUnknown(name=name)
        return found


async def clean(database: Database, now_us: int) -> int:
    """Forget a slice of old firings; how many."""

    async def body(connection: Connection) -> int:
        rows = await connection.fetch(OLD_FIRES, now_us - KEEP_FIRES_US)
        for number, at_us in rows:
            await connection.execute(DELETE_FIRE, number, at_us)
        return len(rows)

    return await database.write(body)


def shown(moment_us: int) -> str:
    """A time for people and programs."""
    return instant(moment_us).isoformat().replace("+00:00", "Z")


def moment_of(name: str, text: str, what: str) -> int:
    """A time that somebody wrote, microseconds. Raises BackfillRefused."""
    try:
        return microseconds(datetime.fromisoformat(text))
    except (ValueError, TypeError, OverflowError):
        how = f"give `{what}` a time with its zone, as in 2026-03-01T00:00:00Z"
        raise BackfillRefused(name=name, why=f"{text!r} is no such time", how=how) from None
