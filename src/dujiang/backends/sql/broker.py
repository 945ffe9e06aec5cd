"""Broker in the business database: nothing to install, and publishing is routing.

How each promise of messaging/broker.py is kept:
  1. durable      one transaction inserts a row of dj_ready for each subscription and moves the cursor
  2. repeats      none of its own: routing and cursor move together; the relay's lease fences a stale owner
  3. redelivery   claims lie in dj_running under the process's lease; the reaper puts them back
  4. key order    the head of each key, one running at a time by a unique index (messaging/work.py)

Subscriptions are read inside the routing statement, so a new one gets every event that is routed after its row commits:
activation waits for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.messaging.broker import MOVE, BrokerCapabilities, Passed, Received
from dujiang.messaging.feeds import end_feeds
from dujiang.messaging.gaps import written
from dujiang.messaging.work import claim_free, claim_keyed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.kernel.node import Node
    from dujiang.messaging.broker import CursorMove, Feed
    from dujiang.messaging.message import Message
    from dujiang.messaging.work import KeyCursor

ROUTE = Sql(
    "broker_route",
    """WITH moved AS (UPDATE dj_relay SET floor_seq = $2, gaps = $3 WHERE relay_id = 1 AND lease = $1 RETURNING 1),
       work AS (INSERT INTO dj_ready (sub_id, seq, okey, tenant, attempt, crashes, message_id, run_at)
                SELECT s.sub_id, o.seq, CASE WHEN s.ordered = 1 THEN o.okey END, '', 0, 0, o.message_id, $4
                FROM moved, dj_outbox o JOIN dj_subscription s ON s.topic = o.topic AND s.active = 1
                WHERE o.seq = ANY($5::bigint[]) ORDER BY o.seq ON CONFLICT DO NOTHING RETURNING sub_id)
       SELECT (SELECT count(*) FROM moved), (SELECT array_agg(DISTINCT sub_id) FROM work),
              pg_current_xact_id()::text::bigint""",
    "Gives each subscription its work and moves the cursor, in one statement.",
)
ROUTE_RANGE = Sql(
    "broker_route_range",
    """INSERT INTO dj_ready (sub_id, seq, okey, tenant, attempt, crashes, message_id, run_at)
       SELECT s.sub_id, o.seq, CASE WHEN s.ordered = 1 THEN o.okey END, '', 0, 0, o.message_id, $3
       FROM dj_outbox o JOIN dj_subscription s ON s.topic = o.topic AND s.active = 1
       WHERE o.seq >= $1 AND o.seq <= $2 ORDER BY o.seq ON CONFLICT DO NOTHING RETURNING sub_id""",
    "Gives each subscription its work for a range of numbers, where one writer commits in order.",
)


class SqlBroker:
    """The broker that is the database itself.

    Args:
        url: `database:`.
        node: The running copy.
        database: Where the tables are.
    """

    capabilities = BrokerCapabilities(durable=True, ordered_by_key=True, in_store=True)
    standing = None

    def __init__(self, url: str, node: Node, database: Database) -> None:
        self.url = url
        self._node = node
        self._database = database

    async def start(self) -> None:
        """Nothing to connect: the database is. What another broker had to bring counts as brought."""
        await end_feeds(self._database)

    async def stop(self) -> None:
        """Nothing to disconnect."""

    async def publish(self, batch: Sequence[Message], move: CursorMove) -> Passed:
        """Route a batch and move the cursor, in one transaction."""
        now_us = self._node.clock.now_us()
        if self._database.capabilities.writable_cte:
            seqs = [message.seq for message in batch]
            row = (await self._database.statement(ROUTE, move.lease, move.floor, written(move.gaps), now_us, seqs))[0]
            return Passed(owned=bool(row[0]), subscriptions=tuple(row[1] or ()), stamp=row[2])

        async def body(connection: Connection) -> Passed:
            if not await connection.execute(MOVE, move.lease, move.floor, written(move.gaps)):
                return Passed(owned=False)
            if not batch:
                return Passed(owned=True, subscriptions=())
            rows: list[Any] = await connection.fetch(ROUTE_RANGE, batch[0].seq, batch[-1].seq, now_us)
            return Passed(owned=True, subscriptions=tuple({row[0] for row in rows}))

        return await self._database.write(body)

    async def attend(self, feed: Feed, heard: Callable[[], None]) -> None:
        """Nothing to bring: work is where it is claimed."""

    async def leave(self, sub_id: int) -> None:
        """Nothing to give back."""

    async def receive(self, sub_id: int, lease: int, limit: int, cursor: KeyCursor | None) -> Received:
        """Claim work; events without a key of an ordered subscription are claimed like unordered ones."""
        now_us = self._node.clock.now_us()
        claims = await claim_free(self._database, sub_id, lease, now_us, limit)
        due_us: int | None = None
        if cursor is not None and len(claims) < limit:
            keyed, due_us = await claim_keyed(self._database, sub_id, lease, now_us, limit - len(claims), cursor)
            claims.extend(keyed)
        return Received(tuple(claims), due_us)
