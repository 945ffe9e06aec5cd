"""Feeds: which subscriptions a broker outside the store serves, and how far each of them is; two numbers in dj_counter.

    arrived:3 = 42    everything of its topic up to 42 is known to the work tables (reconcile.py); always there
    behind:3  = 57    it got what the relay passed up to 57, and nothing above (publishing.py); only while its queue is full

The watermark never passes the other one, so the outbox keeps what a full queue has not taken yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.data.transaction import run_one
from dujiang.messaging.broker import Feed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dujiang.data.database import Connection, Database

CATALOGUE = Sql(
    "feeds_catalogue",
    """SELECT s.sub_id, s.topic, s.ordered, s.active, c.value, b.value, s.name FROM dj_subscription s
       LEFT JOIN dj_counter c ON c.name = 'arrived:' || CAST(s.sub_id AS TEXT)
       LEFT JOIN dj_counter b ON b.name = 'behind:' || CAST(s.sub_id AS TEXT)
       WHERE s.routed = 1 ORDER BY s.sub_id""",
    "Reads the subscriptions that events are routed to, their watermarks, and how far those are that lag.",
)
BEGIN = Sql(
    "feeds_begin",
    """INSERT INTO dj_counter (name, value) SELECT $1, floor_seq FROM dj_relay WHERE relay_id = 1 ON CONFLICT DO NOTHING""",
    "Begins a watermark where the relay stands.",
)
END = Sql("feeds_end", "DELETE FROM dj_counter WHERE name = $1 OR name = $2", "Ends the numbers of a subscription.")
END_ALL = Sql(
    "feeds_end_all",
    """DELETE FROM dj_counter WHERE name >= 'arrived:' AND name < 'arrived;' OR name >= 'behind:' AND name < 'behind;'
       RETURNING 1""",
    "Ends them all: on a broker in the store routing is arrival.",
)
CANCELLED = Sql(
    "feeds_cancelled",
    "INSERT INTO dj_outcome (sub_id, seq, state, finished_us, attempts, duration_us) VALUES ($1, $2, 4, $3, 0, 0)",
    "Counts a message of a retired subscription as cancelled.",
)
CANCELLED_BEHIND = Sql(
    "feeds_cancelled_behind",
    """INSERT INTO dj_outcome (sub_id, seq, state, finished_us, attempts, duration_us)
       SELECT $1, o.seq, 4, $2, 0, 0 FROM dj_outbox o WHERE o.topic = $3 AND o.seq > $4
       AND o.seq <= (SELECT floor_seq FROM dj_relay WHERE relay_id = 1)""",
    "Counts as cancelled what a retired subscription had not got when it lagged.",
)
LAG = Sql(
    "feeds_lag",
    """INSERT INTO dj_counter (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
    "Says up to where a subscription got what the relay passed.",
)
CAUGHT_UP = Sql("feeds_caught_up", "DELETE FROM dj_counter WHERE name = $1", "Says that a subscription lags no more.")


@dataclass(frozen=True)
class Feeds:
    """What the owner of the relay publishes for.

    Attributes:
        active: The feeds.
        retired: Feeds of retired subscriptions that may still have queues.
        names: The subscriptions' names, by number.
        behind: Up to where those have got that lag, by number.
    """

    active: Sequence[Feed]
    retired: Sequence[Feed]
    names: Mapping[int, str]
    behind: Mapping[int, int]


async def begin_feeds(database: Database) -> Feeds:
    """The catalogue; each active feed has a watermark from now on.

    Called by the owner of the relay before it publishes: what it passes from now on is for every feed.
    """

    async def body(connection: Connection) -> Feeds:
        active, retired, names, behind = [], [], {}, {}
        for sub_id, topic, ordered, wanted, mark, lag, name in await connection.fetch(CATALOGUE):
            feed = Feed(sub_id=sub_id, topic=topic, ordered=bool(ordered))
            names[sub_id] = name
            if not wanted and mark is not None:
                retired.append(feed)
            if wanted:
                active.append(feed)
            if lag is not None:
                behind[sub_id] = lag
            if wanted and mark is None:
                await connection.execute(BEGIN, arrived_of(sub_id))
        return Feeds(active, retired, names, behind)

    return await database.write(body)


async def cancel_drained(database: Database, feed: Feed, seqs: Sequence[int], now_us: int) -> None:
    """Count messages that lay in the queue of a retired subscription as cancelled."""

    async def body(connection: Connection) -> None:
        for seq in seqs:
            await connection.execute(CANCELLED, feed.sub_id, seq, now_us)

    await database.write(body)


async def end_feed(database: Database, feed: Feed, behind: int | None, now_us: int) -> None:
    """Count what a retired subscription had not got as cancelled, and end its numbers."""

    async def body(connection: Connection) -> None:
        if behind is not None:
            await connection.execute(CANCELLED_BEHIND, feed.sub_id, now_us, feed.topic, behind)
        await connection.execute(END, arrived_of(feed.sub_id), behind_of(feed.sub_id))

    await database.write(body)


async def end_feeds(database: Database) -> None:
    """Forget all numbers: the store's own broker loses nothing, and the outbox need not wait for anybody."""
    await run_one(database, END_ALL)


def arrived_of(sub_id: int) -> str:
    """The name under which dj_counter keeps the watermark of a subscription."""
    return f"arrived:{sub_id}"


def behind_of(sub_id: int) -> str:
    """The name under which dj_counter keeps how far a subscription is that lags."""
    return f"behind:{sub_id}"
