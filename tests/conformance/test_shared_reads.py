"""Cached reads of several running copies on one PostgreSQL and one Redis: what clients see, whatever becomes of the Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dujiang import App, Id, Model, Module, Read, Tx
from dujiang.app.parts import CacheAlone
from dujiang.backends.redis import cache as redis_cache
from dujiang.caching import second
from dujiang.cli.doctor import look_at_cache
from dujiang.data.sql import Sql
from dujiang.messaging import forgotten
from dujiang.testing.conformance.stage import until
from dujiang.testing.harness import World, running
from dujiang.testing.processes import BinaryMissing
from dujiang.testing.redis import RedisServer
from dujiang.testing.servers import PostgresServer

DATABASE = "shared_reads"
MAKE = Sql(
    "shared_make", "CREATE TABLE IF NOT EXISTS note (id BIGINT PRIMARY KEY, text TEXT NOT NULL)", "Makes a table."
)
GET = Sql("shared_get", "SELECT text FROM note WHERE id = $1", "Reads a note.")
SET = Sql(
    "shared_set",
    "INSERT INTO note (id, text) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = excluded.text RETURNING 1",
    "Writes a note.",
)
# A loaded machine may stand still for longer than a request may wait for a cache, or a look be good for.
PATIENT_S = 30.0

runs: Counter[int] = Counter()


class Note(Model):
    """A note."""

    text: str


class LongNote(Model):
    """A note of the next version."""

    text: str
    words: int


notes = Module("notes")


@notes.read("GET /notes/{note_id}", ttl="1h", absent="1h")
async def read_note(db: Read, note_id: Id) -> Note | None:
    """A note."""
    runs[note_id] += 1
    rows = await db.fetch(GET, note_id)
    return Note(text=rows[0][0]) if rows else None


@notes.read("GET /brief/{note_id}", ttl="200ms")
async def read_briefly(db: Read, note_id: Id) -> Note | None:
    """A note that is soon loaded again."""
    runs[note_id] += 1
    rows = await db.fetch(GET, note_id)
    return Note(text=rows[0][0]) if rows else None


@notes.write("PUT /notes/{note_id}")
async def set_note(tx: Tx, note_id: Id, body: Note) -> Note:
    """Write a note."""
    await tx.fetch(SET, note_id, body.text)
    tx.forget(read_note, note_id)
    return body


app = App(modules=[notes])


def next_version() -> App:
    """The app after a change of the code: the answers of one read have another form."""
    notes = Module("notes")

    @notes.read("GET /notes/{note_id}", ttl="1h", absent="1h")
    async def read_note(db: Read, note_id: Id) -> LongNote | None:
        """A note."""
        runs[note_id] += 1
        rows = await db.fetch(GET, note_id)
        return LongNote(text=rows[0][0], words=1) if rows else None

    return App(modules=[notes])


Life = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests."""
    with PostgresServer(fsync=False) as found:
        found.create_database(DATABASE)
        yield found


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """One Redis for all tests."""
    try:
        with RedisServer() as found:
            yield found
    except BinaryMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def life(server: PostgresServer, redis: RedisServer, tmp_path: Path) -> Life:
    """Starts a running copy, as another process would; several on one empty store and one empty Redis."""
    server.start()
    redis.start()
    redis.command("FLUSHALL")
    server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database=DATABASE)
    runs.clear()

    @asynccontextmanager
    async def life(of: App = app, *, timeout_s: float = PATIENT_S) -> AsyncIterator[World]:
        settings = {"cache": redis.url(timeout_s=timeout_s), "request_timeout_s": 300.0}
        async with running(of, database=server.url(DATABASE), data=tmp_path, **settings) as world:
            await world.runtime.transact(lambda tx: tx.fetch(MAKE))
            world.runtime.caching.guard._trust_s = 600.0
            await world.runtime.caching.follower.look()
            yield world

    return life


@pytest.fixture
async def pair(life: Life) -> AsyncIterator[tuple[World, World]]:
    """Two copies."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(life()), await stack.enter_async_context(life())


async def kept(world: World) -> None:
    """Return once what was loaded is in the shared cache."""
    shared = world.runtime.caching.second
    assert shared is not None

    async def none() -> bool:
        return shared._keeping == 0

    await until(world, none, "what was loaded is kept for all")


async def up(world: World) -> None:
    """Return once the shared cache is asked again."""
    shared = world.runtime.caching.second
    assert shared is not None

    async def asked() -> bool:
        return shared.cache.condition.up

    await until(world, asked, "the shared cache is asked again", PATIENT_S)


async def read_soon(world: World, note: int, text: str) -> None:
    """Return once a client reads this."""

    async def seen() -> bool:
        return str(await text_of(world, note)) == text

    await until(world, seen, f"{text} is read", PATIENT_S)


async def text_of(world: World, note: int) -> Any:
    """What a client reads; None for 404."""
    answer = await world.get(f"/notes/{note}")
    assert answer.status in (200, 404), answer
    return answer.json["text"] if answer.status == 200 else None


def count(world: World, outcome: str) -> int:
    """Looks at the shared cache with this outcome."""
    shared = world.runtime.caching.second
    assert shared is not None
    return shared.count[outcome].value


async def test_what_one_has_loaded_the_other_gives(pair: tuple[World, World]) -> None:
    """One load for two copies; that there is nothing is shared too."""
    one, other = pair
    await one.put("/notes/1", {"text": "tea"})
    assert await text_of(one, 1) == "tea"
    assert await text_of(one, 2) is None
    await kept(one)
    await other.runtime.caching.follower.look()

    assert await text_of(other, 1) == "tea"
    assert await text_of(other, 2) is None
    assert runs == {1: 1, 2: 1}
    assert count(other, "hit") == 2


async def test_a_change_is_loaded_once_for_all(pair: tuple[World, World]) -> None:
    """One writes and reads; the other hears of it and gives what the one has loaded. Ten changes, ten loads more."""
    one, other = pair
    for n in range(10):
        writer, reader = (one, other) if n % 2 else (other, one)
        await writer.put("/notes/1", {"text": f"version {n}"})
        assert await text_of(writer, 1) == f"version {n}"
        await kept(writer)
        await read_soon(reader, 1, f"version {n}")

    assert runs[1] == 10


async def test_an_insert_ends_that_there_was_nothing(pair: tuple[World, World]) -> None:
    """Both were told 404; one inserts, reads it at once, and the other reads it soon."""
    one, other = pair
    assert [await text_of(one, 1), await text_of(other, 1)] == [None, None]
    await one.put("/notes/1", {"text": "tea"})

    assert await text_of(one, 1) == "tea"
    await read_soon(other, 1, "tea")


async def test_a_thousand_readers_of_three_copies_cause_one_load(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hot key is absent under a thousand readers of three copies at once: one load in all."""
    monkeypatch.setattr(second, "WAIT_S", 300.0)
    monkeypatch.setattr(redis_cache, "LEASE_MS", 300_000)
    async with life() as one, life() as two, life() as three:
        await one.put("/notes/1", {"text": "tea"})
        for world in (one, two, three):
            await world.runtime.caching.follower.look()
        readers = [text_of(world, 1) for world in (one, two, three) for _ in range(334)]

        assert set(await asyncio.gather(*readers)) == {"tea"}
        assert runs[1] == 1


async def test_who_has_just_written_waits_for_nobodys_load(
    pair: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another copy holds the lease and never loads: who has just written loads at once, for that load may not see it."""
    monkeypatch.setattr(second, "WAIT_S", 3_000.0)
    monkeypatch.setattr(redis_cache, "LEASE_MS", 3_000_000)
    one, other = pair
    await one.runtime.caching.follower.stop()  # A look that finds the row would end the rule.
    shared = other.runtime.caching.second
    assert shared is not None

    async def claimed(key: bytes, _: bytes) -> bool | None:
        return await type(shared.cache).claim(shared.cache, key, b"another")

    monkeypatch.setattr(one.runtime.caching.second.cache, "claim", claimed)  # type: ignore[union-attr]
    await one.put("/notes/1", {"text": "tea"})

    async with asyncio.timeout(120.0):
        assert await text_of(one, 1) == "tea"


async def test_a_copy_that_starts_gives_what_is_there(life: Life) -> None:
    """A new copy reads what the log holds, and needs no load for what was loaded before it started."""
    async with life() as one:
        await one.put("/notes/1", {"text": "tea"})
        assert await text_of(one, 1) == "tea"
        await kept(one)
    async with life() as other:
        assert await text_of(other, 1) == "tea"

    assert runs[1] == 1


@pytest.mark.parametrize("cut", [False, True])
async def test_a_copy_that_starts_gives_nothing_that_ended_before(life: Life, cut: bool) -> None:
    """Loaded, then changed, then everybody left: a new copy loads, from the log's row, or because the row was cut off."""
    async with life() as one:
        await one.put("/notes/1", {"text": "tea"})
        assert await text_of(one, 1) == "tea"
        await kept(one)
        await one.put("/notes/1", {"text": "green tea"})
        if cut:
            assert await forgotten.cut(one.runtime.database, one.runtime.node.clock.now_us() + 10**9) == 2
    async with life() as other:
        assert await text_of(other, 1) == "green tea"
        assert count(other, "outdated") == 1


async def test_a_server_that_was_restarted_ends_what_was_loaded_before(life: Life, server: PostgresServer) -> None:
    """Numbers of transactions are not compared with those of another life of the server: the answer is loaded again."""
    async with life() as one:
        await one.put("/notes/1", {"text": "tea"})
        assert await text_of(one, 1) == "tea"
        await kept(one)
    server.restart()
    async with life() as other:
        assert await text_of(other, 1) == "tea"
        assert count(other, "outdated") == 1

    assert runs[1] == 2


async def test_versions_of_the_code_do_not_read_each_others_answers(life: Life) -> None:
    """During a rolling upgrade two forms of one answer lie side by side."""
    async with life() as old, life(next_version()) as new:
        await old.put("/notes/1", {"text": "tea"})
        assert (await old.get("/notes/1")).json == {"text": "tea"}
        await kept(old)
        await new.runtime.caching.follower.look()

        assert (await new.get("/notes/1")).json == {"text": "tea", "words": 1}
        await kept(new)
        assert (await old.get("/notes/1")).json == {"text": "tea"}


async def test_what_cannot_be_read_is_loaded_again(
    pair: tuple[World, World], redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody wrote over our values: they are counted, told once, and loaded again."""
    one, other = pair
    for note in (1, 2):
        await one.put(f"/notes/{note}", {"text": "tea"})
        assert await text_of(one, note) == "tea"
    await kept(one)
    keys = redis.command("KEYS", "dj:c:*").splitlines()
    assert len(keys) == 2
    for key in keys:
        redis.command("SET", key, "cos\nsystem\n(S'true'\ntR.")
    await other.runtime.caching.follower.look()

    assert [await text_of(other, 1), await text_of(other, 2)] == ["tea", "tea"]
    assert count(other, "unreadable") == 2
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 1


async def test_an_empty_redis_costs_loads(pair: tuple[World, World], redis: RedisServer) -> None:
    """FLUSHALL: the copy that has the answer gives it, the other loads it."""
    one, other = pair
    await one.put("/notes/1", {"text": "tea"})
    assert await text_of(one, 1) == "tea"
    await kept(one)
    redis.command("FLUSHALL")

    assert [await text_of(one, 1), await text_of(other, 1)] == ["tea", "tea"]
    assert runs[1] == 2


@pytest.mark.parametrize("trouble", ["kill", "pause"])
async def test_reads_and_writes_go_on_without_redis(life: Life, redis: RedisServer, trouble: str) -> None:
    """Redis is killed, or stopped, under traffic of two copies: no request fails, and each reads what it wrote.

    The page says `degraded`, and answers are shared again once Redis is back.
    """
    async with life(timeout_s=0.05) as one, life(timeout_s=0.05) as other:
        wrong: list[Any] = []

        async def client(world: World, note: int) -> None:
            for n in range(40):
                if n == 10 and note == 0:
                    getattr(redis, trouble)()
                status = (await world.put(f"/notes/{note}", {"text": f"{n}"})).status
                for each in (note, 100 + n):
                    answer = await world.get(f"/notes/{each}")
                    if answer.status not in (200, 404) or (each == note and answer.json["text"] != f"{n}"):
                        wrong.append((status, answer))

        await asyncio.gather(*(client((one, other)[n % 2], n) for n in range(6)))
        shared = one.runtime.caching.second
        assert shared is not None
        assert wrong == []
        assert not shared.cache.condition.up
        ready, page = await one.runtime.health.ready()
        assert (ready, page["checks"]["cache"]) == (True, {"status": "degraded", "code": "cache_away"})

        redis.start() if trouble == "kill" else redis.resume()
        for world in (one, other):
            await up(world)


async def test_where_the_database_is_away_an_old_answer_of_another_copy_is_given(
    pair: tuple[World, World], server: PostgresServer
) -> None:
    """A copy that never loaded it gives what another has loaded and what has ended since, marked as stale."""
    one, other = pair
    await one.put("/notes/1", {"text": "tea"})
    assert (await one.get("/brief/1")).json == {"text": "tea"}
    await kept(one)
    await other.runtime.caching.follower.look()
    await one.runtime.node.clock.sleep(0.25)
    server.kill()

    answer = await other.get("/brief/1")

    assert (answer.status, answer.json) == (200, {"text": "tea"})
    assert answer.headers["x-dj-stale"] == "1"


async def test_operators_see_and_end_what_is_shared(pair: tuple[World, World]) -> None:
    """`GET /_dj/cache` tells how the shared cache is; `DELETE` ends what lies there, for every copy."""
    one, other = pair
    await one.put("/notes/1", {"text": "tea"})
    await text_of(one, 1)
    await kept(one)
    shown = (await one.operate("GET", "/_dj/cache")).json["shared"]
    assert (shown["up"], shown["miss"], shown["hit"]) == (True, 1, 0)

    assert (await one.operate("DELETE", "/_dj/cache")).status == 204
    await other.runtime.caching.follower.look()
    assert await text_of(other, 1) == "tea"
    assert runs[1] == 2
    assert count(other, "outdated") == 1


async def test_doctor_reads_back_what_the_server_says(life: Life, redis: RedisServer) -> None:
    """Version, memory and persistence; a warning without a limit of memory, another where nothing is evicted or it is away."""
    async with life() as world:
        said: dict[str, list[str]] = {}
        for state, command in (("free", "0"), ("full", "100mb")):
            redis.command("CONFIG", "SET", "maxmemory", command)
            report: dict[str, Any] = {}
            await look_at_cache(world.runtime, report, said.setdefault(state, []))
            assert report["cache"]["redis_version"].split(".")[0].isdigit()
        redis.command("CONFIG", "SET", "maxmemory", "0")
        redis.kill()
        await look_at_cache(world.runtime, {}, said.setdefault("away", []))

    assert ["no limit of memory" in said["free"][0], "allkeys-lru" in said["full"][0]] == [True, True]
    assert "no answers are shared" in said["away"][0]


async def test_a_store_of_one_process_takes_no_shared_cache(tmp_path: Path) -> None:
    """The embedded store belongs to one process: a Redis beside it is refused, with what to set instead."""
    with pytest.raises(CacheAlone) as refused:
        async with running(app, data=tmp_path, cache="redis://127.0.0.1:6379/0"):
            pass

    assert "memory:" in refused.value.hint
