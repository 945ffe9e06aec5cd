"""Stock: a total that is read in one transaction and written in another one, under a lock.

POST /stock/counts ──► a job: lock ─► read the total ─► look at the goods ─► write the total, fenced
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, update

from dujiang import App, Held, Id, Job, Model, Module, Read, Retry, Tx, columns, lock, sleep

metadata = MetaData()
shelf = Table(
    "stock_shelf",
    metadata,
    Column("name", columns.Key(16), primary_key=True),
    Column("total", Integer, nullable=False),
)
counted = Table(
    "stock_counted",
    metadata,
    Column("count_id", columns.Id, primary_key=True),
    Column("pieces", Integer, nullable=False),
)


class Count(Model):
    """What was counted."""

    pieces: Annotated[int, Field(ge=1, le=3)]


async def seed(tx: Tx) -> None:
    """One shelf, empty."""
    await tx.execute(insert(shelf).values(name="all", total=0))


stock = Module("stock", tables=metadata, migrations="bench.planted.apps.migrations.stock", seed=seed)


@stock.accept("POST /stock/counts", retry=Retry(attempts=20))
async def count(job: Job, body: Count) -> int:
    """Add to the total what was counted."""
    async with lock("stock", ttl="2s") as held:
        seen = await job.transact(total)
        await sleep(0.5)
        return await job.step("write", write, job.id, body.pieces, seen, held)


async def total(tx: Tx) -> int:
    """What is there."""
    return int((await tx.execute(select(shelf.c.total))).scalar_one())


async def write(tx: Tx, count_id: Id, pieces: int, seen: int, held: Held) -> int:
    """The new total, if nobody has written another one since it was read."""
    held.fence(tx)
    await tx.execute(insert(counted).values(count_id=count_id, pieces=pieces))
    await tx.execute(update(shelf).values(total=seen + pieces))
    return seen + pieces


@stock.invariant("the total is the sum of what was counted")
async def summed(db: Read) -> list[tuple[int, int]]:
    """A total that is another one."""
    found = int((await db.execute(select(func.coalesce(func.sum(counted.c.pieces), 0)))).scalar_one())
    said = int((await db.execute(select(shelf.c.total))).scalar_one())
    return [] if said == found else [(said, found)]


app = App(modules=[stock])
