"""Scheduler: the role that makes jobs of times. Any number of processes have it; none of them is the first among them.

    look ──► anything due, or wanted? ──no──► sleep until the next time, or a bell
               │ yes
               ▼  one transaction
            claim due rows, passing over those that another process has
            dj_fire: one row for each time ──► there already: no job
            the job of each new row
            dj_schedule: the next time
               │
            commit ──► the bell of the workers

A process that dies before the commit leaves nothing, and another one finds the same times due; one that dies behind it
leaves the jobs. The times are computed from what is due and never from the clock on the wall, so a process that comes late
leaves none out. Were the next time stored first, in a transaction of its own, a crash between the two would lose a firing;
were the job made first, it would be made twice.

Rejected: a leader. Its death costs the length of its lease at each time that falls into it, and the row of a schedule is a lock
that everybody takes for some milliseconds only when there is something to do.

A look is one statement on an index that holds what is not paused. How late a firing is, is how late the process wakes: it
sleeps by its own clock until the next time, and LOOK_S at most, so a bell that was lost or a machine that slept costs no more.

tests/cli/test_schedules.py kills processes in the middle; tests/proof/test_schedules.py eight of them over fifty hours.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.jobs.agreement import RENEW_S, Agreement
from dujiang.jobs.enqueue import enqueue
from dujiang.jobs.running import BELL as JOBS_BELL
from dujiang.jobs.running import cancel_waiting
from dujiang.jobs.schedules import BELL, FIRED, OWNER, PASSED_OVER
from dujiang.kernel.clock import instant
from dujiang.kernel.context import changed, current
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import ended
from dujiang.messaging.tx import Terms
from dujiang.telemetry.crash import crash_point

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from dujiang.data.database import Database
    from dujiang.jobs.arguments import Arguments
    from dujiang.jobs.schedule import Schedule
    from dujiang.jobs.schedules import Row
    from dujiang.kernel.node import Node
    from dujiang.messaging.bell import Bells
    from dujiang.messaging.tx import Tx

__all__ = ["Scheduled", "Scheduler"]

logger = logging.getLogger("dujiang.jobs.scheduler")

LOOK_S = 20.0
AGAIN_S = 1.0
ROWS_MAX, FIRES_MAX, OPEN_MAX = 20, 50, 1000

LOOK_ARRAY = Sql(
    "scheduler_look_array",
    """SELECT (SELECT min(next_us) FROM dj_schedule WHERE paused_us IS NULL AND schedule_id = ANY($1::int[])),
              EXISTS (SELECT 1 FROM dj_fire WHERE state = 0 AND schedule_id = ANY($1::int[]))""",
    "Says when the next time is, and whether somebody has asked for a firing.",
)
LOOK_LIST = Sql(
    "scheduler_look_list",
    """SELECT (SELECT min(next_us) FROM dj_schedule
               WHERE paused_us IS NULL AND schedule_id IN (SELECT value FROM json_each($1))),
              EXISTS (SELECT 1 FROM dj_fire WHERE state = 0 AND schedule_id IN (SELECT value FROM json_each($1)))""",
    "Says when the next time is, and whether somebody has asked for a firing.",
)
CLAIM_SKIPPING = Sql(
    "scheduler_claim_skipping",
    """SELECT schedule_id, next_us, last_us, rev FROM dj_schedule
       WHERE schedule_id = ANY($1::int[]) AND paused_us IS NULL AND next_us <= $2 ORDER BY next_us LIMIT $3
       FOR UPDATE SKIP LOCKED""",
    "Takes schedules that are due, passing over those that another process has.",
)
CLAIM_PLAIN = Sql(
    "scheduler_claim_plain",
    """SELECT schedule_id, next_us, last_us, rev FROM dj_schedule
       WHERE schedule_id IN (SELECT value FROM json_each($1)) AND paused_us IS NULL AND next_us <= $2
       ORDER BY next_us LIMIT $3""",
    "Finds schedules that are due, where one writer works.",
)
WANTED_SKIPPING = Sql(
    "scheduler_wanted_skipping",
    """SELECT schedule_id, fire_us FROM dj_fire WHERE state = 0 AND schedule_id = ANY($1::int[])
       ORDER BY schedule_id, fire_us LIMIT $2 FOR UPDATE SKIP LOCKED""",
    "Takes firings that somebody has asked for.",
)
WANTED_PLAIN = Sql(
    "scheduler_wanted_plain",
    """SELECT schedule_id, fire_us FROM dj_fire WHERE state = 0 AND schedule_id IN (SELECT value FROM json_each($1))
       ORDER BY schedule_id, fire_us LIMIT $2""",
    "Finds firings that somebody has asked for, where one writer works.",
)
FIRE = Sql(
    "scheduler_fire",
    """INSERT INTO dj_fire (schedule_id, fire_us, how, state, made_us) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT DO NOTHING RETURNING 1""",
    "Takes a time; nothing when it has fired.",
)
GRANT = Sql(
    "scheduler_grant",
    "UPDATE dj_fire SET state = 1, made_us = $3 WHERE schedule_id = $1 AND fire_us = $2 AND state = 0 RETURNING 1",
    "Takes a firing that somebody has asked for; nothing when another process has it.",
)
MADE = Sql(
    "scheduler_made",
    "UPDATE dj_fire SET job_id = $3 WHERE schedule_id = $1 AND fire_us = $2",
    "Names the job of a firing.",
)
ADVANCE = Sql(
    "scheduler_advance",
    """UPDATE dj_schedule SET next_us = $4, last_us = $5
       WHERE schedule_id = $1 AND rev = $2 AND next_us = $3 AND paused_us IS NULL""",
    "Stores the next time, if nobody has dealt with this one.",
)
OPEN = Sql(
    "scheduler_open",
    """SELECT seq, 0 FROM dj_ready WHERE sub_id = $1 UNION ALL SELECT seq, 1 FROM dj_running WHERE sub_id = $1 LIMIT $2""",
    "Finds the runs of a job that have not ended, and whether they have begun.",
)
CANCEL = Sql(
    "scheduler_cancel",
    "UPDATE dj_job SET cancel_us = coalesce(cancel_us, $2) WHERE job_id = $1 AND state = 0",
    "Says that a run shall end.",
)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A job with a schedule, as the code declares it.

    Attributes:
        schedule: When.
        arguments: Of the job; nothing is given to it.
    """

    schedule: Schedule
    arguments: Arguments


class Scheduler:
    """The service of one running copy.

    Args:
        node: The running copy.
        database: Where schedules are.
        bells: The bell "schedules" says that an operator has changed something.
        transact: Runs a function in a transaction of its own.
        declared: The schedules of this program, by name.
        fired: Is told of each firing: name, how late in seconds.
    """

    def __init__(
        self,
        node: Node,
        database: Database,
        bells: Bells,
        transact: Callable[..., Awaitable[Any]],
        declared: Mapping[str, Scheduled],
        fired: Callable[[str, float], None] = lambda _, __: None,
    ) -> None:
        self._node = node
        self._database = database
        self._bells = bells
        self._transact = transact
        self._declared = declared
        self._fired = fired
        self._rows: dict[int, Row] = {}
        self._tend_at = 0.0
        self._agreement = Agreement(database, {name: each.schedule for name, each in declared.items()})
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Scheduler of {len(self._declared)} schedules>"

    async def start(self) -> None:
        """Make the schedules known and begin to look, if there are any."""
        if self._declared:
            await self._tend(starting=True)
            self._task = self._node.tasks.spawn(self._run(), name="scheduler")

    async def stop(self) -> None:
        """End. What is being fired is committed, or left to others."""
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)
            self._task = None

    async def _run(self) -> None:
        while True:
            wait_s = AGAIN_S
            try:
                wait_s = await self.look()
            except DujiangError as error:
                logger.warning("schedules wait: %s", error)
            except Exception:  # A loop that ended here would fire nothing any more.
                logger.exception("firing schedules failed")
            await self._bells.wait(BELL, wait_s)

    async def look(self) -> float:
        """Fire everything that is due or wanted; for how many seconds there is nothing to do then."""
        clock = self._node.clock
        if clock.monotonic() >= self._tend_at:
            await self._tend(starting=False)
        sql = LOOK_ARRAY if self._database.capabilities.arrays else LOOK_LIST
        while True:
            next_us, wanted = (await self._database.read(lambda reader: reader.fetch(sql, self._numbers())))[0]
            left_s = LOOK_S if next_us is None else (next_us - clock.now_us()) / 1e6
            if left_s > 0 and not wanted:
                return min(left_s, LOOK_S)
            if not await self._transact(self._fire, what="schedules.fire"):
                return AGAIN_S / 10  # Another process has them.

    def _numbers(self) -> Any:
        """The schedules that this process can read, as a parameter."""
        return list(self._rows) if self._database.capabilities.arrays else json.dumps(list(self._rows))

    async def _tend(self, *, starting: bool) -> None:
        """Say what this program says of its schedules, and read what counts."""
        rows = await self._agreement.reach(self._node.clock.now_us(), starting=starting)
        self._rows = {row.number: row for row in rows.values() if row.schedule is not None}
        self._tend_at = self._node.clock.monotonic() + RENEW_S

    async def _fire(self, tx: Tx) -> bool:
        """One transaction: what is due, then what somebody has asked for; whether there was something."""
        with changed(caller=OWNER):
            skip = self._database.capabilities.skip_locked
            due = await tx.fetch(CLAIM_SKIPPING if skip else CLAIM_PLAIN, self._numbers(), tx.now_us, ROWS_MAX)
            for number, next_us, last_us, rev in due:
                row = self._rows[number]
                if row.rev != rev:
                    self._tend_at = 0.0  # Its text has changed since; read it before the next look.
                    continue
                await self._due(tx, row, next_us, last_us)
            wanted = await tx.fetch(WANTED_SKIPPING if skip else WANTED_PLAIN, self._numbers(), FIRES_MAX)
            for number, at_us in wanted:
                if await tx.fetch(GRANT, number, at_us, tx.now_us):
                    await self._make(tx, self._rows[number], at_us, None)
            return bool(wanted) or any(self._rows[number].rev == rev for number, _, _, rev in due)

    async def _due(self, tx: Tx, row: Row, next_us: int, last_us: int | None) -> None:
        """Fire the times of one schedule, and store the next."""
        schedule = row.schedule
        assert schedule is not None
        plan = schedule.plan(next_us, tx.now_us, FIRES_MAX)
        if plan.passed_us is not None:
            said = (row.name, instant(plan.passed_us), schedule.misfire, schedule.misfire)
            logger.warning("%s was missed from %s on; its rule is %s (misfire=%r)", *said)
        busy = schedule.overlap == "skip" and bool(await tx.fetch(OPEN, row.number, 1))
        for at_us, how in plan.fires:
            # The last of several replaces those before it, as it would have replaced each that had begun.
            over = busy or (schedule.overlap == "cancel_running" and at_us != plan.fires[-1][0])
            if not await tx.fetch(FIRE, row.number, at_us, how, PASSED_OVER if over else FIRED, tx.now_us):
                continue
            crash_point("schedule_fire_inserted")
            if not over:
                if schedule.overlap == "cancel_running":
                    await self._cancel(tx, row.number)
                await self._make(tx, row, at_us, last_us)
                busy = schedule.overlap == "skip"
            last_us = at_us
        await tx.fetch(ADVANCE, row.number, row.rev, next_us, plan.next_us, last_us)

    async def _make(self, tx: Tx, row: Row, at_us: int, before_us: int | None) -> None:
        """The job of a firing."""
        schedule, arguments = row.schedule, self._declared[row.name].arguments
        assert schedule is not None
        terms = Terms(run_at=instant(at_us + schedule.delay_us(row.name)))
        beside = {"due_us": at_us, **({} if before_us is None else {"before_us": before_us})}
        (ref,) = await enqueue(tx, row.name, arguments, [{}], terms, beside)
        await tx.fetch(MADE, row.number, at_us, ref.id)
        tx.after_commit.append(partial(self._fired, row.name, max(0.0, (tx.now_us - at_us) / 1e6)))

    async def _cancel(self, tx: Tx, number: int) -> None:
        """End the runs of a job that have not ended: at once those that wait, the others are asked to."""
        open_runs: Sequence[Any] = await tx.fetch(OPEN, number, OPEN_MAX)
        for job_id, _ in open_runs:
            await tx.fetch(CANCEL, job_id, tx.now_us)
            await cancel_waiting(tx, number, job_id)
        if any(running for _, running in open_runs):
            tx.after_commit.append(partial(current().runtime.bells.ring_far, JOBS_BELL))
