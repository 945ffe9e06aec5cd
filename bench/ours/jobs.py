"""Our side of `jobs`: the job, an address that enqueues one, and a program that enqueues without HTTP and without a worker.

    python -m bench.ours.jobs STORE bulk|single FIRST COUNT

enqueues COUNT jobs, 1,000 in one transaction or one in each, sixteen transactions at once, and prints how long it took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.peers.marks import mark
from bench.peers.sending import BATCH, send
from dujiang import App, Job, Module, Runtime, Settings, Tx
from dujiang.kernel.node import Node

bench = Module("bench")


class Message(BaseModel):
    """What the sender sends."""

    number: int
    sent_ns: int


@bench.accept(concurrency=50)
async def handle(_job: Job, number: int, sent_ns: int) -> None:
    """Mark it."""
    mark(number, sent_ns)


@bench.write("POST /messages", batch=64)
async def post(tx: Tx, bodies: list[Message]) -> list[Message]:
    """Enqueue them; requests that wait at the same moment share a commit, one alone has its own."""
    await tx.enqueue_many(handle, [(body.number, body.sent_ns) for body in bodies])
    return bodies


app = App(modules=[bench])


async def filled(store: str, how: str, first: int, count: int) -> dict[str, Any]:
    """Enqueue; the seconds that it took, without the start of the process, and how the store syncs."""
    settings = Settings(database=store, data=Path(tempfile.mkdtemp(prefix="bench-jobs-")), pool_size=20)
    async with Runtime(app, settings, Node.system(), roles=("gateway", "write")) as runtime:

        async def one(number: int, sent_ns: int) -> None:
            async def body(tx: Tx) -> None:
                await tx.enqueue(handle, number, sent_ns)

            await runtime.transact(body)

        async def many(numbers: range) -> None:
            async def body(tx: Tx) -> None:
                await tx.enqueue_many(handle, [(number, time.time_ns()) for number in numbers])

            await runtime.transact(body)

        began = time.perf_counter()
        if how == "single":
            await send(one, first, count, 0)
        else:
            for at in range(first, first + count, BATCH):
                await many(range(at, min(at + BATCH, first + count)))
        took_s = time.perf_counter() - began
        said = await runtime.database.durability()
    return {"seconds": took_s, **({"synchronous": said["synchronous"]} if store.startswith("sqlite") else {})}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(filled(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))))
