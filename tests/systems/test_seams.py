"""Seams of the programming model: what a user's app may do at its edges, on both databases."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends
from pydantic import Field
from sqlalchemy import Column, MetaData, Table, Text, delete, func, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dujiang import App, Model, Module, Read, Refusal, Tx
from dujiang.app.composition import Composition
from dujiang.data.database import OutcomeUnknown
from dujiang.data.sql import Sql
from dujiang.data.transaction import NestedTransaction
from dujiang.gateway.idempotency import FINGERPRINT_VERSION
from dujiang.kernel.errors import Declared
from dujiang.kernel.tasks import all_of
from dujiang.testing.harness import World, running

metadata = MetaData()
note = Table("note", metadata, Column("name", Text, primary_key=True))


class Note(Model):
    """A note."""

    name: str


class ColouredNote(Note):
    """The note of a later release."""

    colour: str = "blue"
    number: int = Field(default_factory=itertools.count().__next__)


STORED_BY_ANOTHER = Sql(
    "seams_stored_by_another",
    "UPDATE dj_idempotency SET fingerprint_version = $1, fingerprint = $2 RETURNING 1",
    "Makes every key one that another release stored.",
)


class No(Refusal):
    """Not this one."""

    code = "no"


class Base(DeclarativeBase):
    """The ORM's registry of these tests."""


class Row(Base):
    """A note as an object."""

    __tablename__ = "note"
    name: Mapped[str] = mapped_column(Text, primary_key=True)


class Finder:
    """What a dependency makes: an object whose repr holds its address."""


async def create(world: World) -> None:
    """Make the table."""

    async def body(tx: Tx) -> None:
        connection: Any = tx._connection
        async with connection.orm_connection() as whole:
            await whole.run_sync(lambda sync: metadata.create_all(sync, checkfirst=False))

    await world.runtime.transact(body)


async def names(world: World) -> list[str]:
    """The notes that are there."""

    async def body(db: Read) -> list[str]:
        return [row.name for row in (await db.execute(select(note.c.name).order_by(note.c.name))).all()]

    found: list[str] = await world.runtime.read(body)
    return found


class TestRequests:
    """What FastAPI solves."""

    async def test_query_and_dependencies_reach_a_handler(self, store: str) -> None:
        """A read with a query parameter and a write with a dependency work, and a retry with a key is a replay."""
        seams = Module("seams")

        @seams.read("GET /notes")
        async def count(db: Read, limit: int = 10) -> int:
            """The limit again."""
            return limit + int((await db.execute(select(func.count()).select_from(note))).scalar_one())

        @seams.write("POST /notes")
        async def add(tx: Tx, body: Note, finder: Annotated[Finder, Depends(Finder)]) -> Note:
            """Add a note."""
            assert isinstance(finder, Finder)
            await tx.execute(insert(note), {"name": body.name})
            return body

        async with running(App(modules=[seams]), database=store) as world:
            await create(world)
            first = await world.post("/notes", {"name": "a"}, key="k")
            again = await world.post("/notes", {"name": "a"}, key="k")
            other = await world.post("/notes?x=1", {"name": "a"}, key="k")

            assert (first.status, again.status, again.body) == (201, 201, first.body)
            assert again.headers["idempotent-replayed"] == "true"
            assert other.status == 422
            assert (await world.get("/notes?limit=3")).json == 4
            assert (await world.get("/notes?limit=x")).status == 422

    async def test_a_dot_in_a_path_is_a_dot(self) -> None:
        """A route's text is no pattern."""
        seams = Module("seams")

        @seams.read("GET /v1.0/{name}")
        async def show(db: Read, name: str) -> str:
            """The name again."""
            return name

        async with running(App(modules=[seams])) as world:
            assert (await world.get("/v1.0/x")).status == 200
            assert (await world.get("/v1x0/x")).status == 404

    @pytest.mark.parametrize("error", [TimeoutError, asyncio.CancelledError, SystemExit, ValueError])
    async def test_whatever_a_handler_raises_is_a_problem_document(self, error: type[BaseException]) -> None:
        """The handler's own TimeoutError is no deadline, and its CancelledError cancels nobody."""
        seams = Module("seams")

        @seams.write("POST /fail")
        async def fail(tx: Tx, body: Note) -> Note:
            """Fail."""
            raise error

        async with running(App(modules=[seams])) as world:
            answer = await world.post("/fail", {"name": "a"})

            assert (answer.status, answer.json["code"]) == (500, "internal")

    async def test_two_keys_are_none(self) -> None:
        """A request with two Idempotency-Key headers is refused."""
        seams = Module("seams")

        @seams.write("POST /notes")
        async def add(tx: Tx, body: Note) -> Note:
            """The note again."""
            return body

        async with running(App(modules=[seams])) as world:
            answer = await world.post("/notes", {"name": "a"}, headers={"idempotency-key": "a", "Idempotency-Key": "b"})

            assert answer.json["code"] == "idempotency_key_malformed"


class TestKeys:
    """Keys whose time is over."""

    async def test_an_expired_key_is_a_fresh_one_even_for_a_refusal(self, store: str) -> None:
        """After its time a key replays nothing: the refusal of now is the answer."""
        seams, refuse = Module("seams"), [False]

        @seams.write("POST /notes")
        async def add(tx: Tx, body: Note) -> Note:
            """Refuse when told to."""
            if refuse[0]:
                raise No
            return body

        async with running(App(modules=[seams]), database=store, idempotency_ttl_s=0.0) as world:
            first = await world.post("/notes", {"name": "a"}, key="k")
            refuse[0] = True
            again = await world.post("/notes", {"name": "a"}, key="k")

            assert (first.status, again.status) == (201, 409)

    @pytest.mark.parametrize("batch", [0, 8])
    async def test_a_key_that_another_release_stored_is_replayed_by_the_key_alone(self, store: str, batch: int) -> None:
        """A fingerprint made in another way cannot be compared: an honest retry is replayed and never refused."""
        seams, runs = Module("seams"), [0]

        if batch:

            @seams.write("POST /notes", batch=batch)
            async def add_all(tx: Tx, bodies: list[Note]) -> list[Note]:
                """Count the runs."""
                runs[0] += len(bodies)
                return bodies
        else:

            @seams.write("POST /notes")
            async def add(tx: Tx, body: Note) -> Note:
                """Count the runs."""
                runs[0] += 1
                return body

        async with running(App(modules=[seams]), database=store) as world:
            first = await world.post("/notes", {"name": "a"}, key="k")
            misused = await world.post("/notes", {"name": "b"}, key="k")
            for version in (FINGERPRINT_VERSION - 1, FINGERPRINT_VERSION + 1):
                await world.runtime.database.statement(STORED_BY_ANOTHER, version, b"made in another way")
                again = await world.post("/notes", {"name": "a"}, key="k")

                assert (again.status, again.body) == (first.status, first.body)
                assert again.headers["idempotent-replayed"] == "true"
            assert (misused.status, misused.json["code"]) == (422, "idempotency_key_reused")
            assert runs == [1]

    async def test_a_field_that_a_release_adds_changes_no_fingerprint(self, store: str, tmp_path: Path) -> None:
        """A retry that reaches a release whose body has one more field, with a default, is a replay."""
        before, after = Module("seams"), Module("seams")

        @before.write("POST /notes", name="add")
        async def add(tx: Tx, body: Note) -> Note:
            """The name again."""
            return Note(name=body.name)

        @after.write("POST /notes", name="add")
        async def add_coloured(tx: Tx, body: ColouredNote) -> Note:
            """The name again."""
            return Note(name=body.name)

        kept = store or f"sqlite:///{tmp_path}/app.db"
        async with running(App(modules=[before]), database=kept) as world:
            first = await world.post("/notes", {"name": "a"}, key="k")
        async with running(App(modules=[after]), database=kept) as world:
            again = await world.post("/notes", {"name": "a"}, key="k")
            other = await world.post("/notes", {"name": "a", "colour": "red"}, key="k")

            assert (first.status, again.status, again.body) == (201, 201, first.body)
            assert again.headers["idempotent-replayed"] == "true"
            assert other.status == 422


class TestTransactions:
    """What stays inside one transaction."""

    async def test_a_failed_savepoint_undoes_the_orm_session_too(self, store: str) -> None:
        """What was added before is kept, what was added inside is gone, in the session and in the table."""
        seams = Module("seams")

        @seams.write("POST /notes")
        async def add(tx: Tx, body: Note) -> int:
            """Add two, one of them in a part that fails."""
            tx.session.add(Row(name="before"))
            try:
                async with tx.savepoint():
                    tx.session.add(Row(name="inside"))
                    await tx.session.execute(select(Row))
                    raise ValueError
            except ValueError:
                pass
            return len((await tx.session.execute(select(Row.name))).all())

        async with running(App(modules=[seams]), database=store) as world:
            await create(world)
            answer = await world.post("/notes", {"name": "a"})

            assert answer.json == 1
            assert await names(world) == ["before"]

    async def test_a_transaction_hides_in_neither_a_transaction_nor_a_read(self, store: str) -> None:
        """`app.run` of a write, batched or not, is refused inside a handler; a task that outlives it is free."""
        seams, tasks = Module("seams"), list[asyncio.Task[Any]]()

        @seams.write(batch=8)
        async def many(tx: Tx, bodies: list[Note]) -> list[Note]:
            """Add some."""
            await tx.execute(insert(note), [{"name": body.name} for body in bodies])
            return bodies

        @seams.write("POST /nested")
        async def nested(tx: Tx, body: Note) -> Note:
            """Try to hide a batch in a write."""
            await app.run(many, body)
            return body

        @seams.read("GET /hidden")
        async def hidden(db: Read) -> int:
            """Try to hide a write in a read."""
            await app.run(many, Note(name="hidden"))
            return 1

        @seams.write("POST /later")
        async def later(tx: Tx, body: Note) -> Note:
            """Start something that goes on after the commit."""
            tasks.append(asyncio.get_running_loop().create_task(after(tx, body)))
            return body

        async def after(tx: Tx, body: Note) -> None:
            while not tx.ended:
                await app.run(count)
            await app.run(many, body)

        @seams.read()
        async def count(db: Read) -> int:
            """Count."""
            return int((await db.execute(select(func.count()).select_from(note))).scalar_one())

        app = App(modules=[seams])
        async with running(app, database=store) as world:
            await create(world)
            codes = [
                (await world.post("/nested", {"name": "n"})).json["code"],
                (await world.get("/hidden")).json["code"],
            ]
            assert (await world.post("/later", {"name": "later"})).status == 201
            await tasks[0]

            assert codes == [NestedTransaction.code] * 2
            assert await names(world) == ["later"]

    @pytest.mark.parametrize(("later", "sizes"), [(3, [1, 3]), (6, [1, 4, 2])])
    async def test_those_who_wait_share_the_next_transaction(self, later: int, sizes: list[int]) -> None:
        """While a batch is under way the next gathers; a second one beside it begins when half a batch waits.

        Method: the first call holds its transaction; the others come one after the other.
        """
        seams, seen, go = Module("seams"), list[int](), asyncio.Event()

        @seams.write(batch=8)
        async def many(_tx: Tx, bodies: list[Note]) -> list[Note]:
            """Note the size."""
            seen.append(len(bodies))
            await go.wait()
            return bodies

        async with running(App(modules=[seams])) as world:
            calls = []
            for number in range(1 + later):
                calls.append(asyncio.ensure_future(world.runtime.run(many, [Note(name=str(number))], {})))
                for _ in range(20):
                    await asyncio.sleep(0)
            go.set()
            await asyncio.gather(*calls)

        assert seen == sizes

    async def test_a_batch_of_unknown_outcome_is_not_run_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A batch whose commit got no reply answers 503 for each member and has run once."""
        seams, runs = Module("seams"), [0]

        @seams.write("POST /notes", batch=8)
        async def many(tx: Tx, bodies: list[Note]) -> list[Note]:
            """Count the runs."""
            runs[0] += 1
            return bodies

        async with running(App(modules=[seams])) as world:
            write = world.runtime.database.write

            async def unknown(*args: Any, **options: Any) -> Any:
                await write(*args, **options)
                raise OutcomeUnknown(url="x")

            monkeypatch.setattr(world.runtime.database, "write", unknown)
            answers = await all_of(*(world.post("/notes", {"name": str(number)}) for number in range(4)))
            monkeypatch.undo()

            assert {answer.status for answer in answers} == {503}
            assert runs[0] <= 2

    async def test_a_stopping_process_begins_no_batch(self) -> None:
        """A call that comes when the process takes no more tasks is told to come again, and has not run."""
        seams, runs = Module("seams"), [0]

        @seams.write("POST /notes", batch=8)
        async def many(tx: Tx, bodies: list[Note]) -> list[Note]:
            """Count the runs."""
            runs[0] += 1
            return bodies

        async with running(App(modules=[seams])) as world:
            await world.runtime.node.tasks.close()
            answer = await world.post("/notes", {"name": "late"})

            assert (answer.status, answer.json["code"]) == (503, "stopping")
            assert "retry-after" in answer.headers
            assert runs[0] == 0

    def test_a_batch_takes_nothing_but_bodies(self) -> None:
        """A batched verb with a path parameter is refused before anything is served."""
        seams = Module("seams")

        @seams.write("POST /notes/{name}", batch=8)
        async def many(tx: Tx, name: str, bodies: list[Note]) -> list[Note]:
            """Never runs."""
            await tx.execute(delete(note))
            return bodies

        with pytest.raises(Declared, match="name"):
            _ = Composition(App(modules=[seams])).routes
