"""Claim: light to import, quick to start, quiet when idle.

Import: `from dujiang import App, Module, Event, Tx` beside `from pydantic import BaseModel`, each in new interpreters
of our own environment, timed inside them; neither FastAPI nor SQLAlchemy may be loaded.
Start: from the start of `dujiang up` on a store that exists to the first 200 of /health/ready.
Idle: processor time over 10 s, and resident memory at their end, after 3 s of rest.

    python -m bench.startup
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # Run as a file: this folder's `http.py` must not hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import contextlib
import json
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.environments import home
from bench.load import Client
from bench.ours.command import up
from bench.probes import cpu_s, rss_mb
from bench.processes import SideFailed, free_port, running, start, stop, wait_answer
from bench.runner import Claim, Measured, Side, main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.runner import Checks, Options

APP = "dujiang.systems.shop:app"
READY = "/health/ready"
IMPORTS_PER_ROUND = 7
REST_S = 3.0
IDLE_S = 10.0
TIMED_IMPORT = """
import json, sys, time
first = time.perf_counter()
{statement}
took_s = time.perf_counter() - first
print(json.dumps([took_s, sorted({{"fastapi", "sqlalchemy", "asyncpg", "apsw"}} & set(sys.modules))]))
"""


@dataclass(frozen=True)
class Import:
    """The cost of one import statement in a new interpreter."""

    name: str
    statement: str
    light: bool

    def turn(self, checks: Checks) -> list[Measured]:
        """The median of seven interpreters."""
        code, times = TIMED_IMPORT.format(statement=self.statement), []
        for _ in range(IMPORTS_PER_ROUND):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SideFailed(f"`{self.statement}` failed: {done.stderr}")
            took_s, loaded = json.loads(done.stdout)
            times.append(took_s)
            if self.light:
                checks.state(f"{self.name}: loads no framework and no driver", not loaded, loaded)
        return [Measured(self.name, "ms", statistics.median(times) * 1000)]


@dataclass(frozen=True)
class Up:
    """`dujiang up` on a store that the first turn made."""

    folder: Path

    def turn(self, checks: Checks) -> list[Measured]:
        """Start, wait for the answer, rest, look at the idle process, stop."""
        store = str(self.folder / "shop.db")
        if not Path(store).exists():
            self._answered(store)
        took_s, measured = self._timed(store, checks)
        return [Measured("up to the first answer", "s", took_s), *measured]

    def _answered(self, store: str) -> None:
        """Make the store."""
        port = free_port()
        with running("startup", up(APP, port, store)) as process:
            wait_answer("startup", process, port, READY)

    def _timed(self, store: str, checks: Checks) -> tuple[float, list[Measured]]:
        port, first = free_port(), time.perf_counter()
        process = start("startup", up(APP, port, store))
        try:
            wait_answer("startup", process, port, READY)
            took_s = time.perf_counter() - first
            client = Client(port)
            ready = client.ask("GET", READY)
            client.close()
            checks.state("up: /health/ready says 200", ready.status == 200, ready.status)
            time.sleep(REST_S)
            before_s = cpu_s(process.pid)
            time.sleep(IDLE_S)
            busy_percent = 100 * (cpu_s(process.pid) - before_s) / IDLE_S
            memory = rss_mb(process.pid)
        finally:
            stop(process)
        return took_s, [
            Measured("idle processor", "% core", busy_percent),
            Measured("idle memory", "MB", memory),
        ]


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """Every side, and a folder for the store."""
    assert options.rounds > 0
    folder = home() / "data" / "startup"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ours = Import("import dujiang", "from dujiang import App, Module, Event, Tx", light=True)
    theirs = Import("import pydantic", "from pydantic import BaseModel", light=False)
    try:
        yield [
            Side(ours.name, ours.turn),
            Side(theirs.name, theirs.turn),
            Side("up", Up(folder).turn),
        ]
    finally:
        shutil.rmtree(folder)


CLAIM = Claim(name="startup", says="import, start and idle cost", opened=opened, rounds=5)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
