"""The log of forgotten names on both databases: it loses nothing, whatever the order of the commits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dujiang import App, Module, Tx
from dujiang.data.sql import Sql
from dujiang.messaging import forgotten
from dujiang.messaging.forgotten import NAMES_MAX, number_of, tag_name
from dujiang.testing.harness import World, running
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE = "forgotten"
DRAW = Sql("test_draw", "SELECT pg_current_xact_id()::text", "Draws the transaction's number.")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for all cases."""
    with PostgresServer(fsync=False) as found:
        found.create_database(DATABASE)
        yield found


def life_on(url: str, folder: Path) -> Any:
    """What starts a running copy on a store."""
    return lambda: running(App(modules=[Module("empty")]), database=url, data=folder)


@pytest.fixture
def life_on_postgres(server: PostgresServer, tmp_path: Path) -> Any:
    """On an empty PostgreSQL."""
    server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database=DATABASE)
    return life_on(server.url(DATABASE), tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """On both."""
    if request.param == "postgres":
        return request.getfixturevalue("life_on_postgres")
    return life_on(f"sqlite:///{tmp_path}/app.db", tmp_path)


async def forget(world: World, *tags: str) -> None:
    """Forget tags in one transaction."""

    async def body(tx: Tx) -> None:
        for tag in tags:
            tx.forget(tag)

    await world.runtime.transact(body)


def named(news: forgotten.News) -> set[int]:
    """The names that a look found."""
    return {name for row in news.rows for name in row.names}


def of(*tags: str) -> set[int]:
    """The numbers of tags."""
    return {number_of(tag_name(tag)) for tag in tags}


async def test_a_look_finds_what_was_committed_since_the_last_one_and_only_that(life: Any) -> None:
    """Two commits, one look: both; a second look: nothing."""
    async with life() as world:
        database = world.runtime.database
        await forget(world, "before")
        start = await forgotten.present(database)
        await forget(world, "a", "b")
        await forget(world, "c")

        first = await forgotten.since(database, start)
        second = await forgotten.since(database, first.position)

        assert (named(first), first.missed) == (of("a", "b", "c"), False)
        assert (second.rows, second.missed) == ((), False)


async def test_what_is_rolled_back_is_not_in_the_log(life: Any) -> None:
    """Neither a transaction that fails nor a savepoint that does leaves a row."""

    async def fails(tx: Tx) -> None:
        tx.forget("never")
        raise ValueError("outside")

    async def half(tx: Tx) -> None:
        tx.forget("kept")
        with pytest.raises(ValueError, match="inside"):
            async with tx.savepoint():
                tx.forget("undone")
                raise ValueError("inside")

    async with life() as world:
        start = await forgotten.present(world.runtime.database)
        with pytest.raises(ValueError, match="outside"):
            await world.runtime.transact(fails)
        await world.runtime.transact(half)

        assert named(await forgotten.since(world.runtime.database, start)) == of("kept")


async def test_a_cut_log_says_that_something_is_missing(life: Any) -> None:
    """Who looked last before the cut part learns that it missed something; who looked after it does not."""
    async with life() as world:
        database = world.runtime.database
        early = await forgotten.present(database)
        await forget(world, "a")
        late = await forgotten.present(database)
        far_us = world.runtime.node.clock.now_us() + 10**9

        assert await forgotten.cut(database, far_us) == 1
        assert await forgotten.cut(database, far_us) == 0
        assert (await forgotten.since(database, early)).missed
        assert not (await forgotten.since(database, late)).missed


async def test_a_cut_spares_what_is_young(life: Any) -> None:
    """Rows younger than the given time stay, and nobody misses them."""
    async with life() as world:
        database = world.runtime.database
        start = await forgotten.present(database)
        await forget(world, "a")

        assert await forgotten.cut(database, world.runtime.node.clock.now_us() - 60_000_000) == 0
        assert named(await forgotten.since(database, start)) == of("a")


async def test_too_many_names_mean_everything(life: Any) -> None:
    """A transaction that forgets more than the limit leaves a row that ends every answer, and a small one."""
    async with life() as world:
        start = await forgotten.present(world.runtime.database)
        await forget(world, *map(str, range(NAMES_MAX + 1)))

        found = await forgotten.since(world.runtime.database, start)

        assert (found.missed, found.rows) == (True, ())


async def test_a_transaction_that_commits_late_is_found_late(life_on_postgres: Any) -> None:
    """One draws its id first and commits last; a look between sees the other alone, the next one sees it.

    A cursor on a sequence would have passed it by.
    """
    written, go = asyncio.Event(), asyncio.Event()

    async def slow(tx: Tx) -> None:
        tx.forget("slow")
        tx.close_with(forgotten.insert_piece(world.runtime.database, tx.now_us, 1, sorted(of("early"))))
        pieces, tx._pieces[:] = list(tx._pieces), []
        for piece in pieces:
            await tx.fetch(*statement(piece))
        written.set()
        await go.wait()

    async with life_on_postgres() as world:
        database = world.runtime.database
        start = await forgotten.present(database)
        running_slow = asyncio.ensure_future(world.runtime.transact(slow))
        await written.wait()
        await forget(world, "fast")

        between = await forgotten.since(database, start)
        go.set()
        await running_slow
        after = await forgotten.since(database, between.position)

        assert named(between) == of("fast")
        assert named(after) == of("slow", "early")
        assert (await forgotten.since(database, after.position)).rows == ()


def statement(piece: Any) -> tuple[Any, ...]:
    """A closing piece as a statement of its own."""
    from dujiang.data.transaction import combined

    return (combined([piece]), *piece.args)


async def test_a_late_commit_that_was_cut_off_is_missed(life_on_postgres: Any) -> None:
    """It was running at the last look, its number lies below the cut, and its row is gone: the look says so.

    The number of the cut itself was to be seen at the last look; to ask for that alone would miss the late one.
    """
    drawn, go = asyncio.Event(), asyncio.Event()

    async def slow(tx: Tx) -> None:
        await tx.fetch(DRAW)
        drawn.set()
        await go.wait()
        tx.forget("slow")

    async with life_on_postgres() as world:
        database = world.runtime.database
        running_slow = asyncio.ensure_future(world.runtime.transact(slow))
        await drawn.wait()
        await forget(world, "fast")
        between = await forgotten.present(database)
        go.set()
        await running_slow
        far_us = world.runtime.node.clock.now_us() + 10**9

        assert named(await forgotten.since(database, between)) == of("slow")
        assert await forgotten.cut(database, far_us) == 2
        assert (await forgotten.since(database, between)).missed


async def test_the_history_is_what_the_log_holds(life: Any) -> None:
    """The newest first, each with the number of its transaction; what is cut lies below the horizon."""
    async with life() as world:
        database = world.runtime.database
        await forget(world, "a")
        await forgotten.cut(database, world.runtime.node.clock.now_us() + 10**9)
        early = await forgotten.history(database)
        await forget(world, "b", "c")
        await forget(world, "*")
        late = await forgotten.history(database)
        before, after = (forgotten.placed(each.position, each.origin) for each in (early, late))

        assert (early.rows, early.origin) == ((), late.origin)
        assert [set(row.names) for row in late.rows] == [{forgotten.ALL}, of("b", "c")]
        for row in late.rows:
            assert (before.shows(row.number), after.shows(row.number)) == (False, True)
            assert row.number > late.horizon
        assert early.horizon == late.horizon
        assert before.shows(late.horizon)


async def test_more_than_is_remembered_raises_the_horizon(life: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five rows the newest three are told, and the number of the fourth is the horizon."""
    monkeypatch.setattr(forgotten, "ROWS_MAX", 3)
    async with life() as world:
        for tag in "abcde":
            await forget(world, tag)
        found = await forgotten.history(world.runtime.database)

        assert [set(row.names) for row in found.rows] == [of("e"), of("d"), of("c")]
        assert found.horizon < min(row.number for row in found.rows)
        assert found.horizon > 0


async def test_another_life_of_the_server_has_another_origin(life_on_postgres: Any, server: PostgresServer) -> None:
    """After a restart, and after a crash, positions are of another origin; in another process they are not."""
    origins = []
    for end in (None, server.restart, server.kill):
        async with life_on_postgres() as world:
            origins.append((await forgotten.history(world.runtime.database)).origin)
        if end is not None:
            end()
            server.start()
    async with life_on_postgres() as world:
        origins.append((await forgotten.history(world.runtime.database)).origin)

    assert origins[0] == origins[1]
    assert len(set(origins)) == 3


async def test_many_writers_at_once_lose_nothing(life_on_postgres: Any) -> None:
    """Two hundred transactions of several writers, some rolled back, beside a look after the other: each name comes once."""
    async with life_on_postgres() as world:
        database, done = world.runtime.database, asyncio.Event()
        position = await forgotten.present(database)

        async def writer(first: int) -> None:
            for n in range(first, first + 50):
                await forget(world, f"n{n}")

        async def writers() -> None:
            async with asyncio.TaskGroup() as group:
                for first in range(0, 200, 50):
                    group.create_task(writer(first))
            done.set()

        writing = asyncio.ensure_future(writers())
        seen: list[int] = []
        final = False
        while not final:
            final = done.is_set()
            news = await forgotten.since(database, position)
            position = news.position
            seen.extend(name for row in news.rows for name in row.names)
        await writing

        assert sorted(seen) == sorted(of(*(f"n{n}" for n in range(200))))
