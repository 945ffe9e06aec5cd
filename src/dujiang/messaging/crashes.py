"""Crashes: the account of processes that died, kept on the rows of what they were running.

    process dies ──► its lease ends (20 s, or at once by its instance name) ──► its rows go back to ready
                                                                      └ those that were running: crashes + 1

A run that ends with the process leaves no error, so no retry is counted for it and no bound would ever be reached: the
message kills one process after the other. The account is kept by whoever takes the lease back, in that transaction, so
it costs the handled messages nothing and needs nobody who saw the death.

What only waited in the process's line loses nothing: neither a crash nor an attempt is counted for it, however often the
processes around it die.

A row whose account has reached the setting `crash_limit` is run in a process of its own (suspects.py). A row with any crash
on it shares no transaction and no batch with others: among several that died together the killer is found by running
each by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.messaging.work import release_lease

if TYPE_CHECKING:
    from dujiang.data.database import Connection
    from dujiang.messaging.marks import Marks

HOLDER = Sql("crashes_holder", "SELECT holder FROM dj_process WHERE lease = $1", "Who holds, or held, a lease.")
COUNT_ALL = Sql(
    "crashes_count_all",
    "UPDATE dj_running SET crashes = crashes + 1 WHERE lease = $1",
    "Counts the death of a process for all that it held, because nobody knows what was running.",
)
FORGET_ALL = Sql(
    "crashes_forget_all",
    "UPDATE dj_running SET attempt = attempt - 1 WHERE lease = $1",
    "Forgets the attempts of what a dead process held: most of it only waited.",
)
COUNT_ONE = Sql(
    "crashes_count_one",
    """UPDATE dj_running SET crashes = crashes + 1, attempt = attempt + 1
       WHERE lease = $1 AND sub_id = $2 AND seq = $3""",
    "Counts the death of a process, and the attempt, for one of the messages that it was running.",
)


class Accounts:
    """Takes back what a dead process held, and counts its death for what it was running.

    Args:
        marks: What was running.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    async def reclaim(self, connection: Connection, lease: int, now_us: int) -> set[int]:
        """Put everything that a dead lease held back to ready; the subscriptions concerned."""
        rows = await connection.fetch(HOLDER, lease)
        left = self._marks.left_by(rows[0][0]) if rows else None
        if left is None:
            await connection.execute(COUNT_ALL, lease)
        elif not left.alive:
            await connection.execute(FORGET_ALL, lease)
            for place in sorted(left.started):
                await connection.execute(COUNT_ONE, lease, *place)
        return await release_lease(connection, lease, now_us)
