"""Upkeep: what a running copy does beside its work: sample the outbox, clean, make partitions, count what waits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dujiang.jobs import schedules
from dujiang.jobs import store as jobs
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import ended
from dujiang.messaging import forgotten
from dujiang.messaging.outbox import backlog
from dujiang.messaging.work import COUNTS
from dujiang.saga import store as sagas

if TYPE_CHECKING:
    import asyncio

    from dujiang.app.runtime import Runtime
    from dujiang.data.database import Connection
    from dujiang.messaging.deadletter import DeadLetter

logger = logging.getLogger("dujiang.app.upkeep")

SAMPLE_S = 1.0
CLEAN_S = 30.0


class Upkeep:
    """The service; one loop, a look each second, a cleaning each half minute.

    Args:
        runtime: The running copy.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look once, then go on in the background."""
        await self._sample()
        self._task = self._runtime.node.tasks.spawn(self._run(), name="upkeep")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)

    async def _run(self) -> None:
        clock, entropy = self._runtime.node.clock, self._runtime.node.entropy
        clean_at = clock.monotonic() + CLEAN_S * entropy.random()
        while True:
            await clock.sleep(SAMPLE_S * entropy.uniform(0.9, 1.1))
            try:
                await self._sample()
                if clock.monotonic() >= clean_at:
                    clean_at = clock.monotonic() + CLEAN_S
                    await self._clean()
            except DujiangError as error:
                logger.warning("upkeep waits: %s", error)

    async def _sample(self) -> None:
        gauge = self._runtime.gauge
        gauge.size, gauge.oldest_us = await backlog(self._runtime.database, gauge.limit)
        now_us = self._runtime.node.clock.now_us()
        age_s = 0.0 if gauge.oldest_us is None else max(0.0, (now_us - gauge.oldest_us) / 1e6)
        self._runtime.counting.outbox(gauge.size, age_s)
        self._runtime.counting.skewed(self._runtime.clock.skew_us / 1e6)

    async def _clean(self) -> None:
        runtime = self._runtime
        await runtime.cleaner.prepare()
        if runtime.relay.owns:  # One process cleans; the others would only meet it.
            while (
                await runtime.cleaner.clean() > 0
                or await runtime.idempotency.clean() > 0
                or await runtime.jobs.clean() > 0
                or await sagas.clean(runtime.database, runtime.node.clock.now_us()) > 0
                or await schedules.clean(runtime.database, runtime.node.clock.now_us()) > 0
                or await self._cut() > 0
            ):
                await runtime.node.clock.sleep(0.02)
        rows = await runtime.database.read(lambda connection: connection.fetch(COUNTS))
        for name, ready, _, dead in rows:
            runtime.counting.waiting(name, ready, dead)

    async def _cut(self) -> int:
        """Cut the log of forgotten names by a slice."""
        runtime = self._runtime
        return await forgotten.cut(runtime.database, runtime.node.clock.now_us() - forgotten.KEEP_US)


async def given_up(connection: Connection, letter: DeadLetter, seq: int, now_us: int) -> None:
    """A dead letter is discarded; if it was a job or a saga, that is its end."""
    await jobs.discarded(connection, letter, seq, now_us)
    await sagas.discarded(connection, letter, seq, now_us)
