"""Desk: the app of a job case: one job that behaves as the case says, and what it did."""

# No postponed annotations: the types of a job are read from its function when it is declared.
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dujiang.app import App
from dujiang.data.types import Model
from dujiang.jobs.job import Job
from dujiang.jobs.view import JobView, cancel_job, read_job
from dujiang.kernel.context import changed, entered
from dujiang.kernel.errors import Refusal
from dujiang.messaging.tx import Read, Tx
from dujiang.module import Module
from dujiang.testing.conformance.stage import ADD, ALL, QUICK, StageSuite, playing
from dujiang.testing.harness import World

if TYPE_CHECKING:
    from dujiang.accept import Accept

OUTCOMES = "SELECT state, attempts FROM dj_outcome ORDER BY seq, finished_us"
DONE, CANCELLED, EXPIRED = 1, 4, 5


class Asked(Model):
    """What a job of these cases is asked for."""

    n: int
    text: str = ""


class Made(Model):
    """What it returns."""

    n: int
    by: int


class NotToday(Refusal):
    """A refusal of these cases."""

    code = "not_today"


async def note(tx: Tx, n: int) -> None:
    """An effect."""
    await tx.fetch(ADD, "job", "a", n)


class Desk:
    """An app with one job whose behaviour a test says, and what it did.

    Attributes:
        runs: (n, attempt) of each run, in the order of their beginnings.
        make: The job.
        app: The app.
    """

    def __init__(self, behave: Callable[[Job, Asked], Awaitable[Any]] | None = None, **options: Any) -> None:
        self.runs: list[tuple[int, int]] = []
        module = Module("desk")
        options.setdefault("retry", QUICK)

        @module.accept("POST /make", **options)
        async def make(job: Job, body: Asked) -> Made:
            self.runs.append((body.n, job.attempt))
            if behave is not None:
                await behave(job, body)
            return Made(n=body.n, by=job.attempt)

        self.make: Accept[Asked, Made] = make
        self.app = App(modules=[module])


class DeskSuite(StageSuite):
    """Job cases."""

    @asynccontextmanager
    async def at(self, desk: Desk, **options: Any) -> AsyncIterator[World]:
        """A running copy of a desk's app on this test's store."""
        options.setdefault("broker", self.broker_url)
        options.setdefault("simulation", self.simulation)
        async with playing(options.pop("app", desk.app), self.url, self.folder, **options) as world:
            world.runtime.jobs.grace_s = 0.2
            yield world


async def returned(value: int) -> int:
    """A step."""
    return value


async def look(world: World, job_id: int, **context: str) -> JobView:
    """How a job stands."""
    runtime = world.runtime
    with entered(runtime.context().but(**context)):
        inside = runtime.context().but(**context)
        found: JobView = await runtime.database.read(
            lambda connection: read_job(Read(connection, runtime.database, inside), job_id)
        )
        return found


async def cancel(world: World, job_id: int, **context: str) -> JobView:
    """Cancel a job."""

    async def body(tx: Tx) -> JobView:
        with changed(**context):
            return await cancel_job(tx, job_id)

    found: JobView = await world.runtime.transact(body)
    return found


async def effects(world: World) -> list[int]:
    """The committed effects."""
    rows = await world.runtime.database.read(lambda connection: connection.fetch(ALL, "job"))
    return [row[1] for row in rows]
