"""Conformance of `Broker`, leases: whoever is taken for dead can end nothing, what it held is done by others, once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.data.clock import StoreClock
from dujiang.data.database import DatabaseUnreachable
from dujiang.data.process import LEASE_S, ProcessLease
from dujiang.data.sql import Sql
from dujiang.kernel.entropy import SystemEntropy
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks
from dujiang.messaging.work import LeaseLost, claim_free, end_claim, give_back, orphaned_leases, release_lease
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import (
    END_LEASE,
    Stage,
    StageSuite,
    Told,
    effects,
    execute,
    fetch,
    new_process,
    until,
)

if TYPE_CHECKING:
    from types import TracebackType

    from dujiang.messaging.work import Claim
    from dujiang.testing.harness import World

ENDED = Sql("stage_ended", "UPDATE dj_process SET expires_us = 0 WHERE lease = $1", "Ends a lease as a reaper does.")


class LeaseCases(StageSuite):
    """Leases, fencing, stopping."""

    @case("C39", needs="many_writers")
    async def test_a_process_that_was_taken_for_dead_commits_nothing(self) -> None:
        """A paused process whose work another one took over rolls back when it goes on, and the effect is there once."""
        stage, reached, leave = Stage(), asyncio.Event(), asyncio.Event()

        async def pause(*_: Any) -> None:
            if len(stage.runs) == 1:
                reached.set()
                await leave.wait()

        stage.reaction(behave=pause)
        async with self.playing(stage) as zombie:
            await zombie.publish(Told(line="a", n=1))
            await reached.wait()
            async with self.playing(stage) as world:
                await execute(world.runtime, END_LEASE, zombie.runtime.process.lease)
                zombie.runtime.process.lease = 0  # A process that stands still claims nothing.
                await world.runtime.process.reap()

                async def taken() -> bool:
                    rows = await fetch(world, "SELECT lease FROM dj_running")
                    return rows == [(world.runtime.process.lease,)]

                await until(world, taken, "the other process's claim")
                leave.set()
                await world.settle()

                assert await effects(world) == [("a", 1)]
                assert await fetch(world, "SELECT state FROM dj_outcome") == [(1,)]
                assert len(stage.runs) >= 2

    @case("C40.1")
    async def test_a_claim_is_ended_by_its_own_lease_and_attempt_alone(self) -> None:
        """After a reaper gave work to another process the first one can neither end it nor give it back."""
        async with self.idle() as (world, sub_id):
            first, second = await new_process(world), await new_process(world)
            old = await self.claimed(world, sub_id, first.lease)
            await execute(world.runtime, END_LEASE, first.lease)
            await second.reap()
            new = await self.claimed(world, sub_id, second.lease)

            with pytest.raises(LeaseLost):
                await world.runtime.database.write(lambda connection: end_claim(connection, "hear", old))
            with pytest.raises(LeaseLost):
                await give_back(world.runtime.database, "hear", old, 0)
            assert (old.attempt, new.attempt) == (1, 2)
            await world.runtime.database.write(lambda connection: end_claim(connection, "hear", new))
            for process in (first, second):
                await process.stop()

    @case("C40.2")
    async def test_the_second_claim_of_one_lease_is_not_ended_by_the_first(self) -> None:
        """The attempt is part of the fence: a late end of an earlier claim touches nothing."""
        async with self.idle() as (world, sub_id):
            process = await new_process(world)
            old = await self.claimed(world, sub_id, process.lease)
            await give_back(world.runtime.database, "hear", old, 0)
            new = await self.claimed(world, sub_id, process.lease)

            with pytest.raises(LeaseLost):
                await world.runtime.database.write(lambda connection: end_claim(connection, "hear", old))
            await world.runtime.database.write(lambda connection: end_claim(connection, "hear", new))
            await process.stop()

    @case("C39.late")
    async def test_what_was_claimed_after_the_end_of_a_lease_comes_back(self) -> None:
        """A process that does not know yet that it was taken for dead claims work; the reaper finds it all the same."""
        async with self.idle() as (world, sub_id):
            zombie, other = await new_process(world), await new_process(world)
            await execute(world.runtime, END_LEASE, zombie.lease)
            await other.reap()
            await self.claimed(world, sub_id, zombie.lease)
            await other.reap()

            assert await fetch(world, "SELECT count(*) FROM dj_running") == [(0,)]
            assert await fetch(world, "SELECT count(*) FROM dj_ready") == [(1,)]
            for process in (zombie, other):
                await process.stop()

    @case("C39.all")
    async def test_work_of_a_dead_process_is_found_by_the_first_one_after_it(self) -> None:
        """After everything was dead for longer than a lease, the next process takes the row over with its work put back."""
        clock = JumpClock()
        async with self.idle(clock=clock) as (world, sub_id):
            dead = await new_process(world)
            await self.claimed(world, sub_id, dead.lease)
            # Its row expired long ago and nobody has looked since.
            await execute(world.runtime, EXPIRED_LONG_AGO, dead.lease)
            fresh = await new_process(world)

            assert fresh.process_id == dead.process_id
            assert await fetch(world, "SELECT count(*) FROM dj_running") == [(0,)]
            for process in (dead, fresh):
                await process.stop()

    @case("C41")
    async def test_a_short_standstill_keeps_the_lease_and_a_lost_one_is_taken_anew(self) -> None:
        """After ten seconds of standstill the lease is the same; a lease that was ended is replaced, and work goes on."""
        stage, clock = Stage(), JumpClock()
        stage.reaction(ordered=True)
        async with self.playing(stage, clock=clock) as world:
            process = world.runtime.process
            first = process.lease
            clock.jump(10.0)
            await world.publish(Told(line="a", n=1))
            await world.settle()
            kept = process.lease
            await execute(world.runtime, ENDED, first)
            clock.jump(6.0)

            async def again() -> bool:
                return process.lease not in (0, first)

            await until(world, again, "a new lease")
            await world.publish(*(Told(line="a", n=n) for n in range(2, 50)))
            await world.settle()

            assert kept == first
            assert stage.numbers("a") == list(range(1, 50))

    @case("C41.full")
    async def test_a_lost_lease_leaves_no_runner_and_no_line_behind(self) -> None:
        """With every runner busy and the line full, the loss cancels all of it, and all of it is done under the new lease."""
        stage, clock, leave = Stage(), JumpClock(), asyncio.Event()

        async def wait(*_: Any) -> None:
            await leave.wait()

        stage.reaction(behave=wait, concurrency=1)
        async with self.playing(stage, clock=clock) as world:
            process, first = world.runtime.process, world.runtime.process.lease
            await world.runtime.relay.stop()
            await world.publish(*(Told(line=str(n), n=n) for n in range(30)))
        async with self.playing(stage, clock=clock) as world:
            process, first = world.runtime.process, world.runtime.process.lease

            async def busy() -> bool:
                return bool(stage.runs)

            await until(world, busy, "a running handler")
            (consumer,) = world.runtime.consumers
            consumer.cancel_running()  # As the process does when its beat finds its row ended.
            leave.set()
            for _ in range(5):
                await world.runtime.node.clock.sleep(0)
            await execute(world.runtime, ENDED, first)
            clock.jump(6.0)

            async def again() -> bool:
                return process.lease not in (0, first)

            await until(world, again, "a new lease")
            clock.jump(5.0)
            await world.settle()
            found = await effects(world)

            assert found == sorted((str(n), n) for n in range(30)), found

    @case("C42")
    async def test_handlers_are_cancelled_before_others_take_over(self) -> None:
        """While the database does not answer the heartbeat, the process gives itself up before its lease has run out."""
        clock = JumpClock()
        async with self.idle(clock=clock) as (world, _):
            node = Node(name="cut", clock=clock, entropy=SystemEntropy())
            cut, lost_at = Cut(world.runtime.database), list[float]()
            process = ProcessLease(
                node,
                cut,
                "",
                release_lease,
                lambda: lost_at.append(clock.monotonic()),
                orphaned=orphaned_leases,
                clock=StoreClock(clock),
            )
            began = clock.monotonic()
            await process.start()
            cut.away = True
            while not lost_at:
                clock.jump(0.5)
                for _ in range(10):
                    await clock.sleep(0)

            assert 10.0 < lost_at[0] - began < LEASE_S
            cut.away = False
            await process.stop()
            await node.tasks.close()

    @case("C44.1")
    async def test_a_graceful_stop_ends_what_runs_and_returns_the_rest_uncounted(self) -> None:
        """A stopping process lets its handler end; what only waited is ready again, with no attempt counted."""
        stage, reached, leave = Stage(), asyncio.Event(), asyncio.Event()

        async def wait(*_: Any) -> None:
            reached.set()
            await leave.wait()

        stage.reaction(behave=wait, concurrency=1)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line=str(n), n=n) for n in range(10)))
            await reached.wait()
            (consumer,) = world.runtime.consumers
            tasks = Tasks("stopper")
            stopping = tasks.spawn(consumer.stop(10.0), name="stop")
            await world.runtime.node.clock.sleep(0)
            leave.set()
            await stopping
            done = len(await effects(world))
            await self.routed(
                world, consumer.sub_id, consumer.subscription, 10 - done
            )  # What has not left a broker outside the store counts too.
            ready = await fetch(world, "SELECT attempt FROM dj_ready")

            assert 1 <= done < 10
            assert ready == [(0,)] * (10 - done)
            assert await fetch(world, "SELECT count(*) FROM dj_running") == [(0,)]

    @case("C44.2")
    async def test_a_handler_beyond_the_grace_is_rolled_back_and_returned_uncounted(self) -> None:
        """A handler that does not end within the grace is cancelled; its event is ready with no attempt counted."""
        stage, reached = Stage(), asyncio.Event()

        async def wait(*_: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

        stage.reaction(behave=wait, concurrency=1)
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=1))
            await reached.wait()
            (consumer,) = world.runtime.consumers
            await consumer.stop(0.01)

            assert await effects(world) == []
            assert await fetch(world, "SELECT attempt FROM dj_ready") == [(0,)]

    def idle(self, **options: Any) -> Idle:
        """A world whose only event is routed and whose consumer has stopped."""
        return Idle(self, options)

    async def claimed(self, world: World, sub_id: int, lease: int) -> Claim:
        """Claim the only event under a lease."""
        database, now_us = world.runtime.database, world.runtime.node.clock.now_us()
        (claim,) = await claim_free(database, sub_id, lease, now_us + 1, 10)
        return claim


EXPIRED_LONG_AGO = Sql(
    "stage_expired_long_ago",
    "UPDATE dj_process SET expires_us = 1, high_us = 1 WHERE lease = $1",
    "Lets a process be dead for long.",
)


class Idle:
    """See `LeaseCases.idle`."""

    def __init__(self, suite: LeaseCases, options: dict[str, Any]) -> None:
        stage = Stage()
        stage.reaction()
        self._suite = suite
        self._world = suite.playing(stage, **options)

    async def __aenter__(self) -> tuple[World, int]:
        world: World = await self._world.__aenter__()
        (consumer,) = world.runtime.consumers
        await consumer.stop()
        await world.publish(Told(line="a", n=1))
        await self._suite.routed(world, consumer.sub_id, consumer.subscription, 1)
        return world, consumer.sub_id

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._world.__aexit__(kind, error, trace)


class Cut:
    """A database that can be away."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.away = False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise DatabaseUnreachable(url="cut", why="away")
        return getattr(self._database, name)
