"""Sending: the two ways in which a queue is filled. Each peer brings one coroutine that enqueues one message durably."""

import asyncio
import time
from collections.abc import Awaitable, Callable

AT_ONCE = 16
BATCH = 1000

Enqueue = Callable[[int, int], Awaitable[object]]


async def send(enqueue: Enqueue, first: int, count: int, gap_s: float) -> None:
    """Enqueue messages `first` .. `first + count - 1`.

    With a gap, one by one with a pause of about `gap_s` between them, so that each meets an idle worker; the pause varies,
    or it could fall into step with a polling loop. With gap 0, sixteen at a time, each by a commit of its own.
    """
    if gap_s:
        for number in range(first, first + count):
            await enqueue(number, time.time_ns())
            await asyncio.sleep(gap_s * (0.5 + number * 0.618 % 1))
        return
    numbers = iter(range(first, first + count))

    async def sender() -> None:
        for number in numbers:
            await enqueue(number, time.time_ns())

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
