"""Pool: the connections of one kind, and the line of those who wait for one.

    take()  idle one?  ->  fewer than `size`?  make one  ->  stand in line (bounded, until the deadline)
    give()  broken?    ->  close it, its place goes to the first in line  ->  hand it to the first in line  ->  idle

A place is counted from before its connection is made until after it is closed, so the server never sees more than
`size`. What is handed over goes straight to the first in line and never through the idle list: a caller that arrives
in between cannot overtake. The driver's own pool resets a session on each return, a round trip per transaction;
sessions here need none, because nobody but this package can change one (SET LOCAL alone, and what is left in a
transaction is thrown away).

A connection is made in a task of its own: a caller that leaves meanwhile does not break it off half made, which costs the
server a process and lets the driver complain of an answer that nobody took; the next in line gets it.

tests/unit/backends/postgres/test_pool.py holds order, bound, deadline, and that a place is never lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from dujiang.data.database import VITAL, DatabaseUnreachable
from dujiang.kernel.context import changed, current_or_none
from dujiang.kernel.errors import DeadlinePassed, Overloaded
from dujiang.kernel.tasks import outcomes_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.backends.postgres.link import Link
    from dujiang.backends.postgres.options import Options
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
        """A connection made in a place that is already counted."""
        made: Waiter = asyncio.get_running_loop().create_future()
        context = current_or_none()
        remaining_s = context.remaining_s() if context is not None else None
        self._tasks.spawn(self._make(made), name="connect")
        try:
            with self._limits.within(remaining_s):
                link = await made
        except BaseException as error:
            if not made.done():
                made.cancel()
            elif not made.cancelled() and made.exception() is None and (late := made.result()) is not None:
                self.give(late)
            if isinstance(error, TimeoutError) and remaining_s is not None:
                raise DeadlinePassed(what=f"connecting to {self._url}", limit_s=remaining_s) from None
            raise
        assert link is not None
        return link

    async def _make(self, made: Waiter) -> None:
        """Make a connection for whoever waits for `made`; for the next in line, if that one has left."""
        try:
            with changed(deadline=None) if current_or_none() is not None else contextlib.nullcontext():
                link = await self._connect()
            if self._stopped:
                # `stop` has counted what there was to close; this one came too late for it.
                await link.close()
                raise DatabaseUnreachable(url=self._url, why="this process has closed its connections")
        except BaseException as error:
            self._vacate()
            if not isinstance(error, Exception):
                made.cancel()
                raise
            if not made.done():
                made.set_exception(error)
            return
        self._all.add(link)
        if made.done():
            self.give(link)
        else:
            made.set_result(link)

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


class Pools:
    """The connections of one process.

    Args:
        pool: Makes a pool of a name, of what connects, and of a size.
        connect: Makes a connection that writes.
        connect_reader: Makes one that cannot.
        options: How many.

    Attributes:
        side: One for health and administration, which must work while every other connection is taken.
        all: Every pool.
    """

    def __init__(
        self,
        pool: Callable[[str, Callable[[], Awaitable[Link]], int], Pool],
        connect: Callable[[], Awaitable[Link]],
        connect_reader: Callable[[], Awaitable[Link]],
        options: Options,
    ) -> None:
        self._writers = pool("the connections that write", connect, options.pool_size)
        self._readers = pool("the connections that read", connect_reader, options.reader_pool_size)
        self._vital = pool("the connection that keeps the lease", connect, 1)
        self.side = pool("the connection for administration", connect, 1)
        self.all = (self._writers, self._readers, self._vital, self.side)

    def __repr__(self) -> str:
        return f"{self._writers!r}, {self._readers!r}"

    @property
    def writing(self) -> Pool:
        """Where the caller's transactions come from: see `VITAL` at the port."""
        return self._vital if VITAL.get() else self._writers

    @property
    def reading(self) -> Pool:
        """The same for reads."""
        return self._vital if VITAL.get() else self._readers
