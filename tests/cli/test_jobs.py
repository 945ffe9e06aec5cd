"""Jobs over processes that really die: a 202 is kept, the job runs again, what its steps have done stays done."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from tests.cli.processes import APP, Run, Site, Up, dujiang

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dujiang.testing.servers import PostgresServer

DONE = {"0001": "op.execute('CREATE TABLE desk_done (n BIGINT PRIMARY KEY)')"}
SOURCE = """
import asyncio, os, signal
from pathlib import Path
from dujiang import Job, Model, Refusal
from dujiang.data.sql import Sql

ADD = Sql("desk_add", "INSERT INTO desk_done (n) VALUES ($1) RETURNING 1", "Notes an effect.")
ALL = Sql("desk_all", "SELECT n FROM desk_done ORDER BY n", "Reads the effects.")

class Wanted(Model):
    n: int
    how: str = "wait"

class Made(Model):
    n: int
    attempt: int

async def plan(n: int) -> int:
    with open("planned.txt", "a") as file:
        print(n, file=file)
    return n

async def add(tx: Tx, n: int) -> None:
    await tx.fetch(ADD, n)

@desk.accept("POST /make")
async def make(job: Job, body: Wanted) -> Made:
    if body.how == "break" and not Path("mended.txt").exists():
        raise Refusal("it is broken")
    if body.how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    n = await job.step("plan", plan, body.n)
    await job.step("add", add, n)
    Path(f"began-{job.attempt}.txt").touch()
    while not Path("go.txt").exists():
        await asyncio.sleep(0.01)
    return Made(n=n, attempt=job.attempt)

@desk.read("GET /done")
async def done(db: Read) -> list[int]:
    return [row[0] for row in await db.fetch(ALL)]
"""


def eventually(holds: Callable[[], Any], within_s: float = 60.0) -> Any:
    """The first true answer of `holds`; each question goes to another process and takes its time."""
    until_s = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < until_s, "it did not come to hold"
    return found


def ended(up: Up, address: str) -> dict[str, Any]:
    """The view of a job at its end."""

    def look() -> Any:
        found = up.request("GET", address).json
        return found if found["state"] not in ("ready", "running", "later") else None

    return dict(eventually(look))


def test_a_job_survives_the_death_of_its_process(tmp_path: Path) -> None:
    """Killed in the middle of a run: the next process runs it again, and the steps that had ended are not repeated."""
    Site(tmp_path, DONE).write(SOURCE)
    with Up(tmp_path, APP, instance="desk").started() as up:
        answer = up.request("POST", "/make", {"n": 7}, idempotency_key="once")
        eventually((tmp_path / "began-1.txt").exists)
        up.kill()
    (tmp_path / "go.txt").touch()
    with Up(tmp_path, APP, instance="desk").started() as up:
        again = up.request("POST", "/make", {"n": 7}, idempotency_key="once")
        found = ended(up, answer.headers["location"])
        done = up.request("GET", "/done").json
        assert up.stop() == 0

    assert (answer.status, again.body) == (202, answer.body)
    assert (found["state"], found["result"], found["attempt"]) == ("done", {"n": 7, "attempt": 2}, 2)
    assert (tmp_path / "planned.txt").read_text() == "7\n"
    assert done == [7]


def test_gateway_and_worker_are_processes_of_their_own(postgres: PostgresServer, tmp_path: Path) -> None:
    """A gateway accepts before the first worker is there and cancels what runs elsewhere; a killed worker's job moves on."""
    Site(tmp_path, DONE).write(SOURCE)
    database = postgres.create_database()
    with Run(tmp_path, "gateway", APP, database=database).started() as gateway:
        first, second = (gateway.request("POST", "/make", {"n": n}).headers["location"] for n in (1, 2))
        assert gateway.request("GET", first).json["state"] == "ready"
        with Run(tmp_path, "worker", APP, instance="w", database=database).started() as worker:
            eventually(lambda: gateway.request("GET", "/done").json == [1, 2])
            assert gateway.request("GET", first).json["state"] == "running"
            assert gateway.request("DELETE", first).json["cancelling"]
            cancelled = ended(gateway, first)
            worker.kill()
        (tmp_path / "go.txt").touch()
        with Run(tmp_path, "worker", APP, instance="w", database=database).started() as worker:
            found = ended(gateway, second)
            assert worker.stop() == 0
        assert gateway.stop() == 0

    assert (cancelled["state"], cancelled["result"]) == ("cancelled", None)
    assert (found["state"], found["result"]) == ("done", {"n": 2, "attempt": 2})
    assert sorted((tmp_path / "planned.txt").read_text().split()) == ["1", "2"]


def test_a_job_that_kills_its_process_becomes_a_dead_letter(tmp_path: Path) -> None:
    """Two processes die of it, then one of its own; its owner sees why, and the other job is done."""
    Site(tmp_path, DONE).write(SOURCE)
    (tmp_path / "go.txt").touch()
    addresses: list[str] = []
    views: list[dict[str, Any]] = []
    until_s = time.monotonic() + 120.0
    while time.monotonic() < until_s:
        with Up(tmp_path, APP, instance="desk") as up:
            if not up.ready():
                continue
            try:
                for how, key in (("wait", "a"), ("kill", "b")):
                    answer = up.request("POST", "/make", {"n": 3, "how": how}, idempotency_key=key)
                    addresses.append(answer.headers["location"])
                views = [ended(up, address) for address in addresses[-2:]]
            except OSError:
                up.wait()
                continue
            assert up.stop() == 0
            break

    assert len(set(addresses)) == 2
    assert [(view["state"], view["error"]) for view in views] == [("done", None), ("dead", "crash_loop")]


def test_jobs_are_seen_and_taken_on_by_the_command(tmp_path: Path) -> None:
    """Through the process that owns the store, and in the store itself when nobody does."""
    Site(tmp_path, DONE).write(SOURCE)

    def run(*words: str) -> Any:
        ended = dujiang(tmp_path, "jobs", *words, "--app", APP)
        assert ended.code == 0, ended.err
        return ended.out

    def refused(*words: str) -> str:
        ended = dujiang(tmp_path, "jobs", *words, "--app", APP)
        assert ended.code == 65, ended.err
        return str(ended.err)

    with Up(tmp_path, APP, instance="desk").started() as up:
        broken = up.request("POST", "/make", {"n": 1, "how": "break"}).headers["location"].rpartition("/")[2]
        eventually(lambda: json.loads(run("show", broken, "--json"))["state"] == "dead")
        held = up.request("POST", "/make", {"n": 2}).headers["location"].rpartition("/")[2]
        eventually((tmp_path / "began-1.txt").exists)
        page = json.loads(run("list", "--limit", "1", "--json"))
        assert ([each["id"] for each in page["jobs"]], page["next"]) == ([held], held)
        page = json.loads(run("list", "--limit", "1", "--before", page["next"], "--state", "dead", "--json"))
        assert [(each["id"], each["error"], page["next"]) for each in page["jobs"]] == [(broken, "refused", None)]
        assert run("cancel", held).strip() == f"asked to end: {held}"
        eventually(lambda: json.loads(run("show", held, "--json"))["state"] == "cancelled")
        assert "did you mean 'running'?" in refused("list", "--state", "runing")
        assert up.stop() == 0
    counted = json.loads(run("--json"))["counts"]
    assert {each["state"]: each["jobs"] for each in counted} == {"cancelled": 1, "dead": 1}
    assert run().split()[-8:] == ["desk.make", "0", "0", "0", "0", "1", "1", "0"]
    assert "it is broken" in run("show", broken)
    assert "no job has the id 5" in refused("cancel", "5")
    assert f"job {held} is cancelled; it cannot be retried" in refused("retry", held)
    assert "it cannot be cancelled" in refused("cancel", broken)
    assert run("retry", broken).strip() == f"retried {broken}"
    (tmp_path / "mended.txt").touch()
    (tmp_path / "go.txt").touch()
    with Up(tmp_path, APP, instance="desk").started() as up:
        assert ended(up, f"/api/v1/jobs/{broken}")["state"] == "done"
        assert up.stop() == 0
    assert broken in run("list", "--state", "done", "--name", "desk.make")
