"""Orders: what the write claims share: tables, stores, and one turn of a server, from empty tables to counted rows.

    fresh store -> start -> checked by hand -> warm 1 s -> timed -> counted -> consumer on, backlog drained -> stopped

The transaction is five statements: claim the key, take stock, insert the order, insert the outbox row, store the answer
under the key. Each side does all five, pgbench included; the peers' own form, without key and stored answer, runs on
/plain and is reported without a goal.

In the ordinary figure nothing consumes events during the timed part. The server then starts again with its consumer
and drains what was left, which is counted. The figure "all roles" has the consumer on all the time, and its clock
stops when the last order is handled, so nobody gains by falling behind.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bench.environments import home
from bench.load import CONNECTIONS, Client, Load, wrk
from bench.processes import SideFailed, free_port, log_tail, running, slug, wait_answer
from bench.runner import Measured

if TYPE_CHECKING:
    from pathlib import Path

    from bench.postgres import Postgres
    from bench.processes import Command
    from bench.runner import Checks

PRODUCTS = 10_000
STOCK = 1_000_000_000
WARM_S = 1.0
DRAIN_S_MAX = 120.0
TEMPLATE = "bench_orders"
READY = "/health/ready"  # Ours says 503 until it is; a peer does not know it, and its 404 says that it serves.

POSTGRES_TABLES = f"""
CREATE TABLE stock (sku INT PRIMARY KEY, quantity INT NOT NULL CHECK (quantity >= 0));
CREATE TABLE orders (id BIGSERIAL PRIMARY KEY, user_id INT NOT NULL, sku INT NOT NULL, quantity INT NOT NULL,
    status TEXT NOT NULL, created TIMESTAMPTZ NOT NULL DEFAULT now());
CREATE TABLE outbox (id BIGSERIAL PRIMARY KEY, topic TEXT NOT NULL, payload TEXT NOT NULL,
    created TIMESTAMPTZ NOT NULL DEFAULT now());
CREATE TABLE keys (key TEXT PRIMARY KEY, fingerprint BYTEA NOT NULL, status INT, answer BYTEA,
    created TIMESTAMPTZ NOT NULL DEFAULT now());
CREATE TABLE handled (order_id BIGINT PRIMARY KEY, created TIMESTAMPTZ NOT NULL DEFAULT now());
INSERT INTO stock SELECT number, {STOCK} FROM generate_series(1, {PRODUCTS}) number;
"""
SQLITE_TABLES = f"""
PRAGMA journal_mode = WAL;
CREATE TABLE stock (sku INTEGER PRIMARY KEY, quantity INTEGER NOT NULL CHECK (quantity >= 0));
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, sku INTEGER NOT NULL, quantity INTEGER NOT NULL,
    status TEXT NOT NULL, created INTEGER NOT NULL DEFAULT (unixepoch()));
CREATE TABLE outbox (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload TEXT NOT NULL,
    created INTEGER NOT NULL DEFAULT (unixepoch()));
CREATE TABLE keys (key TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, status INTEGER, answer BLOB,
    created INTEGER NOT NULL DEFAULT (unixepoch())) WITHOUT ROWID;
CREATE TABLE handled (order_id INTEGER PRIMARY KEY, created INTEGER NOT NULL DEFAULT (unixepoch()));
WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {PRODUCTS})
INSERT INTO stock SELECT number, {STOCK} FROM numbers;
"""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Queries, each giving one number, that say what a side wrote. A side with tables of its own replaces some."""

    orders: str = "SELECT count(*) FROM orders"
    taken: str = f"SELECT coalesce(sum({STOCK} - quantity), 0) FROM stock WHERE quantity < {STOCK}"
    outbox: str = "SELECT count(*) FROM outbox"
    keys: str = "SELECT count(*) FROM keys WHERE answer IS NOT NULL"
    handled: str = "SELECT count(*) FROM handled"


class Serve(Protocol):
    """Makes the command of a server."""

    def __call__(self, port: int, store: str, *, consuming: bool) -> Command:
        """For a port of 127.0.0.1 and a store's URL or path; `consuming` says whether events are handled."""
        ...


class Store(Protocol):
    """Where the orders of one claim live."""

    def fresh(self, name: str) -> str:
        """Make an empty store for a side, with the tables above; its URL or path."""
        ...

    def number(self, name: str, query: str) -> int:
        """The one number that a query gives."""
        ...

    def durable(self, name: str, seen: dict[str, object]) -> bool:
        """Whether the settings that a side's own session reported lose nothing at a power cut."""
        ...

    def drop(self, name: str) -> None:
        """Remove a side's store."""
        ...


@dataclass(frozen=True)
class PostgresStore:
    """A database per side, copied from one template."""

    server: Postgres

    def prepare(self) -> None:
        """Make the template."""
        self.server.template(TEMPLATE, POSTGRES_TABLES)

    def fresh(self, name: str) -> str:
        """A copy of the template; its URL."""
        return self.server.fresh(name, template=TEMPLATE)

    def number(self, name: str, query: str) -> int:
        """Ask by a connection of our own."""
        return int(self.server.value(query, database=name))

    def durable(self, name: str, seen: dict[str, object]) -> bool:
        """All three must be on."""
        return all(seen.get(each) == "on" for each in ("fsync", "full_page_writes", "synchronous_commit"))

    def drop(self, name: str) -> None:
        """Drop the database."""
        self.server.drop(name)


@dataclass(frozen=True)
class SqliteStore:
    """A file per side, in a folder of its own below the cache folder."""

    def path(self, name: str) -> Path:
        """The file."""
        return home() / "data" / name / "orders.db"

    def fresh(self, name: str) -> str:
        """A new file with the tables; its path."""
        self.drop(name)
        path = self.path(name)
        path.parent.mkdir(parents=True)
        with sqlite3.connect(path) as connection:
            connection.executescript(SQLITE_TABLES)
        connection.close()
        return str(path)

    def number(self, name: str, query: str) -> int:
        """Ask read-only, so that counting never checkpoints."""
        connection = sqlite3.connect(f"file:{self.path(name)}?mode=ro", uri=True, timeout=10)
        try:
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()

    def durable(self, name: str, seen: dict[str, object]) -> bool:
        """WAL with synchronous=FULL (2) or EXTRA (3)."""
        return str(seen.get("journal_mode")).lower() == "wal" and seen.get("synchronous") in {2, 3, "full", "extra"}

    def drop(self, name: str) -> None:
        """Remove the folder's files."""
        folder = self.path(name).parent
        if folder.exists():
            for each in folder.iterdir():
                each.unlink()
            folder.rmdir()


@dataclass(frozen=True, kw_only=True)
class OrderServer:
    """One server of a write claim.

    Args:
        name: Of its figure.
        store: Where it writes.
        serve: Makes the command of its process.
        seconds: Length of the timed part.
        case: "order" with a key for each request, "plain" without.
        roles: Whether the consumer runs in the timed part and counts.
        counts: How to count what it wrote.
        server: Whose commit and sync counters to read; None where there are none.
    """

    name: str
    store: Store
    serve: Serve
    seconds: float
    case: str = "order"
    roles: bool = False
    counts: Counts = field(default_factory=Counts)
    server: Postgres | None = None

    def turn(self, checks: Checks) -> list[Measured]:
        """Run once; see the module's picture."""
        url = self.store.fresh(slug(self.name))
        try:
            measured = self._all_roles(url, checks) if self.roles else self._gateway(url, checks)
            if not self.roles and self.case == "order":
                measured.append(self._drained(url, checks))
        finally:
            self.store.drop(slug(self.name))
        return measured

    def _gateway(self, url: str, checks: Checks) -> list[Measured]:
        """The timed part with nothing consuming."""
        port = free_port()
        with running(self.name, self.serve(port, url, consuming=False)) as process:
            wait_answer(self.name, process, port, READY)
            placed = self._checked(port, checks) + wrk(port, self.case, for_s=WARM_S).requests
            before = self.server.flushes(slug(self.name)) if self.server else None
            load = wrk(port, self.case, for_s=self.seconds)
            self._alive(process.poll())
            if self.server and before:
                shared = self.server.flushes(slug(self.name)).since(before).commits_per_sync
                fact = f"{self.name}: a WAL sync serves no more commits than wait for it"
                checks.state(fact, shared <= CONNECTIONS, f"{shared:.1f} per sync")
        self._state_rows(load, placed + load.requests, checks, runs=2)
        p99 = Measured(f"{self.name}: P99", "ms", load.p99_us / 1000)
        return [Measured(self.name, "orders/s", load.per_s), p99]

    def _all_roles(self, url: str, checks: Checks) -> list[Measured]:
        """The timed part with the consumer on; the clock stops when the last order is handled."""
        port = free_port()
        with running(self.name, self.serve(port, url, consuming=True)) as process:
            wait_answer(self.name, process, port, READY)
            placed = self._checked(port, checks) + wrk(port, self.case, for_s=WARM_S).requests
            earlier, first = self._wait_handled(), time.perf_counter()
            load = wrk(port, self.case, for_s=self.seconds)
            handled = self._count("handled")  # Before the orders, or the difference could be negative.
            left = self._count("orders") - handled
            orders = self._wait_handled()
            took_s = time.perf_counter() - first
            self._alive(process.poll())
        self._state_rows(load, placed + load.requests, checks, runs=2)
        backlog = Measured(f"{self.name}: backlog at the end of the load", "orders", left)
        return [Measured(self.name, "orders/s", (orders - earlier) / took_s), backlog]

    def _drained(self, url: str, checks: Checks) -> Measured:
        """Start again with the consumer and wait until every order is handled."""
        port = free_port()
        with running(f"{self.name}, draining", self.serve(port, url, consuming=True)) as process:
            wait_answer(self.name, process, port, READY)
            first, earlier = time.perf_counter(), self._count("handled")
            orders = self._wait_handled()
            rate = (orders - earlier) / (time.perf_counter() - first)
        handled = self._count("handled")
        checks.state(f"{self.name}: the backlog was handled, each order once", handled == orders, f"{handled}")
        return Measured(f"{self.name}: backlog drained", "events/s", rate)

    def _checked(self, port: int, checks: Checks) -> int:
        """Ask by hand what wrk does not look at; the number of orders placed by it."""
        client, body = Client(port), {"user_id": 7, "sku": 11, "quantity": 1}
        try:
            seen = client.ask("POST", "/durability").json()
            fact = f"{self.name}: its own session is durable"
            checks.state(fact, self.store.durable(slug(self.name), seen), json.dumps(seen))
            path = "/plain" if self.case == "plain" else "/orders"
            first = client.ask("POST", path, body, key="check-1")
            checks.state(f"{self.name}: places an order", first.status == 201, first.body[:200])
            view = first.json() if first.status == 201 else {}
            same = {name: view.get(name) for name in body} == body and "id" in view
            checks.state(f"{self.name}: answers with the order", same, first.body[:200])
            bad = client.ask("POST", path, body | {"quantity": 0})
            checks.state(f"{self.name}: refuses quantity 0", bad.status == 422, bad.status)
            short = client.ask("POST", path, body | {"sku": PRODUCTS + 1})
            checks.state(f"{self.name}: refuses what is not in stock", short.status == 409, short.status)
            if self.case == "order":
                again = client.ask("POST", path, body, key="check-1")
                replayed = again.body == first.body and again.headers.get("idempotent-replayed") == "true"
                checks.state(f"{self.name}: a repeated key gives the same bytes", replayed, again.body[:200])
                other = client.ask("POST", path, body | {"quantity": 2}, key="check-1")
                checks.state(f"{self.name}: a key with another body is refused", other.status == 422, other.status)
        finally:
            client.close()
        return 1

    def _state_rows(self, load: Load, answered: int, checks: Checks, *, runs: int) -> None:
        """Facts about what was written. wrk leaves with up to 64 requests unanswered, whose orders may exist."""
        seen = {name: self._count(name) for name in ("orders", "taken")}
        if self.case == "order":
            seen["keys"] = self._count("keys")
        seen["handled" if self.roles else "outbox"] = self._count("handled" if self.roles else "outbox")
        agree = len(set(seen.values())) == 1
        checks.state(f"{self.name}: {', '.join(seen)} agree", agree, seen)
        complete = answered <= seen["orders"] <= answered + runs * CONNECTIONS
        found = f"{answered} answered, {seen['orders']} rows"
        checks.state(f"{self.name}: every answered order exists", complete, found)
        checks.state(f"{self.name}: no failed answer in the timed part", load.good, load)

    def _count(self, what: str) -> int:
        return self.store.number(slug(self.name), getattr(self.counts, what))

    def _wait_handled(self) -> int:
        """Wait until as many orders are handled as there are; how many. What wrk left unanswered still commits."""
        until = time.perf_counter() + DRAIN_S_MAX
        while (handled := self._count("handled")) < (orders := self._count("orders")):
            if time.perf_counter() > until:
                waited = f"{self.name}: {handled} of {orders} handled after {DRAIN_S_MAX:.0f} s"
                raise SideFailed(f"{waited}\n{log_tail(self.name)}")
            time.sleep(0.02)
        return orders

    def _alive(self, code: int | None) -> None:
        if code is not None:
            raise SideFailed(f"{self.name} ended with exit code {code}\n{log_tail(self.name)}")
