"""Reconcile: what a broker lost after it had confirmed it is found missing, and published again.

    outbox, of one topic      41   42   43   44   45   46   47
    arrived at subscription    x    x    .    x    x    .    .
                                    ^ watermark 42

A message has arrived at a subscription when the work tables know it: it waits, runs, is dead, or its id is in the inbox.
From there it cannot be lost. Each subscription has a watermark: everything of its topic up to that number has arrived.
What has not arrived is not therefore lost: it may wait in its queue behind a million others, and to publish it again
would make two million of them. So 43 is called missing only if all of this holds:

    it is older than 30 s         the usual case is that it is on its way
    a later one of its partition has arrived, or the queue of its partition is empty
    it was not published again within the last 30 s, and no more than 200 are in one round of 5 s

44 arrived, so 43 is missing if they share a partition. 46 and 47 are missing only if their queue is empty. A repeat that
was not needed costs one look into the inbox and nothing else; so the rule may err on that side: what another process
holds undelivered looks like an empty queue.

The order of a key cannot be kept where the broker lost one of its events and brought the next: that one was handled
when the loss was noticed. It is the one promise that a confirmed and lost message breaks; nothing is lost, and
everything has its effect once.

The outbox keeps what lies above the lowest watermark (messaging/outbox.py), so there is something to publish. A dead
letter that was discarded, or replayed under a new id, has left only the row that counted it; nothing finds that row by
its number, so it is looked for just for those that would be published again. Only the relay's owner does all this.

Why at all: a fresh RabbitMQ 3.10 node loses quorum-queue messages that it confirmed when it is killed.
tests/conformance/test_broker_rabbit.py kills one; tests/conformance/test_broker_model.py loses them at will.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import ended
from dujiang.messaging.broker import Feed
from dujiang.messaging.carrier import partition_of, partitions_of
from dujiang.messaging.feeds import CATALOGUE, arrived_of
from dujiang.messaging.gaps import parsed
from dujiang.messaging.outbox import message_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from dujiang.data.database import Database
    from dujiang.kernel.node import Node
    from dujiang.messaging.message import Message

logger = logging.getLogger("dujiang.reconcile")

AGE_S, EVERY_S = 30.0, 5.0
LOOK, AGAIN_MAX = 1000, 200
AHEAD_US = 60_000_000  # Clocks of processes may differ; the lease of a process bounds by how much.

RAISE = Sql(
    "reconcile_raise",
    "UPDATE dj_counter SET value = $2 WHERE name = $1 AND value < $2",
    "Raises a watermark.",
)
BOUNDS = Sql(
    "reconcile_bounds", "SELECT floor_seq, gaps FROM dj_relay WHERE relay_id = 1", "Reads how far the relay is."
)
ABOVE = Sql(
    "reconcile_above",
    """SELECT o.seq, o.message_id, o.topic, o.okey, o.created_us, o.headers, o.payload,
              CASE WHEN EXISTS (SELECT 1 FROM dj_inbox i WHERE i.message_id = o.message_id AND i.sub_id = $1)
                OR EXISTS (SELECT 1 FROM dj_ready r WHERE r.sub_id = $1 AND r.seq = o.seq)
                OR EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = $1 AND u.seq = o.seq)
                OR EXISTS (SELECT 1 FROM dj_dead d WHERE d.sub_id = $1 AND d.seq = o.seq) THEN 1 ELSE 0 END
       FROM dj_outbox o WHERE o.seq > $2 AND o.seq <= $3 AND o.topic = $4 ORDER BY o.seq LIMIT $5""",
    "Reads the messages of a topic above a watermark, and which of them have arrived.",
)
ENDED_ARRAYS = Sql(
    "reconcile_ended_arrays",
    "SELECT seq FROM dj_outcome WHERE finished_us >= $3 AND sub_id = $1 AND seq = ANY($2::bigint[])",
    "Finds what was counted as ended since a time.",
)
ENDED_LISTED = Sql(
    "reconcile_ended_listed",
    "SELECT seq FROM dj_outcome WHERE finished_us >= $3 AND sub_id = $1 AND seq IN (SELECT value FROM json_each($2))",
    "The same where lists are no parameters.",
)


class Republisher(Protocol):
    """What reconciliation needs of a broker."""

    async def republish(self, feed: Feed, messages: Sequence[Message]) -> None:
        """Publish messages to one subscription again, marked as repeats."""
        ...

    async def depths(self, feed: Feed) -> list[int]:
        """How many messages wait in each partition."""
        ...


class Reconciler:
    """The service.

    Args:
        node: The running copy.
        database: Where outbox and inbox are.
        broker: Publishes again.
        owns: Whether this process relays; only then it looks.

    Attributes:
        age_s: How old a message must be to count as missing.
    """

    def __init__(self, node: Node, database: Database, broker: Republisher, owns: Callable[[], bool]) -> None:
        self._node = node
        self._database = database
        self._broker = broker
        self._owns = owns
        self._sent: dict[tuple[int, int], float] = {}
        self._task: asyncio.Task[None] | None = None
        self.age_s = AGE_S

    def __repr__(self) -> str:
        return f"<Reconciler, {len(self._sent)} published again>"

    async def start(self) -> None:
        """Look every few seconds from now on."""
        self._task = self._node.tasks.spawn(self._run(), name="reconcile")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)

    async def _run(self) -> None:
        while True:
            await self._node.clock.sleep(EVERY_S * self._node.entropy.uniform(0.8, 1.0))
            try:
                if self._owns():
                    await self.look()
            except DujiangError as error:
                logger.warning("reconciliation waits: %s", error)
            except Exception:  # A loop that ended here would leave losses unnoticed.
                logger.exception("reconciliation failed")

    async def look(self) -> int:
        """One round over all subscriptions; how many messages were published again."""
        rows = await self._database.read(lambda connection: connection.fetch(CATALOGUE))
        count = 0
        for sub_id, topic, ordered, active, mark, behind, _ in rows:
            if active and mark is not None:
                feed = Feed(sub_id=sub_id, topic=topic, ordered=bool(ordered))
                count += await self._reconcile(feed, mark, behind)
        now = self._node.clock.monotonic()
        self._sent = {key: at for key, at in self._sent.items() if at > now - self.age_s}
        return count

    async def _reconcile(self, feed: Feed, mark: int, behind: int | None) -> int:
        floor, gaps = (await self._database.read(lambda connection: connection.fetch(BOUNDS)))[0]
        # Below an open number nothing is settled: its transaction may still bring it. What a full queue has not been
        # given yet is not lost.
        ceiling = min([floor if behind is None else behind, *(gap.first - 1 for gap in parsed(gaps))])
        look = (feed.sub_id, mark, ceiling, feed.topic, LOOK)
        rows = await self._database.read(lambda connection: connection.fetch(ABOVE, *look))
        arrived = {row[0] for row in rows if row[7]}
        missing = await self._missing(feed, rows, arrived) if len(arrived) < len(rows) else []
        if missing:
            ended_seqs = await self._ended(feed, missing)
            missing = [message for message in missing if message.seq not in ended_seqs]
            arrived |= ended_seqs
        first_open = next((row[0] for row in rows if row[0] not in arrived), None)
        reached = first_open - 1 if first_open else rows[-1][0] if len(rows) == LOOK else ceiling
        if reached > mark:
            await self._database.write(lambda connection: connection.execute(RAISE, arrived_of(feed.sub_id), reached))
        if missing:
            seqs = f"{missing[0].seq} to {missing[-1].seq}"
            logger.error("subscription %d: the broker lost %d messages (%s)", feed.sub_id, len(missing), seqs)
            await self._broker.republish(feed, missing)
            now = self._node.clock.monotonic()
            self._sent.update({(feed.sub_id, message.seq): now for message in missing})
        return len(missing)

    async def _ended(self, feed: Feed, messages: Sequence[Message]) -> set[int]:
        """Those that were counted as ended although nothing else knows them any more."""
        seqs: Any = [message.seq for message in messages]
        since_us = min(message.created_us for message in messages) - AHEAD_US
        arrays = self._database.capabilities.arrays
        sql = ENDED_ARRAYS if arrays else ENDED_LISTED
        listed = seqs if arrays else f"[{','.join(map(str, seqs))}]"
        rows = await self._database.read(lambda connection: connection.fetch(sql, feed.sub_id, listed, since_us))
        return {row[0] for row in rows}

    async def _missing(self, feed: Feed, rows: Sequence[Sequence[Any]], arrived: set[int]) -> list[Message]:
        """Those of the rows that have not arrived and will not."""
        last = dict.fromkeys(partitions_of(feed), 0)
        for row in rows:
            if row[0] in arrived:
                last[self._partition(feed, message_of(row[:7]))] = row[0]
        depths: list[int] | None = None
        old_us = self._node.clock.now_us() - int(self.age_s * 1e6)
        fresh = self._node.clock.monotonic() - self.age_s
        found = []
        for row in rows:
            if row[0] in arrived or row[4] > old_us or self._sent.get((feed.sub_id, row[0]), fresh - 1) > fresh:
                continue
            message = message_of(row[:7])
            partition = self._partition(feed, message)
            if last[partition] < message.seq:
                depths = depths or await self._broker.depths(feed)
                if depths[partition]:
                    continue
            found.append(message)
            if len(found) == AGAIN_MAX:
                break
        return found

    @staticmethod
    def _partition(feed: Feed, message: Message) -> int:
        return partition_of(message) if feed.ordered else 0
