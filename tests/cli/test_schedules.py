"""Schedules over processes that really die: no time is lost, none makes two jobs; and the command that operators have."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.processes import APP, Run, Site, Up, dujiang
from tests.cli.test_jobs import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from dujiang.testing.servers import PostgresServer

SOURCE = """
from dujiang import Job
from dujiang.data.sql import Sql

FIRES = Sql("desk_fires", "SELECT fire_us, state, job_id FROM dj_fire ORDER BY fire_us", "Reads the firings.")
JOBS = Sql("desk_jobs", "SELECT job_id FROM dj_job ORDER BY job_id", "Reads the jobs.")

@desk.every("1s", misfire="all", catch_up=1000)
async def tick(job: Job) -> str:
    return job.due.isoformat()

@desk.every("0 3 * * *", tz="Asia/Shanghai", overlap="skip")
async def nightly(job: Job) -> str:
    return job.due.isoformat()

@desk.read("GET /fires")
async def fires(db: Read) -> list[list[int | None]]:
    return [[row[0], row[1], row[2]] for row in await db.fetch(FIRES)]

@desk.read("GET /jobs")
async def jobs(db: Read) -> list[int]:
    return [row[0] for row in await db.fetch(JOBS)]
"""
SECOND_US = 1_000_000


def told(folder: Path, *words: str, **settings: str) -> Any:
    """What a command says as JSON."""
    ended = dujiang(folder, "schedules", *words, "--app", APP, "--json", **settings)
    assert ended.code == 0, ended.out + ended.err
    return json.loads(ended.out)


def judged(fires: list[list[int]], jobs: list[int]) -> None:
    """Every second from the first to the last has one job, and every job has its second."""
    times = [fire[0] for fire in fires]

    assert times == list(range(times[0], times[-1] + 1, SECOND_US))
    assert {fire[1] for fire in fires} == {1}
    assert sorted(fire[2] for fire in fires) == jobs


@pytest.mark.parametrize("point", ["schedule_fire_inserted:3", "before_commit:4", "after_commit:4"])
def test_a_process_that_dies_while_it_fires_loses_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    """Killed between the row of a time and the commit, and right behind the commit: the next process goes on."""
    Site(tmp_path).write(SOURCE)
    with Up(tmp_path, APP, instance="desk", crash_at=point) as up:
        up.ready()  # The point may come before it.
        assert up.wait() == -9
    with Up(tmp_path, APP, instance="desk").started() as up:
        left = len(up.request("GET", "/fires").json)
        eventually(lambda: len(up.request("GET", "/fires").json) > left + 2)
        told(tmp_path, "pause", "desk.tick")
        judged(up.request("GET", "/fires").json, up.request("GET", "/jobs").json)
        assert up.stop() == 0


def test_two_schedulers_share_the_times_and_one_goes_on_alone(postgres: PostgresServer, tmp_path: Path) -> None:
    """Two processes look at the same second; one is killed, and nothing is missing."""
    Site(tmp_path).write(SOURCE)
    database = postgres.create_database()
    with ExitStack() as stack:
        gateway = stack.enter_context(Run(tmp_path, "gateway", APP, database=database)).started()
        first, second = (
            stack.enter_context(Run(tmp_path, "scheduler", APP, instance=name, database=database)).started()
            for name in ("s1", "s2")
        )
        eventually(lambda: len(gateway.request("GET", "/fires").json) >= 3)
        first.kill()
        left = len(gateway.request("GET", "/fires").json)
        eventually(lambda: len(gateway.request("GET", "/fires").json) >= left + 3)
        told(tmp_path, "pause", "desk.tick", database=database)
        judged(gateway.request("GET", "/fires").json, gateway.request("GET", "/jobs").json)
        assert second.stop() == 0


def test_an_operator_looks_pauses_runs_and_backfills(store: dict[str, str], tmp_path: Path) -> None:
    """While the app runs, through its owner or in the store; a run by hand and a range are jobs within moments."""
    Site(tmp_path).write(SOURCE)
    with Up(tmp_path, APP, **store).started() as up:
        told(tmp_path, "pause", "desk.tick", **store)
        rows = {row["name"]: row for row in told(tmp_path, "list", **store)["schedules"]}
        asked = told(tmp_path, "run", "desk.nightly", **store)
        range_ = ("--from", "2026-01-01T00:00:00Z", "--until", "2026-01-03T23:00:00Z")
        counts = [told(tmp_path, "backfill", "desk.nightly", *range_, **store)["asked"] for _ in range(2)]

        def done() -> Any:
            found = told(tmp_path, "show", "desk.nightly", **store)
            return found if not found["wanted"] else None

        found = eventually(done)
        told(tmp_path, "resume", "desk.tick", **store)
        again = told(tmp_path, "show", "desk.tick", **store)
        refused = dujiang(tmp_path, "schedules", "show", "desk.other", "--app", APP, **store)
        wrong = dujiang(
            tmp_path, "schedules", "backfill", "desk.nightly", "--from", "x", "--until", "y", "--app", APP, **store
        )
        text = dujiang(tmp_path, "schedules", "list", "--app", APP, **store)
        assert up.stop() == 0

    assert rows["desk.tick"]["state"] == "paused"
    assert (rows["desk.nightly"]["when"], rows["desk.nightly"]["tz"]) == ("0 3 * * *", "Asia/Shanghai")
    assert rows["desk.nightly"]["next"].endswith("T19:00:00Z")
    assert counts == [3, 0]
    assert [(fire["due"], fire["how"], fire["state"]) for fire in found["fires"]] == [
        (asked["due"], "by hand", "fired"),
        ("2026-01-03T19:00:00Z", "backfill", "fired"),
        ("2026-01-02T19:00:00Z", "backfill", "fired"),
        ("2026-01-01T19:00:00Z", "backfill", "fired"),
    ]
    assert len(found["upcoming"]) == 5
    assert again["state"] == "on"
    assert "there is no schedule desk.other" in refused.err
    assert refused.code != 0
    assert "'x' is no such time" in wrong.err
    assert "desk.nightly  0 3 * * *" in text.out


def test_a_schedule_without_its_role_is_refused_where_one_process_works(tmp_path: Path) -> None:
    """On the embedded store nobody else could fire it."""
    Site(tmp_path).write(SOURCE)

    ended = dujiang(tmp_path, "run", "gateway,relay,worker", APP)

    assert ended.code != 0
    assert "one_process" in ended.err


def test_what_cannot_be_declared_is_refused_at_import(tmp_path: Path) -> None:
    """A pattern that never fires, in the words of whoever wrote it, with the cure."""
    Site(tmp_path).write(SOURCE.replace("0 3 * * *", "0 0 31 2 *"))

    ended = dujiang(tmp_path, "routes", APP)

    assert ended.code != 0
    assert "never fires" in ended.err
    assert "correct day, month or weekday" in ended.err
