"""Conformance of `Broker`, crashes: whose account a process's death is written to, and what becomes of suspects.

Processes that really die run in tests/cli/test_poison.py; here are the accounts themselves, on every store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.messaging.crashes import Accounts
from dujiang.messaging.marks import Left, Marks
from dujiang.messaging.work import claim_free
from dujiang.testing.conformance.cases import REAL, case
from dujiang.testing.conformance.stage import Stage, StageSuite, Told, effects, execute, fetch, new_process, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

ACCOUNT = Sql("stage_account", "UPDATE dj_ready SET crashes = $1, run_at = 0", "Writes deaths to every account.")
ROWS = "SELECT seq, attempt, crashes FROM dj_ready ORDER BY seq"


class Known(Marks):
    """Marks of which a test says what they are."""

    def __init__(self, world: World, left: Left | None) -> None:
        super().__init__(world.runtime.settings.data, "known", kept=False)
        self._left = left

    def left_by(self, holder: str) -> Left | None:
        """What the test said."""
        return self._left


class CrashCases(StageSuite):
    """Accounts of crashes, suspects."""

    @case("C34.started")
    async def test_a_death_is_counted_for_what_was_running_and_for_nothing_else(self) -> None:
        """Of five claims of a dead process one was running: it has a crash and an attempt, the others lost nothing."""

        def left(sub_id: int, seqs: list[int]) -> Left:
            return Left(alive=False, started=frozenset({(sub_id, seqs[2])}))

        rows = await self._reclaimed(left)

        assert [row[1:] for row in rows] == [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)]

    @case("C34.unknown")
    async def test_a_death_that_nobody_can_explain_is_counted_for_all_that_was_held(self) -> None:
        """Where the marks cannot be read every claim is suspected: that costs time, and no message."""
        rows = await self._reclaimed(lambda *_: None)

        assert [row[1:] for row in rows] == [(1, 1)] * 5

    @case("C34.alive")
    async def test_a_process_that_was_only_slow_accuses_nobody(self) -> None:
        """Its marks are locked, so it lives: its claims come back without a crash."""
        rows = await self._reclaimed(lambda *_: Left(alive=True))

        assert [row[1:] for row in rows] == [(1, 0)] * 5

    @case("C34.restart")
    async def test_a_second_death_adds_to_the_first(self) -> None:
        """The account is a row's and survives the processes: two deaths are two."""
        async with self._routed(5) as (world, sub_id):
            for _ in range(2):
                await self._dies(world, sub_id, None)

            assert [row[1:] for row in await fetch(world, ROWS)] == [(2, 2)] * 5

    @case("C34.alone_here", needs=REAL)
    async def test_a_suspect_that_no_process_can_take_runs_here_and_is_buried_in_the_end(self) -> None:
        """This stage's app stands in no module: two deaths and it still runs, seven and it is a dead letter."""
        async with self._routed(1) as (world, _):
            await execute(world.runtime, ACCOUNT, 7)
            await self._goes_on(world)

            assert await fetch(world, "SELECT reason, crashes FROM dj_dead") == [("crash_loop", 7)]
            assert await effects(world) == []
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.replay(letter.dead_id)
            await world.settle()

            assert await effects(world) == [("a", 0)]

    @case("C34.apart")
    async def test_what_was_there_at_a_death_shares_no_transaction_with_others(self) -> None:
        """Ten events of a batch that died together are run one by one, each in a transaction of its own."""
        moments = []

        async def note(tx: Tx, _: Told) -> None:
            moments.append(tx.now_us)

        async with self._routed(10, behave=note, batch=50) as (world, _):
            await execute(world.runtime, ACCOUNT, 1)
            await self._goes_on(world)

            assert len(await effects(world)) == 10
            assert len(set(moments)) == 10

    async def _reclaimed(self, left: Callable[[int, list[int]], Left | None]) -> list[tuple[int, ...]]:
        async with self._routed(5) as (world, sub_id):
            seqs = [row[0] for row in await fetch(world, ROWS)]
            await self._dies(world, sub_id, left(sub_id, seqs))
            return await fetch(world, ROWS)

    async def _dies(self, world: World, sub_id: int, left: Left | None) -> None:
        """A process claims everything and dies."""
        process, database = await new_process(world), world.runtime.database
        now_us = world.runtime.node.clock.now_us()
        await claim_free(database, sub_id, process.lease, now_us + 10_000_000, 10)
        accounts = Accounts(Known(world, left))
        await database.write(lambda connection: accounts.reclaim(connection, process.lease, now_us))
        await process.stop()

    async def _goes_on(self, world: World) -> None:
        """Consumers begin again, and end what there is."""
        await world.runtime.workers.start()

        async def done() -> bool:
            return (await world.open_work())[1:] == (0, 0)

        await until(world, done, "the end of the work")

    def _routed(
        self, count: int, behave: Callable[[Tx, Told], Awaitable[None]] | None = None, batch: int = 0
    ) -> Routed:
        return Routed(self, count, behave, batch)


class Routed:
    """A world whose events are routed and whose consumer has stopped."""

    def __init__(
        self, suite: CrashCases, count: int, behave: Callable[[Tx, Told], Awaitable[None]] | None, batch: int
    ) -> None:
        stage = Stage()
        stage.reaction(behave=behave, batch=batch)
        self._suite, self._count = suite, count
        self._world = suite.playing(stage)

    async def __aenter__(self) -> tuple[World, int]:
        world = await self._world.__aenter__()
        (consumer,) = world.runtime.consumers
        await world.runtime.workers.stop()
        await world.publish(*(Told(line="a", n=n) for n in range(self._count)))
        await self._suite.routed(world, consumer.sub_id, consumer.subscription, self._count)
        return world, consumer.sub_id

    async def __aexit__(self, *raised: object) -> None:
        await self._world.__aexit__(None, None, None)
