"""Schedules over days in which the processes that fire them die again and again: each minute makes one job."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from dujiang import App, Job, Module
from dujiang.drill.drilling import quiet
from dujiang.drill.escape import CHANCE, sealed
from dujiang.drill.run import warmed
from dujiang.drill.tape import Plan, Tape
from dujiang.drill.template import cluster_of
from dujiang.drill.timetable import begun, timed
from dujiang.drill.world import RESTART_AFTER_S

if TYPE_CHECKING:
    import asyncio

    from dujiang.drill.machine import Machine
    from dujiang.drill.world import World

MINUTE_US = 60_000_000
STEPS_MAX_PER_HOUR = 2_000_000
MACHINES: dict[str, tuple[str, ...]] = {f"scheduler{number}": ("scheduler",) for number in range(1, 9)} | {
    "back": ("gateway", "relay", "worker")
}
FIRED = "SELECT fire_us, state, job_id FROM dj_fire WHERE how < 2 ORDER BY fire_us"
JOBS = "SELECT count(*) FROM dj_job"
# Of each step that a scheduler takes, so that most deaths fall between its statements; and of everything else.
RATES = {"firing": 0.015, "elsewhere": 0.00005}


def minutely() -> App:
    """An app that does something every minute; what was missed is made up for."""
    clock = Module("clock")

    @clock.every("* * * * *", misfire="all", keep="60d")
    async def strike(job: Job) -> None:
        """Nothing: what counts is that it was made."""

    return App(modules=[clock])


def deadly(world: World) -> None:
    """Let machines die at random steps of their tasks."""

    def watch(machine: Machine, task: asyncio.Task[object]) -> bool:
        label = "firing" if task.get_name() == "scheduler" else "elsewhere"
        form = world.tape.draw(f"{label}.{machine.name}", len(RESTART_AFTER_S))
        if not form:
            return True
        world.kill(machine, again_s=RESTART_AFTER_S[form - 1])
        return False

    world.loop.watch = watch


@pytest.mark.parametrize(
    ("hours", "kills"),
    [
        pytest.param(50, 500, marks=pytest.mark.proof),
        pytest.param(1000, 10_000, marks=pytest.mark.soak),
    ],
)
def test_every_minute_fires_once_while_eight_schedulers_die(hours: int, kills: int) -> None:
    """Virtual time; at each death the machine stands where it was, its connections break, and another incarnation comes."""
    with quiet(), sealed():
        cluster = cluster_of(minutely(), MACHINES)
        try:
            world = warmed(cluster)
            world.loop.steps_max = STEPS_MAX_PER_HOUR * hours
            found: list[str] = []

            async def live() -> None:
                await begun(world, going=True)
                CHANCE.seed("minutes")
                world.tape = Tape("minutes", Plan(rates=RATES))
                world.tape.on = True
                deadly(world)
                await world.loop.pause(hours * 3600.0)
                world.loop.watch = None
                world.heal()
                await world.settled(120.0)
                found.extend([each.said async for each in timed(world)])

            world.loop.run_until_complete(live())
            fires = world.store.rows(FIRED)
            jobs = world.store.rows(JOBS)[0][0]
            world.close()
        finally:
            shutil.rmtree(cluster.folder, ignore_errors=True)

    times = [at_us for at_us, _, _ in fires]
    assert found == []
    assert world.crashes == []
    assert world.kills >= kills
    assert times == list(range(times[0], times[-1] + 1, MINUTE_US))
    assert len(times) in (hours * 60, hours * 60 + 1, hours * 60 + 2)
    assert len({job_id for _, _, job_id in fires}) == len(fires)
    # One more is the time that `begun` may ask for beside them.
    assert jobs - len(fires) in (0, 1)
