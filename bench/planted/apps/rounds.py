"""Rounds: a guard walks round a house every two seconds and once a night; every round is written down, and paid.

the clock        ──► a job for each time
walk, night_walk ──► one transaction: the round, and what is owed to the guard
POST /rounds/pay ──► what is owed is paid
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, update

from dujiang import App, Job, Model, Module, Read, Refusal, Tx, columns

OWED_BEFORE = 10

metadata = MetaData()
guard = Table(
    "rounds_guard",
    metadata,
    Column("name", columns.Key(16), primary_key=True),
    Column("owed", Integer, nullable=False),
    Column("paid", Integer, nullable=False),
)
walked = Table(
    "rounds_walked",
    metadata,
    Column("round_id", columns.Id, primary_key=True),
    Column("due", columns.Key(40), nullable=False),
)


class Payment(Model):
    """What a guard is paid."""

    rounds: Annotated[int, Field(ge=1, le=3)]


class NothingOwed(Refusal):
    """So many rounds are not owed."""

    code = "nothing_owed"


async def seed(tx: Tx) -> None:
    """One guard, who has walked before."""
    await tx.execute(insert(guard).values(name="ann", owed=OWED_BEFORE, paid=0))


rounds = Module("rounds", tables=metadata, migrations="bench.planted.apps.migrations.rounds", seed=seed)


@rounds.every("2s", misfire="all")
async def walk(job: Job) -> None:
    """A round for each time."""
    await job.step("walk", write_down, f"{job.due:%H:%M:%S}")


@rounds.every("0 3 * * *", tz="Asia/Shanghai", overlap="queue")
async def night_walk(job: Job) -> None:
    """The long round."""
    await job.step("walk", write_down, f"the night of {job.due:%Y-%m-%d}")


async def write_down(tx: Tx, due: str) -> None:
    """A round is done, and owed."""
    await tx.execute(insert(walked).values(round_id=tx.new_id(), due=due))
    await tx.execute(update(guard).where(guard.c.name == "ann").values(owed=guard.c.owed + 1))


@rounds.write("POST /rounds/pay")
async def pay(tx: Tx, body: Payment) -> None:
    """Pay for rounds that are owed."""
    owed = update(guard).where(guard.c.name == "ann", guard.c.owed >= body.rounds)
    changed = owed.values(owed=guard.c.owed - body.rounds, paid=guard.c.paid + body.rounds)
    if (await tx.execute(changed)).rowcount == 0:
        raise NothingOwed(f"{body.rounds} rounds are not owed")


@rounds.invariant("a time has one round")
async def once(db: Read) -> list[Any]:
    """Times that were walked twice."""
    count = func.count(walked.c.round_id)
    found = await db.execute(select(walked.c.due, count).group_by(walked.c.due).having(count > 1))
    return [tuple(row) for row in found.all()]


@rounds.invariant("every round is owed or paid")
async def counted(db: Read) -> list[Any]:
    """What is owed and paid differs from what was walked."""
    done = (await db.execute(select(func.count(walked.c.round_id)))).scalar_one()
    row = (await db.execute(select(guard.c.owed, guard.c.paid))).one()
    return [] if row.owed + row.paid == done + OWED_BEFORE else [(done, row.owed, row.paid)]


app = App(modules=[rounds])
