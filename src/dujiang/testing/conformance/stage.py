"""Stage: the app of a broker case: reactions that note what they did, and the tools to make their lives hard.

    stage = Stage()
    stage.reaction("hear", ordered=True, behave=fail_on_first)
    async with self.playing(stage) as world:
        await world.publish(Told(line="a", n=1))
        await world.settle()
        assert await effects(world, "hear") == [("a", 1)]

A reaction writes one row for each event in its own transaction, so that a row twice is an effect twice, and it notes
each run in memory, the rolled back ones included.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dujiang.app import App
from dujiang.app.runtime import Runtime
from dujiang.data.database import Connection
from dujiang.data.process import ProcessLease
from dujiang.data.sql import Sql
from dujiang.kernel.clock import Clock, SystemClock
from dujiang.kernel.context import changed, entered
from dujiang.kernel.entropy import SystemEntropy
from dujiang.kernel.node import Node
from dujiang.kernel.simulation import Simulation
from dujiang.kernel.tasks import Tasks
from dujiang.messaging.broker import Feed
from dujiang.messaging.message import Event, key
from dujiang.messaging.subscription import Subscription
from dujiang.messaging.tx import Tx
from dujiang.messaging.work import KeyCursor, give_back, orphaned_leases, release_lease
from dujiang.module import Module
from dujiang.resilience.retry import Retry
from dujiang.settings import Settings
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import Suite
from dujiang.testing.harness import World

QUICK = Retry(attempts=4, base="1ms", cap="5ms")

Behave = Callable[[Tx, Any], Awaitable[None]]

MAKE = Sql(
    "stage_make",
    "CREATE TABLE IF NOT EXISTS stage_effect (reaction TEXT NOT NULL, line TEXT NOT NULL, n BIGINT NOT NULL)",
    "Makes the table of effects.",
)
ADD = Sql(
    "stage_add", "INSERT INTO stage_effect (reaction, line, n) VALUES ($1, $2, $3) RETURNING 1", "Notes an effect."
)
ALL = Sql("stage_all", "SELECT line, n FROM stage_effect WHERE reaction = $1 ORDER BY line, n", "Reads the effects.")
COUNT_EFFECTS = Sql("stage_count", "SELECT count(*) FROM stage_effect", "Counts the effects.")
END_LEASE = Sql("stage_end_lease", "UPDATE dj_process SET expires_us = 1 WHERE lease = $1", "Lets a lease expire.")


class Told(Event):
    """Something was told."""

    line: str = key()
    n: int
    text: str = ""


class Aside(Event):
    """Something without a key was told."""

    n: int


@dataclass(frozen=True)
class Run:
    """One run of a reaction, whatever became of it.

    Attributes:
        reaction: Its name.
        line: The event's key.
        n: The event's number.
        now_us: When its transaction began.
    """

    reaction: str
    line: str
    n: int
    now_us: int


@dataclass
class Stage:
    """Reactions of one test, and what they did.

    Attributes:
        runs: Every run, in the order of their beginnings.
        overlaps: Runs of an ordered reaction that began while another event of their key was running.
    """

    runs: list[Run] = field(default_factory=list)
    overlaps: list[Run] = field(default_factory=list)
    _declared: list[tuple[str, Behave | None, dict[str, Any]]] = field(default_factory=list)
    _in_flight: Counter[tuple[str, str]] = field(default_factory=Counter)

    def reaction(self, name: str = "hear", behave: Behave | None = None, **options: Any) -> None:
        """Add a reaction to Told, or to `event`; `behave` runs after its effect was written."""
        self._declared.append((name, behave, options))

    def app(self, *, renamed: Mapping[str, str | None] | None = None) -> App:
        """An app with the reactions declared so far."""
        module = Module("stage")
        for name, behave, options in self._declared:
            self._declare(module, name, behave, options)
        return App(modules=[module], renamed=renamed)

    def _declare(self, module: Module, name: str, behave: Behave | None, options: dict[str, Any]) -> None:
        if options.get("event") is Aside:

            @module.react(Aside, name=name)
            async def hear_aside(tx: Tx, event: Aside) -> None:
                await tx.fetch(ADD, name, "", event.n)

        elif options.get("batch"):

            @module.react(Told, name=name, **options)
            async def hear_all(tx: Tx, events: list[Told]) -> None:
                for event in events:
                    await self._hear(name, behave, tx, event)
        else:

            @module.react(Told, name=name, **options)
            async def hear(tx: Tx, event: Told) -> None:
                await self._hear(name, behave, tx, event)

    async def _hear(self, name: str, behave: Behave | None, tx: Tx, event: Told) -> None:
        run, place = Run(name, event.line, event.n, tx.now_us), (name, event.line)
        self.runs.append(run)
        if self._in_flight[place]:
            self.overlaps.append(run)
        self._in_flight[place] += 1
        try:
            await tx.fetch(ADD, name, event.line, event.n)
            if behave is not None:
                await behave(tx, event)
        finally:
            self._in_flight[place] -= 1

    def numbers(self, line: str, reaction: str = "hear") -> list[int]:
        """The numbers of one key in the order in which their runs began."""
        return [run.n for run in self.runs if run.line == line and run.reaction == reaction]


@asynccontextmanager
async def playing(
    app: App,
    url: str,
    folder: Path,
    clock: Clock | None = None,
    *,
    simulation: Simulation | None = None,
    **settings: Any,
) -> AsyncIterator[World]:
    """A running copy of a stage's app, on a simulated machine if one is given."""
    entropy = SystemEntropy()
    name = f"stage-{entropy.secret(4).hex()}"
    node = Node(name=name, clock=clock or SystemClock(), entropy=entropy, simulation=simulation)
    runtime = Runtime(app, Settings(database=url, data=folder, **settings), node)
    if isinstance(clock, JumpClock):
        runtime.clock.look = clock.carry(runtime.clock.look)
    async with runtime:
        await execute(runtime, MAKE)
        yield World(runtime)


async def execute(runtime: Runtime, sql: Sql, *args: Any) -> int:
    """Run one statement in a transaction; matched rows."""

    async def body(connection: Connection) -> int:
        return await connection.execute(sql, *args)

    return await runtime.database.write(body)


async def fetch(world: World, text: str, *args: Any) -> list[tuple[Any, ...]]:
    """Rows of a SELECT."""
    found = Sql("stage_fetch", text, "Looks.")
    rows = await world.runtime.database.read(lambda connection: connection.fetch(found, *args))
    return [tuple(row) for row in rows]


async def effects(world: World, reaction: str = "hear") -> list[tuple[str, int]]:
    """The committed effects of a reaction: (line, n), sorted; one twice is an effect twice."""
    rows = await world.runtime.database.read(lambda connection: connection.fetch(ALL, f"{reaction}"))
    return [(row[0], row[1]) for row in rows]


async def until(world: World, holds: Callable[[], Awaitable[Any]], what: str, within_s: float = 15.0) -> None:
    """Return once something holds; an AssertionError names it when it does not in time."""
    clock = SystemClock()
    limit = clock.monotonic() + within_s
    while not await holds():
        assert clock.monotonic() < limit, f"not within {within_s} s: {what}; open: {await world.open_work()}"
        await clock.sleep(0.003)


class Undone(Exception):
    """What a test's transaction raises to be rolled back."""


class Held:
    """A transaction that has done everything but commit; its events have their numbers already."""

    def __init__(self, tasks: Tasks, runtime: Runtime, events: list[Event]) -> None:
        self._reached, self._leave, self._fails = asyncio.Event(), asyncio.Event(), False

        async def body(connection: Connection) -> None:
            with entered(runtime.context()):
                tx = runtime.make_tx(connection, runtime.node.clock.now_us())
                with changed(transaction=tx):
                    tx.publish(*events)
                    await tx.finish()
            self._reached.set()
            await self._leave.wait()
            if self._fails:
                raise Undone

        self._task = tasks.spawn(runtime.database.write(body), name="held")

    async def reached(self) -> None:
        """Return once its events have their numbers."""
        await self._reached.wait()

    async def end(self, *, commit: bool) -> None:
        """Commit, or roll back."""
        self._fails = not commit
        self._leave.set()
        try:
            await self._task
        except Undone:
            assert not commit


async def new_process(world: World) -> ProcessLease:
    """The lease of one more process on the same store; stop it at the end."""
    runtime = world.runtime
    lease = ProcessLease(
        runtime.node,
        runtime.database,
        "",
        release_lease,
        lambda: None,
        orphaned=orphaned_leases,
        clock=runtime.clock,
    )
    await lease.start()
    return lease


class StageSuite(Suite):
    """What every adapter's class gives the cases.

    Attributes:
        url: The store of this test, empty at its beginning.
        folder: A folder of this test.
        broker_url: The broker of this test.
        simulation: The machine on which its copies run; None = a real one.
    """

    url: str
    folder: Path
    broker_url: str = "database:"
    simulation: Simulation | None = None

    def playing(self, stage: Stage, **options: Any) -> AbstractAsyncContextManager[World]:
        """A running copy of the stage's app on this test's store."""
        renamed = options.pop("renamed", None)
        options.setdefault("broker", self.broker_url)
        options.setdefault("simulation", self.simulation)
        return playing(stage.app(renamed=renamed), options.pop("url", self.url), self.folder, **options)

    async def routed(self, world: World, sub_id: int, subscription: Subscription, count: int) -> None:
        """Return once so many events wait in the store for a subscription that nobody serves, none of them claimed.

        A broker outside the store does not put them there by itself: they are received as the consumer would, and
        given back.
        """
        broker, process = world.runtime.broker, world.runtime.process
        topic = subscription.event.event_name
        feed = Feed(sub_id=sub_id, topic=topic, ordered=subscription.ordered, prefetch=1000)
        if not broker.capabilities.in_store:
            await broker.attend(feed, lambda: None)

        async def there() -> bool:
            if not broker.capabilities.in_store:
                cursor = KeyCursor() if feed.ordered else None
                received = await broker.receive(sub_id, process.lease, 1000, cursor)
                for claim in received.claims:
                    await give_back(world.runtime.database, subscription.name, claim, 0, forget_attempt=True)
            return (await world.open_work())[0] == 0 and await fetch(
                world, "SELECT count(*) FROM dj_ready WHERE sub_id = $1", sub_id
            ) == [(count,)]

        await until(world, there, f"{count} events routed", within_s=60.0)
        await broker.leave(sub_id)


RAW_MANY_WRITERS = Sql(
    "stage_raw",
    """WITH own AS MATERIALIZED (SELECT pg_current_xact_id() AS xid)
       INSERT INTO dj_outbox (seq, message_id, topic, okey, created_us, headers, payload)
       SELECT nextval('dj_outbox_seq'), $1, $2, $3, $4, $5, $6 FROM own RETURNING seq""",
    "Appends a row that no publisher would have made.",
)
RAW_ONE_WRITER = Sql(
    "stage_raw",
    """INSERT INTO dj_outbox (message_id, topic, okey, created_us, headers, payload) VALUES ($1, $2, $3, $4, $5, $6)
       RETURNING seq""",
    "Appends a row that no publisher would have made.",
)


async def append_raw(
    world: World,
    message_id: bytes,
    payload: bytes,
    *,
    line: str | None = "raw",
    headers: str = "{}",
    topic: str = "Told",
) -> int:
    """Append a row to the outbox as it is; its number."""
    database = world.runtime.database
    insert = RAW_MANY_WRITERS if database.capabilities.many_writers else RAW_ONE_WRITER
    now_us = world.runtime.node.clock.now_us()
    rows = await database.statement(insert, message_id, topic, line, now_us, headers, payload)
    world.runtime.bells.ring_far("outbox")
    return int(rows[0][0])
