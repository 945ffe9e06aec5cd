"""Claim: an event is handled soon after its commit, and many are handled fast, on PostgreSQL alone.

    idle         one message at a time to a waiting worker: from just before the enqueue, so its commit is included,
                 to the first line of the handler
    throughput   2,000 messages, sixteen senders, each message by a commit of its own, the worker running from the
                 start: from the first enqueue to the last handler; afterwards nothing may remain in the tables

    ours         a write that publishes, a reaction that handles: outbox, relay, inbox, all by the `sql` broker
    peers        procrastinate (jobs), DBOS (workflows); both durable on the same server, worker in a process of its own

The work differs in one point, to our disadvantage: our reaction leaves an inbox row in its transaction, so it has its
effect once; a procrastinate job may run again after a crash. A DBOS workflow stores its result.

    python -m bench.events
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # Run as a file: this folder's `http.py` must not hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.environments import BENCH, home, python_of
from bench.ours.events import REMAINING, Ours
from bench.peers.marks import Mark, read
from bench.postgres import Postgres, postgres
from bench.processes import Command, SideFailed, log_tail, running, slug
from bench.runner import Claim, Measured, Side, main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.runner import Checks, Options

IDLE_COUNT = 60
IDLE_GAP_S = 0.05
MESSAGES_PER_S = 500  # A burst holds this many messages per second of --seconds.
HANDLED_S_MAX = 90.0


@dataclass(frozen=True, kw_only=True)
class Queue:
    """One competitor: a worker process and a sender process on one fresh database.

    Args:
        name: Of its figures.
        server: PostgreSQL.
        command: From the URL and the words `prepare`, `work` or `send FIRST COUNT GAP_S` to a command.
        remaining: A query: how many messages are not done.
        seconds: Sizes the burst.
        wait_ready: Returns when the worker takes messages; a peer's sender needs no worker.
    """

    name: str
    server: Postgres
    command: Callable[[str, tuple[str, ...]], Command]
    remaining: str
    seconds: float
    wait_ready: Callable[[str, subprocess.Popen[bytes]], object] = lambda _name, _process: None

    def turn(self, checks: Checks) -> list[Measured]:
        """Run once: one message to see that the worker is up, then the idle part, then the burst."""
        self.server.durable_facts(checks)
        url, marks = self.server.fresh(slug(self.name)), str(home() / "data" / f"{slug(self.name)}.marks")
        Path(marks).write_bytes(b"")
        self._run(url, marks, "prepare")
        burst = round(MESSAGES_PER_S * self.seconds)
        with running(self.name, self._command(url, marks, "work")) as process:
            self.wait_ready(self.name, process)
            self._run(url, marks, "send", 0, 1, 0)
            self._handled(marks, 1)
            time.sleep(1.0)
            self._run(url, marks, "send", 1, IDLE_COUNT, IDLE_GAP_S)
            idle = self._handled(marks, 1 + IDLE_COUNT)[1:]
            self._run(url, marks, "send", 1 + IDLE_COUNT, burst, 0)
            every = self._handled(marks, 1 + IDLE_COUNT + burst)
            self._nothing_remains(checks)
        numbers = [each.number for each in read(marks)]
        once = sorted(numbers) == list(range(1 + IDLE_COUNT + burst))
        checks.state(f"{self.name}: every message was handled, and once", once, f"{len(numbers)} handled")
        self.server.drop(slug(self.name))
        waits_ms = sorted((each.handled_ns - each.sent_ns) / 1e6 for each in idle)
        timed = [each for each in every if each.number > IDLE_COUNT]
        took_s = (max(each.handled_ns for each in timed) - min(each.sent_ns for each in timed)) / 1e9
        return [
            Measured(f"{self.name}: published to handled, idle, P50", "ms", waits_ms[len(waits_ms) // 2]),
            Measured(f"{self.name}: published to handled, idle, P99", "ms", waits_ms[len(waits_ms) * 99 // 100]),
            Measured(self.name, "msg/s", burst / took_s),
        ]

    def _command(self, url: str, marks: str, *words: object) -> Command:
        made = self.command(url, tuple(map(str, words)))
        return Command(words=made.words, env={**made.env, "BENCH_MARKS": marks})

    def _run(self, url: str, marks: str, *words: object) -> None:
        command = self._command(url, marks, *words)
        done = subprocess.run(
            command.words, env={**os.environ, **command.env}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SideFailed(f"{self.name}: `{words[0]}` failed\n{done.stderr[-1000:]}\n{log_tail(self.name)}")

    def _handled(self, marks: str, count: int) -> list[Mark]:
        """Wait until `count` messages are handled."""
        until = time.perf_counter() + HANDLED_S_MAX
        while len(seen := read(marks)) < count:
            if time.perf_counter() > until:
                raise SideFailed(f"{self.name}: {len(seen)} of {count} handled in time\n{log_tail(self.name)}")
            time.sleep(0.02)
        return seen

    def _nothing_remains(self, checks: Checks) -> None:
        """The last handler has run; its completion may still be on its way to the table."""
        until, remaining = time.perf_counter() + 10, -1
        while remaining != 0 and time.perf_counter() < until:
            remaining = int(self.server.value(self.remaining, database=slug(self.name)))
            time.sleep(0.02)
        checks.state(f"{self.name}: no message remains in its tables", remaining == 0, remaining)


def peer(name: str, url: str, words: tuple[str, ...]) -> Command:
    """A peer's program."""
    script = str(BENCH / "peers" / f"queue_{name}.py")
    return Command(words=(python_of(name), script, *words), env={"BENCH_DATABASE": url})


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """A private PostgreSQL and every side."""
    with postgres() as server:
        made = partial(Queue, server=server, seconds=options.seconds)
        ours = Ours()
        queues = [
            made(name="dujiang", command=ours.command, remaining=REMAINING, wait_ready=ours.wait_ready),
            made(
                name="procrastinate",
                command=partial(peer, "procrastinate"),
                remaining="SELECT count(*) FROM procrastinate_jobs",
            ),
            made(
                name="DBOS",
                command=partial(peer, "dbos"),
                remaining="SELECT count(*) FROM dbos.workflow_status WHERE status <> 'SUCCESS'",
            ),
        ]
        yield [Side(each.name, each.turn) for each in queues]


CLAIM = Claim(name="events", says="from commit to handled, on PostgreSQL, fsync on", opened=opened, rounds=5)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
