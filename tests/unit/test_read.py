"""Cached reads in running copies, on both databases: what a client sees."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest
from fastapi import Request, Response
from pydantic import BaseModel

from dujiang import App, Id, Module, Read, Refusal, Tx
from dujiang.data.sql import Sql
from dujiang.gateway.routes import Call
from dujiang.kernel.context import changed, entered
from dujiang.kernel.errors import Declared
from dujiang.messaging import forgotten
from dujiang.messaging.tx import ForgetRefused
from dujiang.read import KeyRefused
from dujiang.testing.conformance.stage import until
from dujiang.testing.harness import World, running
from dujiang.testing.servers import PostgresServer

DATABASE = "reads"
MAKE = Sql("read_make", "CREATE TABLE IF NOT EXISTS note (id BIGINT PRIMARY KEY, text TEXT NOT NULL)", "Makes a table.")
GET = Sql("read_get", "SELECT text FROM note WHERE id = $1", "Reads a note.")
ALL = Sql("read_all", "SELECT count(*) FROM note", "Counts notes.")
SET = Sql(
    "read_set",
    "INSERT INTO note (id, text) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = excluded.text RETURNING 1",
    "Writes a note.",
)

runs: Counter[str] = Counter()
notes, index = Module("notes"), Module("index")


class Note(BaseModel):
    """A note."""

    text: str


class NoNote(Refusal):
    """A note that is never shown."""

    code = "no_note"


@notes.write("PUT /notes/{note_id}")
async def set_note(tx: Tx, note_id: Id, body: Note) -> Note:
    """Write a note."""
    await tx.fetch(SET, note_id, body.text)
    tx.forget(read_note, note_id)
    tx.forget("notes")
    return body


@notes.write("PUT /silent/{note_id}")
async def set_silently(tx: Tx, note_id: Id, body: Note) -> Note:
    """Write a note and tell nobody."""
    await tx.fetch(SET, note_id, body.text)
    return body


@notes.read("GET /notes/{note_id}", ttl="1h", absent="1h")
async def read_note(db: Read, note_id: Id) -> Note | None:
    """A note."""
    runs["note"] += 1
    rows = await db.fetch(GET, note_id)
    return Note(text=rows[0][0]) if rows else None


@index.read("GET /count", ttl="1h", tags=("notes",))
async def count_notes(db: Read, above: int = 0) -> dict[str, int]:
    """How many notes there are; of another module."""
    runs["count"] += 1
    return {"count": (await db.fetch(ALL))[0][0] + above}


@index.read("GET /refused/{n}", ttl="1h")
async def refused(db: Read, n: int) -> Note | NoNote:
    """A refusal."""
    runs["refused"] += 1
    raise NoNote


app = App(modules=[notes, index])
Life = Callable[[], AbstractAsyncContextManager[World]]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for all tests."""
    with PostgresServer(fsync=False) as found:
        found.create_database(DATABASE)
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Life:
    """Starts a running copy; several on one store."""
    url = f"sqlite:///{tmp_path}/app.db"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("server")
        server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database=DATABASE)
        url = server.url(DATABASE)
    return lambda: running(app, database=url, data=tmp_path)


async def prepared(world: World) -> None:
    """Make the table and begin to count."""
    runs.clear()

    async def make(tx: Tx) -> None:
        await tx.fetch(MAKE)

    await world.runtime.transact(make)


@pytest.fixture
async def world(life: Life) -> AsyncIterator[World]:
    """One running copy."""
    async with life() as found:
        await prepared(found)
        yield found


@pytest.fixture
async def two(life: Life) -> AsyncIterator[tuple[World, World]]:
    """Two running copies of one store, each with a cache of its own."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(life())
        second = await stack.enter_async_context(life())
        await prepared(first)
        yield first, second


async def text_of(world: World, note_id: int) -> str | None:
    """What a client reads; None = 404."""
    answer = await world.get(f"/notes/{note_id}")
    assert answer.status in (200, 404)
    return answer.json["text"] if answer.status == 200 else None


async def test_a_hit_is_the_same_bytes_without_the_handler(world: World) -> None:
    """The second answer is byte for byte the first, and the function did not run."""
    await world.put("/notes/1", {"text": "a"})
    first, second = await world.get("/notes/1"), await world.get("/notes/1")

    assert (first.status, first.body, first.headers) == (second.status, second.body, second.headers)
    assert (first.body, runs["note"]) == (b'{"text":"a"}', 1)
    assert "x-dj-stale" not in second.headers


async def test_a_writer_reads_its_write_at_once(world: World) -> None:
    """A hundred writes, each read right after its answer: never an older one."""
    for n in range(100):
        await world.put("/notes/1", {"text": f"v{n}"})
        assert await text_of(world, 1) == f"v{n}"
        assert await text_of(world, 1) == f"v{n}"


async def test_another_process_reads_it_soon(two: tuple[World, World]) -> None:
    """What is cached elsewhere dies with the commit here, without any message; and stays cached otherwise."""
    here, there = two
    await here.put("/notes/1", {"text": "a"})
    assert await text_of(there, 1) == "a"
    await here.put("/notes/1", {"text": "b"})

    async def seen() -> bool:
        return await text_of(there, 1) == "b"

    await until(here, seen, "the other copy reads the new note")
    assert await text_of(here, 1) == "b"


async def test_a_process_that_dies_after_its_commit_invalidates_all_the_same(two: tuple[World, World]) -> None:
    """The step after the commit never comes, here or elsewhere: the log has it."""
    here, there = two
    await here.put("/notes/1", {"text": "a"})
    assert [await text_of(here, 1), await text_of(there, 1)] == ["a", "a"]
    here.runtime.caching.forgot = lambda _, __: None  # type: ignore[method-assign, assignment]
    await here.put("/notes/1", {"text": "b"})

    async def seen() -> bool:
        return [await text_of(here, 1), await text_of(there, 1)] == ["b", "b"]

    await until(here, seen, "the other copy reads the new note")


async def test_that_there_is_none_ends_with_the_insert(world: World) -> None:
    """404 is kept, until somebody makes the note."""
    assert [await text_of(world, 7) for _ in range(3)] == [None, None, None]
    assert runs["note"] == 1
    await world.put("/notes/7", {"text": "new"})

    assert await text_of(world, 7) == "new"


async def test_a_tag_reaches_reads_of_other_modules(world: World) -> None:
    """A list of another module carries the tag, and is counted anew; without it, it is not."""
    await world.put("/notes/1", {"text": "a"})
    assert (await world.get("/count")).json == {"count": 1}
    await world.put("/silent/2", {"text": "b"})
    assert (await world.get("/count")).json == {"count": 1}
    await world.put("/notes/3", {"text": "c"})

    assert (await world.get("/count")).json == {"count": 3}


async def test_every_parameter_is_part_of_the_key(world: World) -> None:
    """Query parameters too, and a default is the same as its value."""
    answers = [(await world.get(f"/count{query}")).json["count"] for query in ("", "?above=0", "?above=5", "?above=5")]

    assert answers == [0, 0, 5, 5]
    assert runs["count"] == 2


async def test_caller_and_tenant_are_part_of_the_key(world: World) -> None:
    """The same read by somebody else, or of another tenant, loads; a forget reaches them all."""
    runtime = world.runtime
    bound = runtime.bound(read_note)

    async def ask() -> None:
        for caller, tenant in (("", ""), ("ada", ""), ("", "acme"), ("ada", "")):
            with entered(runtime.context()), changed(caller=caller, tenant=tenant):
                await bound.respond(Call({"note_id": 1}))

    await world.put("/notes/1", {"text": "a"})
    await ask()
    assert runs["note"] == 3
    await world.put("/notes/1", {"text": "b"})
    await ask()
    assert runs["note"] == 6


async def test_a_rolled_back_write_forgets_nothing(world: World) -> None:
    """What did not happen makes nothing outdated."""

    async def fails(tx: Tx) -> None:
        tx.forget(read_note, 1)
        raise NoNote

    await world.put("/notes/1", {"text": "a"})
    await text_of(world, 1)
    with pytest.raises(NoNote):
        await world.runtime.transact(fails)
    await text_of(world, 1)

    assert runs["note"] == 1


async def test_a_refusal_is_not_kept(world: World) -> None:
    """It is answered as ever, and the next one runs the handler."""
    answers = [await world.get("/refused/1") for _ in range(2)]

    assert [(answer.status, answer.json["code"]) for answer in answers] == [(409, "no_note")] * 2
    assert runs["refused"] == 2


async def test_a_crowd_on_an_absent_key_is_one_run(world: World) -> None:
    """A thousand requests at once for what nobody has cached: the handler runs once."""
    await world.put("/notes/1", {"text": "a"})
    answers = await asyncio.gather(*(world.get("/notes/1") for _ in range(1000)))

    assert {answer.body for answer in answers} == {b'{"text":"a"}'}
    assert runs["note"] == 1


async def test_operators_see_and_drop(two: tuple[World, World]) -> None:
    """GET shows what lies there and what became of it; DELETE ends it in every process."""
    here, there = two
    await here.put("/silent/1", {"text": "a"})
    for world in two:
        await text_of(world, 1)
        await text_of(world, 1)
    shown = (await there.operate("GET", "/_dj/cache")).json
    assert (shown["entries"], shown["trusted"]) == (1, True)
    assert shown["reads"]["notes.read_note"] == {"hit": 1, "miss": 1, "stale": 0, "loads": 1, "inconsistent": 0}

    await here.put("/silent/1", {"text": "b"})
    assert await text_of(there, 1) == "a"
    assert (await here.operate("DELETE", "/_dj/cache")).status == 204
    assert await text_of(here, 1) == "b"

    async def seen() -> bool:
        return await text_of(there, 1) == "b"

    await until(here, seen, "the other copy reads the new note")
    assert (await here.get("/_dj/cache")).status == 401


async def test_the_log_is_cut_and_a_process_that_missed_it_begins_anew(two: tuple[World, World]) -> None:
    """A copy that stands still while a note changes and the log is cut gives nothing of what it had."""
    here, there = two
    await here.put("/notes/1", {"text": "a"})
    await text_of(there, 1)
    await there.runtime.caching.follower.stop()
    await here.put("/notes/1", {"text": "b"})

    database = here.runtime.database
    while await forgotten.cut(database, here.runtime.node.clock.now_us() + 10**9):
        pass
    await there.runtime.caching.follower.look()

    assert there.runtime.caching.guard.trusted(there.runtime.node.clock.monotonic())
    assert await text_of(there, 1) == "b"


async def test_forget_takes_the_parameters_of_the_read(world: World) -> None:
    """An id as text means the same as a number; too few, too many or wrong ones are refused with the cure."""

    async def body(tx: Tx) -> None:
        tx.forget(read_note, "1")
        for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"note_id": 1}), (("x",), {}), ((), {"id": 1})):
            with pytest.raises(ForgetRefused) as caught:
                tx.forget(read_note, *args, **kwargs)
            assert "notes.read_note" in str(caught.value)
        with pytest.raises(ForgetRefused, match="a tag takes no parameters"):
            tx.forget("notes", 1)
        with pytest.raises(ForgetRefused, match="no module of this app"):
            tx.forget(stranger, 1)

    await world.put("/notes/1", {"text": "a"})
    await text_of(world, 1)
    await world.runtime.transact(body)
    await text_of(world, 1)

    assert runs["note"] == 2


@Module("elsewhere").read(ttl="1s")
async def stranger(db: Read, n: int) -> int:
    """A read of no module of the app."""
    return n


async def test_a_parameter_without_json_form_is_refused(tmp_path: Path) -> None:
    """It cannot be part of a key; the error says which type, and what to do."""
    odd = Module("odd")

    @odd.read(ttl="1h")
    async def read_odd(db: Read, thing: object) -> int:
        return 1

    async with running(App(modules=[odd]), data=tmp_path) as world:
        bound = world.runtime.bound(read_odd)
        with entered(world.runtime.context()), pytest.raises(KeyRefused, match=r"odd\.read_odd"):
            await bound.respond(Call({"thing": asyncio.Event()}))


async def test_a_cache_of_no_size_loads_each_time(tmp_path: Path) -> None:
    """`max_mib=0` switches it off."""
    async with running(app, data=tmp_path, cache="memory:?max_mib=0") as world:
        await prepared(world)
        for _ in range(3):
            await world.get("/notes/1")

        assert runs["note"] == 3


def test_what_cannot_be_cached_is_refused_at_import() -> None:
    """The request, the response, a tag without its parameter, tags that are one text: each with its cure."""
    module = Module("wrong")

    async def asks(db: Read, request: Request) -> int:
        return 1

    async def sets(db: Read, response: Response) -> int:
        return 1

    async def makes(db: Read) -> Response:
        return Response()

    async def plain(db: Read, n: int) -> int:
        return n

    for function, options, said in (
        (asks, {}, "takes the request"),
        (sets, {}, "takes the request"),
        (makes, {}, "only JSON can be kept"),
        (plain, {"tags": ("n:{m}",)}, "no parameter m"),
        (plain, {"tags": ("n:{}",)}, "no parameter"),
        (plain, {"tags": ("n:{n",)}, "has the tag"),
        (plain, {"tags": "n:{n}"}, "tags that are one text"),
    ):
        with pytest.raises(Declared, match=said):
            module.read(ttl="1s", **options)(function)


async def test_metrics_tell_hits_from_misses(world: World) -> None:
    """The counters of a read, and what the cache takes."""
    await world.put("/notes/1", {"text": "a"})
    for _ in range(3):
        await world.get("/notes/1")
    text = (await world.get("/metrics")).body.decode()

    assert 'dujiang_cache_reads_total{outcome="hit",read="notes.read_note"} 2.0' in text
    assert 'dujiang_cache_loads_total{read="notes.read_note"} 1.0' in text
    assert "dujiang_cache_entries 1.0" in text
    assert "dujiang_cache_trusted 1.0" in text
    assert json.loads((await world.operate("GET", "/_dj/cache")).body)["bytes"] > 0
