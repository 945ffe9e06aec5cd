"""procrastinate on PostgreSQL: LISTEN/NOTIFY wake-up, 50 jobs at a time, finished jobs deleted.

usage: queue_procrastinate.py prepare | work | send FIRST COUNT GAP_S | single FIRST COUNT | bulk FIRST COUNT
"""

import asyncio
import json
import os
import sys
import time

from marks import mark
from procrastinate import App, PsycopgConnector
from sending import BATCH, send

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_DATABASE"], min_size=2, max_size=20))


@app.task(queue="bench")
async def handle(number: int, sent_ns: int) -> None:
    """The job."""
    mark(number, sent_ns)


async def prepare() -> None:
    """Make its tables."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work() -> None:
    """Run until SIGTERM."""
    async with app.open_async():
        await app.run_worker_async(concurrency=50, delete_jobs="always")


async def fill(first: int, count: int, gap_s: float) -> None:
    """Enqueue."""
    async with app.open_async():
        began = time.perf_counter()
        await send(lambda number, sent_ns: handle.defer_async(number=number, sent_ns=sent_ns), first, count, gap_s)
        print(json.dumps({"seconds": time.perf_counter() - began}))


async def fill_in_bulk(first: int, count: int) -> None:
    """Enqueue, so many in one statement."""
    async with app.open_async():
        began = time.perf_counter()
        for at in range(first, first + count, BATCH):
            numbers = range(at, min(at + BATCH, first + count))
            await handle.batch_defer_async(*({"number": number, "sent_ns": time.time_ns()} for number in numbers))
        print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "bulk":
        asyncio.run(fill_in_bulk(int(rest[0]), int(rest[1])))
    elif verb in ("send", "single"):
        asyncio.run(fill(int(rest[0]), int(rest[1]), float(rest[2]) if verb == "send" else 0.0))
    else:
        asyncio.run({"prepare": prepare, "work": work}[verb]())
