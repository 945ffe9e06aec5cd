"""Conformance of `Broker`, races: two who decide about one thing at once, brought to the instant in which it matters.

    first     statements of its transaction ── stands before its commit ──────────► commits
    second                                       begins, waits for a lock ─────────► goes on and must see what became

The first one works on a database whose commit waits for the test (`Gate`); the second one is let go on only once the server
says that a session waits for a lock. Nothing is left to luck, and nothing sleeps. Where one process writes there are no two.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.data.clock import StoreClock
from dujiang.data.process import ProcessLease
from dujiang.kernel.entropy import SystemEntropy
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks, outcomes_of
from dujiang.messaging.catalogue import activate
from dujiang.messaging.deadletter import DeadLetters, DeadLetterUnknown
from dujiang.messaging.subscription import Subscription
from dujiang.messaging.work import claim_free, end_claim, orphaned_leases, release_lease
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.broker_letters import Refused
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
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from dujiang.data.database import Connection
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

WAITING = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""


class RaceCases(StageSuite):
    """Two who decide at once."""

    @case("C39.ending", needs="many_writers")
    async def test_work_that_is_just_being_ended_is_not_put_back(self) -> None:
        """A reaper that comes while a claim's end waits for its commit sees the end, and the work is not done again."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            sub_id = await self.one_waits(world)
            worker, reaper = await new_process(world), await new_process(world)
            now_us = world.runtime.node.clock.now_us()
            (claim,) = await claim_free(world.runtime.database, sub_id, worker.lease, now_us, 10)
            await execute(world.runtime, END_LEASE, worker.lease)
            gate = Gate(world.runtime.database)
            await gate.race(world, gate.write(lambda connection: end_claim(connection, "hear", claim)), reaper.reap())

            assert await fetch(world, "SELECT count(*) FROM dj_ready") == [(0,)]
            assert await fetch(world, "SELECT count(*) FROM dj_running") == [(0,)]
            for process in (worker, reaper):
                await process.stop()

    @case("C39.reapers", needs="many_writers")
    async def test_of_two_reapers_one_puts_the_work_back(self) -> None:
        """The second one waits for the first one's decision and finds nothing to do."""
        stage, released = Stage(), list[int]()
        stage.reaction()

        async def release(connection: Connection, lease: int, now_us: int) -> set[int]:
            released.append(lease)
            return await release_lease(connection, lease, now_us)

        async with self.playing(stage) as world:
            gate = Gate(world.runtime.database)
            gate.leave.set()
            dead = await new_process(world)
            reapers = [reaper_on(world, database, release) for database in (gate, world.runtime.database)]
            for reaper in reapers:
                await reaper.start()
            gate.close()
            await execute(world.runtime, END_LEASE, dead.lease)
            await gate.race(world, reapers[0].reap(), reapers[1].reap())

            assert released == [dead.lease]
            for process in (*reapers, dead):
                await process.stop()

    @case("C39.beat", needs="many_writers")
    async def test_a_beat_that_comes_too_late_does_not_revive(self) -> None:
        """A process whose end waits for its commit beats: it learns that it was ended, and does not go on under that lease."""
        stage, clock, lost = Stage(), JumpClock(), list[bool]()
        stage.reaction()
        async with self.playing(stage) as world:
            gate = Gate(world.runtime.database)
            gate.leave.set()
            node = Node(name="late", clock=clock, entropy=SystemEntropy())
            late = ProcessLease(
                node,
                world.runtime.database,
                "",
                release_lease,
                lambda: lost.append(True),
                orphaned=orphaned_leases,
                clock=StoreClock(clock),
            )
            reaper = reaper_on(world, gate, release_lease)
            for process in (late, reaper):
                await process.start()
            first = late.lease
            gate.close()
            await execute(world.runtime, END_LEASE, first)

            async def beat() -> None:
                clock.jump(6.0)
                await until(world, lambda: changed(late, first), "a new lease")

            await gate.race(world, reaper.reap(), beat())

            assert lost == [True]
            assert await fetch(world, "SELECT expires_us FROM dj_process WHERE lease = $1", first) == [(0,)]
            for process in (late, reaper):
                await process.stop()
            await node.tasks.close()

    @case("C14.fence", needs="many_writers")
    async def test_an_event_that_is_routed_during_an_activation_reaches_the_new_subscription(self) -> None:
        """What the relay passes on while a subscription's row waits for its commit is among what it gets from the beginning."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            (consumer,) = world.runtime.consumers
            late = Subscription(name="late", event=Told, handle=nothing, start="beginning")
            await world.publish(Told(line="a", n=1))
            await world.settle()
            gate = Gate(world.runtime.database)
            now_us = world.runtime.node.clock.now_us()
            activation = activate(gate, [consumer.subscription, late], {}, now_us)
            activated, _ = await gate.race(world, activation, world.publish(Told(line="a", n=2)))

            number = activated.numbers["late"]
            await self.routed(world, number, late, 2)

            assert await fetch(world, "SELECT count(*) FROM dj_ready WHERE sub_id = $1", number) == [(2,)]

    @pytest.mark.parametrize("second", ["replay", "discard"])
    @case("C35.race", needs="many_writers")
    async def test_of_two_decisions_about_a_letter_one_counts(self, second: str) -> None:
        """While a replay waits for its commit, another decision about the letter waits too, and then finds it gone."""
        async with self.playing(self.failing_once()) as world:
            letter = await dead_letter(world)
            gate = Gate(world.runtime.database)
            first, others = letters_on(world, gate), world.runtime.deadletters
            decision = others.discard(letter) if second == "discard" else others.replay(letter, force=True)
            _, refused = await gate.race(world, first.replay(letter, force=True), decision)
            await world.settle()

            assert isinstance(refused, DeadLetterUnknown)
            assert await effects(world) == [("a", 1)]

    @case("C67.race", needs="many_writers")
    async def test_what_a_replay_puts_back_during_a_retirement_is_cancelled(self) -> None:
        """A subscription is retired while a replay waits for its commit: nothing waits for it afterwards, and it is counted."""
        async with self.playing(self.failing_once()) as world:
            letter = await dead_letter(world)
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            gate = Gate(world.runtime.database)
            now_us = world.runtime.node.clock.now_us()
            retirement = activate(world.runtime.database, [], {consumer.subscription.name: None}, now_us)
            await gate.race(world, letters_on(world, gate).replay(letter), retirement)

            assert await fetch(world, "SELECT count(*) FROM dj_ready") == [(0,)]
            assert await fetch(world, "SELECT state FROM dj_outcome ORDER BY state") == [(2,), (4,)]

    async def one_waits(self, world: World) -> int:
        """Stop the only consumer and let one event wait for it; its subscription."""
        (consumer,) = world.runtime.consumers
        await consumer.stop()
        await world.publish(Told(line="a", n=1))
        await self.routed(world, consumer.sub_id, consumer.subscription, 1)
        return consumer.sub_id

    def failing_once(self) -> Stage:
        """A reaction that refuses its first event once."""
        stage = Stage()

        async def fail_once(_tx: Tx, _event: Told) -> None:
            if len(stage.runs) == 1:
                raise Refused("no")

        stage.reaction(behave=fail_once)
        return stage


class Gate:
    """A database whose transactions stand before their commit until the test lets them go."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.reached, self.leave = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def close(self) -> None:
        """Let nobody through from now on."""
        self.reached.clear()
        self.leave.clear()

    async def write(self, body: Callable[[Connection], Awaitable[Any]], **options: Any) -> Any:
        """As the database, with a stop before the commit."""

        async def stopped(connection: Connection) -> Any:
            answer = await body(connection)
            self.reached.set()
            await self.leave.wait()
            return answer

        return await self._database.write(stopped, **options)

    async def race(self, world: World, first: Coroutine[Any, Any, Any], second: Coroutine[Any, Any, Any]) -> list[Any]:
        """Bring `first` before its commit and `second` to wait for its lock, then let both end; their outcomes."""
        tasks = Tasks("race")
        running = [tasks.spawn(first, name="first")]
        await self.reached.wait()
        running.append(tasks.spawn(second, name="second"))
        await until(world, lambda: somebody_waits(world), "a session that waits for a lock")
        self.leave.set()
        return await outcomes_of(*running)


async def somebody_waits(world: World) -> bool:
    """Whether a session waits for another one's lock."""
    return bool((await fetch(world, WAITING))[0][0])


async def changed(process: ProcessLease, lease: int) -> bool:
    """Whether a process has another lease."""
    return process.lease not in (0, lease)


async def dead_letter(world: World) -> int:
    """Publish an event that dies; its letter."""
    await world.publish(Told(line="a", n=1))
    await world.settle()
    (letter,) = await world.runtime.deadletters.list()
    return letter.dead_id


def letters_on(world: World, database: Any) -> DeadLetters:
    """The operations on dead letters, through another database."""
    return DeadLetters(database, world.runtime.node.clock.now_us, world.runtime.bells.ring_all)


def reaper_on(world: World, database: Any, release: Any) -> ProcessLease:
    """A process that works through another database; not started."""
    runtime = world.runtime
    return ProcessLease(
        runtime.node, database, "", release, lambda: None, orphaned=orphaned_leases, clock=runtime.clock
    )


async def nothing(_tx: Any, _events: Sequence[Any]) -> Sequence[Any]:
    """Handle nothing."""
    return ()
