"""Jobs in a drill: a sound one passes kills at every await; one whose effect is not tied to its run is found."""

import shutil
from collections.abc import Awaitable, Callable
from typing import Annotated

import pytest
from pydantic import Field
from sqlalchemy import func, insert, select

from dujiang import App, Id, Job, Model, Module, Read, Refusal, Tx, sleep
from dujiang.drill.drilling import SWEEP, quiet
from dujiang.drill.escape import sealed
from dujiang.drill.run import Scenario
from dujiang.drill.search import Search
from dujiang.drill.template import cluster_of
from dujiang.drill.workload import Workload
from tests.drill import apps
from tests.drill.drilled import searched, violated

ONCE = "a job has one entry"
STORM = Scenario(clients=3, operations=3, faults_s=3.0)


class Letter(Model):
    """What is asked for."""

    amount: Annotated[int, Field(ge=1, le=5)]


class Closed(Refusal):
    """Nobody is there."""

    code = "closed"


async def add(tx: Tx, job_id: int, amount: int) -> None:
    """The effect; a second one of the same job breaks the law."""
    await tx.execute(insert(apps.entry).values(entry_id=tx.new_id(), pot=str(job_id), amount=amount))


async def by_a_step(job: Job, amount: int) -> None:
    """The effect and its memory in one transaction."""
    await job.step("add", add, job.id, amount)


async def by_a_transaction(job: Job, amount: int) -> None:
    """The effect in every run."""
    await job.transact(add, job.id, amount)


def app_of(effect: Callable[[Job, int], Awaitable[None]]) -> App:
    """An app with a job that has its effect in this way."""
    tally = Module("tally", tables=apps.metadata, migrations="tests.drill.migrations", seed=apps.seed)

    @tally.accept("POST /api/v1/letters")
    async def send(job: Job, body: Letter) -> Id:
        await effect(job, body.amount)
        await job.progress(0.5, note="half")
        await sleep(0.1)
        if body.amount == 5:
            raise Closed("not today")
        return job.id

    @tally.invariant(ONCE)
    async def once(db: Read) -> list[tuple[str, int]]:
        count = func.count(apps.entry.c.entry_id)
        found = await db.execute(select(apps.entry.c.pot, count).group_by(apps.entry.c.pot).having(count > 1))
        return [(row[0], row[1]) for row in found.all()]

    return App(modules=[tally])


def test_a_job_whose_effect_is_a_step_is_sound() -> None:
    """Killed, cancelled, refused and asked for twice: each job has one entry, and every one of them ends."""
    search = searched(app_of(by_a_step), seeds=6)

    assert violated(search) == set()


def test_a_job_whose_effect_every_run_repeats_is_found() -> None:
    """A run that is killed behind its effect has it again: the user's own law says so."""
    search = searched(app_of(by_a_transaction), seeds=12)

    assert violated(search) == {ONCE}


@pytest.mark.parametrize("kind", ["write", "accept"])
def test_what_only_the_app_can_start_is_drilled_as_an_operation(kind: str) -> None:
    """It has no route and nothing leads to it: the drill runs it as `app.run` does, asks again, and finds it sound."""
    tally = Module("tally", tables=apps.metadata, migrations="tests.drill.migrations", seed=apps.seed)
    if kind == "write":

        @tally.write()
        async def count(tx: Tx, body: Letter) -> Id:
            entry_id = tx.new_id()
            await add(tx, entry_id, body.amount)
            return entry_id
    else:

        @tally.accept()
        async def count_later(job: Job, body: Letter) -> Id:
            await job.step("add", add, job.id, body.amount)
            return job.id

    app = App(modules=[tally])
    with quiet(), sealed():
        cluster = cluster_of(app)
        try:
            search = Search(cluster, Workload(app), width=2)
            search.count(SWEEP)
        finally:
            shutil.rmtree(cluster.folder, ignore_errors=True)

    assert violated(search) == set()
