"""Conformance of `Broker`, clocks: who works on one store lives by one clock, whatever the machines' own clocks say."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.kernel.errors import Overloaded
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import Stage, StageSuite, Told, effects, fetch, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dujiang.data.database import Database
    from dujiang.testing.harness import World

SKEW_S, DELAY_S = 60.0, 9.0
APART_US_MAX = 5_000_000  # Far above what a loaded machine needs for a round trip, far below the skew.


class ClockCases(StageSuite):
    """Processes whose machines disagree about the time by two minutes."""

    @case("C43.effects", needs="many_writers")
    async def test_a_wrong_clock_changes_no_effect(self) -> None:
        """With one process a minute ahead and one a minute behind, every event has one effect, in order."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with (
            self.playing(stage) as world,
            self.playing(stage, clock=JumpClock(skew_s=60.0)) as ahead,
            self.playing(stage, clock=JumpClock(skew_s=-60.0)) as behind,
        ):
            for n in range(10):
                for place, each in enumerate((world, ahead, behind)):
                    await each.publish(*(Told(line=f"{place}-{line}", n=n) for line in range(5)))
                if n == 5:
                    await ahead.runtime.process.reap()
                    await world.runtime.process.reap()
            await world.settle()

            found = await effects(world)
            assert found == sorted((f"{place}-{line}", n) for place in range(3) for line in range(5) for n in range(10))

    @case("C43.leases", needs="many_writers")
    async def test_nobody_with_a_wrong_clock_takes_the_living_for_dead(self) -> None:
        """Through six beats and as many reapings by either process, both leases stay what they were."""
        stage = Stage()
        stage.reaction()
        async with self.apart(stage) as worlds:
            leases = [world.runtime.process.lease for world in worlds]
            for _ in range(6):
                jump(worlds, 6.0)
                await until(worlds[0], lambda: beaten(worlds), "a beat of both")
                for world in worlds:
                    await world.runtime.process.reap()

            assert [world.runtime.process.lease for world in worlds] == leases
            assert await living(worlds[0]) == sorted(leases)

    @pytest.mark.parametrize("writer", [0, 1])
    @case("C43.due", needs="many_writers")
    async def test_due_work_begins_neither_early_nor_late(self, writer: int) -> None:
        """A delay that one process wrote down is over for the other when it is over by the store's clock."""
        stage = Stage()
        stage.reaction(behave=once(Overloaded(what="the other side", size=1, limit=0, retry_after_s=DELAY_S)))
        async with self.apart(stage) as worlds:
            world, other = worlds[writer], worlds[1 - writer]
            (busy,), (idle,) = world.runtime.consumers, other.runtime.consumers
            await idle.stop()
            await world.publish(Told(line="a", n=1))
            await until(world, lambda: waiting(world), "the retry to wait")
            await busy.stop()
            left_us = await waiting(world) - await store_now_us(world)
            early = await received(other)
            jump(worlds, DELAY_S)
            late = await received(other)

            assert DELAY_S * 1e6 - APART_US_MAX < left_us <= DELAY_S * 1e6
            assert (early, late) == (0, 1)

    @case("C43.rows", needs="many_writers")
    async def test_times_in_rows_are_the_stores(self) -> None:
        """What two processes wrote at one moment bears one time, and that is the server's."""
        stage = Stage()
        stage.reaction()
        async with self.apart(stage) as worlds:
            for n, world in enumerate(worlds):
                await world.publish(Told(line=str(n), n=n))
            await worlds[0].settle()
            now_us = await store_now_us(worlds[0])
            times = await fetch(
                worlds[0], "SELECT created_us FROM dj_outbox UNION ALL SELECT finished_us FROM dj_outcome"
            )

            assert len(times) == 4
            assert all(0 <= now_us - one < APART_US_MAX for (one,) in times)

    @case("C43.step", needs="many_writers")
    async def test_a_server_whose_clock_is_set_makes_nobody_dead(self) -> None:
        """The server's clock is set ahead by a minute: who sees it first ends no lease, and all beat by the new time."""
        stage, moved_us = Stage(), [0]
        stage.reaction()
        async with self.apart(stage) as worlds:
            for world in worlds:
                set_ahead(world, moved_us)
            leases = [world.runtime.process.lease for world in worlds]
            moved_us[0] = 60_000_000
            await worlds[0].runtime.clock.sample()
            await worlds[0].runtime.process.reap()
            kept = await living(worlds[0])
            jump(worlds, 6.0)
            await until(worlds[0], lambda: beaten(worlds), "a beat of both")

            assert kept == sorted(leases)
            assert [world.runtime.process.lease for world in worlds] == leases

    @asynccontextmanager
    async def apart(self, stage: Stage) -> AsyncIterator[list[World]]:
        """Two running copies, one a minute ahead and one a minute behind."""
        async with (
            self.playing(stage, clock=JumpClock(skew_s=SKEW_S)) as ahead,
            self.playing(stage, clock=JumpClock(skew_s=-SKEW_S)) as behind,
        ):
            yield [ahead, behind]


def jump(worlds: list[World], seconds: float) -> None:
    """Let time pass for everybody at once, the store included."""
    for world in worlds:
        clock: Any = world.runtime.clock._clock  # noqa: SLF001  (the machine's, under the store's)
        clock.jump(seconds)


def set_ahead(world: World, moved_us: list[int]) -> None:
    """Let the server's clock be set while everything runs."""
    look = world.runtime.clock.look

    async def moved(database: Database) -> int:
        return await look(database) + moved_us[0]

    world.runtime.clock.look = moved


async def store_now_us(world: World) -> int:
    """The time by the store's clock, jumps included."""
    return await world.runtime.clock.look(world.runtime.database)


async def living(world: World) -> list[int]:
    """The leases that nobody has ended."""
    return [row[0] for row in await fetch(world, "SELECT lease FROM dj_process WHERE expires_us > 0 ORDER BY lease")]


async def beaten(worlds: list[World]) -> bool:
    """Whether both have beaten since the last jump, by the store's clock."""
    now_us = await store_now_us(worlds[0])
    rows = await fetch(worlds[0], "SELECT expires_us FROM dj_process WHERE expires_us > 0")
    return len(rows) == len(worlds) and all(row[0] > now_us + 15_000_000 for row in rows)


async def waiting(world: World) -> int:
    """When the work that failed once is due again; 0 while there is none."""
    rows = await fetch(world, "SELECT run_at FROM dj_ready WHERE attempt = 1")
    return int(rows[0][0]) if rows else 0


async def received(world: World) -> int:
    """How much work this process would begin now."""
    runtime = world.runtime
    (consumer,) = runtime.consumers
    return len((await runtime.broker.receive(consumer.sub_id, runtime.process.lease, 10, None)).claims)


def once(error: Exception) -> Any:
    """A behaviour that raises the first time."""
    left = [error]

    async def behave(*_: Any) -> None:
        if left:
            raise left.pop()

    return behave
