"""Agreement: which text of a schedule counts while several versions of a program work on one store.

    a version that says something new     is believed when it starts
    one that says what was said before    leaves the row alone, and looks
        while somebody renews the row          it goes on to look
        nobody has, LOOKS_MAX looks long       the other is gone: what this one says counts again

So an older process that restarts in the middle of a rolling deploy changes nothing; and when a deploy was taken back, the
older version is alone and takes its schedule up after a minute. The row remembers the texts that it has had.

Looks are counted, and not the seconds since the row was renewed: after an hour in which nobody reached the store, each version
would find that the other has not been seen for an hour.

Refused: the last who starts is right, by which both versions change the row in turns; a version number, which nobody raises for
a hotfix. Cost: one small read in twenty seconds for each process, and one write for all of them.
testing/conformance/schedules.py has a deploy, one that is taken back, and a store that was away.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.jobs.schedules import rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dujiang.data.database import Connection, Database
    from dujiang.jobs.schedule import Schedule
    from dujiang.jobs.schedules import Row

__all__ = ["RENEW_S", "Agreement"]

logger = logging.getLogger("dujiang.jobs.schedules")

RENEW_S = 20.0
LOOKS_MAX = 4
KNOWN_MAX = 50

NUMBERS = Sql("schedule_numbers", "SELECT name, sub_id FROM dj_subscription WHERE routed = 0", "The kinds of jobs.")
INSERT = Sql(
    "schedule_insert",
    """INSERT INTO dj_schedule (schedule_id, spec, rev, known, seen_us, since_us, next_us) VALUES ($1, $2, 1, $3, $4, $4, $5)
       ON CONFLICT DO NOTHING""",
    "Makes a schedule known.",
)
ADOPT = Sql(
    "schedule_adopt",
    """UPDATE dj_schedule SET spec = $3, rev = rev + 1, known = $4, seen_us = $5, since_us = $6, next_us = $7
       WHERE schedule_id = $1 AND rev = $2""",
    "Gives a schedule another text, and computes from there.",
)
RENEW = Sql(
    "schedule_renew",
    "UPDATE dj_schedule SET seen_us = $3 WHERE schedule_id = $1 AND rev = $2",
    "Says that somebody who says this text is there.",
)


class Agreement:
    """What one program says of its schedules, and what counts.

    Args:
        database: Where they are.
        declared: The schedules of this program, by name.
    """

    def __init__(self, database: Database, declared: Mapping[str, Schedule]) -> None:
        self._database = database
        self._declared = declared
        # Of each name that another version counts for: the row as it was, and how many looks have found it so.
        self._other: dict[str, tuple[int, int, int]] = {}

    def __repr__(self) -> str:
        return f"<Agreement on {len(self._declared)} schedules; {len(self._other)} are another version's>"

    async def reach(self, now_us: int, *, starting: bool) -> dict[str, Row]:
        """Make the rows equal to the program, where that is what counts; the rows of its schedules by name."""

        async def body(connection: Connection) -> tuple[dict[str, Row], dict[str, tuple[int, int, int]]]:
            rows, other = await rows_of(connection), {}
            numbers = {row[0]: row[1] for row in await connection.fetch(NUMBERS)}
            for name, schedule in self._declared.items():
                row = rows.get(name)
                if row is None:
                    known = json.dumps([fingerprint(schedule.stored())])
                    first_us = schedule.after(now_us)
                    await connection.execute(INSERT, numbers[name], schedule.stored(), known, now_us, first_us)
                elif row.spec == schedule.stored():
                    if row.seen_us < now_us - RENEW_S * 1e6:
                        await connection.execute(RENEW, row.number, row.rev, now_us)
                elif self._counts(row, schedule, starting=starting):
                    await adopt(connection, row, schedule, now_us)
                else:
                    other[name] = (row.rev, row.seen_us, self._looks(row) + 1)
            found = await rows_of(connection)
            return {name: found[name] for name in self._declared if name in found}, other

        rows, other = await self._database.write(body)
        for name in sorted(other.keys() - self._other.keys()):
            logger.warning("%s is fired as another version of the program says, which works on this store too", name)
        self._other = other
        return rows

    def _counts(self, row: Row, schedule: Schedule, *, starting: bool) -> bool:
        new = fingerprint(schedule.stored()) not in json.loads(row.known)
        return (starting and new) or self._looks(row) >= LOOKS_MAX

    def _looks(self, row: Row) -> int:
        """How many looks have found this row as it is."""
        rev, seen_us, looks = self._other.get(row.name, (0, 0, 0))
        return looks if (rev, seen_us) == (row.rev, row.seen_us) else 0


async def adopt(connection: Connection, row: Row, schedule: Schedule, now_us: int) -> None:
    """Give a schedule the text of this program. What is due by it is counted from now, or from the last that has fired."""
    since_us, mine = max(row.last_us or 0, now_us), fingerprint(schedule.stored())
    known = [*(each for each in json.loads(row.known) if each != mine), mine][-KNOWN_MAX:]
    changes = (schedule.stored(), json.dumps(known), now_us, since_us, schedule.after(since_us))
    if await connection.execute(ADOPT, row.number, row.rev, *changes):
        logger.info("%s is now %s", row.name, schedule)


def fingerprint(spec: str) -> str:
    """Stands for a text among those that were known."""
    return hashlib.blake2b(spec.encode(), digest_size=8).hexdigest()
