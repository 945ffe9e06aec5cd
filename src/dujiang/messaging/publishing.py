"""Publishing to a broker outside the store: a batch for everybody, and a line of its own for whoever has a full queue.

    outbox          57   58   59   60   61   62   63
    relay's floor                                 ^         what the others have got
    behind:3             ^                                  what subscription 3 has got; its queue had room up to here

A queue has a limit, so that a reaction which stands still for a week does not fill the broker's disk. What a full queue
refuses cannot be skipped (nothing is lost) nor kept for later while its followers are taken (order). So a subscription
whose queue has no room for its part of a batch falls behind: it has a cursor of its own, stored with the relay's in one
transaction, and gets what lies above it from the outbox, as much as there is room for, in the order of the numbers. All
others go on. Once nothing of its topic lies between the two cursors, its own one is dropped.

Room is asked for, not found out. RabbitMQ refuses single messages of a window, and takes the ones after them as soon as
there is room again; in an ordered queue a later event would be before an earlier one of its key, for good. So we publish
no more than the queue was seen to have room for; what consumers take meanwhile only adds to it. The question costs a
round trip each time the answer is used up, and with the default limit that is once in a million messages. A refusal
still happens when somebody else fills the queue too; then everybody on that topic is taken for full, and asked.

While one of a topic's subscriptions is behind, its events go to each other one by itself, and once to the queues of other
programs; otherwise the exchange spreads them. What is published from a cursor of its own is marked as repeated: it may
have been published before.

Rejected: a relay, or a cursor, for each subscription always; it reads the outbox once for each of them.
Rejected: stopping the relay, which was simpler; the slowest reaction then stops every other one.
testing/conformance/broker_full.py holds it on RabbitMQ and on the model.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.messaging.broker import MOVE, Passed, PublishRefused
from dujiang.messaging.carrier import partition_of
from dujiang.messaging.feeds import CAUGHT_UP, LAG, begin_feeds, behind_of, cancel_drained, end_feed
from dujiang.messaging.gaps import written
from dujiang.messaging.outbox import message_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.kernel.node import Node
    from dujiang.messaging.broker import CursorMove, Feed
    from dujiang.messaging.carrier import Link
    from dujiang.messaging.feeds import Feeds
    from dujiang.messaging.message import Message
    from dujiang.messaging.standing import Standing

logger = logging.getLogger("dujiang.broker")

CHUNK = 500
DRAIN = 100
COUNTED_MAX, COUNT_EVERY_S = 100_000, 1.0

MOVE_STAMPED = Sql(
    "publishing_move_stamped",
    """UPDATE dj_relay SET floor_seq = $2, gaps = $3 WHERE relay_id = 1 AND lease = $1
       RETURNING pg_current_xact_id()::text::bigint""",
    "Moves the cursor if the lease is still ours, and draws the stamp of new gaps.",
)
ABOVE = Sql(
    "publishing_above",
    """SELECT seq, message_id, topic, okey, created_us, headers, payload FROM dj_outbox
       WHERE seq > $1 AND seq <= $2 AND topic = $3 ORDER BY seq LIMIT $4""",
    "Reads what a subscription lacks.",
)
COUNT = Sql(
    "publishing_count",
    "SELECT count(*) FROM (SELECT 1 FROM dj_outbox WHERE seq > $1 AND seq <= $2 AND topic = $3 LIMIT $4) behind",
    "Counts what a subscription lacks, up to a number.",
)


class Publishing:
    """What the owner of the relay publishes through a link, and to whom.

    Args:
        node: The running copy.
        database: Where outbox and cursors are.
        standing: Is told who is behind, and what is unconfirmed.
    """

    def __init__(self, node: Node, database: Database, standing: Standing) -> None:
        self._node = node
        self._database = database
        self._standing = standing
        self._lease = 0
        self._feeds: Sequence[Feed] = ()
        self._names: dict[int, str] = {}
        self._behind: dict[int, int] = {}
        self._room: dict[int, int] = {}
        self._most: Counter[int] = Counter()  # The largest step of each one that is behind.
        self._counted = float("-inf")

    def __repr__(self) -> str:
        return f"<Publishing lease {self._lease}, {len(self._feeds)} feeds, {len(self._behind)} behind>"

    def forget(self) -> None:
        """The connection has ended: the next batch may have been published before."""
        self._lease = 0

    async def publish(self, link: Link, batch: Sequence[Message], move: CursorMove) -> Passed:
        """Publish a batch, wait for all confirms, then move the cursors."""
        repeated = move.lease != self._lease
        if repeated:
            await self._begin(link)
        topics = {feed.topic for feed in self._feeds}
        wanted = [message for message in batch if message.topic in topics]
        stored = dict(self._behind)
        await self._look_for_room(link, wanted)
        with self._standing.publishing(len(wanted)):
            await self._pass_on(link, wanted, repeated=repeated)
        more = [await self._catch_up(link, feed, move.floor) for feed in self._feeds if feed.sub_id in self._behind]
        passed = await self._move(move, stored)
        self._lease = move.lease if passed.owned else 0
        if not passed.owned:
            self._standing.behind.clear()
        elif self._behind:
            await self._count(move.floor)
        return Passed(
            owned=passed.owned, subscriptions=(), stamp=passed.stamp, more=any(more), behind=bool(self._behind)
        )

    async def _begin(self, link: Link) -> None:
        """Read the catalogue, make the queues that it asks for, and end those of retired subscriptions."""
        found = await begin_feeds(self._database)
        await link.declare(found.active)
        for feed in found.retired:
            await self._retire(link, feed, found)
        self._feeds, self._names = found.active, dict(found.names)
        self._behind = {feed.sub_id: found.behind[feed.sub_id] for feed in found.active if feed.sub_id in found.behind}
        self._room.clear()
        self._most.clear()
        self._standing.behind.clear()
        self._counted = float("-inf")

    async def _retire(self, link: Link, feed: Feed, found: Feeds) -> None:
        behind = found.behind.get(feed.sub_id)
        while deliveries := await link.drain(feed, DRAIN):
            seqs = [one.message.seq for one in deliveries if behind is None or one.message.seq <= behind]
            await cancel_drained(self._database, feed, seqs, self._node.clock.now_us())
            await link.acknowledge(deliveries)
        await link.delete(feed)
        await end_feed(self._database, feed, behind, self._node.clock.now_us())

    # Who has room -----------------------------------------------------------------------------------------------------

    async def _look_for_room(self, link: Link, wanted: Sequence[Message]) -> None:
        """Let fall behind whoever has no room for the batch, and those that are to get what came late."""
        counts = Counter(message.topic for message in wanted)
        for feed in self._feeds:
            count = counts[feed.topic]
            if not count:
                continue
            first = next(message.seq for message in wanted if message.topic == feed.topic)
            if feed.sub_id in self._behind:
                self._behind[feed.sub_id] = min(self._behind[feed.sub_id], first - 1)
            elif not await self._takes(link, feed, count):
                self._fall_behind(feed, first - 1)

    async def _takes(self, link: Link, feed: Feed, count: int) -> bool:
        if self._room.get(feed.sub_id, 0) < count:
            self._room[feed.sub_id] = min(await link.rooms(feed))
        if self._room[feed.sub_id] < count:
            return False
        self._room[feed.sub_id] -= count
        return True

    def _fall_behind(self, feed: Feed, cursor: int) -> None:
        name = self._names.get(feed.sub_id, str(feed.sub_id))
        logger.warning(
            "the queue of %s is full: its events wait in the outbox from number %d on; the others go on",
            name,
            cursor + 1,
        )
        self._behind[feed.sub_id] = cursor
        self._room[feed.sub_id] = 0
        self._standing.behind[name] = 1

    # Publishing -------------------------------------------------------------------------------------------------------

    async def _pass_on(self, link: Link, wanted: Sequence[Message], *, repeated: bool) -> None:
        """Publish to everybody who is not behind."""
        parted = {feed.topic for feed in self._feeds if feed.sub_id in self._behind}
        spread = [message for message in wanted if message.topic not in parted]
        if spread:
            try:
                await link.publish(spread, repeated=repeated)
            except PublishRefused as refused:
                self._refused(refused, wanted)
        if len(spread) == len(wanted):
            return
        for feed in self._feeds:
            theirs = [message for message in wanted if message.topic == feed.topic and feed.topic in parted]
            if theirs and feed.sub_id not in self._behind:
                try:
                    await link.publish(theirs, repeated=repeated, only=feed)
                except PublishRefused as refused:
                    self._refused(refused, theirs)
        await link.share([message for message in wanted if message.topic in parted], repeated=repeated)

    def _refused(self, refused: PublishRefused, wanted: Sequence[Message]) -> None:
        """Somebody's queue gave messages back, and nobody knows whose: all of these topics get them again, one by one."""
        if not refused.topics:
            raise refused
        self._standing.failures += 1
        logger.warning("%s", refused)
        for feed in self._feeds:
            if feed.topic in refused.topics and feed.sub_id not in self._behind:
                first = next(message.seq for message in wanted if message.topic == feed.topic)
                self._fall_behind(feed, first - 1)

    async def _catch_up(self, link: Link, feed: Feed, floor: int) -> bool:
        """Give a subscription that is behind what it has room for; whether it is worth to go on at once."""
        rooms, cursor = await link.rooms(feed), self._behind[feed.sub_id]
        limit = min(CHUNK, sum(rooms))
        rows = await self._database.read(lambda c: c.fetch(ABOVE, cursor, floor, feed.topic, limit + 1))
        messages = fitting(feed, [message_of(row) for row in rows[:limit]], rooms)
        if messages:
            try:
                with self._standing.publishing(len(messages)):
                    await link.publish(messages, repeated=True, only=feed)
            except PublishRefused as refused:
                logger.warning("%s", refused)
                return False
        if len(messages) < len(rows):
            self._behind[feed.sub_id] = messages[-1].seq if messages else cursor
            # Many small steps cost as much as few large ones: it goes on while a step is at least half of the largest.
            most = self._most[feed.sub_id] = max(self._most[feed.sub_id], len(messages))
            return bool(messages) and 2 * len(messages) >= most
        del self._behind[feed.sub_id], self._most[feed.sub_id]
        name = self._names.get(feed.sub_id, str(feed.sub_id))
        self._standing.behind[name] = 0
        logger.warning("%s has all of its events again", name)
        return False

    # The cursors ------------------------------------------------------------------------------------------------------

    async def _move(self, move: CursorMove, stored: dict[int, int]) -> Passed:
        """Move the relay's cursor and those of who is behind, in one transaction, if the lease is still ours."""
        args = (move.lease, move.floor, written(move.gaps))
        stamped = self._database.capabilities.xid_horizon
        if stamped and stored == self._behind:
            rows = await self._database.statement(MOVE_STAMPED, *args)
            return Passed(owned=bool(rows), stamp=rows[0][0] if rows else None)

        async def body(connection: Connection) -> Passed:
            stamp = None
            if stamped:
                rows = await connection.fetch(MOVE_STAMPED, *args)
                owned, stamp = bool(rows), rows[0][0] if rows else None
            else:
                owned = bool(await connection.execute(MOVE, *args))
            for sub_id in (stored.keys() | self._behind.keys()) if owned else ():
                if sub_id not in self._behind:
                    await connection.execute(CAUGHT_UP, behind_of(sub_id))
                elif stored.get(sub_id) != self._behind[sub_id]:
                    await connection.execute(LAG, behind_of(sub_id), self._behind[sub_id])
            return Passed(owned=owned, stamp=stamp)

        return await self._database.write(body)

    async def _count(self, floor: int) -> None:
        """Say how much each one lacks, once a second."""
        now = self._node.clock.monotonic()
        if now < self._counted + COUNT_EVERY_S:
            return
        self._counted = now
        for feed in self._feeds:
            if feed.sub_id in self._behind:
                look = (self._behind[feed.sub_id], floor, feed.topic, COUNTED_MAX)
                rows = await self._database.read(lambda c, look=look: c.fetch(COUNT, *look))  # type: ignore[misc]
                self._standing.behind[self._names.get(feed.sub_id, str(feed.sub_id))] = rows[0][0]


def fitting(feed: Feed, messages: Sequence[Message], rooms: Sequence[int]) -> list[Message]:
    """The first messages, up to the one whose queue has no room."""
    left = list(rooms)
    fit: list[Message] = []
    for message in messages:
        partition = partition_of(message) if feed.ordered else 0
        left[partition] -= 1
        if left[partition] < 0:
            break
        fit.append(message)
    return fit
