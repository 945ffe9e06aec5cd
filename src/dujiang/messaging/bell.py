"""Bells: wake who waits, without polling delay; inside the process at once, in other processes through the store.

A bell is only an optimisation: who waits also looks by itself now and then, and every test passes with bells muffled.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dujiang.data.database import Database
    from dujiang.kernel.tasks import Tasks


class Bells:
    """Named bells of one running copy.

    Args:
        database: Carries rings to other processes where it can.
        tasks: Owns the task that sends them.
    """

    def __init__(self, database: Database, tasks: Tasks) -> None:
        self._database = database
        self._tasks = tasks
        self._bells: dict[str, asyncio.Event] = {}
        self._far: set[str] = set()
        self._sending = False
        self.muffled = False

    def hear(self, payload: str) -> None:
        """Ring what another process rang: names joined by commas."""
        for name in payload.split(","):
            self.ring(name)

    def ring(self, name: str) -> None:
        """Wake who waits for this name in this process."""
        if not self.muffled and name in self._bells:
            self._bells[name].set()

    def ring_all(self) -> None:
        """Wake everybody in this process."""
        for name in self._bells:
            self.ring(name)

    def ring_far(self, name: str) -> None:
        """Wake who waits for this name in every process; many rings at once travel as one.

        Not an error in a process that is just stopping: what rings is committed, and a bell is only a shorter wait.
        """
        self.ring(name)
        if not self._database.capabilities.listen or self.muffled or self._tasks.closed:
            return
        self._far.add(name)
        if not self._sending:
            self._sending = True
            self._tasks.spawn(self._send(), name="bells")

    async def _send(self) -> None:
        try:
            while self._far:
                names, self._far = sorted(self._far), set()
                await self._database.notify(",".join(names))
        finally:
            self._sending = False

    async def wait(self, name: str, timeout_s: float) -> bool:
        """Wait for a ring, at most this long; whether it rang. A ring that came before is not lost."""
        bell = self._bells.setdefault(name, asyncio.Event())
        try:
            async with asyncio.timeout(timeout_s):
                await bell.wait()
        except TimeoutError:
            return False
        finally:
            bell.clear()
        return True
