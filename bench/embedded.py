"""Claim: the same order as in bench/write.py on SQLite alone, where each answer survives a power cut.

    ours       a `write` verb on the embedded store, one process                       goal by disk in goals.toml
    peer       FastAPI + SQLAlchemy ORM + aiosqlite: WAL, synchronous=FULL, BEGIN IMMEDIATE
    limit      apsw in one thread without HTTP, with 1 and with 64 orders per commit

A commit at FULL waits for the disk. Who commits each order alone is therefore bound by the disk's sync rate, and who
lets waiting orders share a commit is not; how much that is worth depends on the disk, so the goal does too.

    python -m bench.embedded
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # Run as a file: this folder's `http.py` must not hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import contextlib
import json
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.environments import BENCH, python_of
from bench.orders import Counts, OrderServer, SqliteStore
from bench.ours.orders import OURS_COUNTS, serve
from bench.processes import SideFailed, slug, uvicorn
from bench.runner import Claim, Measured, Side, main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.processes import Command
    from bench.runner import Checks, Options


@dataclass(frozen=True)
class Raw:
    """The limit: apsw in a loop, so many orders per commit."""

    store: SqliteStore
    seconds: float
    group: int

    @property
    def name(self) -> str:
        """Of its figure."""
        return f"apsw {self.group} per commit"

    def turn(self, checks: Checks) -> list[Measured]:
        """Run once on a fresh file; every transaction must have left all of its rows."""
        name = slug(self.name)
        script = str(BENCH / "peers" / "orders_apsw.py")
        words = [sys.executable, script, self.store.fresh(name), str(self.seconds), str(self.group)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SideFailed(f"{self.name} failed: {done.stderr}")
        ran, counts = json.loads(done.stdout), Counts()
        seen = {what: self.store.number(name, getattr(counts, what)) for what in ("orders", "taken", "outbox", "keys")}
        checks.state(f"{self.name}: {', '.join(seen)} agree", set(seen.values()) == {ran["orders"]}, seen)
        checks.state(f"{self.name}: synchronous is FULL", ran["synchronous"] == 2, ran["synchronous"])
        self.store.drop(name)
        return [Measured(self.name, "orders/s", ran["orders"] / ran["seconds"])]


def peer(port: int, store: str, *, consuming: bool) -> Command:
    """The peer's server."""
    env = {"BENCH_DATABASE": f"sqlite+aiosqlite:///{store}", "BENCH_CONSUMER": "1" if consuming else "0"}
    return uvicorn(python_of("web"), "orders_fastapi_orm:app", port, env=env)


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """Every side; each turn makes its own file."""
    files = SqliteStore()
    made = partial(OrderServer, store=files, seconds=options.seconds)
    servers = [
        made(name="dujiang", serve=partial(serve, "app"), counts=OURS_COUNTS),
        made(name="FastAPI + aiosqlite", serve=peer),
        made(name="dujiang batched", serve=partial(serve, "batched"), counts=OURS_COUNTS),
        made(name="dujiang (all roles)", serve=partial(serve, "app"), counts=OURS_COUNTS, roles=True),
        made(name="dujiang batched (all roles)", serve=partial(serve, "batched"), counts=OURS_COUNTS, roles=True),
        made(name="FastAPI + aiosqlite (all roles)", serve=peer, roles=True),
    ]
    limits = [Raw(files, options.seconds, 1), Raw(files, options.seconds, 64)]
    yield [*(Side(each.name, each.turn) for each in limits), *(Side(each.name, each.turn) for each in servers)]


CLAIM = Claim(
    name="embedded",
    says="an order with key, stock, event and stored answer on SQLite with synchronous=FULL, 64 connections",
    opened=opened,
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
