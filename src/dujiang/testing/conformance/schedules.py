"""Conformance of schedules: each time makes one job, whoever is there; what is missed follows its rule; operators are obeyed."""

# No postponed annotations: the types of a job are read from its function when it is declared.
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from dujiang.app import App
from dujiang.jobs.job import Job
from dujiang.jobs.schedules import BackfillRefused, ScheduleUnknown
from dujiang.kernel.clock import microseconds
from dujiang.module import Module
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import QUICK, StageSuite, fetch, playing, until
from dujiang.testing.harness import World

if TYPE_CHECKING:
    from dujiang.jobs.schedule import Schedule

HOUR_S = 3600.0
STEP_S = 8.0
HOUR_US = 3_600_000_000
FIRED_STATE, PASSED_STATE = 1, 2
NAME = "clock.strike"
FIRED = "SELECT fire_us, how, state FROM dj_fire ORDER BY fire_us"
JOBS = "SELECT count(*) FROM dj_job"


class Clockwork:
    """An app with one scheduled job, and what it did.

    Attributes:
        runs: The time of each run, microseconds, in the order of their beginnings.
        before: The time before it.
        app: The app.
        schedule: As declared.
    """

    def __init__(
        self,
        when: str = "1h",
        behave: Callable[[Job], Awaitable[Any]] | None = None,
        *,
        name: str = "strike",
        renamed: dict[str, str | None] | None = None,
        **options: Any,
    ) -> None:
        self.runs: list[int] = []
        self.before: list[int | None] = []
        module = Module("clock")
        options.setdefault("retry", QUICK)

        @module.every(when, name=name, **options)
        async def strike(job: Job) -> None:
            self.runs.append(microseconds(job.due))
            self.before.append(None if job.due_before is None else microseconds(job.due_before))
            if behave is not None:
                await behave(job)

        assert strike.schedule is not None
        self.schedule: Schedule = strike.schedule
        self.app = App(modules=[module], renamed=renamed)


async def refused(work: Awaitable[Any], kind: type[Exception]) -> bool:
    """Whether something raises such an error."""
    try:
        await work
    except kind:
        return True
    return False


class ScheduleCases(StageSuite):
    """Schedules."""

    @asynccontextmanager
    async def ticking(self, work: Clockwork, clock: JumpClock, **options: Any) -> AsyncIterator[World]:
        """A running copy of a clockwork's app on this test's store."""
        options.setdefault("broker", self.broker_url)
        options.setdefault("simulation", self.simulation)
        async with playing(work.app, self.url, self.folder, clock, **options) as world:
            yield world

    async def pass_by(self, clock: JumpClock, seconds: float, *worlds: World) -> None:
        """Let time pass, tell the schedulers, and return when everything that became due is done."""
        clock.jump(seconds)
        for world in worlds:
            world.runtime.bells.ring("schedules")
        for world in worlds:
            await self.all_fired(world)

    async def next_one(self, work: Clockwork, clock: JumpClock, world: World) -> None:
        """Let the next time come, and return when it is done."""
        now_us = world.runtime.node.clock.now_us()
        await self.pass_by(clock, (work.schedule.after(now_us) - now_us) / 1e6 + 1.0, world)

    async def all_fired(self, world: World) -> None:
        """Return when nothing is due or wanted, and no job is left."""
        now_us = world.runtime.node.clock.now_us()
        due = f"SELECT 1 FROM dj_schedule WHERE paused_us IS NULL AND next_us <= {now_us}"

        async def nothing() -> bool:
            return not await fetch(world, f"{due} UNION ALL SELECT 1 FROM dj_fire WHERE state = 0")

        await until(world, nothing, "every time fired", within_s=60.0)
        await world.settle(within_s=60.0)

    @case("C55.once")
    async def test_a_time_makes_one_job_however_many_processes_find_it(self) -> None:
        """Three copies wake at the same times, ten times over: each time fires once, and tells the one before it."""
        work, clock = Clockwork(), JumpClock()
        async with AsyncExitStack() as stack:
            worlds = [await stack.enter_async_context(self.ticking(work, clock)) for _ in range(3)]
            begun_us = worlds[0].runtime.node.clock.now_us()
            for _ in range(10):
                await self.pass_by(clock, HOUR_S, *worlds)
            due = list(work.schedule.times(begun_us, worlds[0].runtime.node.clock.now_us()))

            assert len(due) >= 10
            assert sorted(work.runs) == due
            assert sorted(each for each in work.before if each) == due[:-1]
            assert await fetch(worlds[0], JOBS) == [(len(due),)]
            assert await worlds[0].violations() == []

    async def found_late(self, misfire: Any, hours: float) -> tuple[list[int], list[int]]:
        """What fires when nobody was there for some hours, and the five latest times of them."""
        work, clock = Clockwork(misfire=misfire), JumpClock()
        async with self.ticking(work, clock) as world:
            await self.next_one(work, clock, world)
            assert len(work.runs) == 1
        clock.jump(hours * HOUR_S)
        async with self.ticking(work, clock) as world:
            await self.all_fired(world)
            found = list(work.runs[1:])
            latest = work.schedule.latest(5, 0, world.runtime.node.clock.now_us())
            await self.next_one(work, clock, world)
            assert work.runs[len(found) + 1 :] == [latest[-1] + HOUR_US]
            assert await world.violations() == []
        return found, latest

    @case("C56.once")
    async def test_of_what_was_missed_the_latest_fires(self) -> None:
        """Five hours without a process: one run, for the last of them; from then on every hour again."""
        found, latest = await self.found_late("once", 5.5)

        assert found == latest[-1:]

    @case("C56.all")
    async def test_everything_that_was_missed_fires(self) -> None:
        """The same with the rule `all`: five runs."""
        found, latest = await self.found_late("all", 5.5)

        assert sorted(found) == latest

    @case("C56.skip")
    async def test_nothing_that_was_missed_fires(self) -> None:
        """The same with the rule `skip`: none."""
        found, _ = await self.found_late("skip", 5.5)

        assert found == []

    @case("C56.overlap.allow")
    async def test_runs_may_meet(self) -> None:
        """A run that has not ended stands in nobody's way."""
        met, ran, states = await self.meeting("allow")

        assert met >= 2
        assert states == [FIRED_STATE] * ran

    @case("C56.overlap.skip")
    async def test_a_time_is_passed_over_while_a_run_has_not_ended(self) -> None:
        """The second time is written down as passed over, and makes no job."""
        met, ran, states = await self.meeting("skip")

        assert (met, ran) == (1, 1)
        assert states == [FIRED_STATE, *[PASSED_STATE] * (len(states) - 1)]

    @case("C56.overlap.queue")
    async def test_a_run_waits_for_the_one_before_it(self) -> None:
        """Both are made, and the second begins when the first has ended."""
        met, ran, states = await self.meeting("queue")

        assert met == 1
        assert states == [FIRED_STATE] * ran

    @case("C56.overlap.cancel")
    async def test_a_run_is_ended_by_the_next(self) -> None:
        """The first is cancelled where it waits; the second runs to its end."""
        ended: list[str] = []
        go = asyncio.Event()

        async def held(_: Job) -> None:
            try:
                await go.wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        work, clock = Clockwork("20s", behave=held, overlap="cancel_running"), JumpClock()
        async with self.ticking(work, clock) as world:
            await self.begun(work, clock, world, 1)
            await self.begun(work, clock, world, 2)
            await world.runtime.schedules.pause(NAME)
            go.set()
            await world.settle()
            states = [state for (state,) in await fetch(world, "SELECT state FROM dj_job ORDER BY job_id")]

            assert ended[0] == "cancelled"
            assert states[-1] == 1
            assert set(states[:-1]) == {4}

    async def meeting(self, overlap: Any) -> tuple[int, int, list[int]]:
        """Times that come while a run does not end: how many have begun before it may, how many ran, and the firings' states."""
        go = asyncio.Event()

        async def held(_: Job) -> None:
            await go.wait()

        work, clock = Clockwork("20s", behave=held, overlap=overlap), JumpClock()
        async with self.ticking(work, clock) as world:
            await self.begun(work, clock, world, 1)
            await self.stride(clock, world, 20.0)
            world.runtime.bells.ring("schedules")

            async def both() -> bool:
                return len(await fetch(world, FIRED)) >= 2

            await until(world, both, "the second time dealt with", within_s=60.0)
            await world.runtime.schedules.pause(NAME)
            if overlap == "allow":
                await self.runs(work, world, 2)
            met = len(work.runs)
            go.set()
            await world.settle()
            return met, len(work.runs), [state for _, _, state in await fetch(world, FIRED)]

    async def begun(self, work: Clockwork, clock: JumpClock, world: World, count: int) -> None:
        """Let the next time come, and return when so many runs have begun."""
        now_us = world.runtime.node.clock.now_us()
        await self.stride(clock, world, (work.schedule.after(now_us) - now_us) / 1e6 + 1.0)
        world.runtime.bells.ring("schedules")
        await self.runs(work, world, count)

    async def stride(self, clock: JumpClock, world: World, seconds: float) -> None:
        """Let time pass in steps that the lease of the process outlives, so that its runs go on."""
        while seconds > 0:
            clock.jump(min(STEP_S, seconds))
            seconds -= STEP_S

            async def renewed() -> bool:
                now_us, lease = world.runtime.node.clock.now_us(), world.runtime.process.lease
                rows = await fetch(world, "SELECT expires_us FROM dj_process WHERE lease = $1", lease)
                return bool(rows and rows[0][0] > now_us + 11_000_000)

            await until(world, renewed, "the lease renewed", within_s=60.0)

    async def runs(self, work: Clockwork, world: World, count: int) -> None:
        """Return when so many runs have begun."""

        async def there() -> bool:
            return len(work.runs) >= count

        await until(world, there, f"{count} runs begun", within_s=60.0)

    @case("C56.jitter")
    async def test_a_job_begins_later_by_what_its_name_says(self) -> None:
        """The time fires on time; its job waits for its part of the jitter, and knows the time that it is for."""
        work, clock = Clockwork(jitter="30m"), JumpClock()
        delay_us = work.schedule.delay_us(NAME)
        async with self.ticking(work, clock) as world:
            now_us = world.runtime.node.clock.now_us()
            due_us = work.schedule.after(now_us)
            await self.pass_by(clock, (due_us - now_us) / 1e6 + 0.01, world)
            waiting = await fetch(world, "SELECT run_at FROM dj_ready")
            await self.pass_by(clock, delay_us / 1e6, world)

            assert 0 < delay_us < HOUR_US // 2
            assert waiting == [(due_us + delay_us,)]
            assert work.runs == [due_us]

    @case("C56.pause")
    async def test_nothing_fires_while_it_is_paused_and_nothing_is_made_up_for(self) -> None:
        """Three hours of pause, then one hour more: one run. By hand it runs all the same."""
        work, clock = Clockwork(misfire="all"), JumpClock()
        async with self.ticking(work, clock) as world:
            desk = world.runtime.schedules
            await desk.pause(NAME)
            await self.pass_by(clock, 3 * HOUR_S, world)
            assert (work.runs, (await desk.show(NAME))["state"]) == ([], "paused")
            asked_us = await desk.run(NAME)
            await self.all_fired(world)
            assert work.runs == [asked_us]
            await desk.resume(NAME)
            resumed_us = world.runtime.node.clock.now_us()
            await self.pass_by(clock, HOUR_S, world)

            assert work.runs[1:] == [work.schedule.after(resumed_us)]

    @case("C56.backfill")
    async def test_a_range_is_made_up_for_once(self) -> None:
        """Asked twice, and with a time in it that has fired: each time of the range is one job."""
        work, clock = Clockwork(), JumpClock()
        async with self.ticking(work, clock) as world:
            desk = world.runtime.schedules
            await self.pass_by(clock, HOUR_S, world)
            (fired_us,) = work.runs
            asked = [await desk.backfill(NAME, fired_us - 5 * HOUR_US, fired_us) for _ in range(2)]
            await self.all_fired(world)

            assert asked == [5, 0]
            assert sorted(work.runs) == [fired_us - HOUR_US * n for n in range(5, -1, -1)]
            assert await world.violations() == []
            for first_us, until_us in ((fired_us, fired_us - 1), (fired_us, fired_us + HOUR_US), (0, fired_us)):
                assert await refused(desk.backfill(NAME, first_us, until_us), BackfillRefused)
            assert await refused(desk.show("clock.other"), ScheduleUnknown)

    @case("C56.edit")
    async def test_a_new_text_counts_at_once_and_an_old_process_leaves_it_alone(self) -> None:
        """A deploy: the new version's text counts from its start; the old one that restarts beside it changes nothing."""
        old, new, clock = Clockwork("1h"), Clockwork("20m", misfire="all"), JumpClock()
        async with self.ticking(old, clock) as first:
            await self.pass_by(clock, HOUR_S, first)
            async with self.ticking(new, clock) as second:
                shown = await second.runtime.schedules.show(NAME)
                assert (shown["when"], shown["rev"]) == ("20m", 2)
                begun_us = second.runtime.node.clock.now_us()
                async with self.ticking(old, clock):
                    assert (await second.runtime.schedules.show(NAME))["rev"] == 2
                await self.pass_by(clock, HOUR_S, first, second)
                due = list(new.schedule.times(begun_us, second.runtime.node.clock.now_us()))

                assert sorted(old.runs[1:] + new.runs) == due
                assert (await second.runtime.schedules.show(NAME))["rev"] == 2

    @case("C56.back")
    async def test_an_old_text_counts_again_when_nobody_says_the_new_one(self) -> None:
        """A deploy that was taken back: the old version alone takes its schedule up within two minutes."""
        old, new, clock = Clockwork("1h"), Clockwork("20m"), JumpClock()
        async with self.ticking(old, clock):
            pass
        async with self.ticking(new, clock):
            pass
        async with self.ticking(old, clock) as world:
            assert (await world.runtime.schedules.show(NAME))["rev"] == 2

            async def taken_up() -> bool:
                clock.jump(30.0)
                world.runtime.bells.ring("schedules")
                return bool((await world.runtime.schedules.show(NAME))["when"] == "1h")

            await until(world, taken_up, "the old text", within_s=60.0)

            assert (await world.runtime.schedules.show(NAME))["rev"] == 3

    @case("C56.renamed")
    async def test_a_new_name_goes_on_and_one_that_is_gone_fires_no_more(self) -> None:
        """The row is that of the kind of jobs: renamed with it, and silent when it is given up."""
        work, clock = Clockwork(), JumpClock()
        async with self.ticking(work, clock) as world:
            await self.pass_by(clock, HOUR_S, world)
        other = Clockwork(name="chime", renamed={NAME: "clock.chime"})
        async with self.ticking(other, clock) as world:
            (row,) = await world.runtime.schedules.list()
            assert (row["name"], row["rev"], row["last"] is None) == ("clock.chime", 1, False)
            await self.pass_by(clock, HOUR_S, world)
            assert (len(work.runs), len(other.runs)) == (1, 1)
        silent = Clockwork(name="knell", renamed={"clock.chime": None})
        async with self.ticking(silent, clock) as world:
            assert [row["name"] for row in await world.runtime.schedules.list()] == ["clock.knell"]
            await self.pass_by(clock, HOUR_S, world)
            assert (len(other.runs), len(silent.runs)) == (1, 1)
            assert await world.violations() == []

    @case("C55.undone")
    async def test_a_transaction_that_does_not_commit_has_fired_nothing(self) -> None:
        """What fires fails behind the row of the time: nothing is left of it, and the next look finds the time due."""
        work, clock = Clockwork(), JumpClock()
        async with self.ticking(work, clock) as world:
            scheduler: Any = world.runtime.scheduler
            make, failed = scheduler._make, list[Any]()

            async def fails(*args: Any) -> None:
                if not failed:
                    failed.append(await fetch(world, "SELECT count(*) FROM dj_fire"))
                    raise OSError("the machine goes down")
                await make(*args)

            scheduler._make = fails
            await self.pass_by(clock, HOUR_S, world)

            assert failed == [[(0,)]]
            assert len(work.runs) == 1
            assert await fetch(world, JOBS) == [(1,)]
