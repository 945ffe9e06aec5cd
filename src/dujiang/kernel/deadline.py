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
    """One limit; see `Limits.within`.

    Attributes:
        seconds: How long the block may take; None = for ever, 0 or less = the time is over already.
        expired: Whether it took longer.
    """

    # Of the class, so that a limit that is kept sets only what it has of its own.
    _timer: asyncio.TimerHandle | None = None
    _task: asyncio.Task[Any] | None = None
    expired = False

    def __init__(self, limits: Limits, seconds: float | None, until: float) -> None:
        self._limits = limits
        self.seconds = seconds
        self.until = until

    def __enter__(self) -> Self:
        """Begin to count."""
        seconds = self.seconds
        if seconds is None:
            return self
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if seconds < FINE_BELOW_S:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self.expire)
        else:
            # Written out here and in __exit__, without calls: every request and transaction passes.
            limits = self._limits
            limits.standing[self] = None
            if limits.timer is None:
                limits.arm()
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
            self._limits.standing.pop(self, None)
        if self.expired and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error


class Limits:
    """The limits of one running copy.

    Args:
        clock: Says when a limit is over.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.standing: dict[Limit, None] = {}  # As a set, but in the order of arrival: a drill must repeat.
        self.timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Limits {len(self.standing)} standing>"

    def within(self, seconds: float | None) -> Limit:
        """A block that may take so long; None = for ever. Raises TimeoutError at the block's end."""
        return Limit(self, seconds, 0.0 if seconds is None else self.clock.monotonic() + seconds)

    def until(self, deadline: float | None) -> Limit:
        """`within`, for what is left until a deadline: monotonic seconds; None = for ever."""
        return Limit(self, None, 0.0) if deadline is None else Limit(self, deadline - self.clock.monotonic(), deadline)

    def movable(self, until: float) -> Limit:
        """A block that may go on until a time which its owner moves ahead, by setting `until`; noticed at the next tick."""
        return Limit(self, FINE_BELOW_S, until)

    def arm(self) -> None:
        """Look at the list in a moment."""
        self.timer = asyncio.get_running_loop().call_later(TICK_S, self._look)

    def _look(self) -> None:
        self.timer = None
        now = self.clock.monotonic()
        for limit in [limit for limit in self.standing if limit.until <= now]:
            del self.standing[limit]
            limit.expire()
        if self.standing:
            self.arm()
