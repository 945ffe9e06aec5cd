"""Processes: one row for each living process; its id lease and its heartbeat are the same row.

    process_id   0..511, the worker number inside ids; reused
    lease        grows for ever; never reused, so every fence compares it and never the id
    expires_us   when the others may take this process for dead
    high_us      no id made under this row is later than this; the next holder starts above it

    beat every 5 s, lease 20 s; by monotonic clock, counted from the last CONFIRMED beat:
    0 s ........................ 15 s .......... 17 s ............... 20 s
    work                         no more ids     handlers cancelled   others take over

A process that is told to stop, and one that starts under the same instance name as a dead one, ends the old row at once:
the lease is for deaths that nobody saw. A store with one process at a time ends every row of another process when it
opens: whoever holds the file is the only one alive.

Expiry is by the store's clock (data/clock.py), which is looked at before each beat. When that clock was moved, every lease
looks wrong until its holder has beaten once more, so for the length of a lease nobody is taken for dead.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.data.database import VITAL
from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.ids import WORKER_COUNT, IdMaker
from dujiang.kernel.tasks import ended

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.data.clock import StoreClock
    from dujiang.data.database import Connection, Database
    from dujiang.kernel.node import Node

    # Puts back what a lease held: (connection, lease, now).
    PutBack = Callable[[Connection, int, int], Awaitable[Any]]

logger = logging.getLogger("dujiang.process")

BEAT_S, IDS_STOP_S, CANCEL_S, LEASE_S = 5.0, 15.0, 17.0, 20.0
AHEAD_US = 30_000_000
RETRY_S = 1.0

LOCK = Sql(
    "process_lock",
    "UPDATE dj_counter SET value = value + 1 WHERE name = 'lease' RETURNING value",
    "Draws a lease number.",
)
FREE = Sql(
    "process_free",
    "SELECT process_id, high_us FROM dj_process WHERE expires_us < $1 ORDER BY high_us, process_id LIMIT 1",
    "Finds the row that has been free for longest.",
)
COUNT = Sql("process_count", "SELECT count(*) FROM dj_process", "Counts rows; the next new process id.")
INSERT = Sql(
    "process_insert",
    "INSERT INTO dj_process (process_id, holder, lease, expires_us, high_us, info) VALUES ($1, $2, $3, $4, $5, $6)",
    "Adds a process.",
)
TAKE = Sql(
    "process_take",
    "UPDATE dj_process SET holder = $2, lease = $3, expires_us = $4, high_us = $5, info = $6 WHERE process_id = $1",
    "Gives a free row to this process.",
)
BEAT = Sql(
    "process_beat",
    "UPDATE dj_process SET expires_us = $2, high_us = $3 WHERE lease = $1 AND expires_us > 0 RETURNING 1",
    "Says that this process lives; no row when its lease was ended.",
)
END = Sql(
    "process_end",
    "UPDATE dj_process SET expires_us = 0 WHERE lease = $1 AND expires_us > 0 RETURNING 1",
    "Ends a process's lease; no row when it was ended before.",
)
SAME_INSTANCE = Sql(
    "process_same_instance",
    "SELECT lease, info FROM dj_process WHERE expires_us > 0 ORDER BY lease",
    "Reads the living rows.",
)
EXPIRED = Sql(
    "process_expired",
    """SELECT lease, holder FROM dj_process WHERE expires_us > 0 AND expires_us < $1 ORDER BY lease LIMIT 10""",
    "Finds processes that have not said for a lease that they live.",
)


@dataclass(eq=False, kw_only=True)
class NoProcessId(DujiangError):
    """All process numbers are taken by living processes."""

    code = "no_process_id"
    move = "fix"
    says = "{count} processes live on this database; {count} is the limit"
    cure = "run fewer processes, or split the database"

    count: int


class ProcessLease:
    """The service that holds this process's row.

    Args:
        node: The running copy.
        database: Where the row is.
        instance: The stable name of this process across restarts; empty = none.
        release: Puts back what a lease held that its process ends itself, inside a transaction; messaging gives it.
        lost: Called once when this process must take itself for dead.
        orphaned: Finds leases that hold work although nobody living has them; messaging gives it.
        reclaim: Puts back what the lease of a dead process held; default: like `release`.
        clock: The store's; sampled before each beat.
    """

    def __init__(
        self,
        node: Node,
        database: Database,
        instance: str,
        release: PutBack,
        lost: Callable[[], None],
        *,
        orphaned: Callable[[Connection], Awaitable[Sequence[int]]],
        reclaim: PutBack | None = None,
        clock: StoreClock,
    ) -> None:
        self._node = node
        self._database = database
        self._instance = instance
        self._release = release
        self._reclaim = reclaim or release
        self._lost = lost
        self._orphaned = orphaned
        self._clock = clock
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._confirmed = 0.0
        self.lease = 0
        self.process_id = -1
        self.ids = IdMaker(clock, 0)

    def __repr__(self) -> str:
        return f"<ProcessLease id {self.process_id}, lease {self.lease}>"

    async def start(self) -> None:
        """Take a row; end the rows of dead processes that we can recognise; begin to beat."""
        await self._acquire()
        self._task = self._node.tasks.spawn(self._run(), name="process")

    async def stop(self) -> None:
        """End our row, with everything it still held put back."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)
        if self.lease:
            lease, self.lease = self.lease, 0
            await self._end(lease, self._release)

    async def _acquire(self) -> None:
        asked_at = self._clock.monotonic()
        info = json.dumps({"pid": os.getpid(), "mark": self._node.mark, "instance": self._instance})

        async def body(connection: Connection) -> tuple[int, int, int]:
            now_us = self._clock.now_us()
            lease = (await connection.fetch(LOCK))[0][0]
            await self._end_recognised(connection, now_us)
            # Before a row is given to us: the work of the dead one who held it would belong to nobody.
            for dead, _ in await connection.fetch(EXPIRED, now_us):
                await self._end_in(connection, dead, now_us, self._reclaim)
            until_us, high_us = now_us + int(LEASE_S * 1e6), now_us + AHEAD_US
            free = await connection.fetch(FREE, now_us)
            count = (await connection.fetch(COUNT))[0][0]
            # A row whose reserved instants still lie ahead is taken only when there is no fresh number left.
            if free and (free[0][1] < now_us or count >= WORKER_COUNT):
                process_id, above_us = free[0]
                await connection.execute(
                    TAKE, process_id, self._node.name, lease, until_us, max(high_us, above_us), info
                )
                return process_id, lease, above_us
            if count >= WORKER_COUNT:
                raise NoProcessId(count=count)
            await connection.execute(INSERT, count, self._node.name, lease, until_us, high_us, info)
            return count, lease, 0

        self.process_id, self.lease, above_us = await self._database.write(body)
        # A row that ended cleanly or long ago reserved nothing that lies ahead of the clock.
        self.ids = IdMaker(self._clock, self.process_id, above_ms=above_us // 1000)
        self._confirm(asked_at)

    async def _end_recognised(self, connection: Connection, now_us: int) -> None:
        """End rows of processes that are certainly dead: our own instance's, or all where one process owns the store."""
        alone = not self._database.capabilities.many_writers
        for lease, text in await connection.fetch(SAME_INSTANCE):
            info = json.loads(text)
            same = bool(self._instance) and info.get("instance") == self._instance
            if (alone or same) and info.get("mark") != self._node.mark:
                await self._end_in(connection, lease, now_us, self._reclaim)

    def _confirm(self, asked_at: float) -> None:
        self._confirmed = asked_at
        self.ids.confirm(asked_at + IDS_STOP_S)

    async def _run(self) -> None:
        VITAL.set(True)  # In this task alone.
        clock, wait_s = self._clock, BEAT_S
        while not self._stopping:
            await clock.sleep(wait_s * self._node.entropy.uniform(0.9, 1.0))
            cancel_at = self._confirmed + CANCEL_S
            wait_s = BEAT_S
            try:
                # Whatever the database does, the handlers are cancelled in time.
                async with asyncio.timeout(max(RETRY_S, min(BEAT_S, cancel_at - clock.monotonic()))):
                    alive = await self._beat()
                    await self.reap()
            except Exception as error:  # noqa: BLE001  (a loop that ended here would let the lease of a living process expire)
                logger.warning("heartbeat failed: %s", str(error) or type(error).__name__)
                alive = clock.monotonic() < self._confirmed + CANCEL_S
                wait_s = max(0.01, min(RETRY_S, self._confirmed + CANCEL_S - clock.monotonic()))
            if not alive:
                await self._begin_again()

    async def _beat(self) -> bool:
        await self._clock.sample()
        asked_at, now_us = self._clock.monotonic(), self._clock.now_us()
        if not await self._database.statement(BEAT, self.lease, now_us + int(LEASE_S * 1e6), now_us + AHEAD_US):
            return False
        self._confirm(asked_at)
        return True

    async def _begin_again(self) -> None:
        """We must take ourselves for dead: stop what runs under the old lease, then take a new one."""
        logger.error("lease %d is lost; its work is cancelled and a new lease is taken", self.lease)
        lost, self.lease = self.lease, 0
        self._lost()
        while not self._stopping:
            try:
                await self._end(lost, self._release)
                await self._acquire()
            except Exception as error:  # noqa: BLE001  (as above)
                logger.warning("no new lease yet: %s", error)
                await self._clock.sleep(RETRY_S)
            else:
                return

    async def reap(self) -> None:
        """Put back what expired processes held, and end their rows; any process may do it, one wins."""
        if not self._clock_just_stepped:
            rows = await self._database.read(lambda c: c.fetch(EXPIRED, self._clock.now_us()))
            for lease, holder in rows:
                logger.warning("process %s (lease %d) is taken for dead", holder, lease)
                await self._end(lease, self._reclaim)
        # Claimed under a lease that had been ended by then; the one who claimed it cannot know.
        for lease in await self._database.read(self._orphaned):
            logger.warning("lease %d held work after its end; it is put back", lease)
            await self._database.write(lambda c, lease=lease: self._release(c, lease, self._clock.now_us()))  # type: ignore[misc]

    @property
    def _clock_just_stepped(self) -> bool:
        """Whether the living may look dead, because they have not beaten since the store's clock was moved."""
        stepped = self._clock.stepped
        return stepped is not None and self._clock.monotonic() < stepped + LEASE_S

    async def _end(self, lease: int, put_back: PutBack) -> None:
        await self._database.write(lambda c: self._end_in(c, lease, self._clock.now_us(), put_back))

    async def _end_in(self, connection: Connection, lease: int, now_us: int, put_back: PutBack) -> None:
        """End a row and put back what it held, inside a transaction."""
        # The row's lock first: two reapers, or a reaper and a late beat, decide here.
        if await connection.fetch(END, lease):
            await put_back(connection, lease, now_us)
