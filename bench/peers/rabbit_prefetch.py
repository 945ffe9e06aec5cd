"""Prefetch: a fast and a slow consumer share a full quorum queue, by how many messages each may hold unacknowledged.

usage: rabbit_prefetch.py PREFETCH COUNT       prints when it began and ended, as time_ns

Each handles one message at a time, the fast one in 1 ms, the slow one in 10 ms: two processes, one on a busy machine. What
a consumer holds nobody else can take, so the slow one's last messages decide when everything is done.
"""

import asyncio
import os
import sys
import time

import aiormq
import uvloop
from marks import mark

QUEUE, WINDOW, HANDLERS_S = "bench.prefetch", 500, (0.001, 0.010)
PERSISTENT = 2


async def main(prefetch: int, count: int) -> None:
    """Fill the queue, then empty it."""
    connection = await aiormq.connect(os.environ["BENCH_BROKER"].partition("?")[0])
    channel = await connection.channel(publisher_confirms=True)
    await channel.queue_delete(QUEUE)
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    properties = aiormq.spec.Basic.Properties(delivery_mode=PERSISTENT)
    for first in range(0, count, WINDOW):
        numbers = range(first, min(count, first + WINDOW))
        sent = (channel.basic_publish(b"%d" % number, routing_key=QUEUE, properties=properties) for number in numbers)
        await asyncio.gather(*sent)
    done, handled = asyncio.Event(), 0

    async def consume(handler_s: float) -> None:
        nonlocal handled
        held: asyncio.Queue[aiormq.abc.DeliveredMessage] = asyncio.Queue()
        taking = await connection.channel()
        await taking.basic_qos(prefetch_count=prefetch)
        await taking.basic_consume(QUEUE, held.put)
        while True:
            message = await held.get()
            await asyncio.sleep(handler_s)
            mark(int(message.body), 0)
            await taking.basic_ack(message.delivery.delivery_tag, wait=False)
            handled += 1
            if handled == count:
                done.set()

    began = time.time_ns()
    consumers = [asyncio.create_task(consume(handler_s)) for handler_s in HANDLERS_S]
    await done.wait()
    print(began, time.time_ns(), flush=True)
    for consumer in consumers:
        consumer.cancel()
    await connection.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
