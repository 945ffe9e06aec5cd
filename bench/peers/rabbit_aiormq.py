"""aiormq by hand: persistent, mandatory, confirmed, 500 in flight, to a quorum queue; consumed with manual acknowledgement.

usage: rabbit_aiormq.py publish COUNT | both COUNT       prints when it began and ended, as time_ns
"""

import asyncio
import os
import sys
import time

import aiormq
import uvloop
from marks import mark
from pydantic import BaseModel

QUEUE, WINDOW, PREFETCH = "bench.raw", 500, 200
PERSISTENT = 2


class Posted(BaseModel):
    """The body."""

    number: int
    sku: str
    quantity: int = 1


async def main(form: str, count: int) -> None:
    """Publish, and handle what was published."""
    url = os.environ["BENCH_BROKER"].partition("?")[0]
    publishing, consuming = await aiormq.connect(url), await aiormq.connect(url)
    channel = await publishing.channel(publisher_confirms=True)
    await channel.queue_delete(QUEUE)
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    done, handled = asyncio.Event(), 0

    async def handle(message: aiormq.abc.DeliveredMessage) -> None:
        nonlocal handled
        mark(Posted.model_validate_json(message.body).number, 0)
        await message.channel.basic_ack(message.delivery.delivery_tag, wait=False)
        handled += 1
        if handled == count:
            done.set()

    if form == "both":
        taking = await consuming.channel()
        await taking.basic_qos(prefetch_count=PREFETCH)
        await taking.basic_consume(QUEUE, handle)
    properties = aiormq.spec.Basic.Properties(delivery_mode=PERSISTENT, content_type="application/json")
    bodies = [Posted(number=number, sku=f"sku-{number % 100}").model_dump_json().encode() for number in range(count)]
    began = time.time_ns()
    for first in range(0, count, WINDOW):
        window = bodies[first : first + WINDOW]
        sent = (channel.basic_publish(body, routing_key=QUEUE, properties=properties, mandatory=True) for body in window)
        await asyncio.gather(*sent)
    if form == "both":
        await done.wait()
    print(began, time.time_ns(), flush=True)
    await publishing.close()
    await consuming.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
