"""DBOS queues on PostgreSQL, 50 workflows at a time, polled every 50 ms.

Its default polls once per second, which costs half a second of latency; 50 ms is the faster setting for both figures.

usage: queue_dbos.py prepare | work | send FIRST COUNT GAP_S
"""

import asyncio
import os
import sys
import time

from dbos import DBOS, DBOSClient, DBOSConfig
from marks import mark
from sending import send

QUEUE = "bench"
URL = os.environ["BENCH_DATABASE"]


def launch() -> None:
    """Start DBOS in this process; the first start makes its tables."""

    @DBOS.workflow(name="handle")
    async def handle(number: int, sent_ns: int) -> None:
        mark(number, sent_ns)

    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": URL,
        "log_level": "WARNING",
        "executor_id": "worker",
        "application_version": "1",
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=50, polling_interval_sec=0.05)


async def fill(first: int, count: int, gap_s: float) -> None:
    """Enqueue."""
    client = DBOSClient(system_database_url=URL)

    async def enqueue(number: int, sent_ns: int) -> None:
        options = {"workflow_name": "handle", "queue_name": QUEUE, "app_version": "1"}
        await client.enqueue_async(options, number, sent_ns)

    await send(enqueue, first, count, gap_s)
    client.destroy()


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "send":
        asyncio.run(fill(int(rest[0]), int(rest[1]), float(rest[2])))
    else:
        launch()
        if verb == "prepare":
            DBOS.destroy()
        while verb == "work":
            time.sleep(60)
