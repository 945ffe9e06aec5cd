"""Writer: the one connection that writes, shared by transactions that ride to the disk together.

    caller 1   body ──RELEASE─┐                                  ┌─> answer
    caller 2        body ─────┤ one COMMIT, one fsync, in a      ├─> answer
    caller 3             body─┘ thread; the loop goes on         └─> its own error
    caller 4                   waits: the first of the next group ...

A body runs in its caller's own task, one body at a time, inside a savepoint; its COMMIT is the group's. The group
commits as soon as no body runs or waits, or after 64: there is no timer, and the longer the disk takes the larger the
next group. Measured on a disk of about 500 fsync/s, that is what makes durable writes thirty times faster.

The price is that a body sees what earlier bodies of its group wrote, before it is on the disk. So nothing computed in
a group leaves before its COMMIT has succeeded: no answer, and no error either, for "out of stock" may rest on an
order that the disk is about to refuse. If the COMMIT fails, or SQLite ends the transaction by itself, every member
runs again from its start, in the old order and before everybody else. A body whose own statement made SQLite give up
runs again as the first of a group: what it then meets is final, because it has seen committed data only. An fsync
that failed is not trusted: the members run again and write the same pages of the log anew, never fsync alone.

The rejected forms: a timer that lets groups grow (idle callers wait for nothing), one transaction per caller (one
fsync each), a thread per statement (570 us beside a busy loop, against 3), answering before the fsync (a power cut
loses acknowledged work).

The order of waiting is line.py's business, a body that holds the writer idle watch.py's, the log's size log.py's.
tests/unit/backends/sqlite/test_writer.py counts the COMMITs, fails them, and cancels at every state.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import apsw

from dujiang.backends.sqlite.connection import Session
from dujiang.backends.sqlite.errors import lost, translated
from dujiang.backends.sqlite.file import close, is_guest, log_bytes_of
from dujiang.backends.sqlite.line import Line
from dujiang.backends.sqlite.log import Log
from dujiang.backends.sqlite.member import ACTIVE, JOINED, NEW, OUT, WAITING, Group, Member
from dujiang.backends.sqlite.watch import Watch
from dujiang.data.database import Conflict, DatabaseUnreachable, StatementsOverlap
from dujiang.kernel.context import current_or_none
from dujiang.kernel.tasks import Tasks, Threads, ended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dujiang.backends.sqlite.connection import EngineOver
    from dujiang.kernel.errors import DujiangError
    from dujiang.kernel.node import Node

T = TypeVar("T")

BODIES_MAX = 64
RUNS_MAX = 5
FOREIGN_LOCK_MAX_S = 5.0
FOREIGN_LOCK_LOOK_S = 0.05

logger = logging.getLogger("dujiang.sqlite")


class Writer:
    """The queue, the group and the connection.

    Args:
        driver: The open connection; the writer closes it.
        url: Named in errors.
        node: Gives the time.
        engine_over: Makes the SQLAlchemy engine of a session.
    """

    def __init__(self, driver: apsw.Connection, url: str, node: Node, engine_over: EngineOver) -> None:
        self.driver = driver
        self.url = url
        self.counts = {"groups": 0, "commits_synced": 0, "bodies": 0, "groups_lost": 0}
        self._clock = node.clock
        self._engine_over = engine_over
        self._active: Member | None = None
        self._group: Group | None = None
        self._committing = False
        self._closing = False
        self._members: set[Member] = set()
        self._left = asyncio.Event()
        self._due = asyncio.Event()
        self._threads = Threads(1, name="dujiang-sqlite")
        self._tasks = Tasks("sqlite")
        self.log = Log(driver, self._threads, None if is_guest(url) else log_bytes_of(url))
        # A context of its own: what the writer does for all belongs to no caller's trace, deadline or simulated node.
        self._context = contextvars.Context()
        self._loop = asyncio.get_running_loop()
        self.line = Line(self._loop)
        self.watch = Watch(self._loop, self._context, self._clock, lambda: self._active, self.evict)
        self._committer = self._context.run(lambda: self._tasks.spawn(self._commit_groups(), name="commit"))

    def __repr__(self) -> str:
        return f"<Writer {self.url}: {len(self.line)} waiting, {self._group or 'no group'}>"

    async def write(self, body: Callable[[Session], Awaitable[T]], owner: object) -> T:
        """Run `body` in its turn; returns, or raises, when its group is durable."""
        member = Member(owner, RUNS_MAX)
        self._members.add(member)
        try:
            while True:
                session = await self._enter(member)
                error: Exception | None = None
                answer: T | None = None
                try:
                    answer = await body(session)
                except Exception as raised:  # noqa: BLE001  (raised again once the group is durable)
                    error = raised
                if await self._leave(member, error):
                    return answer  # type: ignore[return-value]  # With an error `_leave` would have raised it.
        except BaseException as raised:
            self._withdraw(member, raised)
            raise
        finally:
            error = None  # A local that holds an error whose traceback holds this frame is a cycle.
            self._forget(member)

    @asynccontextmanager
    async def held(self, owner: object) -> AsyncIterator[Session]:
        """The block is the body; it cannot run again, so a lost group is its caller's error."""
        member = Member(owner, 1)
        self._members.add(member)
        try:
            session = await self._enter(member)
            error: Exception | None = None
            try:
                yield session
            except Exception as raised:  # noqa: BLE001  (raised again once the group is durable)
                error = raised
            await self._leave(member, error)
        except BaseException as raised:
            self._withdraw(member, raised)
            raise
        finally:
            error = None
            self._forget(member)

    def _forget(self, member: Member) -> None:
        self._members.discard(member)
        self._left.set()

    async def _enter(self, member: Member) -> Session:
        """Wait for the turn, begin the group if there is none, and set the body's savepoint."""
        if member.state == NEW and not self._taken(member):
            self.line.come(member)
        if member.state == WAITING:
            await self.line.turn(member)
        member.runs += 1
        self.counts["bodies"] += 1
        if self._group is None:
            await self._begin()
        try:
            self.driver.execute("SAVEPOINT dj_body")
        except apsw.Error as cause:
            raise translated(cause, "SAVEPOINT", self.url) from cause
        if not self.watch.armed:
            self.watch.arm()
        member.session = session = Session(self.driver, self.url, self._engine_over, writes=True)
        return session

    def _taken(self, member: Member) -> bool:
        """Take the writer at once if it is free and nobody came before."""
        if self._closing:
            raise DatabaseUnreachable(url=self.url, why="it has been stopped")
        if self._active is not None:
            if self._active.task is member.task:
                raise StatementsOverlap(sql="BEGIN, inside a transaction of the same task")
            return False
        if self._committing or len(self.line) or (self._group is not None and len(self._group.members) >= BODIES_MAX):
            return False
        member.state = ACTIVE
        self._active = member
        return True

    async def _begin(self) -> None:
        """BEGIN; the lock can be held only by a foreign program, such as the sqlite3 shell, and is then waited for."""
        give_up_at = self._clock.monotonic() + FOREIGN_LOCK_MAX_S
        while True:
            try:
                self.driver.execute("BEGIN IMMEDIATE")
            except apsw.BusyError as cause:
                if self._clock.monotonic() >= give_up_at:
                    raise Conflict(runs=1, why="another program holds the write lock of the file") from cause
                context = current_or_none()
                if context is not None:
                    context.check_deadline("waiting for another program's lock")
                await self._clock.sleep(FOREIGN_LOCK_LOOK_S)
            except apsw.Error as cause:
                raise translated(cause, "BEGIN IMMEDIATE", self.url) from cause
            else:
                break
        self._group = Group(self.driver.total_changes())
        self.counts["groups"] += 1

    async def _leave(self, member: Member, error: Exception | None) -> bool:
        """End the body and wait for its group. True: durable. False: lost, and queued to run again."""
        if member.evicted is not None:
            raise member.evicted
        try:
            error = self._close(member, error)
            assert member.future is not None
            durable: bool = await member.future
            if durable and error is not None:
                raise error
            return durable
        finally:
            error = None

    def _close(self, member: Member, error: Exception | None) -> Exception | None:
        """Release or undo the body's savepoint, and pass the writer on. Returns what the caller gets to see."""
        session, group = member.session, self._group
        assert session is not None
        assert group is not None
        member.session = None
        member.state = JOINED
        member.future = self._loop.create_future()
        if session.lost is None:
            error = error or session.verdict()
        session.end()
        if session.lost is not None:
            group.lost = session.lost.__cause__ or session.lost
            if not group.members:
                # The first of its group saw committed data only, so its error will not change by running again.
                member.state = OUT
                member.future.set_result(True)
                self._pass_on()
                return error or session.lost
            member.alone = True
        elif group.lost is None:
            self._end_savepoint(group, keep=error is None)
        group.members.append(member)
        self._pass_on()
        return error

    def _end_savepoint(self, group: Group, *, keep: bool) -> None:
        try:
            if not keep:
                self.driver.execute("ROLLBACK TO dj_body")
            self.driver.execute("RELEASE dj_body")
        except apsw.Error as cause:
            group.lost = cause

    def _withdraw(self, member: Member, raised: BaseException) -> None:
        """Take out a member whose call ends early. Raises what took the writer from it, if that is why."""
        if member.state == WAITING:
            self.line.leave(member)
        elif member.state == ACTIVE:
            self._undo(member, None)
        member.state = OUT
        if member.evicted is None:
            return
        ours_only = member.task is None or member.task.uncancel() <= member.cancelling
        if raised is not member.evicted and (ours_only or not isinstance(raised, asyncio.CancelledError)):
            raise member.evicted from raised

    def _undo(self, member: Member, error: DujiangError | None) -> None:
        """End the running body from outside: roll back its savepoint and pass the writer on."""
        session, group = member.session, self._group
        member.session = None
        member.state = OUT
        if session is not None and group is not None:
            session.end(error)
            if session.lost is not None:
                group.lost = session.lost.__cause__ or session.lost
            else:
                self._end_savepoint(group, keep=False)
        self._pass_on()

    def _pass_on(self) -> None:
        """Nobody runs: let the next one run, or commit."""
        self._active = None
        group = self._group
        if group is not None and group.lost is not None:
            self._lose(group, group.lost)
            group = None
        if group is not None and len(group.members) >= BODIES_MAX:
            self._due.set()
            return
        first = self.line.first()
        if first is not None and first.alone and group is not None:
            self._due.set()
        elif first is not None:
            self._active = self.line.call()
        elif group is None:
            if self._closing:
                self._due.set()
        elif self.driver.total_changes() == group.changes:
            self._commit_nothing(group)
        else:
            self._due.set()

    def _commit_nothing(self, group: Group) -> None:
        """End a group that changed no row: there is nothing to sync, so no thread is worth its cost."""
        try:
            self.driver.execute("COMMIT")
        except apsw.Error as cause:
            self._lose(group, cause)
            self._pass_on()
        else:
            self._settle(group)

    async def _commit_groups(self) -> None:
        """The task that commits. A round of the loop passes before it runs, and whoever was ready joins the group."""
        while True:
            await self._due.wait()
            self._due.clear()
            group = self._group
            if group is not None and self._active is None:
                self._committing = True
                try:
                    await self._threads.run(self.driver.execute, "COMMIT")
                except Exception as cause:  # noqa: BLE001  (whatever it is, the members must not wait for ever)
                    self._lose(group, cause)
                else:
                    self.counts["commits_synced"] += 1
                    self._settle(group)
                    await self.log.copy_if_grown()
                finally:
                    self._committing = False
                self._pass_on()
            if self._closing and self._group is None and self._active is None:
                return

    def _settle(self, group: Group) -> None:
        """The group is durable: everybody goes."""
        self._group = None
        for member in group.members:
            assert member.future is not None
            member.state = OUT
            if not member.future.done():
                member.future.set_result(True)

    def _lose(self, group: Group, cause: BaseException) -> None:
        """The group is lost: its members queue again, in their order, before everybody else."""
        self._group = None
        self.counts["groups_lost"] += 1
        logger.warning("a group of %d transactions was lost and runs again: %s", len(group.members), cause)
        if self.driver.in_transaction:
            try:
                self.driver.execute("ROLLBACK")
            except apsw.Error:
                logger.exception("the lost group could not be rolled back")
        again = []
        for member in group.members:
            future = member.future
            assert future is not None
            if future.done():
                member.state = OUT
            elif member.runs >= member.runs_max:
                member.state = OUT
                future.set_exception(lost(cause, self.url, member.runs))
            else:
                again.append(member)
                future.set_result(False)
        self.line.return_all(again)

    def evict(self, member: Member, error: DujiangError) -> None:
        """Roll back the running body, and cancel its task so that `error` reaches its caller."""
        member.evicted = error
        self._undo(member, error)
        if member.task is not None and not member.task.done():
            member.cancelling = member.task.cancelling()
            member.task.cancel()

    async def drain(self, owner: object, grace_s: float) -> None:
        """Let the transactions of one adapter end; after the grace take the writer, and their places, from the rest."""
        try:
            async with asyncio.timeout(grace_s):
                while any(member.owner is owner for member in self._members):
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            error = DatabaseUnreachable(url=self.url, why="it is being stopped")
            for member in [member for member in self._members if member.owner is owner]:
                if member.state == ACTIVE:
                    self.evict(member, error)
                else:
                    self.line.refuse(member, error)

    async def close(self) -> None:
        """Commit what is left, copy the log into the data, close. No member may be left."""
        self._closing = True
        self._due.set()
        await ended(self._committer)
        self.watch.stop()
        await self.log.empty()
        self.abandon()
        self._threads.close(wait=True)  # Its last call has returned, so it ends within microseconds.
        await self._tasks.close()

    def abandon(self) -> None:
        """Close the connection at once, as if the process had died; for a writer whose loop is gone."""
        self.driver.set_wal_hook(None)
        close(self.driver)
        self._threads.close()
