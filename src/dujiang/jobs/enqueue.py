"""Enqueue: makes jobs inside a transaction; they exist if and only if it commits.

    tx.enqueue(send, body) ──► rows kept with the transaction ──► its closing statement: dj_job, dj_ready ──► commit ──► bell

Plain jobs cost no statement of their own: their rows join the one that closes the transaction, thousands of them as
arrays. A job with a unique key must know at once whether it is the first, so its row in dj_job is inserted then: the unique
index decides, and whoever comes second gets the job that is there. The key is free again when that one has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dujiang.jobs import store
from dujiang.kernel.clock import microseconds
from dujiang.kernel.context import current
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.ids import uuid7
from dujiang.kernel.units import duration_s
from dujiang.messaging import direct
from dujiang.messaging.message import received_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dujiang.jobs.arguments import Arguments
    from dujiang.kernel.units import Duration
    from dujiang.messaging.tx import Terms, Tx

R = TypeVar("R")

UNIQUE_MAX = 255
AHEAD_US_MAX = 366 * 86_400_000_000


@dataclass(frozen=True, slots=True)
class JobRef(Generic[R]):
    """A job that was enqueued.

    Attributes:
        id: Its id; `GET /api/v1/jobs/{id}` tells how it stands.
        name: Its stored name.
        new: False when an open job with the same unique key was there, and this is that one.
    """

    id: int
    name: str
    new: bool = True


@dataclass(eq=False, kw_only=True)
class JobRefused(DujiangError):
    """A job cannot be enqueued in this way."""

    code = "job_refused"
    move = "fix"
    status = 500
    says = "{name} cannot be enqueued: {why}"
    cure = "{how}"

    name: str
    why: str
    how: str


@dataclass(eq=False, kw_only=True)
class JobUnknownHere(DujiangError):
    """No running copy of this app has made the kind of job known to the store yet."""

    code = "job_kind_unknown"
    move = "wait"
    says = "the store does not know {name} yet"

    name: str


async def enqueue(
    tx: Tx,
    name: str,
    arguments: Arguments,
    many: Sequence[dict[str, Any]],
    terms: Terms,
    beside: Mapping[str, Any] = {},
) -> list[JobRef[Any]]:
    """Make a job for each set of parameters; `beside` joins the headers of their messages.

    Raises:
        JobRefused: The terms contradict each other.
    """
    context = current()
    sub_id = await number_of(tx, name)
    due_us, headers = due_of(tx, name, terms, beside)
    unique = unique_of(name, terms, len(many))
    refs: list[JobRef[Any]] = []
    for values in many:
        job_id = tx.new_id()
        row = (job_id, sub_id, context.tenant, context.caller, unique, tx.now_us)
        if unique is None:
            tx.gather(store.insert_pieces, row)
        elif (taken := await claimed(tx, row)) is not None:
            refs.append(JobRef(taken, name, new=False))
            continue
        message_id = uuid7(tx.now_us, context.node.entropy.bits(62))
        work = (
            sub_id,
            job_id,
            context.tenant,
            message_id,
            arguments.event_name,
            due_us,
            headers,
            arguments.to_bytes(values),
        )
        tx.gather(direct.insert_pieces, (*work, due_us))
        refs.append(JobRef(job_id, name))
    if any(ref.new for ref in refs):
        tx.after_commit.append(partial(context.runtime.bells.ring_far, f"sub{sub_id}"))
    return refs


async def number_of(tx: Tx, name: str) -> int:
    """The number under which the store knows a kind of jobs."""
    numbers: dict[str, int] = current().runtime.jobs.numbers
    if name not in numbers:
        rows = await tx.fetch(store.NUMBER, name)
        if not rows:
            raise JobUnknownHere(name=name)
        numbers[name] = rows[0][0]
    return numbers[name]


async def claimed(tx: Tx, row: store.Row) -> int | None:
    """Insert a job with a unique key; None, or the open job that has the key."""
    while True:
        if await tx.fetch(store.INSERT_ONE, *row):
            return None
        rows = await tx.fetch(store.OF_UNIQUE, row[1], row[2], row[4])
        if rows:
            return int(rows[0][0])  # Otherwise it has ended between the two statements.


def due_of(tx: Tx, name: str, terms: Terms, beside: Mapping[str, Any]) -> tuple[int, str]:
    """When a job is due, and its headers."""
    if terms.delay is not None and terms.run_at is not None:
        raise JobRefused(name=name, why="it has a delay and a time", how="give delay= or run_at=, not both")
    due_us = tx.now_us
    if terms.delay is not None:
        due_us += int(duration_s(terms.delay) * 1e6)
    elif terms.run_at is not None:
        due_us = max(due_us, moment_us(terms.run_at, tx.now_us, name))
    if due_us > tx.now_us + AHEAD_US_MAX:
        raise JobRefused(name=name, why="it is due in more than a year", how="give a nearer time")
    headers = {**tx.envelope(step=0), **beside}
    if terms.deadline is not None:
        headers["deadline_us"] = moment_us(terms.deadline, tx.now_us, name)
        if headers["deadline_us"] <= due_us:
            raise JobRefused(
                name=name, why="its deadline is not after the time at which it is due", how="give a later one"
            )
    return due_us, received_text(headers)


def unique_of(name: str, terms: Terms, count: int) -> str | None:
    """The text of the unique key."""
    if terms.unique is None:
        return None
    text = str(terms.unique)
    if not text or len(text) > UNIQUE_MAX or "\x00" in text:
        raise JobRefused(
            name=name, why=f"its unique key has {len(text)} characters", how=f"give 1 to {UNIQUE_MAX}, no NUL"
        )
    if count > 1:
        raise JobRefused(name=name, why="many jobs cannot have one unique key", how="enqueue each with its own")
    return text


def moment_us(when: datetime | Duration, now_us: int, name: str) -> int:
    """A time, or a duration from now, in microseconds."""
    if not isinstance(when, datetime):
        return now_us + int(duration_s(when) * 1e6)
    if when.tzinfo is None:
        raise JobRefused(name=name, why=f"{when} has no zone", how="give it one: tzinfo=UTC")
    return microseconds(when)
