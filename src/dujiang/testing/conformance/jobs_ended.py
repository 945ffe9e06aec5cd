"""Conformance of jobs, the second half: unique keys, cancelling, expiry, many at once, runs that were taken for dead."""

# No postponed annotations: the types of jobs and steps are read from their functions.
import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dujiang.app import App
from dujiang.jobs.job import Job
from dujiang.jobs.view import JobNotEnded
from dujiang.kernel.context import entered
from dujiang.kernel.tasks import all_of
from dujiang.messaging.tx import Tx
from dujiang.messaging.work import LeaseLost, release_lease
from dujiang.module import Module
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.jobs_desk import (
    CANCELLED,
    DONE,
    OUTCOMES,
    Asked,
    Desk,
    DeskSuite,
    NotToday,
    effects,
    look,
    note,
    returned,
)
from dujiang.testing.conformance.stage import Undone, fetch, until

if TYPE_CHECKING:
    from dujiang.testing.harness import World

MANY = 10_000


class EndedJobCases(DeskSuite):
    """How many jobs there are, and how they end."""

    @case("C46.keep")
    async def test_of_fifty_with_one_unique_key_there_is_one_job(self) -> None:
        """Fifty transactions at once make one; the others get that one. Once it has ended the key is free."""
        go = asyncio.Event()

        async def held(*_: Any) -> None:
            await go.wait()

        desk = Desk(held)
        async with self.at(desk) as world:

            async def one(tx: Tx) -> Any:
                return await tx.enqueue(desk.make, Asked(n=1), unique="order 7")

            refs = await all_of(*(world.runtime.transact(one) for _ in range(50)))
            assert len({ref.id for ref in refs}) == 1
            assert sum(ref.new for ref in refs) == 1
            go.set()
            await world.settle()
            again = await world.runtime.transact(one)
            await world.settle()

            assert again.new
            assert desk.runs == [(1, 1), (1, 1)]

    @case("C46.rollback")
    async def test_a_winner_that_rolls_back_leaves_the_key_to_others(self) -> None:
        """Of two that want a key at once the first is rolled back: the second has made a job."""
        desk = Desk()
        async with self.at(desk) as world:

            async def fails(tx: Tx) -> None:
                await tx.enqueue(desk.make, Asked(n=1), unique="k")
                raise Undone

            async def stays(tx: Tx) -> Any:
                return await tx.enqueue(desk.make, Asked(n=2), unique="k")

            async def failed() -> None:
                try:
                    await world.runtime.transact(fails)
                except Undone:
                    return

            await all_of(failed(), world.runtime.transact(stays), failed())
            await world.settle()

            assert desk.runs == [(2, 1)]

    @case("C51.waiting")
    async def test_a_waiting_job_is_cancelled_at_once(self) -> None:
        """It does not run, it is counted, and to cancel it twice is the same."""
        desk = Desk()
        async with self.at(desk) as world:

            async def later(tx: Tx) -> Any:
                return await tx.enqueue(desk.make, Asked(n=1), delay="1h")

            ref = await world.runtime.transact(later)
            address = f"/api/v1/jobs/{ref.id}"
            for _ in range(2):
                answer = await world.request("DELETE", address)
                assert (answer.status, answer.json["state"]) == (200, "cancelled")

            assert await fetch(world, OUTCOMES) == [(CANCELLED, 0)]
            assert await world.open_work() == (0, 0, 0)
            assert desk.runs == []

    @case("C51.running")
    async def test_a_cancelled_run_may_clean_up_and_commits_nothing_more(self) -> None:
        """It is cancelled where it waits; what it does after that, and what it returns, counts for nothing."""
        begun, lost = asyncio.Event(), []

        async def stubborn(job: Job, body: Asked) -> None:
            await job.transact(note, 1)
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.append("cancelled")
            if body.n == 2:
                return  # As if nothing had been said.
            raise asyncio.CancelledError

        for n in (1, 2):
            desk = Desk(stubborn)
            async with self.at(desk) as world:
                made = await world.run(desk.make, Asked(n=n))
                await begun.wait()
                answer = await world.request("DELETE", f"/api/v1/jobs/{made.job_id}")
                assert answer.json["cancelling"] or answer.json["state"] == "cancelled"
                await world.settle()
                found = await look(world, made.job_id)

                assert (found.state, found.result, found.attempt) == ("cancelled", None, 1)
            begun.clear()
        assert lost == ["cancelled", "cancelled"]

    @case("C51.deaf")
    async def test_a_run_that_does_not_listen_loses_its_claim(self) -> None:
        """After the grace it is cancelled for everybody; the transaction that it begins then is refused."""
        begun, go, refused = asyncio.Event(), asyncio.Event(), []

        async def deaf(job: Job, _: Asked) -> None:
            begun.set()
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue
            try:
                await job.transact(note, 1)
            except LeaseLost as error:
                refused.append(error.code)

        desk = Desk(deaf)
        async with self.at(desk) as world:
            made = await world.run(desk.make, Asked(n=1))
            await begun.wait()
            await world.request("DELETE", f"/api/v1/jobs/{made.job_id}")

            async def cancelled() -> bool:
                return (await look(world, made.job_id)).state == "cancelled"

            await until(world, cancelled, "its end")
            go.set()

            async def told() -> bool:
                return refused == ["lease_lost"]

            await until(world, told, "the refusal of its transaction")

            assert await effects(world) == []
            assert await fetch(world, OUTCOMES) == [(CANCELLED, 1)]

    @case("C51.failed")
    async def test_a_run_that_fails_while_it_is_cancelled_does_not_run_again(self) -> None:
        """Whatever it raises on its way out, it is cancelled."""
        begun = asyncio.Event()

        async def failing(*_: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("on the way out")

        desk = Desk(failing)
        async with self.at(desk) as world:
            made = await world.run(desk.make, Asked(n=1))
            await begun.wait()
            await world.request("DELETE", f"/api/v1/jobs/{made.job_id}")
            await world.settle()

            assert (await look(world, made.job_id)).state == "cancelled"
            assert desk.runs == [(1, 1)]

    @case("C51.unseen")
    async def test_a_result_that_comes_after_the_wish_to_cancel_is_none(self) -> None:
        """Nobody has told the run yet: it ends as if nothing had been said, and is cancelled all the same."""
        worlds: list[World] = []

        async def asked(job: Job, _: Asked) -> None:
            answer = await worlds[0].request("DELETE", f"/api/v1/jobs/{job.id}")
            assert answer.json["cancelling"]

        desk = Desk(asked)
        async with self.at(desk) as world:
            worlds.append(world)
            await world.runtime.jobs.stop()
            made = await world.run(desk.make, Asked(n=1))
            await world.settle()
            found = await look(world, made.job_id)

            assert (found.state, found.result) == ("cancelled", None)
            assert await fetch(world, OUTCOMES) == [(CANCELLED, 1)]

    @case("C52.wait")
    async def test_who_waits_for_a_job_learns_its_end(self) -> None:
        """`wait_for` gives the view of the end; when the time is over the job goes on, and the error says where it stands."""
        go = asyncio.Event()

        async def held(*_: Any) -> None:
            await go.wait()

        desk = Desk(held)
        async with self.at(desk) as world:

            async def one(tx: Tx) -> Any:
                return await tx.enqueue(desk.make, Asked(n=1))

            ref = await world.runtime.transact(one)
            with entered(world.runtime.context()):
                early: list[str] = []
                try:
                    await desk.app.wait_for(ref, within="50ms")
                except JobNotEnded as error:
                    early.append(error.state)
                assert early in (["ready"], ["running"])
                go.set()
                found = await desk.app.wait_for(ref, within="30s")

                assert (found.state, found.result) == ("done", {"n": 1, "by": 1})

    @case("C51.ended")
    async def test_what_has_ended_cannot_be_cancelled(self) -> None:
        """409 with the state; a dead one stays as it is, so that an operator can replay it."""

        async def refusing(_: Job, body: Asked) -> None:
            if body.n == 2:
                raise NotToday

        desk = Desk(refusing)
        async with self.at(desk) as world:
            made = [await world.run(desk.make, Asked(n=n)) for n in (1, 2)]
            await world.settle()
            answers = [await world.request("DELETE", f"/api/v1/jobs/{one.job_id}") for one in made]

            assert [(answer.status, answer.json["code"], answer.json["state"]) for answer in answers] == [
                (409, "job_ended", "done"),
                (409, "job_ended", "dead"),
            ]
            assert await fetch(world, "SELECT count(*) FROM dj_job WHERE cancel_us IS NOT NULL") == [(0,)]

    @case("C52.expiry")
    async def test_a_result_is_known_until_it_expires(self) -> None:
        """For as long as it is kept; then the job is unknown, and nothing of it is left."""
        clock = JumpClock()

        async def step(job: Job, _: Asked) -> None:
            await job.step("one", returned, 1)

        desk = Desk(step, keep="1h")
        async with self.at(desk, clock=clock) as world:
            made = await world.run(desk.make, Asked(n=1))
            await world.settle()
            assert await world.runtime.jobs.clean() == 0
            assert (await look(world, made.job_id)).state == "done"
            clock.jump(3601.0)

            assert await world.runtime.jobs.clean() == 1
            assert (await world.get(made.url)).status == 404
            assert await fetch(world, "SELECT (SELECT count(*) FROM dj_job), (SELECT count(*) FROM dj_step)") == [
                (0, 0)
            ]

    @case("C53.bulk")
    async def test_ten_thousand_are_made_together_or_not_at_all(self) -> None:
        """One transaction makes them all; one that is rolled back makes none."""
        desk = Desk()
        async with self.at(desk) as world:

            async def many(tx: Tx) -> Any:
                return await tx.enqueue_many(desk.make, [(Asked(n=n),) for n in range(MANY)], delay="1h")

            async def none(tx: Tx) -> None:
                await many(tx)
                raise Undone

            with suppress(Undone):
                await world.runtime.transact(none)
            assert await fetch(world, "SELECT count(*) FROM dj_job") == [(0,)]
            refs = await world.runtime.transact(many)

            assert len({ref.id for ref in refs}) == MANY
            counts = "SELECT (SELECT count(*) FROM dj_job), (SELECT count(*) FROM dj_ready)"
            assert await fetch(world, counts) == [(MANY, MANY)]

    @case("J4.fence")
    async def test_a_run_that_was_taken_for_dead_commits_nothing(self) -> None:
        """Its claim is somebody else's now: its transactions are refused, its result is not written; the other's is."""
        lost = []

        async def zombie(job: Job, _: Asked) -> None:
            if job.attempt == 1:
                assert job.claim is not None
                lease, now_us = job.claim.lease, job.now_us
                await held[0].runtime.database.write(lambda connection: release_lease(connection, lease, now_us))
                try:
                    await job.transact(note, 1)
                except LeaseLost:
                    lost.append("transaction")
                return
            await job.transact(note, 2)

        desk = Desk(zombie)
        held: list[World] = []
        async with self.at(desk) as world:
            held.append(world)
            made = await world.run(desk.make, Asked(n=1))
            await world.settle()

            assert (await look(world, made.job_id)).result == {"n": 1, "by": 2}
            assert (lost, await effects(world)) == (["transaction"], [2])
            assert await fetch(world, OUTCOMES) == [(DONE, 2)]

    @case("J4.retired")
    async def test_jobs_of_a_kind_that_is_gone_are_cancelled(self) -> None:
        """The next version has no such job and says so: what waited is cancelled, and its owner sees that."""
        desk = Desk()
        async with self.at(desk) as world:

            async def later(tx: Tx) -> Any:
                return await tx.enqueue(desk.make, Asked(n=1), delay="1h")

            ref = await world.runtime.transact(later)
        module = Module("other")

        @module.accept()
        async def rest(_: Job) -> None:
            return None

        gone = App(modules=[module], renamed={"desk.make": None})
        async with self.at(desk, app=gone) as world:
            assert (await look(world, ref.id)).state == "cancelled"
            assert await fetch(world, OUTCOMES) == [(CANCELLED, 0)]

    @case("J4.renamed")
    async def test_jobs_of_a_kind_that_was_renamed_run_under_its_new_name(self) -> None:
        """The next version calls the job otherwise and says so: what waited is done, with its result for its owner."""
        desk = Desk()
        async with self.at(desk) as world:

            async def later(tx: Tx) -> Any:
                return await tx.enqueue(desk.make, Asked(n=1), delay="1s")

            ref = await world.runtime.transact(later)
        module = Module("desk")

        @module.accept()
        async def build(_: Job, body: Asked) -> int:
            return body.n

        renamed = App(modules=[module], renamed={"desk.make": "desk.build"})
        async with self.at(desk, app=renamed) as world:

            async def done() -> bool:
                return (await look(world, ref.id)).state == "done"

            await until(world, done, "the job run under its new name")
