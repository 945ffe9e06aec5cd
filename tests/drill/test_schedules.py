"""Schedules in a drill: a sound one passes kills at every await; a firing that is lost, doubled or repeated is found."""

from collections.abc import Awaitable, Callable

from sqlalchemy import func, insert, select

from dujiang import App, Job, Module, Read, Tx
from dujiang.drill.run import Scenario
from tests.drill import apps
from tests.drill.drilled import searched, violated

ONCE = "a time has one entry"
STORM = Scenario(clients=2, operations=2, faults_s=8.0)


async def add(tx: Tx, pot: str) -> None:
    """The effect; a second one of the same time breaks the law."""
    await tx.execute(insert(apps.entry).values(entry_id=tx.new_id(), pot=pot, amount=1))


async def by_a_step(job: Job, name: str) -> None:
    """The effect and its memory in one transaction."""
    await job.step("add", add, f"{name} {job.due:%H:%M:%S}")


async def by_a_transaction(job: Job, name: str) -> None:
    """The effect in every run."""
    await job.transact(add, f"{name} {job.due:%H:%M:%S}")
    await job.transact(add, f"other {job.id}")


def app_of(effect: Callable[[Job, str], Awaitable[None]]) -> App:
    """An app with a schedule of seconds and one of a night."""
    tally = Module("tally", tables=apps.metadata, migrations="tests.drill.migrations", seed=apps.seed)

    @tally.every("2s", misfire="all")
    async def tick(job: Job) -> None:
        await effect(job, "tick")

    @tally.every("0 3 * * *", tz="Asia/Shanghai")
    async def nightly(job: Job) -> None:
        await effect(job, "nightly")

    @tally.write("POST /api/v1/pots")
    async def touch(tx: Tx) -> None:
        await add(tx, f"touched {tx.new_id()}")

    @tally.invariant(ONCE)
    async def once(db: Read) -> list[tuple[str, int]]:
        count = func.count(apps.entry.c.entry_id)
        found = await db.execute(select(apps.entry.c.pot, count).group_by(apps.entry.c.pot).having(count > 1))
        return [(row[0], row[1]) for row in found.all()]

    return App(modules=[tally])


def test_a_schedule_whose_effect_is_a_step_is_sound() -> None:
    """Machines die while times fall due: each time has one entry, and none is missing."""
    search = searched(app_of(by_a_step), seeds=10)

    assert violated(search) == set()


def test_a_schedule_whose_effect_every_run_repeats_is_found() -> None:
    """A run that is killed behind its effect has it again: the user's own law says so."""
    search = searched(app_of(by_a_transaction), seeds=20)

    assert violated(search) == {ONCE}
