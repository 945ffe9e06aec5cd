"""Follower: looks at the log of forgotten names a few times a second, and tells the guard.

    look ──► what was committed since the last look? ──► guard.heard(when this look began, names, missed)

The order inside a look is part of the proof: the time is taken before the question is asked, and the position for the next
look comes with the answer, out of the same snapshot. A look that fails changes nothing; the guard loses its trust by
itself. Another server behind the URL (a fail-over) may lack the last commits of the one before: everything begins anew.

A row of a transaction of this process is skipped if its names were touched here after its commit: touching them again would
only end answers that were loaded since. A row whose transaction has not told us so (its reply was lost, its task cancelled)
is none of these.

Where answers are shared the follower also tells the floors (floors.py) which transaction forgot what, and begins with what
the log still holds; `here()` is then the position of the last look, at which a load that begins now may say it began.

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

    from dujiang.caching.floors import Floors
    from dujiang.caching.guard import Guard
    from dujiang.data.database import Database
    from dujiang.kernel.node import Node
    from dujiang.messaging.position import Position

logger = logging.getLogger("dujiang.caching")

LOOK_S = 0.25
MARKS_MAX = 10_000


class Follower:
    """The service that keeps a guard informed.

    Args:
        node: The running copy.
        database: Where the log is.
        guard: Whom to tell.
        floors: Whom to tell as well, where answers are shared.
    """

    def __init__(self, node: Node, database: Database, guard: Guard, floors: Floors | None = None) -> None:
        self._node = node
        self._database = database
        self._guard = guard
        self._floors = floors
        self._position: Any = None
        self._origin = b""
        self._here: Position | None = None
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

    def here(self) -> Position | None:
        """The position of the last look; None = another server may answer by now. Only where answers are shared."""
        return self._here if self._database.epoch == self._epoch else None

    @property
    def origin(self) -> bytes | None:
        """The origin of the positions that are told now; None = another server may answer by now."""
        here = self.here()
        return None if here is None else here.origin

    async def exactly_here(self) -> Position | None:
        """The position at this moment, asked of the database; None as above."""
        if self.here() is None:
            return None
        origin, raw = self._origin, await forgotten.present(self._database)
        return forgotten.placed(raw, origin) if self.here() is not None and origin == self._origin else None

    async def look(self) -> None:
        """Ask what was forgotten since the last look, and tell the guard."""
        began_s, asked, epoch = self._node.clock.monotonic(), self._guard.tick, self._database.epoch
        if self._position is None or epoch != self._epoch:
            news = forgotten.News(None, missed=True)
        else:
            news = await forgotten.since(self._database, self._position)
        history = await self._anew(news.position) if news.missed else None
        if self._database.epoch != epoch:
            self._position = self._here = (
                None  # The server changed under the question; whose answer this is, nobody knows.
            )
            if self._floors is not None:
                self._floors.unknown()
            return
        self._position, self._epoch = news.position if history is None else history.position, epoch
        acted = [row.mark for row in news.rows if row.mark in self._acted]
        names = [name for row in news.rows if row.mark not in self._acted for name in row.names]
        for mark in acted:
            del self._acted[mark]
        self._guard.heard(began_s, names, missed=news.missed)
        if self._floors is not None:
            if history is not None:
                self._origin = history.origin
                self._floors.begin(history, asked)
            else:
                self._floors.heard(news.rows, asked)
            self._here = forgotten.placed(self._position, self._origin)

    async def _anew(self, position: Any) -> forgotten.History:
        """Where the log is now; where answers are shared, also what it holds."""
        if self._floors is not None:
            return await forgotten.history(self._database)
        if position is None:
            position = await forgotten.present(self._database)
        return forgotten.History(position, b"", 0, ())

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
