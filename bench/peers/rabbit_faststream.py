"""FastStream on a quorum queue: persistent and confirmed, 500 in flight, manual acknowledgement.

usage: rabbit_faststream.py plain COUNT | inbox COUNT       prints when it began and ended, as time_ns

`inbox` is what one writes by hand so that a message has its effect once: a row under its id in the handler's transaction.
"""

import asyncio
import os
import sys
import time

import asyncpg
import uvloop
from faststream import AckPolicy
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitMessage, RabbitQueue
from marks import mark
from pydantic import BaseModel

WINDOW, PREFETCH, POOL = 500, 200, 20


class Posted(BaseModel):
    """The body."""

    number: int
    sku: str
    quantity: int = 1


async def main(form: str, count: int) -> None:
    """Publish, and handle what was published."""
    broker = RabbitBroker(os.environ["BENCH_BROKER"].partition("?")[0], logger=None)
    queue = RabbitQueue(f"bench.faststream.{os.getpid()}", queue_type=QueueType.QUORUM, durable=True)
    pool = await asyncpg.create_pool(os.environ["BENCH_DATABASE"], min_size=POOL, max_size=POOL)
    await pool.execute("CREATE TABLE IF NOT EXISTS inbox (message_id TEXT PRIMARY KEY)")
    done, handled = asyncio.Event(), 0

    async def first_time(message: RabbitMessage, posted: Posted) -> None:
        async with pool.acquire() as connection, connection.transaction():
            insert = "INSERT INTO inbox VALUES ($1) ON CONFLICT DO NOTHING RETURNING 1"
            if await connection.fetchval(insert, message.message_id):
                mark(posted.number, 0)

    @broker.subscriber(queue, ack_policy=AckPolicy.MANUAL, channel=Channel(prefetch_count=PREFETCH))
    async def handle(posted: Posted, message: RabbitMessage) -> None:
        nonlocal handled
        if form == "inbox":
            await first_time(message, posted)
        else:
            mark(posted.number, 0)
        await message.ack()
        handled += 1
        if handled == count:
            done.set()

    await broker.start()
    began = time.time_ns()
    for first in range(0, count, WINDOW):
        events = (Posted(number=number, sku=f"sku-{number % 100}") for number in range(first, min(count, first + WINDOW)))
        await asyncio.gather(*(broker.publish(event, queue, persist=True, mandatory=True) for event in events))
    await done.wait()
    print(began, time.time_ns(), flush=True)
    await broker.stop()
    await pool.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
