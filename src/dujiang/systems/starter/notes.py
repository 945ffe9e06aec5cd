"""The verbs of the notes: write one, count its words, read it; and the law that always holds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import func, insert, select, update

from dujiang import Event, Id, Model, Module, Read, Tx, key
from dujiang.systems.starter.tables import metadata, note, total

ALL = "all"


class NewNote(Model):
    """A note to be written."""

    text: Annotated[str, Field(min_length=1, max_length=1000, examples=["water the plants"])]


class NoteReceipt(Model):
    """The answer to a note that was written."""

    note_id: Id


class NoteView(Model):
    """A note as it stands; `words` is null until they were counted."""

    note_id: Id
    text: str
    words: int | None


class NoteWritten(Event):
    """A note was written; its words are not yet counted."""

    note_id: Id = key()
    text: str


async def seed(tx: Tx) -> None:
    """Begin to count at nothing."""
    await tx.execute(insert(total), {"name": ALL, "words": 0})


starter = Module("starter", tables=metadata, migrations="dujiang.systems.starter.migrations", seed=seed)


@starter.write("POST /api/v1/notes")
async def write_note(tx: Tx, body: NewNote) -> NoteReceipt:
    """Write a note; the event exists if and only if the note does."""
    note_id = tx.new_id()
    await tx.execute(insert(note), {"note_id": note_id, "text": body.text})
    tx.publish(NoteWritten(note_id=note_id, text=body.text))
    return NoteReceipt(note_id=note_id)


@starter.react(NoteWritten)
async def count_words(tx: Tx, event: NoteWritten) -> None:
    """Count the words of a note; its effect happens once, though deliveries repeat."""
    words = len(event.text.split())
    await tx.execute(update(note).where(note.c.note_id == event.note_id).values(words=words))
    await tx.execute(update(total).where(total.c.name == ALL).values(words=total.c.words + words))


@starter.read("GET /api/v1/notes/{note_id}")
async def read_note(db: Read, note_id: Id) -> NoteView | None:
    """A note."""
    found = (await db.execute(select(note).where(note.c.note_id == note_id))).one_or_none()
    return None if found is None else NoteView(note_id=found.note_id, text=found.text, words=found.words)


@starter.invariant("the total is the sum of the words of all notes")
async def total_adds_up(db: Read) -> list[Any]:
    """The total, if it differs from its notes."""
    counted = select(func.coalesce(func.sum(note.c.words), 0)).scalar_subquery()
    return list((await db.execute(select(total).where(total.c.words != counted))).all())
