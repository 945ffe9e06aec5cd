"""Relay: moves committed events from the outbox to the broker, in order.

    write verb         outbox (SQL)                relay                 broker
    +---------+  same  +---------------+   read    +---------+  confirm  +--------+
    | tx: row |------->| 41 42 43 ...  |---------->| batch   |---------->| durable|
    | + event | commit +---------------+           +----+----+           +--------+
    +---------+              ^                          |
                             +---- cursor to 43 --------+   only after the confirm

The order of the last two steps is the whole design. If the process dies between them, the batch is sent again: a
duplicate, which the inbox drops. Were the order reversed, the same crash would lose the batch, and nothing downstream can
undo a loss. The broker that lives in the database does both in one transaction.

One process relays at a time: it holds `dj_relay` under a lease number that every move of the cursor compares. The holder
is alive as long as its row in dj_process is; a dead one is replaced as soon as that row is ended or expires. A process
that was paused and comes back finds another lease number and stops.

Throughput comes from batches, not from more relays: two would break the order of a key.
tests/conformance/test_broker.py pauses the owner, resumes it, and looks for order violations.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import ended
from dujiang.messaging.broker import CursorMove
from dujiang.messaging.gaps import Gap, left_of, new_gaps, parsed, stamped
from dujiang.messaging.outbox import read_batch
from dujiang.telemetry.crash import crash_point
from dujiang.telemetry.tracing import continued, span

if TYPE_CHECKING:
    from collections.abc import Callable

    from dujiang.data.database import Database
    from dujiang.data.process import ProcessLease
    from dujiang.kernel.node import Node
    from dujiang.messaging.bell import Bells
    from dujiang.messaging.broker import Broker
    from dujiang.messaging.message import Message

logger = logging.getLogger("dujiang.relay")

BATCH = 500
GAPS_MAX = 10_000
POLL_S_MIN, POLL_S_MAX = 0.005, 1.0
STOP_S = 10.0

TAKE = Sql(
    "relay_take",
    """UPDATE dj_relay SET owner_lease = $1, lease = lease + 1
       WHERE relay_id = 1 AND (owner_lease = $1 OR NOT EXISTS
         (SELECT 1 FROM dj_process p WHERE p.lease = dj_relay.owner_lease AND p.expires_us > $2))
       RETURNING lease, floor_seq, gaps""",
    "Takes the relay over when nobody alive holds it.",
)
LEAVE = Sql(
    "relay_leave",
    "UPDATE dj_relay SET owner_lease = 0 WHERE relay_id = 1 AND owner_lease = $1 AND lease = $2 RETURNING 1",
    "Gives the relay up, so that another process takes it at once.",
)


class Relay:
    """The service that owns the cursor, or waits until it can.

    Args:
        node: The running copy.
        database: Where the outbox is.
        broker: Where events go.
        bells: Rings for subscriptions; and the bell "outbox" that wakes the relay.
        process: This process's lease.
        passed: Called with each batch that was passed on; for metrics.
    """

    def __init__(
        self,
        node: Node,
        database: Database,
        broker: Broker,
        bells: Bells,
        process: ProcessLease,
        passed: Callable[[list[Message]], None],
    ) -> None:
        self._node = node
        self._database = database
        self._broker = broker
        self._bells = bells
        self._process = process
        self._passed = passed
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._lease = 0
        self._epoch = 0
        self._floor = 0
        self._gaps: tuple[Gap, ...] = ()
        self._behind = False

    def __repr__(self) -> str:
        return f"<Relay lease {self._lease}, floor {self._floor}, {len(self._gaps)} gaps>"

    @property
    def owns(self) -> bool:
        """Whether this process relays."""
        return self._lease != 0

    async def start(self) -> None:
        """Begin in the background."""
        self._task = self._node.tasks.spawn(self._run(), name="relay")

    async def stop(self, grace_s: float = STOP_S) -> None:
        """End after the batch in hand, and let another process take over at once; may be called twice.

        Args:
            grace_s: Seconds that the batch has; a broker that does not confirm it until then gets it again from another.
        """
        self._stopping = True
        if self._task is not None:
            self._bells.ring("outbox")
            await asyncio.wait({self._task}, timeout=grace_s)
            self._task.cancel()
            await ended(self._task)
        if self.owns:
            lease, self._lease = self._lease, 0
            await self._database.statement(LEAVE, self._process.lease, lease)
            self._bells.ring_far("outbox")

    async def _run(self) -> None:
        wait_s = POLL_S_MIN
        while not self._stopping:
            try:
                moved = await self._step() if self.owns else await self._take()
                wait_s = POLL_S_MIN if moved else min(POLL_S_MAX, wait_s * 2)
            except DujiangError as error:
                logger.warning("relay waits: %s", error)
                self._lease, moved, wait_s = 0, False, POLL_S_MAX
            except Exception:  # A loop that ended here would stop every event without a word.
                logger.exception("relay failed")
                self._lease, moved, wait_s = 0, False, POLL_S_MAX
            if not moved:
                await self._bells.wait("outbox", wait_s * self._node.entropy.uniform(0.8, 1.2))

    async def _take(self) -> bool:
        self._epoch = self._database.epoch
        rows = await self._database.statement(TAKE, self._process.lease, self._node.clock.now_us())
        if not rows:
            return False
        self._lease, self._floor, gaps = rows[0][0], rows[0][1], rows[0][2]
        # Stamps of another owner mean nothing to us: each gap is stamped anew by our first move.
        self._gaps = parsed(gaps)
        if not self._broker.capabilities.in_store:
            # Queues are made, and those of retired subscriptions ended, before the first event needs it.
            passed = await self._broker.publish((), CursorMove(self._lease, self._floor, self._gaps))
            self._lease, self._behind = self._lease if passed.owned else 0, passed.behind
        return True

    async def _step(self) -> bool:
        """Pass one batch on; whether there was anything to do."""
        horizon, batch = await read_batch(self._database, self._floor, self._gaps, BATCH)
        crash_point("relay_read")
        if self._database.epoch != self._epoch:
            # Another server answers. It may lack the last commits of the one before, and give their numbers out again:
            # the floor that counts is the one that it has.
            self._lease = 0
            return False
        gaps = self._after([message.seq for message in batch], horizon)
        if not batch and not self._behind and gaps == self._gaps and all(gap.stamp is not None for gap in gaps):
            return False
        floor = max(self._floor, batch[-1].seq if batch else 0)
        crash_point("relay_sent_unconfirmed")
        # A batch serves many traces; its span belongs to that of its first event.
        trace = str(batch[0].headers.get("traceparent", "")) if batch else ""
        with continued(trace, "messaging.relay", count=len(batch)), span("messaging.broker"):
            passed = await self._broker.publish(batch, CursorMove(self._lease, floor, gaps))
        crash_point("relay_confirmed_unmarked")
        if not passed.owned:
            logger.info("the relay begins again: its lease %d was ended", self._lease)
            self._lease = 0
            return False
        self._floor = floor
        self._gaps = stamped(gaps, passed.stamp)
        self._behind = passed.behind
        self._passed(batch)
        for sub_id in passed.subscriptions or ():
            self._bells.ring_far(f"sub{sub_id}")
        return bool(batch) or passed.more

    def _after(self, seen: list[int], horizon: int | None) -> tuple[Gap, ...]:
        """The gaps after a look that found these numbers."""
        if horizon is None:
            return ()
        late = bisect_right(seen, self._floor)
        # As many late ones as a look may bring: beyond the last of them it did not look.
        looked_to = seen[late - 1] if late >= BATCH else None
        gaps = (*left_of(self._gaps, seen, horizon, looked_to), *new_gaps(self._floor, seen))
        if len(gaps) > GAPS_MAX:
            logger.warning("the outbox has %d gaps; a transaction may be open for very long", len(gaps))
        return gaps
