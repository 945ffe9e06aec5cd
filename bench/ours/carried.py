"""Our side of `rabbitmq`: an outbox that was filled beforehand, relay and worker in one process.

usage: python -m bench.ours.carried fill COUNT | tx COUNT | call COUNT | relay COUNT

`fill` publishes in transactions of 500, with nobody relaying. The other words name what then runs, and print when the
relay began and, for `relay`, when the last message was confirmed, both as time_ns; a handled message leaves a mark.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.peers.marks import mark
from dujiang import App, Call, Event, Module, Runtime, Tx, key
from dujiang.kernel.node import Node
from dujiang.settings import Settings

BATCH, CONCURRENCY, KEYS = 500, 50, 100


class Posted(Event):
    """A message was sent."""

    number: int
    sku: str = key()
    quantity: int = 1


def app_of(form: str) -> App:
    """The application; `form` says in which world its reaction lives."""
    module = Module("bench")
    if form == "call":

        @module.react(Posted, name="handle", concurrency=CONCURRENCY)
        async def handle(_call: Call, event: Posted) -> None:
            mark(event.number, 0)
    else:

        @module.react(Posted, name="handle", concurrency=CONCURRENCY)
        async def handle_in(_tx: Tx, event: Posted) -> None:
            mark(event.number, 0)

    return App(modules=[module])


async def main(form: str, count: int) -> None:
    """Run one form to its end."""
    roles = {"fill": ("gateway",), "relay": ("relay",)}.get(form, ("relay", "worker"))
    settings = Settings(
        database=os.environ["BENCH_DATABASE"], broker=os.environ["BENCH_BROKER"], data=Path(tempfile.mkdtemp()),
        outbox_limit=10 * count,
    )  # fmt: skip
    runtime = Runtime(app_of(form), settings, Node.system(), roles=roles)
    began: list[int] = []
    start = runtime.relay.start

    async def timed() -> None:
        began.append(time.time_ns())
        await start()

    runtime.relay.start = timed  # type: ignore[method-assign]
    async with runtime:
        if form == "fill":
            await runtime.workers.activate()
            for first in range(0, count, BATCH):
                await runtime.transact(publish(range(first, min(count, first + BATCH))))
            return
        while (runtime.relay._floor if form == "relay" else marked()) < count:  # noqa: ASYNC110, SLF001  (nothing tells)
            await asyncio.sleep(0.005)
        print(began[0], time.time_ns(), flush=True)


def publish(numbers: range) -> Any:
    """A transaction that publishes these."""

    async def body(tx: Tx) -> None:
        tx.publish(*(Posted(number=number, sku=f"sku-{number % KEYS}") for number in numbers))

    return body


def marked() -> int:
    """How many messages were handled."""
    return Path(os.environ["BENCH_MARKS"]).stat().st_size // 24


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
