"""Claim: a product by its id, from the process, from Redis, from PostgreSQL.

    ours       a `read` with a ttl: hits in the process; hits in Redis, the first level switched off; misses with either
    peers      Starlette + redis-py + asyncpg by hand; FastAPI + cashews; FastAPI + SQLAlchemy without a cache

One server process each, 64 connections. `hot` asks for a hundred products, which lie where the side says before the clock
starts; `cold` asks for another product each time, so that nothing that is kept is ever asked for again.

By hand means: one GET, the bytes sent as they lie there. It judges nothing, shares no load and knows no invalidation.

    python -m bench.read --rounds 3 --seconds 2
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # Run as a file: this folder's `http.py` must not hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.environments import SetupFailed, python_of
from bench.load import Client, wrk
from bench.ours.command import up
from bench.postgres import postgres
from bench.processes import Command, free_port, running, slug, uvicorn, wait_answer
from bench.runner import Claim, Measured, Side, main
from dujiang.testing.processes import BinaryMissing
from dujiang.testing.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.postgres import Postgres
    from bench.runner import Checks, Options

WARM_S = 1.0
PRODUCTS = 400_000
TEMPLATE = "bench_products"
TABLE = f"""
CREATE TABLE product (id INT PRIMARY KEY, title TEXT NOT NULL, price_cents INT NOT NULL, stock INT NOT NULL);
INSERT INTO product SELECT n, 'Product number ' || n, n * 7 % 10000, n % 100 FROM generate_series(1, {PRODUCTS}) n;
"""
FIRST = {"id": 1, "title": "Product number 1", "price_cents": 7, "stock": 1}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One server.

    Attributes:
        name: Of the side.
        serve: How it starts: port, database, Redis.
        case: `hot` or `cold`.
        seconds: Of the timed part.
        store: PostgreSQL.
        redis: Redis.
    """

    name: str
    serve: Callable[[int, str, str], Command]
    case: str
    seconds: float
    store: Postgres
    redis: RedisServer

    def turn(self, checks: Checks) -> list[Measured]:
        """Start on an empty Redis, check, warm, measure, stop."""
        self.redis.command("FLUSHALL")
        database = self.store.fresh(slug(self.name), template=TEMPLATE)
        port = free_port()
        # An answer by hand is worth as much as one that waits as long as it likes.
        with running(self.name, self.serve(port, database, self.redis.url("bench", timeout_s=1.0))) as process:
            wait_answer(self.name, process, port, "/health/ready")
            client = Client(port)
            for _ in range(3):
                found = client.ask("GET", "/products/1")
                right = (found.status, found.json()) == (200, FIRST)
                checks.state(f"{self.name}: gives the product", right, found.body)
            absent = client.ask("GET", f"/products/{PRODUCTS + 1}").status
            checks.state(f"{self.name}: says 404 of what is not there", absent == 404, absent)
            client.close()
            wrk(port, self.case, for_s=WARM_S)
            load = wrk(port, self.case, for_s=self.seconds, first=PRODUCTS // 4)
        checks.state(f"{self.name}: no failed answer in the timed part", load.good, load)
        return [Measured(self.name, "req/s", load.per_s), Measured(f"{self.name}: P99", "ms", load.p99_us / 1000)]


def ours(cache: str) -> Callable[[int, str, str], Command]:
    """Our server with a cache: `memory` or `redis`, and how much the process itself may keep, in MiB."""
    kind, _, mib = cache.partition(" ")

    def serve(port: int, database: str, redis: str) -> Command:
        command = up("bench.ours.catalogue:app", port, database)
        url = f"{redis}&max_mib={mib}" if kind == "redis" else f"memory:?max_mib={mib}"
        return Command(words=command.words, env={**command.env, "DUJIANG_CACHE": url})

    return serve


def peer(app: str, *, shared: bool = True) -> Callable[[int, str, str], Command]:
    """A peer's server."""

    def serve(port: int, database: str, redis: str) -> Command:
        env = {"BENCH_DATABASE": database, **({"BENCH_REDIS": redis.partition("?")[0]} if shared else {})}
        return uvicorn(python_of("read"), f"{app}:app", port, env=env)

    return serve


SIDES: tuple[tuple[str, Callable[[int, str, str], Command], str], ...] = (
    ("dujiang: first level", ours("redis 64"), "hot"),
    ("dujiang: second level", ours("redis 0"), "hot"),
    ("dujiang: miss, memory", ours("memory 0"), "cold"),
    ("dujiang: miss, Redis", ours("redis 0"), "cold"),
    ("Starlette + redis: hit", peer("read_starlette_redis"), "hot"),
    ("Starlette + redis: miss", peer("read_starlette_redis"), "cold"),
    ("FastAPI + cashews: hit", peer("read_fastapi"), "hot"),
    ("FastAPI + SQLAlchemy", peer("read_fastapi", shared=False), "cold"),
)


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """Every side."""
    server = RedisServer()
    try:
        server.start()
    except BinaryMissing as missing:
        raise SetupFailed(f"{missing}; {missing.hint}") from None
    with server as redis, postgres() as store:
        store.template(TEMPLATE, TABLE)
        readers = [
            Reader(name=name, serve=serve, case=case, seconds=options.seconds, store=store, redis=redis)
            for name, serve, case in SIDES
        ]
        yield [Side(each.name, each.turn) for each in readers]


CLAIM = Claim(
    name="read",
    says="a product by its id: kept in the process, in Redis, not kept; one server process, 64 connections",
    opened=opened,
    rounds=5,
    seconds=3.0,
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
