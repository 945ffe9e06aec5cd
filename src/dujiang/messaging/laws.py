"""Laws: what the platform itself promises of the rows that it keeps; checked by `dujiang audit`, whenever one likes.

A row of a check is a violation; those of the app's own laws (`Invariant`) are checked in the same way. They hold also while
work is going on; right after a long time away, what waited is still due, and the first shows that until it is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.messaging.tx import Read

STUCK_US = 15 * 60 * 1_000_000

STUCK = Sql(
    "law_stuck",
    """SELECT s.name, r.seq, r.attempt, r.run_at FROM dj_ready r JOIN dj_subscription s ON s.sub_id = r.sub_id
       WHERE s.active = 1 AND r.run_at < $1
         AND NOT EXISTS (SELECT 1 FROM dj_hold h WHERE h.sub_id = r.sub_id AND (h.okey = r.okey OR h.okey = $2))
       ORDER BY r.run_at LIMIT 100""",
    "Work that has been due since long and that nothing holds back.",
)
HELD_BY_NOTHING = Sql(
    "law_held_by_nothing",
    """SELECT h.sub_id, h.okey FROM dj_hold h
       WHERE NOT EXISTS (SELECT 1 FROM dj_dead d WHERE d.dead_id = h.dead_id) ORDER BY h.sub_id LIMIT 100""",
    "Keys that are held although the dead letter that held them is gone.",
)


@dataclass(frozen=True, eq=False)
class Invariant:
    """A declared law: rows are violations.

    Attributes:
        says: What always holds.
        name: `module.function`.
        check: Returns the violating rows.
        every_s: How often it is checked while the app works; 0 = only by an audit and in the drill.
    """

    says: str
    name: str
    check: Callable[[Read], Awaitable[Sequence[Any]]]
    every_s: float = 0.0
