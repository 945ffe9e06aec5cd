"""Ledger: transfers a second with one hot account and with many, beside the same work by hand.

    64 clients in one process ──► a transfer: two balances, two entries with number and hash, one row of the outbox
    hot     everybody pays one account        many    any two of a thousand

Neither side speaks HTTP, and both have ten connections. Ours also claims an Idempotency-Key and stores the answer; the
hand-written side has one transaction for each transfer, as most people write it. Where everybody waits for one row a
transaction for each pays round trips and a flush each; ours shares both among those that wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.environments import BENCH, ROOT
from bench.postgres import postgres
from bench.processes import SideFailed, slug
from bench.runner import Claim, Measured, Side, main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.postgres import Postgres
    from bench.runner import Checks, Options

LIMIT_S = 120.0
PROGRAMS = {
    "dujiang": ("-m", "bench.ours.ledger"),
    "asyncpg by hand": (str(BENCH / "peers" / "ledger_asyncpg.py"),),
}


@dataclass(frozen=True)
class Transfers:
    """One side: a program, on a database of its own for each form of the load."""

    name: str
    server: Postgres
    seconds: float

    def turn(self, checks: Checks) -> list[Measured]:
        """Run it with the hot account, then with many."""
        self.server.durable_facts(checks)
        return [Measured(f"{self.name}, {form}", "transfers/s", self._rate(form, checks)) for form in ("hot", "many")]

    def _rate(self, form: str, checks: Checks) -> float:
        database = slug(f"{self.name} {form}")
        url = self.server.fresh(database)
        words = (sys.executable, *PROGRAMS[self.name], url, form, str(self.seconds))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S + self.seconds
        )
        if done.returncode != 0:
            raise SideFailed(f"{self.name} {form}: {done.stderr[-1000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        checks.state(f"{self.name}: the books balance, two entries a transfer", found["balanced"], found)
        self.server.drop(database)
        return float(found["transfers"] / found["seconds"])


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """A private PostgreSQL and both sides."""
    with postgres() as server:
        sides = [Transfers(name, server, options.seconds) for name in PROGRAMS]
        yield [Side(each.name, each.turn) for each in sides]


CLAIM = Claim(
    name="ledger",
    says="a transfer on PostgreSQL, fsync on: one hot account, and many",
    opened=opened,
    rounds=5,
    seconds=3.0,
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
