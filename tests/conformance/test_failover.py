"""A PostgreSQL that moves: a primary is killed, its standby promoted, the old one comes back; one URL names both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dujiang import App, Event, Model, Module, Read, Runtime, Tx, key
from dujiang.backends.postgres.database import PostgresDatabase
from dujiang.cli.doctor import look_at_servers
from dujiang.data.database import DatabaseUnreachable
from dujiang.data.sql import Sql
from dujiang.kernel.clock import SystemClock
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Threads
from dujiang.settings import Settings
from dujiang.testing.harness import World
from dujiang.testing.proxy import Proxy
from dujiang.testing.servers import PostgresServer

ONE = Sql("failover_one", "SELECT 1", "Asks.")
MAKE = Sql("failover_make", "CREATE TABLE note (id BIGINT PRIMARY KEY, body TEXT NOT NULL)", "Makes the table.")
ADD = Sql("failover_add", "INSERT INTO note (id, body) VALUES ($1, $2)", "Adds a note.")
ALL = Sql("failover_all", "SELECT body FROM note", "Reads the notes.")


class Note(Model):
    """A note."""

    text: str


class Noted(Event):
    """A note was taken."""

    text: str = key()


def app_of(heard: list[str]) -> App:
    """One write, one read, and a reaction that remembers."""
    desk = Module("desk")

    @desk.write("POST /notes")
    async def take(tx: Tx, body: Note) -> Note:
        await tx.fetch(ADD, tx.new_id(), body.text)
        tx.publish(Noted(text=body.text))
        return body

    @desk.read("GET /notes")
    async def notes(db: Read) -> list[str]:
        return sorted([row[0] for row in await db.fetch(ALL)])

    @desk.react(Noted, ordered=True)
    async def hear(tx: Tx, event: Noted) -> None:
        heard.append(event.text)

    return App(modules=[desk])


class Pair:
    """A primary, its standby, and the URL of both; server calls run in a thread, so that the application goes on."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary, self.standby = primary, standby
        self._threads = Threads(1, name="servers")

    def url(self, options: str = "target_session_attrs=read-write") -> str:
        """Both hosts, the first primary first."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://dujiang@{hosts}/postgres?connect_timeout=2s&{options}"

    async def do(self, call: Callable[[], object]) -> None:
        """One call of a server."""
        await self._threads.run(call)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A primary with a standby that confirms nothing: what it lacks at the primary's death is lost."""
    with PostgresServer(settings={"wal_level": "replica"}) as primary, primary.replica() as standby:
        yield Pair(primary, standby)


@asynccontextmanager
async def playing(url: str, folder: Path, heard: list[str]) -> AsyncIterator[World]:
    """A running copy of the app."""
    settings = Settings(database=url, data=folder)
    async with Runtime(app_of(heard), settings, Node.system()) as runtime:
        await runtime.database.write(lambda connection: connection.execute(MAKE))
        yield World(runtime)


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    """Return once something holds, asked for at most 30 s."""
    clock = SystemClock()
    limit = clock.monotonic() + 30.0
    while not await holds():
        assert clock.monotonic() < limit, "it did not come to hold"
        await clock.sleep(0.02)


async def accepted(world: World, text: str) -> bool:
    """Whether a note is accepted; the key makes a repeat harmless."""
    return (await world.post("/notes", {"text": text}, key=text)).status == 201


async def servers(world: World) -> list[str]:
    """The states of the servers, by the order of the URL."""
    return [each["state"] for each in await world.runtime.database.servers()]


class TestFailover:
    async def test_writes_go_on_at_the_promoted_standby(self, pair: Pair, tmp_path: Path) -> None:
        """Killed, a primary is replaced: 503 with Retry-After until the standby is promoted, then everything goes on.

        What was accepted and replicated is there and has its effect once; the old primary, back and unaware of it all, is
        not written to, though it stands first in the URL and takes writes.
        """
        heard: list[str] = []
        async with playing(pair.url(), tmp_path, heard) as world:
            texts = [f"before-{n}" for n in range(20)]
            assert all([await accepted(world, text) for text in texts])
            await world.settle()
            first = await servers(world)
            await pair.do(pair.standby.wait_replayed)
            await pair.do(pair.primary.kill)
            away = await world.post("/notes", {"text": "after-0"}, key="after-0")
            unready = await world.get("/health/ready")
            await pair.do(pair.standby.promote)
            for n in range(20):
                await until(lambda n=n: accepted(world, f"after-{n}"))  # type: ignore[misc]
            await pair.do(pair.primary.start)
            report: dict[str, dict[str, str]] = {}
            warnings: list[str] = []
            await look_at_servers(world.runtime, report, warnings)
            assert all([await accepted(world, f"again-{n}") for n in range(20)])
            await world.settle()
            notes = (await world.get("/notes")).json
            old = pair.primary.execute("SELECT count(*) FROM note")

        assert (away.status, away.json["code"], away.headers["retry-after"]) == (503, "database_unreachable", "1")
        assert unready.status == 503
        assert first == ["primary, timeline 1", "it is a standby, which takes no writes"]
        wanted = sorted([*texts, *(f"{when}-{n}" for when in ("after", "again") for n in range(20))])
        assert notes == wanted
        assert sorted(heard) == wanted
        assert old == "20"
        states = list(report["servers"].values())
        assert states[1] == "primary, timeline 2"
        assert "old primary: its timeline is 1, and 2 was seen" in states[0]

    async def test_a_lost_tail_loses_no_event_that_comes_after(self, pair: Pair, tmp_path: Path) -> None:
        """Commits that the standby never got are lost with their events; no later event is, though numbers come again.

        Method: one address that moves, as a virtual one does, so that no connection is refused and no error is seen: a proxy
        that holds everything while the standby is cut off, the primary killed and the standby promoted. The relay has moved
        past numbers that the new primary gives out again.
        """
        heard: list[str] = []
        url = "postgresql://dujiang@127.0.0.1:{}/postgres"
        async with (
            Proxy("127.0.0.1", pair.primary.port) as proxy,
            playing(url.format(proxy.port), tmp_path, heard) as world,
        ):
            assert await accepted(world, "kept")
            await world.settle()
            await pair.do(pair.standby.wait_replayed)
            receiver = "ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()"
            await pair.do(lambda: pair.standby.execute(receiver))
            gone = "SELECT count(*) = 0 FROM pg_stat_replication"

            async def alone() -> bool:
                return pair.primary.execute(gone) == "t"

            await until(alone)
            assert all([await accepted(world, f"lost-{n}") for n in range(50)])
            await world.settle()
            await proxy.become("hang")
            await pair.do(pair.primary.kill)
            await pair.do(pair.standby.promote)
            proxy.target = ("127.0.0.1", pair.standby.port)
            proxy.cut()
            await proxy.become("ok")
            for n in range(20):
                await until(lambda n=n: accepted(world, f"after-{n}"))  # type: ignore[misc]
            await world.settle()
            notes = (await world.get("/notes")).json

        kept = sorted(["kept", *(f"after-{n}" for n in range(20))])
        assert notes == kept
        assert sorted(text for text in heard if not text.startswith("lost")) == kept

    async def test_a_fenced_server_is_not_written_to(self, pair: Pair, tmp_path: Path) -> None:
        """A primary set to read only is left, also by connections that are open: 503, and the reason is told.

        A start that finds nobody who takes writes says of each host why.
        """
        heard: list[str] = []
        async with playing(pair.url(), tmp_path, heard) as world:
            assert await accepted(world, "before")
            fence = "ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()"
            await pair.do(lambda: pair.primary.execute(fence))

            async def refused() -> bool:
                return (await world.post("/notes", {"text": "x"})).status == 503

            await until(refused)
            states = await servers(world)
            with pytest.raises(DatabaseUnreachable) as caught:
                await PostgresDatabase(pair.url(), Node.system()).start()
            release = "ALTER SYSTEM RESET default_transaction_read_only"
            text = f"SET default_transaction_read_only = off; {release}; SELECT pg_reload_conf()"
            await pair.do(lambda: pair.primary.execute(text))
            await until(lambda: accepted(world, "after"))

        assert states == [
            "it is set to read only (default_transaction_read_only)",
            "it is a standby, which takes no writes",
        ]
        assert f"127.0.0.1:{pair.primary.port}: it is set to read only" in str(caught.value)
        assert f"127.0.0.1:{pair.standby.port}: it is a standby" in str(caught.value)

    async def test_a_silent_host_delays_nobody_for_long(self, pair: Pair) -> None:
        """A host that accepts and never answers costs a part of the limit; the primary is found within it."""
        database = PostgresDatabase(pair.url("pool_size=2"), Node.system())
        await database.start()
        try:
            await pair.do(pair.standby.pause)
            await database.write(lambda connection: connection.fetch(ONE))
            await pair.do(pair.standby.resume)
            await pair.do(pair.standby.wait_replayed)
            await pair.do(pair.primary.pause)
            await pair.do(pair.standby.promote)

            async def moved() -> bool:
                states = [each["state"] for each in await database.servers()]
                return states == ["no answer in time", "primary, timeline 2"]

            await until(moved)
            fresh = PostgresDatabase(pair.url("pool_size=2"), Node.system())
            await fresh.start()
            try:
                assert await fresh.write(lambda connection: connection.fetch(ONE))
            finally:
                await fresh.stop()
        finally:
            await pair.do(pair.primary.resume)
            await database.stop()
