"""Conformance of jobs: accepted with the transaction, run at least once, ended once, fenced.

They use the work tables of every broker and none of its queues, so that they mean the same beside each of them.
"""

# No postponed annotations: the types of jobs and steps are read from their functions.
import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from dujiang.jobs.job import Job
from dujiang.jobs.view import JobUnknown
from dujiang.kernel.clock import instant
from dujiang.kernel.context import entered, sleep
from dujiang.messaging.tx import Tx
from dujiang.resilience.retry import Retry, Snooze
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.jobs_desk import (
    DONE,
    EXPIRED,
    OUTCOMES,
    Asked,
    Desk,
    DeskSuite,
    NotToday,
    cancel,
    effects,
    look,
    note,
)
from dujiang.testing.conformance.stage import Undone, fetch, until


class JobCases(DeskSuite):
    """Jobs."""

    @case("J1.accepted")
    async def test_a_202_is_a_job_whose_address_tells_how_it_stands(self) -> None:
        """202 with a location; what is there goes from ready to done and has the result."""
        go = asyncio.Event()

        async def held(job: Job, _: Asked) -> None:
            await job.progress(0.25, note="begun")
            await go.wait()

        desk = Desk(held)
        async with self.at(desk) as world:
            answer = await world.post("/make", {"n": 7})
            assert (answer.status, answer.json["state"]) == (202, "ready")
            location = answer.headers["location"]
            assert location == f"/api/v1/jobs/{answer.json['job_id']}" == answer.json["url"]

            async def begun() -> bool:
                found = (await world.get(location)).json
                return (found["state"], found["progress"], found["note"]) == ("running", 0.25, "begun")

            await until(world, begun, "progress")
            go.set()
            await world.settle()
            found = (await world.get(location)).json

            assert (found["state"], found["progress"], found["attempt"]) == ("done", 1.0, 1)
            assert found["result"] == {"n": 7, "by": 1}
            assert await fetch(world, OUTCOMES) == [(DONE, 1)]

    @case("J1.key")
    async def test_a_key_makes_one_job(self) -> None:
        """The same request under a key is answered with the same bytes and makes no second job; another one is refused."""
        desk = Desk()
        async with self.at(desk) as world:
            answers = [await world.post("/make", {"n": 1}, key="k") for _ in range(3)]
            other = await world.post("/make", {"n": 2}, key="k")
            await world.settle()

            assert len({answer.body for answer in answers}) == 1
            assert {answer.headers["location"] for answer in answers} == {answers[0].json["url"]}
            assert answers[1].headers["idempotent-replayed"] == "true"
            assert (other.status, desk.runs) == (422, [(1, 1)])

    @case("J1.transaction")
    async def test_a_job_exists_if_and_only_if_its_transaction_commits(self) -> None:
        """What is rolled back, or undone to a savepoint, made no job."""
        desk = Desk()

        async def three(tx: Tx) -> None:
            await tx.enqueue(desk.make, Asked(n=1))
            with suppress(Undone):
                async with tx.savepoint():
                    await tx.enqueue(desk.make, Asked(n=2))
                    raise Undone
            await tx.enqueue(desk.make, Asked(n=3))

        async def none(tx: Tx) -> None:
            await tx.enqueue(desk.make, Asked(n=4))
            raise Undone

        async with self.at(desk) as world:
            await world.runtime.transact(three)
            with suppress(Undone):
                await world.runtime.transact(none)
            await world.settle()

            assert sorted(desk.runs) == [(1, 1), (3, 1)]
            assert await fetch(world, "SELECT count(*) FROM dj_job") == [(2,)]

    @case("J1.owner")
    async def test_a_job_is_seen_by_who_asked_for_it(self) -> None:
        """For another tenant, and another principal, there is no such job, neither to see nor to cancel."""
        desk = Desk()
        async with self.at(desk) as world:
            with entered(world.runtime.context().but(tenant="a", caller="ann")):
                made = await world.run(desk.make, Asked(n=1), key="k")
            await world.settle()

            assert (await look(world, made.job_id, tenant="a", caller="ann")).state == "done"
            for tenant, caller in (("a", "bob"), ("b", "ann"), ("", "")):
                for way in (look, cancel):
                    try:
                        await way(world, made.job_id, tenant=tenant, caller=caller)
                    except JobUnknown:
                        continue
                    raise AssertionError((tenant, caller, way))
            assert (await world.get(f"/api/v1/jobs/{made.job_id}")).json["code"] == "job_unknown"
            assert (await world.get("/api/v1/jobs/abc")).status == 422

    @case("J2.retry")
    async def test_a_failure_is_tried_again_and_its_steps_are_not(self) -> None:
        """A run that fails behind a step begins anew, and the step gives what it gave."""
        counted: list[str] = []

        async def count(word: str) -> str:
            counted.append(word)
            return word

        async def both(tx: Tx, n: int) -> int:
            await note(tx, n)
            return n

        async def failing(job: Job, body: Asked) -> None:
            assert await job.step("one", count, "first") == "first"
            assert await job.step("two", both, body.n) == body.n
            if job.attempt < 3:
                raise OSError("not yet")

        desk = Desk(failing)
        async with self.at(desk) as world:
            made = await world.run(desk.make, Asked(n=5))
            await world.settle()

            assert (await look(world, made.job_id)).result == {"n": 5, "by": 3}
            assert desk.runs == [(5, 1), (5, 2), (5, 3)]
            assert counted == ["first"]
            assert await effects(world) == [5]

    @case("J2.refused")
    async def test_a_refusal_is_dead_with_its_code_and_can_be_played_again(self) -> None:
        """It is not tried again; an operator replays it, and then it may succeed; or discards it, which is its end."""
        refuse = [True]

        async def refusing(*_: Any) -> None:
            if refuse[0]:
                raise NotToday("we are closed")

        desk = Desk(refusing)
        async with self.at(desk) as world:
            made = [await world.run(desk.make, Asked(n=n)) for n in range(2)]
            await world.settle()

            for one in made:
                found = await look(world, one.job_id)
                assert (found.state, found.error, found.attempt) == ("dead", "not_today", 1)
            refuse[0] = False
            letters = await world.runtime.deadletters.list()
            assert sorted(letter.payload for letter in letters) == [
                b'{"body":{"n":0,"text":""}}',
                b'{"body":{"n":1,"text":""}}',
            ]
            first = next(letter for letter in letters if b'"n":0' in letter.payload)
            await world.runtime.deadletters.replay(first.dead_id)
            await world.runtime.deadletters.discard(next(one for one in letters if one is not first).dead_id)
            await world.settle()

            assert (await look(world, made[0].job_id)).state == "done"
            found = await look(world, made[1].job_id)
            assert (found.state, found.error) == ("dead", None)

    @case("C29.job")
    async def test_a_job_that_snoozes_loses_no_try(self) -> None:
        """With one try it may put itself off twice, and is done by that one."""
        snoozed: list[int] = []

        async def later(job: Job, _: Asked) -> None:
            if len(snoozed) < 2:
                snoozed.append(job.attempt)
                raise Snooze("1ms")

        desk = Desk(later, retry=Retry(attempts=1))
        async with self.at(desk) as world:
            made = await world.run(desk.make, Asked(n=1))
            await world.settle()

            assert (await look(world, made.job_id)).state == "done"
            assert snoozed == [1, 1]

    @case("J2.snooze")
    async def test_a_step_that_was_done_before_the_job_put_itself_off_is_not_repeated(self) -> None:
        """The run counts as none, and what it has done is remembered all the same."""
        counted: list[str] = []

        async def count(word: str) -> str:
            counted.append(word)
            return word

        async def later(job: Job, body: Asked) -> None:
            await job.step("one", count, "first")
            await job.step("two", note_once, body.n)
            if not put_off:
                put_off.append(job.attempt)
                raise Snooze("1ms")

        async def note_once(tx: Tx, n: int) -> int:
            await note(tx, n)
            return n

        put_off: list[int] = []
        desk = Desk(later)
        async with self.at(desk) as world:
            made = await world.run(desk.make, Asked(n=5))
            await world.settle()

            assert (await look(world, made.job_id)).state == "done"
            assert put_off == [1]
            assert counted == ["first"]
            assert await effects(world) == [5]

    @case("C25.job")
    async def test_a_delayed_job_is_never_early(self) -> None:
        """Until its time it is `later`; then it runs, by the delay or by the time."""
        clock, desk = JumpClock(), Desk()
        async with self.at(desk, clock=clock) as world:
            now = instant(world.runtime.node.clock.now_us())

            async def two(tx: Tx) -> list[Any]:
                first = await tx.enqueue(desk.make, Asked(n=1), delay="1h")
                return [first, await tx.enqueue(desk.make, Asked(n=2), run_at=now + timedelta(hours=2))]

            refs = await world.runtime.transact(two)
            found = [await look(world, ref.id) for ref in refs]
            assert [one.state for one in found] == ["later", "later"]
            assert found[1].run_at == now + timedelta(hours=2)
            assert desk.runs == []
            clock.jump(3601.0)

            async def first() -> bool:
                return desk.runs == [(1, 1)]

            await until(world, first, "the first of them")
            await world.settle()  # A run that is just ending would be taken for one that takes hours.
            assert (await look(world, refs[1].id)).state == "later"
            clock.jump(3600.0)
            await world.settle()

            assert desk.runs == [(1, 1), (2, 1)]

    @case("J5.ahead")
    async def test_no_job_waits_behind_another_in_a_process(self) -> None:
        """With two runners busy the third job lies in the store, where any process could take it."""
        go = asyncio.Event()

        async def held(*_: Any) -> None:
            await go.wait()

        desk = Desk(held, concurrency=2)
        async with self.at(desk) as world:
            for n in range(3):
                await world.run(desk.make, Asked(n=n))

            async def two() -> bool:
                return len(desk.runs) == 2

            await until(world, two, "two runs")
            for _ in range(20):  # As often as a fetch that would take the third one has looked.
                await world.runtime.jobs.look()
                assert (await world.open_work())[1:] == (1, 2)
            go.set()
            await world.settle()

            assert len(desk.runs) == 3

    @case("C47.limit")
    async def test_a_limit_holds_and_is_used_in_full(self) -> None:
        """Of 30 jobs with a limit of 3 at most 3 run at once, and 3 do, wherever the store has room for two processes too."""
        running, most = [0], [0]

        async def counting(_job: Job, _body: Asked) -> None:
            running[0] += 1
            most[0] = max(most[0], running[0])
            for _ in range(5):
                await sleep(0.001)
            running[0] -= 1

        desk = Desk(counting, limit=3)
        async with self.at(desk) as world:

            async def many(tx: Tx) -> None:
                await tx.enqueue_many(desk.make, [(Asked(n=n),) for n in range(30)])

            await world.runtime.transact(many)
            if world.runtime.database.capabilities.many_writers:
                async with self.at(desk):
                    await world.settle()
            await world.settle()

            assert len(desk.runs) == 30
            assert most == [3]

    @case("J3.deadline")
    async def test_after_its_deadline_a_job_is_expired(self) -> None:
        """One that did not begin in time is not run, one that runs into it is ended; both are counted as expired."""
        clock = JumpClock()

        async def endless(_: Job, body: Asked) -> None:
            if body.n == 2:
                await asyncio.Event().wait()

        desk = Desk(endless)
        async with self.at(desk, clock=clock) as world:

            async def late(tx: Tx) -> Any:
                return await tx.enqueue(desk.make, Asked(n=1), delay="1h", deadline="2h")

            async def running(tx: Tx) -> Any:
                return await tx.enqueue(desk.make, Asked(n=2), deadline="50ms")

            second = await world.runtime.transact(running)
            await world.settle()
            first = await world.runtime.transact(late)
            clock.jump(3 * 3600.0)
            await world.settle()

            assert [(await look(world, ref.id)).state for ref in (first, second)] == ["expired", "expired"]
            assert (1, 1) not in desk.runs
            assert sorted(state for state, _ in await fetch(world, OUTCOMES)) == [EXPIRED, EXPIRED]
