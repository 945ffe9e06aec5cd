"""Clocks for tests: one that jumps, so that an hour of waiting takes no time, and that may go wrong against the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dujiang.kernel.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.data.database import Database


class JumpClock:
    """The machine's clock, moved ahead by what a test says; who sleeps across a jump wakes at once.

    Args:
        skew_s: Seconds by which its wall time is wrong, ahead or behind; its monotonic time is not.
    """

    def __init__(self, *, skew_s: float = 0.0) -> None:
        self._real = SystemClock()
        self._skew_us = int(skew_s * 1e6)
        self._ahead_us = 0
        self._jumped = asyncio.Event()

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, jumps and skew included."""
        return self._real.now_us() + self._ahead_us + self._skew_us

    def monotonic(self) -> float:
        """Seconds since some fixed point, jumps included."""
        return self._real.monotonic() + self._ahead_us / 1e6

    async def sleep(self, seconds: float) -> None:
        """Sleep until real time and jumps together have passed so many seconds."""
        until = self.monotonic() + seconds
        await self._real.sleep(0)
        while (left_s := until - self.monotonic()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    await self._jumped.wait()
            except TimeoutError:
                continue

    def carry(self, look: Callable[[Database], Awaitable[int]]) -> Callable[[Database], Awaitable[int]]:
        """A look at a server's clock, which stands still when we jump, as if it had jumped along."""

        async def jumped(database: Database) -> int:
            return await look(database) + self._ahead_us

        return jumped

    def jump(self, seconds: float) -> None:
        """Move ahead."""
        self._ahead_us += int(seconds * 1e6)
        jumped, self._jumped = self._jumped, asyncio.Event()
        jumped.set()

    def jump_to(self, now_us: int) -> None:
        """Move ahead to a wall time; one that has passed changes nothing."""
        self.jump(max(0, now_us - self.now_us()) / 1e6)


__all__ = ["JumpClock"]
