"""Pool: the connections of one kind, and the line of those who wait for one.

    take()  idle one?  ->  fewer than `size`?  make one  ->  stand in line (bounded, until the deadline)
    give()  broken?    ->  close it, its place goes to the first in line  ->  hand it to the first in line  ->  idle

A place is counted from before its connection is made until after it is closed, so the server never sees more than
`size`. What is handed over goes straight to the first in line and never through the idle list: a caller that arrives
in between cannot overtake. The driver's own pool resets a session on each return, a round trip per transaction;
sessions here need none, because nobody but this package can change one (SET LOCAL alone, and what is left in a
transaction is thrown away).

tests/unit/backends/postgres/test_pool.py holds order, bound, deadline, and that a place is never lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from dujiang.data.database import DatabaseUnreachable
from dujiang.kernel.context import current_or_none
from dujiang.kernel.errors import DeadlinePassed, Overloaded
from dujiang.kernel.tasks import outcomes_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.backends.postgres.link import Link
    from dujiang.kernel.deadline import Limits
    from dujiang.kernel.tasks import Tasks

# A caller in line is given a connection, or None: a place in which it makes one itself.
Waiter = asyncio.Future["Link | None"]


class Pool:
    """At most `size` connections, made when first needed.

    Args:
        name: Named in errors.
        connect: Makes a connection.
        tasks: Owns the closing of broken connections.
        limits: Ends the wait in line.
        url: The database, for errors.
        size: Connections at most.
        waiters_max: Callers in line at most.
        wait_s: How long a caller without a deadline waits.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Link]],
        tasks: Tasks,
        limits: Limits,
        *,
        url: str,
        size: int,
        waiters_max: int,
        wait_s: float,
    ) -> None:
        assert size >= 1
        self.name = name
        self.size = size
        self._connect = connect
        self._tasks = tasks
        self._limits = limits
        self._url = url
        self._waiters_max = waiters_max
        self._wait_s = wait_s
        self._idle: list[Link] = []
        self._all: set[Link] = set()
        self._places = 0
        self._waiters: deque[Waiter] = deque()
        self._stopped = True
        self._quiet = asyncio.Event()
        self._quiet.set()

    def __repr__(self) -> str:
        return f"<Pool {self.name}: {len(self._idle)} idle of {self._places}, {len(self._waiters)} in line>"

    def open(self) -> None:
        """Begin to serve."""
        self._stopped = False

    async def take(self) -> Link:
        """A connection for the caller alone, until `give`.

        Raises:
            Overloaded: Too many wait already.
            DeadlinePassed: The caller's deadline passed in the line.
            DatabaseUnreachable, DatabaseRefused: No connection could be made.
        """
        if self._stopped:
            raise DatabaseUnreachable(url=self._url, why="this process has closed its connections")
        if not self._waiters:
            while self._idle:
                link = self._idle.pop()
                if link.usable:
                    self._quiet.clear()
                    return link
                self._forget(link)
            if self._places < self.size:
                self._occupy()
                return await self._grow()
        link_or_place = await self._stand_in_line()
        return await self._grow() if link_or_place is None else link_or_place

    def give(self, link: Link) -> None:
        """Return a connection; a broken one is closed, and its place serves the first in line."""
        if self._stopped or not link.usable:
            self._drop(link)
            return
        link.fresh = False
        waiter = self._first_in_line()
        if waiter is not None:
            waiter.set_result(link)
        else:
            self._idle.append(link)
            self._note_quiet()

    async def stop(self, grace_s: float) -> None:
        """Serve nobody any more, wait for those who hold a connection, close everything."""
        self._stopped = True
        while (waiter := self._first_in_line()) is not None:
            waiter.set_exception(DatabaseUnreachable(url=self._url, why="this process is closing its connections"))
        self._note_quiet()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._quiet.wait()
        await outcomes_of(*(link.close() for link in self._all))
        for link in list(self._all):
            self._all.discard(link)
            self._places -= 1
        self._idle.clear()

    async def _stand_in_line(self) -> Link | None:
        if len(self._waiters) >= self._waiters_max:
            raise Overloaded(what=f"the line for {self.name}", size=len(self._waiters), limit=self._waiters_max)
        context = current_or_none()
        remaining_s = context.remaining_s() if context is not None else None
        wait_s = self._wait_s if remaining_s is None else min(remaining_s, self._wait_s)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            with self._limits.within(wait_s):
                return await waiter
        except BaseException as error:
            self._leave_line(waiter)
            if isinstance(error, TimeoutError):
                raise DeadlinePassed(what=f"waiting for one of {self.name}", limit_s=wait_s) from None
            raise

    def _leave_line(self, waiter: Waiter) -> None:
        """Step out of the line; what was handed over in the same instant goes to the next."""
        if not waiter.done():
            waiter.cancel()
        if waiter.cancelled():
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
        elif waiter.exception() is None:
            link = waiter.result()
            if link is not None:
                self.give(link)
            else:
                self._vacate()

    def _first_in_line(self) -> Waiter | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    async def _grow(self) -> Link:
        """Make a connection in a place that is already counted."""
        try:
            link = await self._connect()
        except BaseException:
            self._vacate()
            raise
        if self._stopped:
            # `stop` has counted what there was to close; this one came too late for it.
            await link.close()
            self._vacate()
            raise DatabaseUnreachable(url=self._url, why="this process has closed its connections")
        self._all.add(link)
        return link

    def _drop(self, link: Link) -> None:
        if link in self._all:
            self._tasks.spawn(self._close(link), name="close")

    async def _close(self, link: Link) -> None:
        try:
            await link.close()
        finally:
            self._forget(link)

    def _forget(self, link: Link) -> None:
        if link in self._all:
            self._all.discard(link)
            self._vacate()

    def _occupy(self) -> None:
        self._places += 1
        self._quiet.clear()

    def _vacate(self) -> None:
        """Give a place up: to the first in line, who makes a connection in it, otherwise to nobody."""
        waiter = None if self._stopped else self._first_in_line()
        if waiter is not None:
            waiter.set_result(None)
        else:
            self._places -= 1
            self._note_quiet()

    def _note_quiet(self) -> None:
        if self._places == len(self._idle):
            self._quiet.set()
