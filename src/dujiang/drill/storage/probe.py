"""Probe: a workload of the drill's own, which lives in the same store and the same commits as the app's.

    POST /drill/entries   one transaction: `parts` rows of an entry, the tally one higher, the event EntryMade
                              └► reaction: an echo of the entry, the tally's echoes one higher

An entry with some of its parts, a tally that differs from the entries, an entry without its event or with two echoes:
each shows that a transaction was torn, whatever the app's own laws can see. Parts are of drawn length, so that
transactions are of a few pages or of many.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, Table, Text, distinct, func, insert, select, update

from dujiang import Event, Model, Module, Read, Tx, key
from dujiang.columns import Key

metadata = MetaData()

entry = Table(
    "drill_entry",
    metadata,
    Column("entry", Key(64), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("parts", Integer, nullable=False),
    Column("filler", Text, nullable=False),
)
echo = Table(
    "drill_echo",
    metadata,
    Column("entry", Key(64), primary_key=True),
    Column("number", Integer, primary_key=True),
)
tally = Table(
    "drill_tally",
    metadata,
    Column("name", Key(16), primary_key=True),
    Column("entries", Integer, nullable=False),
    Column("echoes", Integer, nullable=False),
)

probe = Module("drill", tables=metadata, migrations="dujiang.drill.storage.migrations")


class NewEntry(Model):
    """An entry to be made."""

    entry: Annotated[str, Field(min_length=1, max_length=64)]
    parts: Annotated[int, Field(ge=1, le=16)]
    length: Annotated[int, Field(ge=0, le=20_000)]


class Made(Model):
    """The answer: how many entries there are now."""

    entry: str
    entries: int


class EntryMade(Event):
    """An entry was made."""

    entry: str = key()


MORE_ENTRIES = update(tally).where(tally.c.name == "all").values(entries=tally.c.entries + 1)
MORE_ECHOES = update(tally).where(tally.c.name == "all").values(echoes=tally.c.echoes + 1)
ENTRIES = select(tally.c.entries).where(tally.c.name == "all")


@probe.write("POST /drill/entries")
async def make_entry(tx: Tx, body: NewEntry) -> Made:
    """Make an entry."""
    filler = "x" * body.length
    rows = [{"entry": body.entry, "part": n, "parts": body.parts, "filler": filler} for n in range(body.parts)]
    await tx.execute(insert(entry), rows)
    await tx.execute(MORE_ENTRIES)
    tx.publish(EntryMade(entry=body.entry))
    return Made(entry=body.entry, entries=(await tx.execute(ENTRIES)).scalar_one())


@probe.react(EntryMade)
async def echo_entry(tx: Tx, event: EntryMade) -> None:
    """Note that an entry was heard of; a second time is a second row."""
    heard = select(func.count()).select_from(echo).where(echo.c.entry == event.entry)
    number = (await tx.execute(heard)).scalar_one()
    await tx.execute(insert(echo).values(entry=event.entry, number=number))
    await tx.execute(MORE_ECHOES)


TORN = (
    select(entry.c.entry, func.count().label("found"), func.max(entry.c.parts).label("parts"))
    .group_by(entry.c.entry)
    .having(func.count() != func.max(entry.c.parts))
)
ENTRIES_FOUND = select(func.count(distinct(entry.c.entry))).scalar_subquery()
ECHOES_FOUND = select(func.count()).select_from(echo).scalar_subquery()
WRONG_TALLY = select(tally, ENTRIES_FOUND.label("entries_found"), ECHOES_FOUND.label("echoes_found")).where(
    (tally.c.entries != ENTRIES_FOUND) | (tally.c.echoes != ECHOES_FOUND)
)
ECHOES_OF = select(func.count()).select_from(echo).where(echo.c.entry == entry.c.entry).scalar_subquery()
WRONG_ECHOES = select(entry.c.entry, ECHOES_OF.label("echoes")).where(entry.c.part == 0, ECHOES_OF != 1)


@probe.invariant("an entry is whole or not there")
async def entries_are_whole(db: Read) -> list[Any]:
    """Entries that lack parts."""
    return list((await db.execute(TORN)).all())


@probe.invariant("the tally is the number of entries, and of echoes")
async def tally_is_right(db: Read) -> list[Any]:
    """The tally, if it differs."""
    return list((await db.execute(WRONG_TALLY)).all())


@probe.invariant("an entry has exactly one echo, once its event was handled")
async def echoes_are_single(db: Read) -> list[Any]:
    """Entries that were heard of twice, or not at all; to be asked when nothing is open."""
    return list((await db.execute(WRONG_ECHOES)).all())
