"""Watch: who holds the one writer without using it.

A body's statements run inline, so it can hold the writer for long only by awaiting something that is no statement. A
timer that exists only while a body is open looks at the count of its statements every 50 ms. Seen unchanged for 100
ms, the place where the body waits is logged; for 1 s, the body is rolled back and its task cancelled.

Looks are counted, not time, so that a body is not blamed for a loop that somebody else blocked for a second: a
blocked loop does not look.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dujiang.backends.sqlite.member import where_of
from dujiang.data.database import HELD_S_MAX, TransactionHeld

if TYPE_CHECKING:
    import asyncio
    import contextvars
    from collections.abc import Callable

    from dujiang.backends.sqlite.connection import Session
    from dujiang.backends.sqlite.member import Member
    from dujiang.kernel.clock import Clock
    from dujiang.kernel.errors import DujiangError

LOOK_S = 0.05
LOOKS_REPORTED = 2
LOOKS_MAX = round(HELD_S_MAX / LOOK_S)

logger = logging.getLogger("dujiang.sqlite")


class Watch:
    """The timer and what it saw last.

    Args:
        loop: Runs the timer.
        context: The context of the timer, which belongs to no caller.
        clock: Gives the time that reports name.
        active: The member whose body is open, or None.
        evict: Takes the writer from a member, for the given reason.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
        clock: Clock,
        active: Callable[[], Member | None],
        evict: Callable[[Member, DujiangError], None],
    ) -> None:
        self.armed = False
        self.evicted = 0
        self._loop = loop
        self._context = context
        self._clock = clock
        self._active = active
        self._evict = evict
        self._timer: asyncio.TimerHandle | None = None
        self._seen: tuple[Session | None, int] = (None, 0)
        self._seen_at = 0.0
        self._looks = 0

    def __repr__(self) -> str:
        return f"<Watch {'armed' if self.armed else 'resting'}, {self.evicted} evicted>"

    def arm(self) -> None:
        """Look again soon. Call it when `armed` is false and a body begins."""
        self.armed = True
        self._timer = self._loop.call_later(LOOK_S, self._look, context=self._context)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        self.armed = False

    def _look(self) -> None:
        member = self._active()
        if member is None:
            self.armed = False
            self._seen = (None, 0)
            return
        session = member.session
        seen = (session, session.statements if session is not None else 0)
        if session is None or self._seen != seen:
            self._seen, self._looks, self._seen_at = seen, 0, self._clock.monotonic()
        else:
            self._looks += 1
            self._judge(member)
        self.arm()

    def _judge(self, member: Member) -> None:
        held_ms = int((self._clock.monotonic() - self._seen_at) * 1000)
        if self._looks == LOOKS_REPORTED:
            logger.warning("%s holds the writer for %d ms without a statement", where_of(member.task), held_ms)
        elif self._looks >= LOOKS_MAX:
            self.evicted += 1
            self._evict(member, TransactionHeld(where=where_of(member.task), held_ms=held_ms))
