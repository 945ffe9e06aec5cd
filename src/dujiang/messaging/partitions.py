"""Partitions and slices: what only grows is cleaned without leaving dead rows behind.

Where the store has partitions they are made ahead and dropped whole; the names carry their lower bound. Where it has
none, rows go in slices of a few hundred, so that no writer waits for long. A part is dropped only when nothing needs it:

    outbox     below the relay's floor and gaps, below all ready and running work, older than its retention
    inbox      older than the dedupe horizon
    outcomes   older than their retention

A part goes only if its lock is free within LOCK_MS, and otherwise at a later cleaning: it needs the lock of the whole
table, and behind a statement that waits for that lock everybody waits. One long report would stop every commit.

A partition that is missing when a row comes is made on the spot, with a warning: the maker was late.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dujiang.data.database import Conflict
from dujiang.data.sql import Sql
from dujiang.messaging import inbox, outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dujiang.data.database import Connection, Database, PartitionMissing
    from dujiang.kernel.node import Node

logger = logging.getLogger("dujiang.partitions")

DAY_US = 86_400_000_000
OUTBOX_SPAN = 2_000_000
LOCK_MS = 100
DAYS_AHEAD = 3

CHILDREN = Sql(
    "partitions_children",
    """SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
       WHERE p.relname = $1 ORDER BY c.relname""",
    "Lists the parts of a table.",
)
ALONE = Sql(
    "partitions_alone", "SELECT pg_advisory_xact_lock(7464697061727473)", "Lets one process at a time make parts."
)
HURRY = Sql(
    "partitions_hurry",
    f"SELECT set_config('lock_timeout', '{LOCK_MS}ms', true)",
    "Lets a transaction give up when it would wait for a lock.",
)
LAST_SEQ = Sql("partitions_last_seq", "SELECT last_value FROM dj_outbox_seq", "Reads the last number of the outbox.")
DROP_OUTCOMES = Sql(
    "partitions_outcome_slice",
    "DELETE FROM dj_outcome WHERE rowid IN (SELECT rowid FROM dj_outcome WHERE finished_us < $1 LIMIT 500) RETURNING 1",
    "Deletes a slice of old outcomes (stores without partitions).",
)


@dataclass(frozen=True)
class Part:
    """One partition to be: a table, a name, and its bounds as SQL literals made from integers."""

    table: str
    name: str
    low: str
    high: str

    @property
    def create(self) -> Sql:
        """The statement that makes the table of the part."""
        text = f"CREATE TABLE {self.name} (LIKE {self.table} INCLUDING ALL)"
        return Sql(f"partition_create_{self.table}", text, "Makes a table that can become a part.")

    @property
    def attach(self) -> Sql:
        """The statement that makes it a part; bounds cannot be parameters."""
        text = f"ALTER TABLE {self.table} ATTACH PARTITION {self.name} FOR VALUES FROM ({self.low}) TO ({self.high})"
        # CREATE ... PARTITION OF would lock readers and writers of the whole table out until all of them have ended.
        return Sql(f"partition_attach_{self.table}", text, "Makes a part; who reads and writes goes on meanwhile.")


def uuid_bound(us: int) -> str:
    """The lowest message id of a time, as a byte literal."""
    return f"'\\x{(us // 1000) << 80:032x}'::bytea"


def parts_from(now_us: int, last_seq: int) -> Iterator[Part]:
    """The partitions that must exist now."""
    first_day = now_us // DAY_US - 1
    for day in range(first_day, first_day + 2 + DAYS_AHEAD):
        low_us, high_us = day * DAY_US, (day + 1) * DAY_US
        yield Part("dj_inbox", f"dj_inbox_{day:08d}", uuid_bound(low_us), uuid_bound(high_us))
        yield Part("dj_outcome", f"dj_outcome_{day:08d}", str(low_us), str(high_us))
    span = last_seq // OUTBOX_SPAN
    for number in (span, span + 1):
        yield Part("dj_outbox", f"dj_outbox_{number:08d}", str(number * OUTBOX_SPAN), str((number + 1) * OUTBOX_SPAN))


class Cleaner:
    """Makes partitions ahead and removes what nothing needs.

    Args:
        node: The running copy.
        database: Where the tables are.
        outbox_keep_us: How long published events are kept for replay, microseconds.
        outcome_keep_us: How long outcomes are kept.
    """

    def __init__(
        self, node: Node, database: Database, *, outbox_keep_us: int, outcome_keep_us: int = 30 * DAY_US
    ) -> None:
        self._node = node
        self._database = database
        self._outbox_keep_us = outbox_keep_us
        self._outcome_keep_us = outcome_keep_us

    async def prepare(self) -> None:
        """Make the partitions that are due; cheap when they exist."""
        if not self._database.capabilities.partitions:
            return
        if not await self._database.read(self._missing):
            return

        async def body(connection: Connection) -> None:
            await connection.fetch(ALONE)
            for part in await self._missing(connection):  # Another process may have made them meanwhile.
                await connection.execute(part.create)
                await connection.execute(part.attach)

        await self._database.write(body)

    async def mend(self, error: PartitionMissing) -> None:
        """Make the parts that are due after a row found none: the maker was late, or the clock has jumped."""
        logger.error("parts of a table are made only now that a row needs them: %s", error.why)
        await self.prepare()

    async def _missing(self, connection: Connection) -> list[Part]:
        last = (await connection.fetch(LAST_SEQ))[0][0]
        existing: set[str] = set()
        for table in ("dj_inbox", "dj_outcome", "dj_outbox"):
            existing.update(row[0] for row in await connection.fetch(CHILDREN, table))
        return [part for part in parts_from(self._node.clock.now_us(), last) if part.name not in existing]

    async def clean(self) -> int:
        """Remove what nothing needs; how many parts or rows went."""
        now_us = self._node.clock.now_us()
        needed = await outbox.needed_from(self._database)
        if self._database.capabilities.partitions:
            return await self._drop_parts(now_us, needed)
        gone = await outbox.delete_slice(self._database, needed, now_us - self._outbox_keep_us)
        gone += await inbox.delete_slice(self._database, now_us - inbox.HORIZON_US)
        return gone + len(await self._database.statement(DROP_OUTCOMES, now_us - self._outcome_keep_us))

    async def _drop_parts(self, now_us: int, needed: int) -> int:
        limits = {
            "dj_inbox": (now_us - inbox.HORIZON_US) // DAY_US,
            "dj_outcome": (now_us - self._outcome_keep_us) // DAY_US,
            "dj_outbox": needed // OUTBOX_SPAN,
        }
        gone = 0
        for table, limit in limits.items():
            rows = await self._database.read(lambda c, table=table: c.fetch(CHILDREN, table))  # type: ignore[misc]
            for (name,) in [tuple(row) for row in rows]:
                if int(name.rsplit("_", 1)[1]) < limit and await self._old_enough(table, name, now_us):
                    if not await self._drop(name):
                        break
                    gone += 1
        return gone

    async def _drop(self, name: str) -> bool:
        drop = Sql("partition_drop", f"DROP TABLE IF EXISTS {name}", "Drops a part whole.")

        async def body(connection: Connection) -> None:
            await connection.fetch(HURRY)
            await connection.execute(drop)

        try:
            await self._database.write(body)  # It tries a few times; between two tries everybody goes on.
        except Conflict:
            logger.info("%s stays until nobody reads its table", name)
            return False
        logger.info("dropped %s", name)
        return True

    async def _old_enough(self, table: str, name: str, now_us: int) -> bool:
        if table != "dj_outbox":
            return True
        newest = Sql("partition_newest", f"SELECT max(created_us) FROM {name}", "Reads the newest time in a part.")
        rows = await self._database.read(lambda c: c.fetch(newest))
        return (rows[0][0] or 0) < now_us - self._outbox_keep_us
