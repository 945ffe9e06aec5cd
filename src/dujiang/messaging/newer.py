"""Newer: events of a newer version than this code knows: given back, told, and taken at once by the version that knows them.

A deploy that raised an event's version and was taken back leaves such events behind. They are no poison: each is put off for
a minute, without costing an attempt, and looked at again, in case somebody else has the version by then. What came under
one key waits behind it, since the key's order holds. It shows in the log (once for each version), in `dujiang_work_total`
with the outcome `newer`, in the detail of /health/ready, and in `dujiang doctor`, which counts what is stored.

A program that starts with a raised version makes them due at once, instead of at the end of their minute: whoever puts
some off leaves a row `newer:<subscription>` in dj_counter, without which nothing is hurried. What snoozes then is due early
too, once; it cannot be told from them.
tests/cli/test_rolled_back.py goes forward, back and forward again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.messaging.contracts import READY, version_of
from dujiang.messaging.message import headers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.kernel.clock import Clock
    from dujiang.messaging.message import Message, Readable
    from dujiang.messaging.subscription import Subscription

logger = logging.getLogger("dujiang.consumer")

NEWER_VERSION_WAIT_US = 60_000_000
# Each of them is met again within this time, as long as it waits.
REMEMBERED_S = 2.0 * NEWER_VERSION_WAIT_US / 1e6
REMEMBERED_MOST = 10_000
LOOKED = 2000

MARK = Sql(
    "newer_mark",
    "INSERT INTO dj_counter (name, value) VALUES ($1, 1) ON CONFLICT (name) DO NOTHING",
    "Says that events of a subscription are put off for a newer version.",
)
UNMARK = Sql("newer_unmark", "DELETE FROM dj_counter WHERE name = $1", "Takes that back; how many said it.")
BRING_FORWARD = Sql(
    "newer_bring_forward",
    "UPDATE dj_ready SET run_at = $2 WHERE sub_id = $1 AND run_at > $2 AND run_at <= $3 AND attempt = 0",
    "Makes due what was put off without an attempt: an older version may have met it.",
)


class Newer:
    """What one consumer gave back lately because its version is newer.

    Args:
        clock: When it was met.
        name: The subscription's.
        known: The newest version that this code knows.
    """

    def __init__(self, clock: Clock, name: str, known: int) -> None:
        self._clock = clock
        self._name = name
        self._known = known
        self._met: dict[int, float] = {}
        self._told: set[int] = set()

    def __repr__(self) -> str:
        return f"<Newer {self._name}: {len(self._met)} met>"

    async def note(self, database: Database, sub_id: int, message: Message) -> None:
        """One was met; the log and the store are told once for each version."""
        self._met.pop(message.seq, None)  # To the end of the line.
        self._met[message.seq] = self._clock.monotonic()
        if len(self._met) > REMEMBERED_MOST:
            del self._met[next(iter(self._met))]
        version = version_of(message.headers)
        if version in self._told:
            return
        self._told.add(version)
        told = (self._name, version, message.topic, self._known)
        logger.warning(
            "%s met version %d of %s and knows %d: such events wait for a process of the newer version", *told
        )
        try:
            await database.write(lambda connection: connection.execute(MARK, counter_of(sub_id)))
        except DujiangError as error:
            self._told.discard(version)
            logger.warning("%s could not tell the store of it: %s", self._name, error)

    def count(self) -> int:
        """How many of them still wait, as far as this process has met them."""
        since = self._clock.monotonic() - REMEMBERED_S
        while self._met and next(iter(self._met.values())) < since:
            del self._met[next(iter(self._met))]
        return len(self._met)


def counter_of(sub_id: int) -> str:
    """The name under which dj_counter says that events of a subscription are put off."""
    return f"newer:{sub_id}"


async def bring_forward(
    database: Database, subscriptions: Sequence[Subscription], numbers: Mapping[str, int], now_us: int
) -> None:
    """Make due what an older version may have put off; only where a version was ever raised."""
    raised = [numbers[each.name] for each in subscriptions if each.event.event_version > 1]

    async def body(connection: Connection) -> None:
        for number in raised:
            if await connection.execute(UNMARK, counter_of(number)):
                await connection.execute(BRING_FORWARD, number, now_us, now_us + NEWER_VERSION_WAIT_US)

    if raised:
        await database.write(body)


async def newer_stored(database: Database, events: Iterable[Readable]) -> dict[str, tuple[int, int]]:
    """Events of which a newer version waits: the newest version, and how many of the first 2,000 waiting ones are newer."""
    found = {}
    for event in sorted(set(events), key=lambda each: each.event_name):
        name = event.event_name
        rows = await database.read(lambda connection, name=name: connection.fetch(READY, name, LOOKED))  # type: ignore[misc]
        newer = [version for headers, _ in rows if (version := version_of(headers_of(headers))) > event.event_version]
        if newer:
            found[name] = (max(newer), len(newer))
    return found
