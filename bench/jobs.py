"""Claim: jobs that do nothing are enqueued, drained and picked up fast, on PostgreSQL and on SQLite, fsync on.

    bulk          2,000 jobs per second of --seconds, 1,000 in one transaction, no worker: jobs per second of enqueuing
    single        500 per second of --seconds, each by a commit of its own, sixteen at once, no worker
    drained       all of these, by one worker process: from the first job that ran to the last
    end to end    as many as `single`, the worker running: from the first enqueue to the last run
    pickup, idle  one at a time to a waiting worker, from just before the enqueue, so its commit is included

    ours          `tx.enqueue`, `tx.enqueue_many`; the worker is `dujiang up`, and with it running the jobs come over HTTP
    peers         procrastinate on PostgreSQL; huey on SQLite with synchronous=FULL, which has no bulk form

The work differs. Ours keeps the end of a job for a day and what remains of it in one transaction with its effect;
procrastinate deletes what is done, and huey takes a job out before it runs it, so that a crash loses what ran.

    python -m bench.jobs
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # Run as a file: this folder's `http.py` must not hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from bench.environments import BENCH, ROOT, home, python_of
from bench.ours.command import up
from bench.peers.marks import Mark, read
from bench.postgres import Postgres, postgres
from bench.processes import Command, SideFailed, free_port, log_tail, running, slug, wait_answer
from bench.runner import Claim, Measured, Side, main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.runner import Checks, Options

IDLE_COUNT = 60
IDLE_GAP_S = 0.05
BULK_PER_S, SINGLE_PER_S = 2000, 500  # Jobs per second of --seconds.
HANDLED_S_MAX = 90.0

OPEN = "SELECT (SELECT count(*) FROM dj_ready) + (SELECT count(*) FROM dj_running) + (SELECT count(*) FROM dj_dead)"


class Store(Protocol):
    """Where a side keeps its jobs."""

    def fresh(self, name: str) -> str:
        """A new, empty store; its URL or path."""

    def value(self, query: str, name: str) -> int:
        """The first column of the first row."""

    def drop(self, name: str) -> None:
        """Remove it."""

    def durable(self, checks: Checks) -> None:
        """State that nothing weakens a commit."""


@dataclass(frozen=True)
class OnPostgres:
    """A database of a private server."""

    server: Postgres

    def fresh(self, name: str) -> str:
        """A new database."""
        return self.server.fresh(name)

    def value(self, query: str, name: str) -> int:
        """Ask it."""
        return int(self.server.value(query, database=name))

    def drop(self, name: str) -> None:
        """Drop it."""
        self.server.drop(name)

    def durable(self, checks: Checks) -> None:
        """What the server says."""
        self.server.durable_facts(checks)


@dataclass(frozen=True)
class OnSqlite:
    """A file in a folder of its own. That it is synced is what each side says of itself: no file tells."""

    def fresh(self, name: str) -> str:
        """The path of a file that is not there yet."""
        self.drop(name)
        folder = home() / "data" / name
        folder.mkdir(parents=True)
        return str(folder / "jobs.db")

    def value(self, query: str, name: str) -> int:
        """Ask it; nobody else has it open then."""
        with contextlib.closing(sqlite3.connect(home() / "data" / name / "jobs.db", timeout=10)) as connection:
            return int(connection.execute(query).fetchone()[0])

    def drop(self, name: str) -> None:
        """Remove the folder."""
        shutil.rmtree(home() / "data" / name, ignore_errors=True)

    def durable(self, checks: Checks) -> None:
        """Nothing that could be asked from outside."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """One competitor on a fresh store.

    Args:
        name: Of its figures.
        store: Where.
        command: From the store and the words `prepare`, `work`, `bulk FIRST COUNT`, `single FIRST COUNT` or
            `send FIRST COUNT GAP_S` to a command; `bulk` and `single` print {"seconds": ...}, and on a file what their
            session's `synchronous` is.
        remaining: A query: how many jobs are not done.
        seconds: Sizes the parts.
        bulk: Whether it can enqueue many at once.
        wait_ready: Returns when the worker takes jobs over HTTP; a peer's sender needs no worker.
    """

    name: str
    store: Store
    command: Callable[[str, tuple[str, ...]], Command]
    remaining: str
    seconds: float
    bulk: bool = True
    wait_ready: Callable[[str, subprocess.Popen[bytes]], object] = lambda _name, _process: None

    def turn(self, checks: Checks) -> list[Measured]:
        """Run once: fill without a worker, drain, one by one, a burst."""
        self.store.durable(checks)
        place, marks = self.store.fresh(slug(self.name)), str(home() / "data" / f"{slug(self.name)}.marks")
        Path(marks).write_bytes(b"")
        self._run(place, marks, "prepare")
        single, bulk = round(SINGLE_PER_S * self.seconds), round(BULK_PER_S * self.seconds) if self.bulk else 0
        found: list[Measured] = []
        if bulk:
            took = self._run(place, marks, "bulk", 0, bulk)
            found.append(Measured(f"{self.name}: bulk", "jobs/s", bulk / took["seconds"]))
        took = self._run(place, marks, "single", bulk, single)
        found.append(Measured(f"{self.name}: single", "jobs/s", single / took["seconds"]))
        if "synchronous" in took:
            full = str(took["synchronous"]).lower() in ("2", "full")
            checks.state(f"{self.name}: who enqueues syncs at FULL", full, took["synchronous"])
        filled = bulk + single
        with running(self.name, self._command(place, marks, "work")) as process:
            self.wait_ready(self.name, process)
            drained = self._handled(marks, filled)
            runs = sorted(each.handled_ns for each in drained)
            found.append(Measured(f"{self.name}: drained", "jobs/s", (filled - 1) * 1e9 / (runs[-1] - runs[0])))
            time.sleep(1.0)
            self._run(place, marks, "send", filled, IDLE_COUNT, IDLE_GAP_S)
            idle = self._handled(marks, filled + IDLE_COUNT)[filled:]
            self._run(place, marks, "send", filled + IDLE_COUNT, single, 0)
            every = self._handled(marks, filled + IDLE_COUNT + single)
            time.sleep(0.5)  # The last job has run; its end may still be on its way to the table.
        numbers = [each.number for each in read(marks)]
        once = sorted(numbers) == list(range(filled + IDLE_COUNT + single))
        checks.state(f"{self.name}: every job ran, and once", once, f"{len(numbers)} runs")
        remaining = self.store.value(self.remaining, slug(self.name))
        checks.state(f"{self.name}: no job remains in its tables", remaining == 0, remaining)
        self.store.drop(slug(self.name))
        timed = [each for each in every if each.number >= filled + IDLE_COUNT]
        took_s = (max(each.handled_ns for each in timed) - min(each.sent_ns for each in timed)) / 1e9
        waits_ms = sorted((each.handled_ns - each.sent_ns) / 1e6 for each in idle)
        found.append(Measured(f"{self.name}: end to end", "jobs/s", single / took_s))
        found.append(Measured(f"{self.name}: pickup, idle, P50", "ms", waits_ms[len(waits_ms) // 2]))
        return found

    def _command(self, place: str, marks: str, *words: object) -> Command:
        made = self.command(place, tuple(map(str, words)))
        return Command(words=made.words, env={**made.env, "BENCH_MARKS": marks})

    def _run(self, place: str, marks: str, *words: object) -> dict[str, Any]:
        """Run a command to its end; what it prints of itself."""
        command = self._command(place, marks, *words)
        environment = {**os.environ, **command.env}
        done = subprocess.run(
            command.words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANDLED_S_MAX
        )
        if done.returncode != 0:
            raise SideFailed(f"{self.name}: `{words[0]}` failed\n{done.stderr[-1000:]}\n{log_tail(self.name)}")
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return dict(json.loads(lines[-1])) if lines else {}

    def _handled(self, marks: str, count: int) -> list[Mark]:
        """Wait until `count` jobs have run."""
        until = time.perf_counter() + HANDLED_S_MAX
        while len(seen := read(marks)) < count:
            if time.perf_counter() > until:
                raise SideFailed(f"{self.name}: {len(seen)} of {count} ran in time\n{log_tail(self.name)}")
            time.sleep(0.02)
        return seen


@dataclass
class Ours:
    """Remembers the port between the worker and the senders of one turn."""

    port: int = field(default_factory=free_port)

    def wait_ready(self, name: str, process: subprocess.Popen[bytes]) -> float:
        """Wait for the worker's HTTP side."""
        return wait_answer(name, process, self.port, "/health/ready")

    def command(self, place: str, words: tuple[str, ...]) -> Command:
        """One of the words of Queue, as a command."""
        url = place if "://" in place else f"sqlite:///{place}"
        if words[0] == "prepare":
            self.port = free_port()
            return Command(words=(sys.executable, "-c", ""))  # Whoever starts first makes the tables.
        if words[0] == "work":
            return up("bench.ours.jobs:app", self.port, place)
        if words[0] == "send":
            return Command(words=(sys.executable, "-m", "bench.ours.sender", str(self.port), *words[1:]))
        return Command(words=(sys.executable, "-m", "bench.ours.jobs", url, *words))


def peer(name: str, place: str, words: tuple[str, ...]) -> Command:
    """A peer's program."""
    script = str(BENCH / "peers" / f"queue_{name}.py")
    return Command(words=(python_of(name), script, *words), env={"BENCH_DATABASE": place})


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """A private PostgreSQL, files, and every side."""
    with postgres() as server:
        made, ours = partial(Queue, seconds=options.seconds), (Ours(), Ours())
        queues = [
            made(
                name="dujiang",
                store=OnPostgres(server),
                command=ours[0].command,
                remaining=OPEN,
                wait_ready=ours[0].wait_ready,
            ),
            made(
                name="procrastinate",
                store=OnPostgres(server),
                command=partial(peer, "procrastinate"),
                remaining="SELECT count(*) FROM procrastinate_jobs",
            ),
            made(
                name="dujiang, SQLite",
                store=OnSqlite(),
                command=ours[1].command,
                remaining=OPEN,
                wait_ready=ours[1].wait_ready,
            ),
            made(
                name="huey, SQLite",
                store=OnSqlite(),
                command=partial(peer, "huey"),
                remaining="SELECT count(*) FROM task",
                bulk=False,
            ),
        ]
        yield [Side(each.name, each.turn) for each in queues]


CLAIM = Claim(
    name="jobs",
    says="jobs that do nothing: enqueue, drain, pick up; PostgreSQL and SQLite, fsync on",
    opened=opened,
    rounds=5,
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
