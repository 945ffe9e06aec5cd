"""A small app with a world outside: each letter is posted by a reaction, and the post office keeps a journal."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dujiang import App, Call, Event, Id, Model, Module, Read, Retry, Tx, key, now, sometimes

# Of the post office: one for all machines, whatever dies.
JOURNAL: list[str] = []
QUICK = Retry(attempts=8, base="50ms", cap="500ms")


class Letter(Model):
    """What somebody writes."""

    text: Annotated[str, Field(min_length=1, max_length=8, examples=["hello"])]


class Receipt(Model):
    """Of a letter."""

    letter_id: Id


class Written(Event):
    """A letter was written."""

    letter_id: Id = key()
    text: str


class Count(Model):
    """How many."""

    count: int


def app_of(form: str) -> App:
    """The app, posting in one of several ways.

    Args:
        form: `keyed` passes the key on, `fresh` makes a new one in each run, `keyless` has none, `never` does not post.
    """
    post_office = Module("post")

    @post_office.write("POST /letters")
    async def write_letter(tx: Tx, body: Letter) -> Receipt:
        letter_id = tx.new_id()
        tx.publish(Written(letter_id=letter_id, text=body.text))
        return Receipt(letter_id=letter_id)

    @post_office.external("post")
    async def post(stable_key: str, text: str) -> str:
        if stable_key not in JOURNAL:
            JOURNAL.append(stable_key)
        return f"stamp-{len(JOURNAL)}"

    @post_office.external("shout")
    async def shout(text: str) -> None:
        JOURNAL.append(text)

    @post_office.react(Written, retry=QUICK)
    async def deliver(call: Call, event: Written) -> None:
        if form == "keyless":
            await shout(event.text)
        elif form != "never":
            await post(call.key if form == "keyed" else f"{event.letter_id}-{now().isoformat()}", event.text)
        if call.attempt > 1:
            sometimes("delivered again")
        if call.attempt > 99:
            sometimes("delivered a hundred times")

    @post_office.read("GET /journal")
    async def read_journal(db: Read) -> Count:
        return Count(count=len(JOURNAL))

    @post_office.invariant("the journal holds nothing twice")
    async def nothing_twice(db: Read) -> list[str]:
        return [each for each in set(JOURNAL) if JOURNAL.count(each) > 1 and form != "keyless"]

    return App(modules=[post_office])
