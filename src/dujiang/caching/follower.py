"""Follower: looks at the log of forgotten names a few times a second, and tells the guard.

    look ──► what was committed since the last look? ──► guard.heard(when this look began, names, missed)

The order inside a look is part of the proof: the time is taken before the question is asked, and the position for the next
look comes with the answer, out of the same snapshot. A look that fails changes nothing; the guard loses its trust by
itself. Another server behind the URL (a fail-over) may lack the last commits of the one before: everything begins anew.

A row of a transaction of this process is skipped if its names were touched here after its commit: touching them again would
only end answers that were loaded since. A row whose transaction has not told us so (its reply was lost, its task cancelled)
is none of these.

Cost: one statement on a reader every quarter of a second for each process that caches, whatever the traffic.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import ended
from dujiang.messaging import forgotten

if TYPE_CHECKING:
    import asyncio

    from dujiang.caching.guard import Guard
    from dujiang.data.database import Database
    from dujiang.kernel.node import Node

logger = logging.getLogger("dujiang.caching")

LOOK_S = 0.25
MARKS_MAX = 10_000


class Follower:
    """The service that keeps a guard informed.

    Args:
        node: The running copy.
        database: Where the log is.
        guard: Whom to tell.
    """

    def __init__(self, node: Node, database: Database, guard: Guard) -> None:
        self._node = node
        self._database = database
        self._guard = guard
        self._position: Any = None
        self._epoch = 0
        self._task: asyncio.Task[None] | None = None
        self._acted: dict[int, None] = {}

    async def start(self) -> None:
        """Look once, then go on in the background. Raises what the database raises."""
        await self.look()
        self._task = self._node.tasks.spawn(self._run(), name="follower")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)

    def acted_upon(self, mark: int) -> None:
        """The names of this row were touched here, after its commit."""
        self._acted[mark] = None
        if len(self._acted) > MARKS_MAX:  # They are taken out when their row is seen; nobody may be looking.
            del self._acted[next(iter(self._acted))]

    async def look(self) -> None:
        """Ask what was forgotten since the last look, and tell the guard."""
        began_s, epoch = self._node.clock.monotonic(), self._database.epoch
        if self._position is None or epoch != self._epoch:
            position = await forgotten.present(self._database)
            news = forgotten.News(position, missed=True)
        else:
            news = await forgotten.since(self._database, self._position)
        if self._database.epoch != epoch:
            self._position = None  # The server changed under the question; whose answer this is, nobody knows.
            return
        self._position, self._epoch = news.position, epoch
        acted = [mark for mark, _ in news.rows if mark in self._acted]
        names = [name for mark, names in news.rows if mark not in self._acted for name in names]
        for mark in acted:
            del self._acted[mark]
        self._guard.heard(began_s, names, missed=news.missed)

    async def _run(self) -> None:
        clock, entropy = self._node.clock, self._node.entropy
        failing = False
        while True:
            await clock.sleep(LOOK_S * entropy.uniform(0.8, 1.2))
            try:
                await self.look()
                failing = False
            except DujiangError as error:
                if not failing:
                    logger.warning("no cached answer is fresh until the log can be read again: %s", error)
                failing = True
            except Exception:  # Without looks nothing is cached; a loop that ended would keep it so.
                logger.exception("looking at the log failed")
