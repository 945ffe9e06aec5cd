"""The tables of the notes; the migrations beside this file make them."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, Table

from dujiang.columns import Id, Key

metadata = MetaData()

# `words` is null until the note is counted.
note = Table(
    "starter_note",
    metadata,
    Column("note_id", Id, primary_key=True),
    Column("text", Key(1000), nullable=False),
    Column("words", Integer),
)

total = Table(
    "starter_total",
    metadata,
    Column("name", Key(16), primary_key=True),
    Column("words", Integer, nullable=False),
)
