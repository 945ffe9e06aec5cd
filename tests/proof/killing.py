"""A trial by killing: clients post orders with keys, the process dies again and again, and the books must balance.

    life 1 ──✗  life 2 ──✗  ...  last life: every key is answered, everything settles, SIGTERM
      |           └ keys without an answer are asked again; answered ones now and then, and must get the same bytes
      └ clients post until nobody answers

What a client saw is the only witness; the store is read when it is closed, by programs that are not ours.
"""

from __future__ import annotations

import http.client
import itertools
import queue
import random
import signal
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dujiang.systems.shop.contract import OrderReceipt
from tests.cli.processes import Up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dujiang.testing.servers import PostgresServer

CLIENTS = 4
REACH_S = 45.0
SETTLE_S = 90.0
LIFE_ORDERS = 100  # New orders of one life: each makes seven pieces of work, and the last life has to end them all.
ORDER = {"user_id": 1, "items": ["itemA", {"sku": "mouse", "quantity": 2}]}
APP = "trial_app:app"

# The shop, and a reaction that fails at the first try of each life after it has written: a retry is a crash point too.
# Another one tells the world outside, which is a file: a line for each run, with the key of the call.
SOURCE = """
import os

from dujiang import App, Call, Failed, Id, Job, Model, Module, Ok, Read, Retry, Saga, Step, Tx, Unknown
from dujiang.data.sql import Sql
from dujiang.systems.shop import shop
from dujiang.systems.shop.tables import stock
from dujiang.systems.shop.contract import StockReserved
from dujiang.kernel.context import current
from dujiang.testing.harness import OPEN

ADD = Sql("trial_add", "INSERT INTO trial_seen (id, order_id) VALUES ($1, $2)", "Notes an effect.")
TRIED = set()


async def fill(tx: Tx) -> None:
    await tx.execute(stock.update().values(on_hand=1_000_000))


trial = Module("trial", migrations="scripts", seed=fill)


class Open(Model):
    unrouted: int
    ready: int
    running: int


@trial.react(StockReserved, ordered=True, retry=Retry(attempts=1000, base="5ms", cap="50ms"))
async def see(tx: Tx, event: StockReserved) -> None:
    await tx.fetch(ADD, tx.new_id(), event.order_id)
    if event.order_id not in TRIED:
        TRIED.add(event.order_id)
        raise RuntimeError("the first try of each life fails")


@trial.external
async def tell_outside(key: str, order_id: int) -> None:
    file = os.open("outside.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(file, f"{key} {order_id}\\n".encode())
    os.close(file)


@trial.react(StockReserved, retry=Retry(attempts=1000, base="5ms", cap="50ms"))
async def tell(call: Call, event: StockReserved) -> None:
    await tell_outside(call.key, event.order_id)


class Pack(Model, frozen=False):
    order_id: Id


WORD = Sql("trial_word", "INSERT INTO trial_saga (id, order_id, word) VALUES ($1, $2, $3)", "Notes a step.")


async def hold(tx: Tx, state: Pack) -> str:
    await tx.fetch(WORD, tx.new_id(), state.order_id, "held")
    return "held"


async def free(tx: Tx, state: Pack, done: str) -> None:
    await tx.fetch(WORD, tx.new_id(), state.order_id, "freed")


async def label(call: Call, state: Pack) -> Ok[str] | Failed | Unknown:
    return Ok(call.key)


async def unlabel(call: Call, state: Pack, done: str | None) -> None:
    return None


async def refuse(call: Call, state: Pack) -> Ok[str] | Failed | Unknown:
    return Failed("the post is closed")


async def pack(tx: Tx, state: Pack) -> None:
    await tx.fetch(WORD, tx.new_id(), state.order_id, "packed")


@trial.saga(on=StockReserved, within="1h", retry=Retry(attempts=1000, base="5ms", cap="50ms"), stuck_after=1000)
class Packing(Saga[Pack]):
    label = Step(label, undo=unlabel)
    pack = Step(pack)

    @staticmethod
    def begin(event: StockReserved) -> Pack:
        return Pack(order_id=event.order_id)


@trial.saga(on=StockReserved, within="1h", retry=Retry(attempts=1000, base="5ms", cap="50ms"), stuck_after=1000)
class Posting(Saga[Pack]):
    hold = Step(hold, undo=free)
    post = Step(refuse, undo=unlabel)

    @staticmethod
    def begin(event: StockReserved) -> Pack:
        return Pack(order_id=event.order_id)


TICK = Sql("trial_tick", "INSERT INTO trial_tick (id, due) VALUES ($1, $2)", "Notes a time.")


async def note(tx: Tx, due: str) -> None:
    await tx.fetch(TICK, tx.new_id(), due)


@trial.every("1s", retry=Retry(attempts=1000, base="5ms", cap="50ms"))
async def tick(job: Job) -> None:
    await job.step("note", note, job.due.isoformat())


@trial.read("GET /trial/open")
async def still_open(db: Read) -> Open:
    row = (await db.fetch(OPEN, current().node.clock.now_us()))[0]
    return Open(unrouted=row[0], ready=row[1], running=row[2])


app = App(modules=[shop, trial])
"""
SCRIPT = '''"""Make the table of effects."""
from alembic import op
revision = "0001"
down_revision = None
def upgrade():
    op.execute("CREATE TABLE trial_seen (id BIGINT PRIMARY KEY, order_id BIGINT NOT NULL)")
    op.execute("CREATE TABLE trial_saga (id BIGINT PRIMARY KEY, order_id BIGINT NOT NULL, word TEXT NOT NULL)")
    op.execute("CREATE TABLE trial_tick (id BIGINT PRIMARY KEY, due TEXT NOT NULL)")
'''

Rows = list[tuple[str, ...]]


@dataclass
class Trial:
    """One store, its lives, and what the clients saw.

    Args:
        folder: An empty folder.
        settings: The settings of the store.
        select: Reads the closed store: rows of text.
        seed: Of the clients' choices.

    Attributes:
        answered: The body of the 201, by key.
        unanswered: Keys that were sent and got no answer that settles them.
        deaths: How many lives were ended.
    """

    folder: Path
    settings: dict[str, str]
    select: Callable[[str], Rows]
    seed: int = 1
    answered: dict[str, bytes] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    deaths: int = 0
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        """Write the application."""
        (self.folder / "trial_app.py").write_text(SOURCE)
        (self.folder / "scripts").mkdir()
        (self.folder / "scripts" / "__init__.py").write_text("")
        (self.folder / "scripts" / "0001_seen.py").write_text(SCRIPT)

    def up(self, **more: str) -> Up:
        """A new life, not yet ready. Its name is always the same: it takes the dead one's work over at once."""
        return Up(self.folder, APP, instance="trial", **self.settings, **more)

    def die_at(self, point: str) -> None:
        """One life that ends at a crash point; fails when it does not get there."""
        with self.up(crash_at=point) as up:
            if up.ready():
                self.post_until(up, limit_s=REACH_S)
            with suppress(subprocess.TimeoutExpired):
                up.process.wait(2.0)
            code = up.process.poll()
            assert code == -signal.SIGKILL, f"{point} was not reached within {REACH_S:.0f} s ({code}): {up.err[-2000:]}"
        self.deaths += 1

    def die_after(self, life_s: float) -> None:
        """One life that is killed from outside after a while, ready or not."""
        with self.up() as up:
            killer = threading.Timer(life_s, up.process.kill)
            killer.start()
            try:
                if up.ready():
                    self.post_until(up, limit_s=life_s + REACH_S)
            finally:
                killer.join()
            assert up.wait() == -signal.SIGKILL, up.err[-2000:]
        self.deaths += 1

    def end_well(self) -> None:
        """The last life: every key is answered with the bytes of its first answer, all work is done, no law is broken."""
        with self.up().started() as up:
            until_s = time.monotonic() + SETTLE_S
            for key in [*sorted(self.unanswered), *(f"key-{next(self.numbers)}" for _ in range(CLIENTS))]:
                while not self.post(up, key):
                    assert time.monotonic() < until_s, f"{key} gets no answer: {up.err[-2000:]}"
            for key in random.Random(self.seed).sample(sorted(self.answered), min(50, len(self.answered))):
                assert self.post(up, key)
            assert up.operate("POST", "/_dj/schedules/trial.tick/pause").status == 204  # Or there would always be work.
            while any(found := up.request("GET", "/trial/open").json.values()):
                assert time.monotonic() < until_s, f"still open (unrouted, ready, running): {list(found)}"
            assert up.operate("POST", "/_dj/audit").json == []
            assert up.stop() == 0, up.err[-2000:]
        self.check_books()

    def post_until(self, up: Up, *, limit_s: float) -> None:
        """Clients post, unanswered keys first, until the process is dead or the time is over."""
        again: queue.SimpleQueue[str] = queue.SimpleQueue()
        for key in sorted(self.unanswered):
            again.put(key)
        until_s, fresh = time.monotonic() + limit_s, itertools.count()

        def client(number: int) -> None:
            chance = random.Random(f"{self.seed} {self.deaths} {number}")
            while up.process.poll() is None and time.monotonic() < until_s:
                try:
                    key = again.get_nowait()
                except queue.Empty:
                    if self.answered and (chance.random() < 0.2 or next(fresh) >= LIFE_ORDERS):
                        key = chance.choice(list(self.answered))
                    else:
                        key = f"key-{next(self.numbers)}"
                if not self.post(up, key) and up.process.poll() is None:
                    again.put(key)

        with ThreadPoolExecutor(CLIENTS) as pool:
            for done in [pool.submit(client, number) for number in range(CLIENTS)]:
                done.result()

    def post(self, up: Up, key: str) -> bool:
        """Post one order; whether its key is answered now. A second answer must have the bytes of the first."""
        if key not in self.answered:
            self.unanswered.add(key)
        try:
            answer = up.request("POST", "/api/v1/orders", ORDER, idempotency_key=key, timeout_s=20.0)
        except (OSError, http.client.HTTPException):
            return False
        if answer.status != 201:
            assert "retry-after" in answer.headers, f"{answer.status} {answer.body!r}"
            return False
        first = self.answered.setdefault(key, answer.body)
        assert first == answer.body, f"{key}: {first!r}, then {answer.body!r}"
        self.unanswered.discard(key)
        return True

    def check_books(self) -> None:
        """Read the closed store: what was promised is there, once, and nothing else is."""
        promised = sorted(str(OrderReceipt.model_validate_json(body).order_id) for body in self.answered.values())
        count = str(len(promised))
        assert len(set(promised)) == len(promised), "two keys were answered with one order"
        assert sorted(row[0] for row in self.select("SELECT order_id FROM shop_order")) == promised
        assert self.select("SELECT status, count(*) FROM shop_order GROUP BY status") == [("reserved", count)]
        assert self.select("SELECT sku, reserved, pending FROM shop_stock WHERE reserved > 0 ORDER BY sku") == [
            ("itemA", count, "0"),
            ("mouse", str(2 * len(promised)), "0"),
        ]
        assert self.select("SELECT count(*), count(DISTINCT order_id) FROM trial_seen") == [(count, count)]
        words = "SELECT word, count(*), count(DISTINCT order_id) FROM trial_saga GROUP BY word ORDER BY word"
        assert self.select(words) == [(word, count, count) for word in ("freed", "held", "packed")]
        for table in ("dj_ready", "dj_running", "dj_dead", "dj_hold"):
            assert self.select(f"SELECT count(*) FROM {table}") == [("0",)], table
        published = self.select("SELECT topic, count(*) FROM dj_outbox GROUP BY topic ORDER BY topic")
        assert published == [("OrderPlaced", count), ("StockReserved", count)]
        done = self.select(
            "SELECT s.name, count(*), count(DISTINCT o.seq) FROM dj_outcome o JOIN dj_subscription s"
            " ON s.sub_id = o.sub_id WHERE o.state = 1 AND s.name <> 'trial.tick' GROUP BY s.name ORDER BY s.name"
        )
        sagas = ("trial.Packing", "trial.Packing.begin", "trial.Posting", "trial.Posting.begin")
        assert done == [(name, count, count) for name in ("shop.reserve_stock", *sagas, "trial.see", "trial.tell")]
        ((fired,),) = self.select("SELECT count(*) FROM dj_fire WHERE job_id IS NOT NULL")
        assert self.select("SELECT count(*), count(DISTINCT due) FROM trial_tick") == [(fired, fired)]
        told = {tuple(line.split()) for line in (self.folder / "outside.txt").read_text().splitlines()}
        assert sorted(order for _, order in told) == promised, "an order was not told, or under two keys"
        assert len({key for key, _ in told}) == len(promised), "two orders were told under one key"


def new_trial(
    kind: str, folder: Path, server: Callable[[], PostgresServer], *, broker: str = "", seed: int = 1
) -> Trial:
    """A trial on an empty store: `sqlite`, or a database of its own on the private server; events go by `broker`."""
    if kind == "sqlite":
        return Trial(folder, {}, lambda statement: read_file(folder / "var" / "app.db", statement), seed)
    postgres = server()
    url = postgres.create_database()
    name = url.rpartition("/")[2]

    def read(statement: str) -> Rows:
        text = postgres.execute(statement, database=name)
        return [tuple(line.split("|")) for line in text.splitlines()]

    return Trial(folder, {"database": url, **({"broker": broker} if broker else {})}, read, seed)


def read_file(path: Path, statement: str) -> Rows:
    """Rows of an embedded store that nobody has open, read by Python's own SQLite."""
    with closing(sqlite3.connect(path)) as connection:
        return [tuple(str(value) for value in row) for row in connection.execute(statement)]


__all__ = ["Trial", "new_trial"]
