"""Running: the runs of jobs in this process, and how they are cancelled.

    claim ──► deadline passed? ──yes──► expired
                  │ no
                  ▼
              function(job, ...) ──► result ──► one transaction: acknowledgement, outcome, result in dj_job
                  ▲
    DELETE ──► cancel_us in dj_job ──► bell, or the look each second ──► the task is cancelled where it waits
                                                                              │ not ended after GRACE_S
                                                                              └──► its claim is taken away

A cancelled run may clean up; what it returns afterwards counts for nothing. One that does not listen keeps its place in
this process until it ends, and can commit nothing: a coroutine cannot be ended from outside.

The wish to cancel is a column and not a message, so it reaches whichever process has the job, also the next one. A run that
fails while somebody wishes it cancelled goes back to dj_ready; the look finds it there and takes it out.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.jobs import store
from dujiang.jobs.job import Job
from dujiang.kernel.context import changed
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import current_task, ended
from dujiang.messaging.direct import take_out
from dujiang.messaging.work import STATE_CANCELLED, STATE_EXPIRED, LeaseLost
from dujiang.telemetry.crash import crash_point

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping

    from dujiang.data.database import Database
    from dujiang.kernel.codec import Codec
    from dujiang.kernel.node import Node
    from dujiang.messaging.bell import Bells
    from dujiang.messaging.closing import Closing
    from dujiang.messaging.subscription import Subscription
    from dujiang.messaging.tx import Tx
    from dujiang.messaging.work import Claim

logger = logging.getLogger("dujiang.jobs")

BELL = "jobs"
LOOK_S = 1.0
LOOKED_MAX = 500
GRACE_S = 10.0


@dataclass(eq=False)
class Run:
    """A job that runs here.

    Attributes:
        claim: Its claim.
        name: The job's stored name.
        keep_us: How long it is known after its end.
        task: The task in which its function runs.
        cancel_at: When it was cancelled, monotonic seconds; None = it was not.
        taken: Its claim was taken away.
    """

    claim: Claim
    name: str
    keep_us: int
    task: asyncio.Task[Any]
    cancel_at: float | None = None
    taken: bool = False


class Jobs:
    """The jobs of one running copy, and the service that cancels them.

    Args:
        node: The running copy.
        database: Where they are.
        bells: The bell "jobs" says that somebody wants one cancelled.
        transact: Runs a function in a transaction of its own.

    Attributes:
        grace_s: How long a cancelled run has to end by itself.
        numbers: Under which the store knows each kind, as far as this copy has asked.
        running: What runs here, by id.
    """

    def __init__(self, node: Node, database: Database, bells: Bells, transact: Callable[..., Awaitable[Any]]) -> None:
        self.grace_s = GRACE_S
        self.numbers: dict[str, int] = {}
        self.running: dict[int, Run] = {}
        self._node = node
        self._database = database
        self._bells = bells
        self._transact = transact
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Jobs: {len(self.running)} running>"

    async def start(self) -> None:
        """Begin to look for jobs that shall be cancelled."""
        self._task = self._node.tasks.spawn(self._run(), name="jobs")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)

    async def _run(self) -> None:
        while True:
            await self._bells.wait(BELL, LOOK_S)
            try:
                await self.look()
            except DujiangError as error:
                logger.warning("cancelling jobs waits: %s", error)
            except Exception:  # A loop that ended here would let nobody cancel anything any more.
                logger.exception("cancelling jobs failed")

    async def look(self) -> None:
        """Cancel what runs or waits here and shall not."""
        rows = await self._database.read(lambda connection: connection.fetch(store.CANCELLED, LOOKED_MAX))
        for job_id, sub_id in rows:
            run = self.running.get(job_id)
            if run is not None:
                await self._cancel(run)
            else:
                await self._transact(lambda tx, at=(sub_id, job_id): cancel_waiting(tx, *at), what="jobs.cancel")

    async def _cancel(self, run: Run) -> None:
        now = self._node.clock.monotonic()
        if run.cancel_at is None:
            run.cancel_at = now
            run.task.cancel()
        elif now > run.cancel_at + self.grace_s and not run.taken:
            logger.error("%s %d does not end; its claim is taken away", run.name, run.claim.message.seq)
            run.taken = True
            try:
                now_us = self._node.clock.now_us()
                await store.end_from_outside(self._database, run.name, run.claim, run.keep_us, now_us)
            except LeaseLost:
                return  # It has just ended.

    async def retire(self) -> None:
        """End the jobs of kinds that the app has given up; what waited was cancelled with its kind."""
        now_us = self._node.clock.now_us()
        until_us = now_us + store.KEEP_DISCARDED_US
        await self._database.write(lambda connection: connection.execute(store.RETIRED, now_us, until_us))

    async def clean(self) -> int:
        """Forget a slice of jobs whose results have expired; how many."""
        return await store.clean(self._database, self._node.clock.now_us())

    async def run(
        self, subscription: Subscription, claim: Claim, values: Mapping[str, Any], *, codec: Codec[Any], keep_us: int
    ) -> Closing:
        """Run a job; how its claim ends. Raises what the function raises."""
        job_id, now_us = claim.message.seq, self._node.clock.now_us()
        deadline_us = claim.message.headers.get("deadline_us")
        limit_s = subscription.timeout_s
        if isinstance(deadline_us, int):
            if now_us >= deadline_us:
                return store.ended(claim, STATE_EXPIRED, keep_us)
            limit_s = min(limit_s, (deadline_us - now_us) / 1e6)
        run = self.running[job_id] = Run(claim, subscription.name, keep_us, current_task())
        job = Job(name=subscription.name, claim=claim)
        limit = self._node.limits.within(limit_s)
        try:
            with changed(call=job), limit:
                (result,) = await subscription.handle(job, [values])
        except BaseException as error:
            if run.cancel_at is not None and stopped(run.task, error):
                return store.ended(claim, STATE_CANCELLED, keep_us)
            if limit.expired and isinstance(error, TimeoutError) and limit_s < subscription.timeout_s:
                return store.ended(claim, STATE_EXPIRED, keep_us)
            raise
        finally:
            if self.running.get(job_id) is run:  # Not a later run, which began when this one was taken for dead.
                del self.running[job_id]
        if run.cancel_at is not None and stopped(run.task, None):
            return store.ended(claim, STATE_CANCELLED, keep_us)
        crash_point("call_done")
        return store.done(claim, None if result is None else codec.encode(result), keep_us)


def stopped(task: asyncio.Task[Any], error: BaseException | None) -> bool:
    """Take back the cancellation that ended a run; False when somebody else has cancelled the task too."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        return False
    task.uncancel()
    return not task.cancelling()


async def cancel_waiting(tx: Tx, sub_id: int, job_id: int) -> bool:
    """Cancel a job that has not begun; False when it does not wait."""
    attempts = await take_out(tx, sub_id, job_id)
    if attempts is None:
        return False
    keep_us = store.KEEP_DISCARDED_US
    await tx.fetch(store.END, job_id, STATE_CANCELLED, tx.now_us, tx.now_us + keep_us, attempts)
    return True
