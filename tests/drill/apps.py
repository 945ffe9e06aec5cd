"""Small apps on two pots: one that is sound, and one for each defect that the drill must see.

All of them have the same tables, route and law; what differs is the handler that adds to a pot, or the one that counts it.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, text, update

from dujiang import App, Call, Event, Id, Model, Module, Read, Refusal, Tx, columns, key, sleep

metadata = MetaData()
pot = Table(
    "tally_pot",
    metadata,
    Column("name", columns.Key(32), primary_key=True),
    Column("held", Integer, nullable=False),
    Column("events", Integer, nullable=False),
)
entry = Table(
    "tally_entry",
    metadata,
    Column("entry_id", columns.Id, primary_key=True),
    Column("pot", columns.Key(32), nullable=False),
    Column("amount", Integer, nullable=False),
)
CONSERVED = "a pot holds the sum of its entries"


class Adding(Model):
    """An amount for a pot."""

    pot: Literal["a"]
    amount: Annotated[int, Field(ge=1, le=5)]


class Level(Model):
    """What a pot holds."""

    pot: str
    held: int


class Added(Event):
    """An entry was made."""

    pot: str = key()
    entry_id: Id


class Noted(Event, name="Added"):
    """What a later version publishes: one field more, with a default."""

    pot: str = key()
    entry_id: Id
    note: str = "none"


class Put(Event):
    """What a careless version publishes: the same under another name."""

    pot: str = key()
    entry_id: Id


class Unwanted(Refusal):
    """Nobody wants this."""

    code = "unwanted"


class Bumped(Model):
    """Which pot an event came for."""

    pot: str


class Receipt(Model):
    """The answer."""

    entry_id: Id
    number: int


class Kept:
    """What a handler keeps in memory."""

    def __init__(self) -> None:
        self.count = 0


KEPT = Kept()
NOTHING: dict[str, int] = {}

Add = Callable[[Tx, Adding], Awaitable[int]]
Count = Callable[[Tx, Added], Awaitable[None]]


async def seed(tx: Tx) -> None:
    """Fill two pots with nothing; the first that was written is the second by name."""
    rows = [{"name": name, "held": 0, "events": 0} for name in ("a", "b")]
    await tx.execute(insert(pot), rows)


async def added(tx: Tx, body: Adding) -> int:
    """Add inside the UPDATE."""
    grown = update(pot).where(pot.c.name == body.pot).values(held=pot.c.held + body.amount)
    await tx.execute(grown)
    return 0


async def counted(tx: Tx, event: Added) -> None:
    """Count the event."""
    await tx.execute(update(pot).where(pot.c.name == event.pot).values(events=pot.c.events + 1))


def app_of(
    add: Add = added,
    count: Count = counted,
    *,
    kind: type[Any] = Added,
    reaction: str = "count_entry",
    outside: bool = False,
    **options: Any,
) -> App:
    """An app that adds and counts in these ways.

    Args:
        add: How the handler adds.
        count: How the reaction counts.
        kind: The event between them.
        reaction: The stored name of the reaction.
        outside: It counts by an operation that the reaction runs without a key.
        options: Of the route that adds.
    """
    module = Module("tally", tables=metadata, migrations="tests.drill.migrations", seed=seed)

    @module.write("POST /entries", **options)
    async def make_entry(tx: Tx, body: Adding) -> Receipt:
        number = await add(tx, body)
        entry_id = tx.new_id()
        await tx.execute(insert(entry), {"entry_id": entry_id, "pot": body.pot, "amount": body.amount})
        tx.publish(kind(pot=body.pot, entry_id=entry_id))
        return Receipt(entry_id=entry_id, number=number)

    if outside:

        @module.write()
        async def bump(tx: Tx, body: Bumped) -> None:
            await tx.execute(update(pot).where(pot.c.name == body.pot).values(events=pot.c.events + 1))

        @module.react(Added)
        async def count_outside(call: Call, event: Added) -> None:
            await app.run(bump, Bumped(pot=event.pot))

    else:

        async def count_entry(tx: Tx, event: Any) -> None:
            await count(tx, event)

        count_entry.__annotations__["event"] = kind
        module.react(kind, name=reaction, ordered=True)(count_entry)

    @module.read("GET /pots/{name}")
    async def read_pot(db: Read, name: str) -> Level | None:
        found = (await db.execute(select(pot).where(pot.c.name == name))).one_or_none()
        return None if found is None else Level(pot=found.name, held=found.held)

    @module.invariant(CONSERVED)
    async def conserved(db: Read) -> list[Any]:
        total = select(func.coalesce(func.sum(entry.c.amount), 0)).where(entry.c.pot == pot.c.name).scalar_subquery()
        return list((await db.execute(select(pot.c.name).where(pot.c.held != total))).all())

    app = App(modules=[module])
    return app


# Defects of the handler that adds ---------------------------------------------------------------------------------------


async def lost_update(tx: Tx, body: Adding) -> int:
    """Read, think, write what was thought."""
    held = (await tx.execute(select(pot.c.held).where(pot.c.name == body.pot))).scalar_one()
    await tx.execute(update(pot).where(pot.c.name == body.pot).values(held=held + body.amount))
    return 0


async def first_row(tx: Tx, body: Adding) -> int:
    """Add to the pot that a SELECT without ORDER BY names first, which is `a` as long as nobody turns the rows round."""
    names = (await tx.execute(select(pot.c.name).where(pot.c.name.in_([body.pot, "b"])))).scalars().all()
    await tx.execute(update(pot).where(pot.c.name == names[0]).values(held=pot.c.held + body.amount))
    return 0


async def inner_error(tx: Tx, body: Adding) -> int:
    """Look into an empty dictionary."""
    return int(NOTHING[body.pot])


async def count_in_memory(tx: Tx, body: Adding) -> int:
    """Let a global say what the pot holds."""
    KEPT.count += body.amount
    await tx.execute(update(pot).where(pot.c.name == body.pot).values(held=KEPT.count))
    return 0


async def sleep_inside(tx: Tx, body: Adding) -> int:
    """Hold what was written for longer than a transaction may."""
    await added(tx, body)
    await sleep(1.5)
    await tx.execute(select(pot.c.held).where(pot.c.name == body.pot))
    return 0


async def nap_inside(tx: Tx, body: Adding) -> int:
    """Sleep between two statements, for less than a transaction may."""
    await added(tx, body)
    await sleep(0.9)
    await tx.execute(select(pot.c.held).where(pot.c.name == body.pot))
    await sleep(0.9)
    return 0


async def refuse_always(tx: Tx, body: Adding) -> int:
    """Refuse."""
    raise Unwanted("nobody wants this")


async def background_error(tx: Tx, body: Adding) -> int:
    """Start something that fails when nobody looks."""

    async def fail() -> None:
        raise KeyError("nobody looks")

    asyncio.get_running_loop().create_task(fail())
    return await added(tx, body)


async def open_connection(tx: Tx, body: Adding) -> int:
    """Connect."""
    socket.create_connection(("127.0.0.1", 9)).close()
    return 0


async def sleep_for_real(tx: Tx, body: Adding) -> int:
    """Sleep."""
    time.sleep(0)  # noqa: ASYNC251  (that is the defect)
    return 0


async def start_thread(tx: Tx, body: Adding) -> int:
    """Start a thread."""
    threading.Thread(target=print).start()
    return 0


async def start_program(tx: Tx, body: Adding) -> int:
    """Start another program."""
    subprocess.run([sys.executable, "-V"], check=True)  # noqa: ASYNC221  (that is the defect)
    return 0


# Defects of the handler that counts -------------------------------------------------------------------------------------


async def never_works(tx: Tx, event: Added) -> None:
    """Fail in every try."""
    raise ValueError("never works")


async def wait_for_ever(tx: Tx, event: Added) -> None:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()


async def bury(tx: Tx, event: Added) -> None:
    """Refuse every event."""
    raise Unwanted("nobody wants this")


async def count_in_memory_only(tx: Tx, event: Added) -> None:
    """Let a global say how many events there were."""
    KEPT.count += 1
    await tx.execute(update(pot).where(pot.c.name == event.pot).values(events=KEPT.count))


async def drop_others(tx: Tx, event: Added) -> None:
    """Throw away work of the platform."""
    await counted(tx, event)
    await tx.execute(text("DELETE FROM dj_ready"))
