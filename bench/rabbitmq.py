"""Claim: events go from the outbox through RabbitMQ to their handler at a rate that hand-written code would have, too.

    publish     20,000 messages, persistent, mandatory, confirmed, 500 in flight, to a quorum queue:
                ours from an outbox that was filled beforehand, from the relay's start to the last confirm
    handled     the same with a consumer in the same process, manual acknowledgement: to the last handler
    prefetch    a fast and a slow consumer of one full queue, at 1, 5, 50 and 500 unacknowledged messages each: to the last

    ours        relay and worker in one process; `call`: a reaction without a handler transaction, at least once;
                `tx`: one with, exactly one effect
    peers       aiormq by hand; FastStream with confirms and manual acknowledgement; FastStream with an inbox row,
                written by hand, in the handler's transaction

Ours reads every message from PostgreSQL and leaves a row for each that was handled; aiormq and plain FastStream touch no
database, and what they publish lies in their memory: a process that dies loses it.

    python -m bench rabbitmq
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # Run as a file: this folder's `http.py` must not hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import contextlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.environments import BENCH, ROOT, SetupFailed, home, python_of
from bench.peers.marks import read
from bench.postgres import Postgres, postgres
from bench.processes import SideFailed, slug
from bench.runner import Claim, Measured, Side, main
from dujiang.testing.processes import BinaryMissing, ServerFailed
from dujiang.testing.rabbit import RabbitServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.runner import Checks, Options

MESSAGES_PER_S = 5000  # A turn holds this many messages per second of --seconds.
LIMIT_S = 300.0
DATABASE = "rabbitmq"


@dataclass(frozen=True, kw_only=True)
class Carried:
    """One side: a process that publishes, and perhaps handles, a number of messages.

    Args:
        name: Of its figure.
        words: Of its program, without the number of messages.
        postgres: The store.
        rabbit: The broker.
        count: How many messages.
        ours: Whether the program is ours; the peers' are files in an environment of their own.
        marked: Whether every message leaves a mark.
    """

    name: str
    words: tuple[str, ...]
    postgres: Postgres
    rabbit: RabbitServer
    count: int
    ours: bool = False
    marked: bool = True

    def turn(self, checks: Checks) -> list[Measured]:
        """Run it once, on an empty database and queues of its own."""
        self.postgres.durable_facts(checks)
        url, marks = self.postgres.fresh(DATABASE), home() / "data" / f"{slug(self.name)}.marks"
        marks.parent.mkdir(exist_ok=True)
        marks.write_bytes(b"")
        broker = self.rabbit.url(f"bench-{os.urandom(4).hex()}")
        env = {"BENCH_DATABASE": url, "BENCH_BROKER": broker, "BENCH_MARKS": str(marks), "TMPDIR": str(home())}
        if self.ours:
            self._run(("fill",), env)
        began_ns, ended_ns = map(int, self._run(self.words, env).split())
        if self.marked:
            seen = read(str(marks))
            ended_ns = max(each.handled_ns for each in seen)
            once = sorted(each.number for each in seen) == list(range(self.count))
            checks.state(f"{self.name}: every message was handled, and once", once, f"{len(seen)} handled")
        self.postgres.drop(DATABASE)
        return [Measured(self.name, "msg/s", self.count / ((ended_ns - began_ns) / 1e9))]

    def _run(self, words: tuple[str, ...], env: dict[str, str]) -> str:
        if self.ours:
            command = [sys.executable, "-m", "bench.ours.carried", *words, str(self.count)]
        else:
            command = [
                python_of("rabbitmq"),
                str(BENCH / "peers" / f"rabbit_{words[0]}.py"),
                *words[1:],
                str(self.count),
            ]
        done = subprocess.run(
            command, env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
        if done.returncode != 0:
            raise SideFailed(f"{self.name}: `{' '.join(words)}` failed\n{done.stderr[-1500:]}")
        return done.stdout


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """A private PostgreSQL, a private RabbitMQ, and every side."""
    count = round(MESSAGES_PER_S * options.seconds)
    with postgres() as store, broker() as rabbit:

        def made(name: str, *words: str, ours: bool = False, marked: bool = True, count: int = count) -> Side:
            side = Carried(name=name, words=words, postgres=store, rabbit=rabbit, count=count, ours=ours, marked=marked)
            return Side(name, side.turn)

        yield [
            made("aiormq: publish", "aiormq", "publish", marked=False),
            made("dujiang: relay", "relay", ours=True, marked=False),
            made("aiormq: handled", "aiormq", "both"),
            made("dujiang: handled, call", "call", ours=True),
            made("FastStream: handled", "faststream", "plain"),
            made("dujiang: handled, tx", "tx", ours=True),
            made("FastStream: handled, inbox", "faststream", "inbox"),
            *(made(f"prefetch {number}", "prefetch", str(number), count=count // 10) for number in (1, 5, 50, 500)),
        ]


@contextlib.contextmanager
def broker() -> Iterator[RabbitServer]:
    """A private RabbitMQ on the disk that the probe reads."""
    tempfile.tempdir = str(home())
    try:
        with RabbitServer() as server:
            yield server
    except BinaryMissing as cause:
        raise SetupFailed(f"{cause}; {cause.cure.format(package=cause.package)}") from None
    except ServerFailed as cause:
        raise SideFailed(str(cause)) from None


CLAIM = Claim(name="rabbitmq", says="from the outbox through RabbitMQ to the handler", opened=opened, rounds=5)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
