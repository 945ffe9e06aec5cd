"""View: what the owner of a job sees of it, and the wish to have it cancelled.

    table of the work row      dj_ready             dj_running   dj_dead   none: `state` in dj_job
    state                      ready, or later      running      dead      done, cancelled, expired (or dead, discarded)

A job is seen by the tenant and the principal that asked for it; for anybody else there is none, so that an id tells
nothing. Why a job is dead is said by its code alone: the text of an error belongs to whoever runs the system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic_core import from_json

from dujiang.data.transaction import refuse_nested
from dujiang.data.types import Id, Instant, Json, Model
from dujiang.jobs import store
from dujiang.jobs.running import BELL, cancel_waiting
from dujiang.kernel.clock import instant
from dujiang.kernel.context import ROOT_PATH, current
from dujiang.kernel.errors import DujiangError, Refusal
from dujiang.messaging.tx import Read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.messaging.tx import Tx

PATH = "/api/v1/jobs"
WAIT_S_FIRST, WAIT_S_MAX = 0.01, 0.5

State = Literal["ready", "running", "later", "done", "dead", "cancelled", "expired"]
STATES: tuple[State, ...] = get_args(State)


class JobUnknown(Refusal):
    """There is no such job for this caller: its id is wrong, somebody else asked for it, or its result has expired."""

    code = "job_unknown"
    status = 404


class JobEnded(Refusal):
    """The job has ended, so it cannot be cancelled any more."""

    code = "job_ended"


@dataclass(eq=False, kw_only=True)
class JobNotEnded(DujiangError):
    """Somebody waited for a job, and it has not ended in that time; it goes on."""

    code = "job_not_ended"
    move = "wait"
    says = "job {job_id} is {state} after {waited_s:g} s"

    job_id: int
    state: str
    waited_s: float


class JobView(Model):
    """How a job stands.

    Attributes:
        job_id: Its id.
        kind: The stored name of what it runs, `module.function`.
        state: `ready` waits for a worker, `later` for its time, `running` runs; `done`, `dead`, `cancelled` and `expired` are
            ends, of which `dead` can be replayed by an operator.
        progress: 0 to 1, as the last run said it.
        note: What the last run said beside it.
        result: What the function returned; of a job that is done.
        error: Why it is dead: `attempts`, `age`, `crash_loop`, or the code of the error or refusal.
        attempt: How often it was run.
        cancelling: Whether somebody wants it cancelled and it still runs.
        created_at: When it was accepted.
        run_at: When it is due, of one that waits for its time.
        finished_at: When it ended.
        url: Where this is read again.
    """

    job_id: Id
    kind: str
    state: State
    progress: float = 0.0
    note: str = ""
    result: Json = None
    error: str | None = None
    attempt: int = 0
    cancelling: bool = False
    created_at: Instant
    run_at: Instant | None = None
    finished_at: Instant | None = None
    url: str


def url_of(job_id: int) -> str:
    """The address of a job, below the path where the application is mounted."""
    return f"{ROOT_PATH.get()}{PATH}/{job_id}"


async def read_job(db: Read | Tx, job_id: int) -> JobView:
    """How a job of this caller stands. Raises JobUnknown."""
    context = current()
    rows = await db.fetch(store.VIEW, job_id, context.tenant, context.caller)
    if not rows:
        raise JobUnknown(f"no job has the id {job_id}")
    return view_of(job_id, rows[0], db.now_us)


def view_of(job_id: int, row: Sequence[Any], now_us: int) -> JobView:
    """The view of a row of VIEW."""
    ended, ppm, note, cancel_us, created_us, finished_us, result, name = row[:8]
    run_at, waited, runs, reason, died, attempts = row[8:14]
    state = state_of(ended, runs, run_at, reason, now_us)
    return JobView(
        job_id=job_id,
        kind=name,
        state=state,
        progress=ppm / 1_000_000,
        note=note,
        result=None if result is None else from_json(bytes(result)),
        error=reason if state == "dead" else None,
        attempt=next((count for count in (runs, waited, died) if count is not None), attempts),
        cancelling=state == "running" and cancel_us is not None,
        created_at=instant(created_us),
        run_at=instant(run_at) if state == "later" else None,
        finished_at=None if finished_us is None else instant(finished_us),
        url=url_of(job_id),
    )


def state_of(ended: int, runs: int | None, run_at: int | None, reason: str | None, now_us: int) -> State:
    """The state of a job: its end, else the table in which its work lies."""
    if ended:
        return store.WORD[ended]  # type: ignore[return-value]
    if runs is not None:
        return "running"
    if run_at is not None:
        return "later" if run_at > now_us else "ready"
    return "dead" if reason is not None else "cancelled"


async def wait_for(job_id: int, within_s: float) -> JobView:
    """The view of a job of this caller at its end; outside any transaction.

    Raises:
        JobUnknown: There is none.
        JobNotEnded: It is still open when the time is over.
    """
    context = current()
    refuse_nested(context, "waiting for a job")
    clock, database, wait_s = context.node.clock, context.runtime.database, WAIT_S_FIRST
    until = clock.monotonic() + within_s
    while True:
        found: JobView = await database.read(lambda connection: read_job(Read(connection, database, context), job_id))
        if found.state not in ("ready", "later", "running"):
            return found
        left_s = until - clock.monotonic()
        if left_s <= 0:
            raise JobNotEnded(job_id=job_id, state=found.state, waited_s=within_s)
        await clock.sleep(min(wait_s, left_s))
        wait_s = min(WAIT_S_MAX, wait_s * 2)


async def cancel_job(tx: Tx, job_id: int) -> JobView:
    """Cancel a job of this caller: at once if it waits; if it runs it is asked to end.

    Raises:
        JobUnknown: There is none.
        JobEnded: It has ended, in another way than by being cancelled.
    """
    context = current()
    rows = await tx.fetch(store.WANT_CANCEL, job_id, tx.now_us, context.tenant, context.caller)
    if rows and not await cancel_waiting(tx, rows[0][0], job_id):
        # Also heard by the process that runs it, or has just given it back.
        tx.after_commit.append(lambda: context.runtime.bells.ring_far(BELL))
    found = await read_job(tx, job_id)
    if found.state in ("done", "dead", "expired"):
        raise JobEnded(f"job {job_id} is {found.state}", state=found.state)
    return found
