"""Conformance of `Broker`, retries and delays: as often and as late as declared, never early, whatever restarts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dujiang.data.database import DatabaseUnreachable
from dujiang.kernel.errors import Overloaded
from dujiang.messaging.work import claim_free
from dujiang.resilience.retry import Retry, Snooze
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import Stage, StageSuite, Told, effects, fetch, until

if TYPE_CHECKING:
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

BASE_S, CAP_S, ATTEMPTS = 1.0, 3.0, 5


class RetryCases(StageSuite):
    """Retries and delays."""

    @case("C25")
    async def test_retries_come_as_often_and_as_late_as_declared(self) -> None:
        """Five attempts, each wait below its doubling ceiling, and no run before its time."""
        stage, clock = Stage(), JumpClock()
        stage.reaction(behave=fail, retry=Retry(attempts=ATTEMPTS, base=f"{BASE_S}s", cap=f"{CAP_S}s"))
        async with self.playing(stage, clock=clock) as world:
            await world.publish(Told(line="a", n=1))
            for attempt in range(1, ATTEMPTS):
                run_at = await failed(world, attempt)
                ceiling_us = int(min(CAP_S, BASE_S * 2 ** (attempt - 1)) * 1e6)

                assert stage.runs[-1].now_us <= run_at <= clock.now_us() + ceiling_us
                assert await early(world, run_at) == []
                clock.jump_to(run_at)
                world.runtime.bells.ring_all()
                await until(world, ran(stage, attempt + 1), f"run {attempt + 1}")
                assert stage.runs[-1].now_us >= run_at
            await world.settle()
            (letter,) = await world.runtime.deadletters.list()

            assert (len(stage.runs), letter.attempts, letter.reason) == (ATTEMPTS, ATTEMPTS, "attempts")

    @case("C26")
    async def test_a_delayed_retry_survives_the_restart_of_everything(self) -> None:
        """A retry that is due later waits for its time across a restart, and then comes."""
        stage, clock = Stage(), JumpClock()
        stage.reaction(behave=once(Overloaded(what="the other side", size=1, limit=0, retry_after_s=8.0)))
        async with self.playing(stage, clock=clock) as world:
            await world.publish(Told(line="a", n=1))
            run_at = await failed(world, 1)
        async with self.playing(stage, clock=clock) as world:
            assert await early(world, run_at) == []
            assert (await world.open_work())[1] == 1
            clock.jump_to(run_at)
            world.runtime.bells.ring_all()
            await world.settle()

            assert await effects(world) == [("a", 1)]
            assert stage.runs[-1].now_us >= run_at

    @case("C27")
    async def test_a_short_delay_overtakes_a_long_one(self) -> None:
        """Of two waiting retries the one that is due first runs first, whichever failed first."""
        stage, clock, failed_once = Stage(), JumpClock(), set[int]()

        async def delay(_: Tx, event: Told) -> None:
            if event.n not in failed_once:
                failed_once.add(event.n)
                raise Overloaded(what="the other side", size=1, limit=0, retry_after_s=float(event.n))

        stage.reaction(behave=delay)
        async with self.playing(stage, clock=clock) as world:
            await world.publish(Told(line="long", n=12), Told(line="short", n=5))
            await until(world, ran(stage, 2), "both failures")
            long_at, short_at = sorted([await due(world, "12"), await due(world, "5")], reverse=True)
            clock.jump_to(short_at)
            world.runtime.bells.ring_all()
            await until(world, ran(stage, 3), "the short one")
            clock.jump_to(long_at)
            world.runtime.bells.ring_all()
            await world.settle()

            assert [run.line for run in stage.runs[2:]] == ["short", "long"]

    @case("C28.1")
    async def test_what_fails_as_often_as_allowed_is_dead_once(self) -> None:
        """After the last attempt there is one dead letter, one outcome, and nothing left to do."""
        stage = Stage()
        stage.reaction(behave=fail, retry=Retry(attempts=3, base="1ms", cap="2ms"))
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=1))
            await world.settle()

            assert len(stage.runs) == 3
            assert [letter.attempts for letter in await world.runtime.deadletters.list()] == [3]
            assert await fetch(world, "SELECT state, attempts FROM dj_outcome") == [(2, 3)]

    @case("C28.2")
    async def test_what_is_too_old_is_not_tried_again(self) -> None:
        """A failure beyond the longest age is dead, whatever attempts are left."""
        stage, clock = Stage(), JumpClock()

        async def take_long(*_: Any) -> None:
            clock.jump(3.0)
            raise ValueError("slow and wrong")

        stage.reaction(behave=take_long, retry=Retry(attempts=50, base="1ms", cap="2ms", max_age="4s"))
        async with self.playing(stage, clock=clock) as world:
            await world.publish(Told(line="a", n=1))
            await world.settle()
            (letter,) = await world.runtime.deadletters.list()

            assert (letter.reason, letter.attempts) == ("age", 2)

    @case("C29")
    async def test_an_error_that_says_how_long_to_wait_is_heard(self) -> None:
        """`retry_after_s` of an error is the shortest wait, also beyond the declared cap."""
        stage, clock = Stage(), JumpClock()
        error = Overloaded(what="the other side", size=1, limit=0, retry_after_s=9.0)
        stage.reaction(behave=once(error), retry=Retry(attempts=3, base="1ms", cap="2ms"))
        async with self.playing(stage, clock=clock) as world:
            await world.publish(Told(line="a", n=1))
            run_at = await failed(world, 1)

            assert run_at >= stage.runs[0].now_us + 9_000_000

    @case("C29.snooze")
    async def test_a_snooze_comes_back_in_time_and_costs_no_attempt(self) -> None:
        """Put off more often than attempts are allowed, an event is handled in the end, never early; its writes were undone."""
        stage, clock, times = Stage(), JumpClock(), 3

        async def put_off(*_: Any) -> None:
            if len(stage.runs) <= times:
                raise Snooze("10s", "too early")

        stage.reaction(behave=put_off, ordered=True, retry=Retry(attempts=1))
        async with self.playing(stage, clock=clock) as world:
            await world.publish(Told(line="a", n=1), Told(line="a", n=2))
            for run in range(1, times + 1):
                await until(world, ran(stage, run), f"run {run}")
                run_at = await put_back(world)

                assert run_at - stage.runs[-1].now_us >= 10_000_000
                clock.jump_to(run_at)
                world.runtime.bells.ring_all()
            await world.settle()

            assert [run.n for run in stage.runs] == [1] * (times + 1) + [2]
            assert all(later.now_us - run.now_us >= 10_000_000 for run, later in pairwise(stage.runs[: times + 1]))
            assert await fetch(world, "SELECT state, attempts FROM dj_outcome") == [(1, 1)] * 2
            assert await effects(world) == [("a", 1), ("a", 2)]

    @case("C29.database")
    async def test_an_outage_of_the_database_costs_no_attempt(self) -> None:
        """With one attempt allowed, runs whose connection breaks are repeated until one gets through."""
        stage, broken = Stage(), 3

        async def cut(*_: Any) -> None:
            if len(stage.runs) <= broken:
                raise DatabaseUnreachable(url="ours", why="the connection broke")

        stage.reaction(behave=cut, retry=Retry(attempts=1, base="1ms"))
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=1))
            await world.settle()

            assert len(stage.runs) == broken + 1
            assert await effects(world) == [("a", 1)]
            assert await fetch(world, "SELECT state, attempts FROM dj_outcome") == [(1, 1)]

    @case("C29.age")
    async def test_a_snooze_is_bounded_by_age(self) -> None:
        """What is put off beyond its greatest age is dead, with that reason."""
        stage, clock = Stage(), JumpClock()

        async def put_off(*_: Any) -> None:
            clock.jump(3.0)
            raise Snooze("1ms")

        stage.reaction(behave=put_off, retry=Retry(attempts=1, max_age="4s"))
        async with self.playing(stage, clock=clock) as world:
            await world.publish(Told(line="a", n=1))
            await world.settle()
            (letter,) = await world.runtime.deadletters.list()

            assert (letter.reason, letter.attempts, len(stage.runs)) == ("age", 1, 2)


async def put_back(world: World) -> int:
    """Wait until the first event waits for its time with no attempt counted; when that is, microseconds."""
    found: list[tuple[Any, ...]] = []

    async def waits() -> bool:
        found[:] = await fetch(world, "SELECT run_at, attempt FROM dj_ready ORDER BY seq")
        return len(found) == 2 and not await fetch(world, "SELECT 1 FROM dj_running")

    await until(world, waits, "both events to wait")
    assert found[0][1] == 0
    return int(found[0][0])


async def fail(*_: Any) -> None:
    """Fails always."""
    raise ValueError("never")


def once(error: Exception) -> Any:
    """A behaviour that raises the first time."""
    left = [error]

    async def behave(*_: Any) -> None:
        if left:
            raise left.pop()

    return behave


def ran(stage: Stage, count: int) -> Any:
    """Whether so many runs have begun."""

    async def holds() -> bool:
        return len(stage.runs) >= count

    return holds


async def failed(world: World, attempt: int) -> int:
    """Wait until the only message waits for its next attempt; when that is due, microseconds."""
    found: list[tuple[Any, ...]] = []

    async def waits() -> bool:
        found[:] = await fetch(world, "SELECT run_at FROM dj_ready WHERE attempt = $1", attempt)
        return bool(found)

    await until(world, waits, f"attempt {attempt} to fail")
    return int(found[0][0])


async def due(world: World, seconds: str) -> int:
    """When the event that asked for this delay is due again."""
    found: list[tuple[Any, ...]] = []

    async def waits() -> bool:
        found[:] = await fetch(
            world,
            """SELECT r.run_at FROM dj_ready r JOIN dj_outbox o ON o.seq = r.seq
               WHERE r.attempt = 1 AND o.okey = $1""",
            "long" if seconds == "12" else "short",
        )
        return bool(found)

    await until(world, waits, "a delayed event")
    return int(found[0][0])


async def early(world: World, run_at: int) -> list[Any]:
    """What a claim just before this time would get."""
    runtime = world.runtime
    (consumer,) = runtime.consumers
    return list(await claim_free(runtime.database, consumer.sub_id, runtime.process.lease, run_at - 1, 10))
