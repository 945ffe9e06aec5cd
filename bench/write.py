"""Claim: an order with its key, stock, event and stored answer, on PostgreSQL with fsync on.

    ours       a `write` verb, one server process               goals in goals.toml
    peers      FastAPI + SQLAlchemy ORM + asyncpg; Starlette + msgspec + asyncpg by hand; one uvicorn process each
    limit      pgbench: the same five statements from 30 clients, prepared, without HTTP

64 connections, a new key for each request. Our batched form shares a transaction between requests that wait at the same
moment; pgbench here does not, so that ratio compares two ways to work, and says so.

    python -m bench.write            about 10 minutes
    python -m bench.write --sides pgbench,Starlette --rounds 3 --seconds 3
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # Run as a file: this folder's `http.py` must not hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import contextlib
import re
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.environments import BENCH, python_of, tool
from bench.orders import Counts, OrderServer, PostgresStore
from bench.ours.orders import OURS_COUNTS, serve
from bench.postgres import postgres
from bench.processes import SideFailed, uvicorn
from bench.runner import Claim, Measured, Side, main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.processes import Command
    from bench.runner import Checks, Options

PGBENCH_CLIENTS = 30


@dataclass(frozen=True)
class Pgbench:
    """The limit: the same statements without HTTP, Python or a framework."""

    store: PostgresStore
    seconds: float
    name: str = "pgbench"

    def turn(self, checks: Checks) -> list[Measured]:
        """Run once on fresh tables; every transaction must have left all of its rows."""
        self.store.server.durable_facts(checks)
        url = self.store.fresh(self.name)
        script = str(BENCH / "load" / "order.sql")
        fixed = [tool("pgbench", package="postgresql"), "-n", "-M", "prepared", "-f", script]
        sized = ["-c", str(PGBENCH_CLIENTS), "-j", "1", "-T", str(max(1, round(self.seconds)))]
        done = subprocess.run([*fixed, *sized, url], capture_output=True, text=True, check=False)
        found = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
        ran = re.search(r"actually processed: (\d+)", done.stdout)
        if done.returncode != 0 or found is None or ran is None:
            raise SideFailed(f"pgbench failed: {done.stdout}{done.stderr}")
        counts, seen = Counts(), {"transactions": int(ran.group(1))}
        for what in ("orders", "taken", "outbox", "keys"):
            seen[what] = self.store.number(self.name, getattr(counts, what))
        checks.state("pgbench: transactions, orders, taken, outbox, keys agree", len(set(seen.values())) == 1, seen)
        self.store.drop(self.name)
        return [Measured(self.name, "orders/s", float(found.group(1)))]


def peer(app: str, port: int, store: str, *, consuming: bool) -> Command:
    """A peer's server."""
    env = {"BENCH_DATABASE": store, "BENCH_CONSUMER": "1" if consuming else "0"}
    return uvicorn(python_of("web"), f"{app}:app", port, env=env)


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """A private PostgreSQL and every side."""
    with postgres() as server:
        store = PostgresStore(server)
        store.prepare()
        orm, hand = partial(peer, "orders_fastapi_orm"), partial(peer, "orders_starlette_asyncpg")
        made = partial(OrderServer, store=store, seconds=options.seconds, server=server)
        servers = [
            made(name="dujiang", serve=partial(serve, "app"), counts=OURS_COUNTS),
            made(name="FastAPI + ORM", serve=orm),
            made(name="Starlette + asyncpg", serve=hand),
            made(name="dujiang batched", serve=partial(serve, "batched"), counts=OURS_COUNTS),
            made(name="dujiang (all roles)", serve=partial(serve, "app"), counts=OURS_COUNTS, roles=True),
            made(name="dujiang batched (all roles)", serve=partial(serve, "batched"), counts=OURS_COUNTS, roles=True),
            made(name="FastAPI + ORM (all roles)", serve=orm, roles=True),
            made(name="Starlette + asyncpg (all roles)", serve=hand, roles=True),
            made(name="FastAPI + ORM (no key)", serve=orm, case="plain"),
            made(name="Starlette + asyncpg (no key)", serve=hand, case="plain"),
        ]
        limit = Pgbench(store, options.seconds)
        yield [Side(limit.name, limit.turn), *(Side(each.name, each.turn) for each in servers)]


CLAIM = Claim(
    name="write",
    says="an order with key, stock, event and stored answer on PostgreSQL, fsync on, 64 connections",
    opened=opened,
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
