"""Deadlines: limits on waiting that cost next to nothing when they are kept, which is nearly always.

    with limits.within(30.0, "shop.place_order"):      TimeoutError in the block's task once 30 s have passed
        ...

A timer of the event loop for each request and each statement costs more than many of the requests (about 8 us each under
uvloop, a tenth of a written order), and practically none of them ever fires. So limits of a second and more stand in
one list, and one timer looks through the list ten times a second while it is not empty: such a limit is late by at most a
tenth of a second. Shorter ones get a timer of their own.

The rules of cancellation are those of `asyncio.timeout`: the task is cancelled where it waits, the block's end turns that
cancellation, and only that one, into TimeoutError. tests/unit/kernel/test_deadline.py holds nested limits, a foreign
cancellation at the same moment, and that nothing is left armed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from dujiang.kernel.clock import Clock

TICK_S = 0.1
FINE_BELOW_S = 1.0


class Limit:
    """One limit; see `Limits.within`."""

    __slots__ = ("_cancelling", "_limits", "_seconds", "_task", "_timer", "expired", "until")

    def __init__(self, limits: Limits, seconds: float | None) -> None:
        self._limits = limits
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self.expired = False
        self.until = 0.0

    def __enter__(self) -> Self:
        """Begin to count."""
        seconds = self._seconds
        if seconds is None:
            return self
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if seconds < FINE_BELOW_S:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self.expire)
        else:
            self._limits.add(self, seconds)
        return self

    def expire(self) -> None:
        """The time is over: cancel the task where it waits."""
        if self._task is not None and not self.expired:
            self.expired = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop counting; our own cancellation leaves as TimeoutError."""
        task = self._task
        if task is None:
            return
        self._task = None
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._limits.drop(self)
        if self.expired and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error


class Limits:
    """The limits of one running copy.

    Args:
        clock: Says when a limit is over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._standing: dict[int, Limit] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Limits {len(self._standing)} standing>"

    def within(self, seconds: float | None) -> Limit:
        """A block that may take so long; None = for ever. Raises TimeoutError at the block's end."""
        return Limit(self, seconds)

    def add(self, limit: Limit, seconds: float) -> None:
        """Put a limit on the list."""
        limit.until = self._clock.monotonic() + seconds
        self._standing[id(limit)] = limit
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._look)

    def drop(self, limit: Limit) -> None:
        """Take a limit off the list."""
        self._standing.pop(id(limit), None)

    def _look(self) -> None:
        self._timer = None
        if not self._standing:
            return
        now = self._clock.monotonic()
        for limit in [limit for limit in self._standing.values() if limit.until <= now]:
            self.drop(limit)
            limit.expire()
        if self._standing:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._look)
