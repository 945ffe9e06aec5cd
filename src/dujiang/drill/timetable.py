"""Timetable: schedules in a drill: when they fire, and whether each of their times made one job.

    warmed      all are paused: what is compared with a calm run must not depend on how long a run takes
    a run       `random`: they go on, so times fall due while machines die; `sweep`: they stay paused
                in both somebody asks for one past time of each that would not come by itself
    judged      nothing is overdue, no time is missing, none has made two jobs; then all are paused again

A time may be missing only where its rule gives it up: it was found more than a minute late. That is seen from the next one
that fired, because a process that finds it has found every time before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.drill.violation import Violation
from dujiang.jobs.schedule import BACKFILL, MISSED_US, Schedule
from dujiang.jobs.schedules import FIRED, OWNER, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from dujiang.app.runtime import Runtime
    from dujiang.drill.world import World

__all__ = ["begun", "granted", "silenced", "timed"]

SOON_US = 15_000_000
OVERDUE_US = 5_000_000
TIMES_MAX = 10_000
GRANTED_S = 60.0
KEPT_S_MIN = 3600.0

SCHEDULES = """SELECT s.name, d.schedule_id, d.spec, d.since_us, d.next_us, d.last_us FROM dj_schedule d
  JOIN dj_subscription s ON s.sub_id = d.schedule_id WHERE s.active = 1 ORDER BY s.name"""
ASKED = "SELECT 1 FROM dj_fire WHERE state = 0"
OVERDUE = (
    "SELECT 1 FROM dj_schedule WHERE paused_us IS NULL AND next_us < ?1 UNION ALL SELECT 1 FROM dj_fire WHERE state = 0"
)
FIRES = f"SELECT fire_us, made_us FROM dj_fire WHERE schedule_id = ?1 AND how < {BACKFILL} ORDER BY fire_us"
TWICE = """SELECT s.name, j.job_id FROM dj_job j JOIN dj_subscription s ON s.sub_id = j.sub_id
  WHERE j.owner = ?1 AND NOT EXISTS (SELECT 1 FROM dj_fire f WHERE f.job_id = j.job_id) ORDER BY j.job_id LIMIT 5"""
JOBLESS = """SELECT s.name, f.fire_us FROM dj_fire f JOIN dj_subscription s ON s.sub_id = f.schedule_id
  WHERE f.state = ?1 AND NOT EXISTS (SELECT 1 FROM dj_job j WHERE j.job_id = f.job_id) ORDER BY f.fire_us LIMIT 5"""


def declared(world: World) -> dict[str, Any]:
    """The jobs of the clock, by name."""
    verbs = world.cluster.app.verbs()
    return {verb.name: verb for verb in verbs if getattr(verb, "schedule", None) is not None}


async def silenced(world: World) -> None:
    """Pause every schedule."""
    for name in declared(world):

        async def pause(runtime: Runtime, name: str = name) -> None:
            await runtime.schedules.pause(name)

        await world.on_any(pause, "pause")


async def begun(world: World, *, going: bool) -> None:
    """Let schedules go on, unless the run is compared with a calm one; ask for a time of those that would not come."""
    for name in declared(world):

        async def set_going(runtime: Runtime, name: str = name) -> None:
            if going:
                await runtime.schedules.resume(name)
            schedule: Schedule = declared(world)[name].schedule
            now_us = runtime.node.clock.now_us()
            if not going or schedule.after(now_us) > now_us + SOON_US:
                (at_us,) = past(schedule, now_us)
                await runtime.schedules.backfill(name, at_us, at_us)

        await world.on_any(set_going, "schedule")


def past(schedule: Schedule, now_us: int) -> list[int]:
    """The last time of a schedule; it may lie years back."""
    return schedule.latest(1, 0, now_us)


async def granted(world: World) -> None:
    """Wait until what was asked for is done, so that its steps are places for a crash; in a calm run that is soon."""
    if not declared(world):
        return
    until = world.loop.now + GRANTED_S
    while world.store.rows(ASKED) and world.loop.now < until:
        await world.loop.pause(0.1)
    await world.settled(GRANTED_S)


async def timed(world: World) -> AsyncIterator[Violation]:
    """What does not hold of schedules; afterwards they are paused, and what they have made is done."""
    if not declared(world):
        return
    until = world.loop.now + 60.0
    while world.store.rows(OVERDUE, (world.now_us() - OVERDUE_US,)):
        if world.loop.now > until:
            yield Violation("nothing-stuck", "a time of a schedule has come, and a minute later nobody has fired it")
            break
        await world.loop.pause(0.5)
    await silenced(world)
    await world.settled(60.0)
    for each in judged(world):
        yield each


def judged(world: World) -> Iterator[Violation]:
    """Times without a job, and times with two."""
    for name, job_id in world.store.rows(TWICE, (OWNER,)):
        yield Violation("fired-once", f"{name}: the clock has made job {job_id} for a time that has another job")
    if all(verb.keep_s >= KEPT_S_MIN for verb in declared(world).values()):
        for name, at_us in world.store.rows(JOBLESS, (FIRED,)):
            yield Violation("fired-once", f"{name}: the time {shown(at_us)} has fired, and its job is not there")
    for name, number, spec, since_us, _, last_us in world.store.rows(SCHEDULES):
        schedule = Schedule.read(spec)
        fires = dict(world.store.rows(FIRES, (number,)))
        if schedule.misfire == "skip" or last_us is None or len(fires) > TIMES_MAX:
            continue
        for at_us in schedule.times(since_us + 1, last_us):
            found_us = next((made_us for fire_us, made_us in fires.items() if fire_us > at_us), at_us)
            rest = 1 if schedule.misfire == "once" else schedule.catch_up
            given_up = found_us - at_us > MISSED_US and len(list(schedule.times(at_us, found_us))) > rest
            if at_us not in fires and not given_up:
                yield Violation("fired-once", f"{name}: a time has come that fired no job: {shown(at_us)}")
                break
