"""Loop: an event loop in which time passes only when nobody has anything to do, and threads do not exist.

With it one seed is one run. A call for a thread, such as a group's COMMIT, runs on the loop after a drawn time, during
which whoever is ready queues up: that is how groups form, as they do while a real disk syncs. Everything else is
asyncio's own loop, first in, first out.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.kernel.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from dujiang.kernel.entropy import Entropy

T = TypeVar("T")

# 2026-01-01, in microseconds: where the time of every drill begins.
BEGINNING_US = 1_767_225_600_000_000
CALL_S = (0.0002, 0.003)


class Stuck(RuntimeError):
    """Nothing can ever happen again: every task waits and no timer runs."""


class Jumping(selectors.SelectSelector):
    """A selector that, instead of waiting, moves the time on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Let the time pass; nothing ever comes from outside."""
        if timeout is None:
            raise Stuck("every task waits for another one")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop.

    Args:
        chance: Draws how long calls in threads take.
    """

    def __init__(self, chance: Entropy) -> None:
        self._jumping = Jumping()
        self._chance = chance
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._jumping.now_s

    def begin(self, at_s: float, chance: Entropy) -> None:
        """Go to a time that lies ahead, and draw from another source from then on."""
        self._jumping.now_s = max(self._jumping.now_s, at_s)
        self._chance = chance

    def pass_time(self, seconds: float) -> None:
        """Let time pass while the machine is off."""
        self._jumping.now_s += seconds

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run the call here, later."""
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            try:
                answer = func(*args)
            except Exception as error:  # noqa: BLE001  (raised where the call is awaited)
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(answer)

        self.call_later(self._chance.uniform(*CALL_S), run)
        return future


class LoopClock:
    """The clock of a node on a virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = SystemClock()

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, by the loop's time."""
        return BEGINNING_US + int(self._loop.time() * 1e6)

    def monotonic(self) -> float:
        """The loop's time."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the loop."""
        await self._real.sleep(seconds)
