"""Line: who waits for the writer, in the order of arrival.

First come, first served; members of a lost group stand before everybody else, in their old order. A member that
leaves is only marked, and skipped when it comes up: taking it out of the middle would make a storm of cancels
quadratic.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dujiang.backends.sqlite.member import ACTIVE, OUT, WAITING
from dujiang.kernel.context import current_or_none
from dujiang.kernel.errors import DeadlinePassed, Overloaded

if TYPE_CHECKING:
    import asyncio

    from dujiang.backends.sqlite.member import Member

WAITERS_MAX = 10_000


class Line:
    """The members that wait; at most WAITERS_MAX come in by themselves.

    Args:
        loop: The loop of the writer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._members: deque[Member] = deque()
        self._count = 0

    def __repr__(self) -> str:
        return f"<Line of {self._count}>"

    def __len__(self) -> int:
        return self._count

    def come(self, member: Member) -> None:
        """Stand at the end. Raises Overloaded when the line is full."""
        if self._count >= WAITERS_MAX:
            raise Overloaded(what="the writer's queue", size=self._count, limit=WAITERS_MAX)
        member.state = WAITING
        member.future = self._loop.create_future()
        self._members.append(member)
        self._count += 1

    def return_all(self, members: list[Member]) -> None:
        """Stand before everybody else."""
        for member in members:
            member.state = WAITING
            member.future = self._loop.create_future()
        self._members.extendleft(reversed(members))
        self._count += len(members)

    async def turn(self, member: Member) -> None:
        """Wait until it is the member's turn. Raises DeadlinePassed at its deadline."""
        assert member.future is not None
        context = current_or_none()
        remaining_s = context.remaining_s() if context is not None else None
        if remaining_s is None:
            await member.future
            return
        timer = self._loop.call_later(remaining_s, self._expire, member, remaining_s)
        try:
            await member.future
        finally:
            timer.cancel()

    def _expire(self, member: Member, waited_s: float) -> None:
        self.refuse(member, DeadlinePassed(what="waiting for the writer", limit_s=waited_s))

    def refuse(self, member: Member, error: Exception) -> None:
        """Send a member away with an error, unless it waits no longer."""
        if member.state == WAITING and member.future is not None and not member.future.done():
            self.leave(member)
            member.future.set_exception(error)

    def leave(self, member: Member) -> None:
        """Stop waiting."""
        member.state = OUT
        self._count -= 1

    def first(self) -> Member | None:
        """Whose turn is next, or None."""
        while self._members:
            member = self._members[0]
            assert member.future is not None
            if member.state == WAITING and not member.future.done():
                return member
            self._members.popleft()
            if member.state == WAITING:
                # Cancelled, but its task has not run since; it must not be given a turn that it cannot take.
                self.leave(member)
        return None

    def call(self) -> Member:
        """Give the first its turn; there is one."""
        member = self._members.popleft()
        self._count -= 1
        member.state = ACTIVE
        assert member.future is not None
        member.future.set_result(None)
        return member
