"""What an operator sees of jobs and does with them: the numbers of SQL, pages, ends, errors; no table read from end to end."""

# No postponed annotations: the types of jobs and steps are read from their functions.
import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dujiang import App, Job, Model, Module, Refusal, Retry, Tx
from dujiang.data.sql import Sql
from dujiang.jobs.operations import COUNTS, ID_MAX, LISTS, SHOW, STEPS, JobFilterRefused, JobMissing, JobStands
from dujiang.jobs.view import STATES
from dujiang.messaging.deadletter import DeadLetterUnknown
from dujiang.testing.harness import World, running
from dujiang.testing.servers import PostgresServer

OF_TABLES = Sql(
    "test_of_tables",
    """SELECT (SELECT count(*) FROM dj_job), (SELECT count(*) FROM dj_ready), (SELECT count(*) FROM dj_running),
              (SELECT count(*) FROM dj_dead), (SELECT count(*) FROM dj_job WHERE state = 1),
              (SELECT count(*) FROM dj_job WHERE state = 4), (SELECT count(*) FROM dj_job WHERE state = 5)""",
    "Counts jobs in another way.",
)
LARGE = 100_000


class Broken(Refusal):
    """What the jobs of these tests refuse with."""

    code = "broken"


class Asked(Model):
    """What a job is asked for."""

    n: int
    how: str = ""


class Made(Model):
    """What it returns."""

    text: str


async def planned(n: int) -> int:
    """A step."""
    return n


class Desk:
    """Two kinds of jobs, of which one runs one at a time and is held when asked."""

    def __init__(self) -> None:
        self.begun, self.go, self.mended = asyncio.Event(), asyncio.Event(), False
        module = Module("desk")

        @module.accept(concurrency=1, retry=Retry(attempts=1))
        async def make(job: Job, body: Asked) -> Made:
            await job.step("plan", planned, body.n)
            await job.progress(0.25, note=f"number {body.n}")
            if body.how == "hold":
                self.begun.set()
                await self.go.wait()
            if body.how == "break" and not self.mended:
                raise Broken("it is broken")
            return Made(text="x" * (LARGE if body.how == "large" else 1))

        @module.accept()
        async def count(job: Job, n: int) -> int:
            return n

        self.make, self.count = make, count
        self.app = App(modules=[module])

    async def ask(self, world: World, n: int, how: str = "", **terms: Any) -> int:
        """Enqueue one."""

        async def body(tx: Tx) -> int:
            return (await tx.enqueue(self.make, Asked(n=n, how=how), **terms)).id

        found: int = await world.runtime.transact(body)
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for all tests of this file."""
    with PostgresServer(fsync=False) as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store; empty text = an embedded store of the test's own."""
    return "" if request.param == "sqlite" else request.getfixturevalue("server").create_database()


@asynccontextmanager
async def busy(database: str) -> AsyncIterator[tuple[World, Desk, dict[str, list[int]]]]:
    """A copy with jobs in every state, and their ids by state, newest first."""
    desk = Desk()
    async with running(desk.app, database=database) as world:
        ids: dict[str, list[int]] = {"done": [await desk.ask(world, n) for n in (1, 2)]}
        ids["dead"] = [await desk.ask(world, 3, "break"), await desk.ask(world, 4, "break")]
        ids["expired"] = [await desk.ask(world, 5, delay="1us", deadline="2us")]
        await world.settle()
        letter = (await world.runtime.job_operations.show(ids["dead"][0]))["dead_letter"]
        await world.runtime.deadletters.discard(int(letter))
        ids["later"] = [await desk.ask(world, n, delay="1h") for n in (6, 7)]
        ids["cancelled"] = [await desk.ask(world, 8, delay="1h")]
        await world.runtime.job_operations.cancel(ids["cancelled"][0])
        ids["running"] = [await desk.ask(world, 9, "hold")]
        await desk.begun.wait()
        ids["ready"] = [await desk.ask(world, n) for n in (10, 11, 12)]
        yield world, desk, {state: found[::-1] for state, found in ids.items()}
        desk.go.set()
        await world.settle()


async def ids_of(world: World, **given: Any) -> list[int]:
    """The ids of every page, newest first."""
    found: list[int] = []
    page: dict[str, Any] = {"next": 0}
    while page["next"] is not None:
        page = await world.runtime.job_operations.list(before=int(page["next"]), **given)
        assert len(page["jobs"]) <= given.get("limit", 50)
        found += [int(each["id"]) for each in page["jobs"]]
        assert len(set(found)) == len(found), "a page begins where the one before did"
    return found


async def test_counts_and_lists_are_those_of_sql(database: str) -> None:
    """Every job is in one state, and in the list of that state; counts are what the tables say in another way."""
    async with busy(database) as (world, desk, ids):

        async def many(tx: Tx) -> None:
            await tx.enqueue_many(desk.count, [(n,) for n in range(5)], delay="1h")

        await world.runtime.transact(many)
        counts = await world.runtime.job_operations.counts()
        (of_tables,) = await world.runtime.database.read(lambda connection: connection.fetch(OF_TABLES))
        numbers = {(each["kind"], each["state"]): each["jobs"] for each in counts}

        assert numbers == {("desk.make", state): len(found) for state, found in ids.items()} | {
            ("desk.count", "later"): 5
        }
        by_state = {state: sum(n for (_, each), n in numbers.items() if each == state) for state in STATES}
        waiting = by_state["ready"] + by_state["later"]
        discarded = 1
        assert tuple(of_tables) == (
            sum(numbers.values()),
            waiting,
            by_state["running"],
            by_state["dead"] - discarded,
            by_state["done"],
            by_state["cancelled"],
            by_state["expired"],
        )
        assert set(ids) == set(STATES)
        for state, found in ids.items():
            assert await ids_of(world, name="desk.make", state=state, limit=1) == found, state
            lines = (await world.runtime.job_operations.list(state=state, name="desk.make"))["jobs"]
            assert {line["state"] for line in lines} == {state}
        every = sorted((job for found in ids.values() for job in found), reverse=True)
        assert await ids_of(world, name="desk.make", limit=4) == every
        assert len(await ids_of(world, limit=3)) == sum(numbers.values())
        assert len(await ids_of(world, state="later")) == len(ids["later"]) + 5


async def test_a_job_is_shown_whole_and_a_large_result_by_its_beginning(database: str) -> None:
    """Progress, note, steps, result, the dead letter and its text; who asked and until when it is kept."""
    async with busy(database) as (world, desk, ids):
        show = world.runtime.job_operations.show
        done, dead, runs = await show(ids["done"][0]), await show(ids["dead"][0]), await show(ids["running"][0])
        (letter,) = await world.runtime.deadletters.list()

        assert (done["state"], done["progress"], done["result"], done["attempt"]) == ("done", 1.0, {"text": "x"}, 1)
        assert done["steps"] == [{"name": "plan", "bytes": 1, "result": 2}]
        assert done["ended"] < done["kept_until"]
        assert (dead["state"], dead["error"], dead["dead_letter"]) == ("dead", "broken", str(letter.dead_id))
        assert "it is broken" in dead["why"]
        assert (runs["state"], runs["progress"], runs["note"]) == ("running", 0.25, "number 9")
        assert runs["process"]
        assert runs["ended"] is None
        later = await show(ids["later"][0])
        assert later["created"] < later["due"]
        desk.go.set()
        large = await desk.ask(world, 1, "large")
        await world.settle()
        found = await show(large)
        assert found["result_bytes"] == LARGE + len('{"text":""}')
        assert len(found["result"]) == 64 * 1024 + 3


async def test_cancelling_and_retrying_are_those_of_the_owner_and_of_the_dead_letter(database: str) -> None:
    """What waits is cancelled at once, what runs is asked to end, what is dead runs again; the rest is refused with why."""
    async with busy(database) as (world, desk, ids):
        jobs = world.runtime.job_operations
        assert (await jobs.cancel(ids["ready"][0]))["state"] == "cancelled"
        assert (await jobs.cancel(ids["ready"][0]))["state"] == "cancelled"
        for state in ("done", "dead", "expired"):
            with pytest.raises(JobStands, match=f"is {state}; it cannot be cancelled"):
                await jobs.cancel(ids[state][0])
        for state in ("done", "ready", "later", "running", "cancelled"):
            with pytest.raises(JobStands, match=r"it cannot be retried"):
                await jobs.retry(ids[state][1 if state == "ready" else 0])
        with pytest.raises(JobStands, match=r"is dead; it cannot be retried") as caught:
            await jobs.retry(ids["dead"][1])
        assert "its letter is gone" in caught.value.hint
        desk.mended = True
        assert (await jobs.retry(ids["dead"][0]))["state"] == "dead"
        found = await jobs.cancel(ids["running"][0])
        assert found["cancelling"] or found["state"] == "cancelled"
        await world.settle()

        assert (await jobs.show(ids["running"][0]))["state"] == "cancelled"
        again = await jobs.show(ids["dead"][0])
        assert (again["state"], again["dead_letter"], again["result"]) == ("done", None, {"text": "x"})
        assert await world.runtime.deadletters.list() == []


async def test_what_is_not_there_is_named(database: str) -> None:
    """An id, a state, a kind: each with the nearest that there is. Nothing is written by a refused wish."""
    async with busy(database) as (world, _, ids):
        jobs = world.runtime.job_operations
        for job_id in (5, ID_MAX, ID_MAX + 1):
            for ask in (jobs.show, jobs.cancel, jobs.retry):
                with pytest.raises(JobMissing, match=f"no job has the id {job_id}"):
                    await ask(job_id)
        with pytest.raises(JobFilterRefused, match="there is no state runing of jobs") as caught:
            await jobs.list(state="runing")
        assert caught.value.hint.startswith("did you mean 'running'?")
        with pytest.raises(JobFilterRefused, match=r"there is no kind desk\.mak of jobs") as caught:
            await jobs.list("desk.mak")
        assert caught.value.hint.startswith("did you mean 'desk.make'?")
        with pytest.raises(JobStands):
            await jobs.cancel(ids["dead"][0])
        wished = Sql("test_wished", "SELECT count(*) FROM dj_job WHERE cancel_us IS NOT NULL AND state = 0", "Looks.")
        assert await world.runtime.database.read(lambda connection: connection.fetch(wished)) == [(0,)]
        with pytest.raises(DeadLetterUnknown):
            await world.runtime.deadletters.replay(1)


async def test_operators_ask_over_http_and_nobody_else(database: str) -> None:
    """The same lists, pages, views and acts under /_dj/jobs; without the token 401, with a wrong state 422."""
    async with busy(database) as (world, _, ids):
        listed = (await world.operate("GET", "/_dj/jobs?name=desk.make&state=later&limit=1")).json
        assert [int(each["id"]) for each in listed["jobs"]] == ids["later"][:1]
        rest = (await world.operate("GET", f"/_dj/jobs?state=later&before={listed['next']}")).json
        assert ([int(each["id"]) for each in rest["jobs"]], rest["next"]) == (ids["later"][1:], None)
        counts = (await world.operate("GET", "/_dj/jobs/counts")).json
        assert counts == await world.runtime.job_operations.counts()
        shown = (await world.operate("GET", f"/_dj/jobs/{ids['done'][0]}")).json
        assert shown["result"] == {"text": "x"}
        cancelled = await world.operate("POST", f"/_dj/jobs/{ids['later'][0]}/cancel")
        assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
        assert (await world.operate("POST", f"/_dj/jobs/{ids['dead'][0]}/retry")).status == 200

        for path, status in (("/_dj/jobs?state=runing", 422), ("/_dj/jobs/5", 404), ("/_dj/jobs/5/cancel", 405)):
            assert (await world.operate("GET", path)).status == status, path
        assert (await world.operate("POST", f"/_dj/jobs/{ids['done'][0]}/cancel")).status == 409
        assert (await world.operate("GET", "/_dj/jobs?limit=²&before=x")).status == 200
        for method, path in (("GET", "/_dj/jobs"), ("POST", f"/_dj/jobs/{ids['ready'][0]}/cancel")):
            assert (await world.request(method, path)).status == 401


def args_of(sql: Sql) -> tuple[int, ...]:
    """Parameters for a statement of this file."""
    return tuple(range(1, len(set(re.findall(r"\$\d+", sql.text))) + 1))


@pytest.mark.parametrize("sql", [*LISTS.values(), COUNTS, SHOW, STEPS], ids=lambda sql: sql.name)
async def test_what_an_operator_asks_reads_no_table_of_messages_and_the_rest_by_index(sql: Sql, database: str) -> None:
    """Neither inbox, outbox nor outcomes; work and dead letters by index; dj_job from end to end for counts alone."""
    async with running(Desk().app, database=database) as world:
        postgres = bool(database)
        word = "EXPLAIN" if postgres else "EXPLAIN QUERY PLAN"

        async def look(connection: Any) -> str:
            if postgres:  # Tables this small are read whole, unless that is forbidden.
                for name in ("seqscan", "bitmapscan"):
                    await connection.fetch(Sql("test_set", f"SET LOCAL enable_{name} = off", "Forbids."))
            rows = await connection.fetch(Sql(f"test_{sql.name}", f"{word} {sql.text}", "Explains."), *args_of(sql))
            return "\n".join(str(row[-1]) for row in rows)

        plan = await world.runtime.database.write(look)

        assert not re.search("dj_inbox|dj_outbox|dj_outcome", plan), plan
        whole = re.findall(r"Seq Scan on (\w+)|SCAN (\w+)", plan)
        allowed = {"p", "a", "b", "c", "k", "dj_subscription", "(subquery-1)"} | (
            {"j", "dj_job"} if sql is COUNTS else set()
        )
        assert {name for pair in whole for name in pair if name} <= allowed, plan
        if sql is not COUNTS:
            assert not re.search(r"Seq Scan on dj_(job|ready|running|dead)", plan), plan
