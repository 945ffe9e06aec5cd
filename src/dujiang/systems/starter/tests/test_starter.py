"""The notes over HTTP, on the embedded store and on PostgreSQL: the same tests."""

from __future__ import annotations

from dujiang.systems.starter import app
from dujiang.testing.harness import running

NOTES = "/api/v1/notes"


async def test_a_note_is_written_once_and_counted_once(store: str) -> None:
    """A note and its repeat under one key are one note; its words are counted, and every law holds."""
    async with running(app, database=store) as world:
        answer = await world.post(NOTES, {"text": "water the plants"}, key="k1")
        again = await world.post(NOTES, {"text": "water the plants"}, key="k1")
        await world.settle()
        note = (await world.get(f"{NOTES}/{answer.json['note_id']}")).json

        assert answer.status == 201
        assert again.body == answer.body
        assert note == {"note_id": answer.json["note_id"], "text": "water the plants", "words": 3}
        assert await world.violations() == []


async def test_what_is_no_note_is_refused(store: str) -> None:
    """An empty note is 422, and an unknown one is 404."""
    async with running(app, database=store) as world:
        assert (await world.post(NOTES, {"text": ""})).status == 422
        assert (await world.get(f"{NOTES}/77")).status == 404
