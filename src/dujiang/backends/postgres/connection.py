"""Connection on PostgreSQL: one open transaction, or one read session, on one link.

How each promise of data/database.py is kept:
  1. overlap     a flag around every statement, looked at before anything is sent
  2. failed      the first failure is remembered, also one that the driver finds before sending; the server's own
                 refusal would come only for what the server itself has seen
  3. errors      backends/postgres/errors.py, at the one place where the driver is called
  4. cancelled   the link is doomed: the pool ends the statement on the server and closes the connection

A conflict is remembered here and not only raised. A body that swallows it, or wraps it in an error of its own, has
still lost its transaction, and `Database.write` runs it again.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.backends.postgres.arrays import ROWS_MAX, array_form
from dujiang.backends.postgres.errors import is_lost, is_stale, is_unsent, translated
from dujiang.data.database import Conflict, DatabaseUnreachable, StatementsOverlap, TransactionFailed, WriteInRead
from dujiang.kernel.context import current_or_none
from dujiang.kernel.errors import DeadlinePassed, DujiangError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from dujiang.backends.postgres.link import Link
    from dujiang.backends.postgres.orm import Bridge
    from dujiang.data.sql import Sql
    from dujiang.kernel.node import Node

T = TypeVar("T")

# The client waits this much longer than the server allows a statement; then the server is silent, not slow.
SILENCE_S = 5.0
COUNTED = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
RETURNS = re.compile(r"\breturning\b", re.IGNORECASE)


class PostgresConnection:
    """One transaction or read session. Made and ended by `PostgresDatabase`.

    Attributes:
        link: The connection of the driver.
        conflict: Why the transaction must run again; None = nothing lost.
        failed: Why no statement is taken any more; empty = usable.
        over: Why not even a rollback to a savepoint is taken any more; empty = it is.
        lost: Whether the connection broke while a statement ran on it.
        unsent: Whether it was found broken before that statement was sent.
        ran: Statements that were begun.
        xid: The transaction's id, once it is known.
    """

    __slots__ = (
        "_bridge",
        "_busy",
        "_clock",
        "_deadline",
        "_limit",
        "_limited",
        "_limits",
        "_prepared",
        "_url",
        "conflict",
        "failed",
        "link",
        "lost",
        "over",
        "ran",
        "unsent",
        "xid",
    )

    def __init__(self, link: Link, bridge: Bridge, node: Node, *, url: str, limit_s: float) -> None:
        context = current_or_none()
        self.link = link
        self._prepared = link.prepared
        self._bridge = bridge
        self._clock = node.clock
        self._limits = node.limits
        self._limited = context is not None and context.limited and context.deadline is not None
        self._deadline = None if context is None else context.deadline
        self._limit = limit_s + SILENCE_S
        self._url = url
        self._busy = False
        self.failed = ""
        self.over = ""
        self.conflict: str | None = None
        self.lost = self.unsent = False
        self.ran = 0
        self.xid: str | None = None

    def __repr__(self) -> str:
        return f"<PostgresConnection on {self.link!r}{': ' + self.failed if self.failed else ''}>"

    async def begin(self, text: str) -> None:
        """Open the transaction."""
        await self._command(text)
        self.ran = 0

    async def fetch(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run a platform statement and return its rows."""
        # Written out, without a shared inner call: this is the path of every statement of the platform.
        if self._busy or self.failed:
            raise self._refusal(sql.name)
        self._busy = True
        self.ran += 1
        try:
            limit_s = self._limit if self._deadline is None else self._left_s(sql.name)
            statement = self._prepared.get(sql.text) or await self.link.prepare(sql.text, limit_s)
            rows: list[Sequence[Any]]
            if self._limited:
                rows = await statement.fetch(*args)
            else:
                with self._limits.within(limit_s):
                    rows = await statement.fetch(*args)
        except Exception as cause:
            raise self._failure(cause, sql.name) from cause
        except BaseException:
            self._cut()
            raise
        else:
            return rows
        finally:
            self._busy = False

    async def execute(self, sql: Sql, *args: Any) -> int:
        """Run a platform statement and return the number of rows that it matched."""
        return (await self._run(sql.text, args, sql.name))[1]

    async def run(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int]:
        """Run compiled text: its rows and the number of rows that it matched."""
        return await self._run(text, args, text)

    async def run_many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run compiled text once for each row of parameters; one round trip where the count can be had in one.

        The driver's way for many rows tells no counts. It does return rows, so a write that returns nothing is made to
        return a 1 for each row that it matches. What is not plainly such a write runs row by row: slower, never wrong.
        """
        arrays = array_form(text)
        if arrays is not None:
            # By the thousand, so that a very long list is not held a third time as one message.
            slices = [rows[first : first + ROWS_MAX] for first in range(0, len(rows), ROWS_MAX)]
            return sum([(await self.run(arrays, list(zip(*part, strict=True))))[1] for part in slices])
        if len(rows) == 1 or not COUNTED.match(text) or RETURNS.search(text):
            return sum([(await self.run(text, row))[1] for row in rows])
        counted = f"{text.rstrip().removesuffix(';')}\nRETURNING 1"

        async def call(limit_s: float) -> int:
            statement = await self.link.prepare(counted, limit_s)
            return len(await statement.fetchmany(rows, timeout=limit_s))

        return await self.guarded(text, call)

    async def savepoint(self, name: str) -> None:
        """Set a savepoint."""
        await self._command(f"SAVEPOINT {name}")

    async def release(self, name: str) -> None:
        """Forget a savepoint and keep what was done since."""
        await self._command(f"RELEASE SAVEPOINT {name}")

    async def rollback_to(self, name: str) -> None:
        """Undo what was done since the savepoint; a failed transaction becomes usable again."""
        if self.over:
            raise TransactionFailed(why=self.over)
        # Whatever fails now is remembered as a failure again.
        self.failed = ""
        await self._command(f"ROLLBACK TO SAVEPOINT {name}")
        self.conflict = None

    def note_xid(self, xid: str) -> None:
        """Remember the transaction's id; saves the round trip that would ask for it before COMMIT."""
        self.xid = xid

    def orm_engine(self) -> AsyncEngine:
        """A SQLAlchemy AsyncEngine whose every connection is this transaction."""
        return self._bridge.engine(self)

    @asynccontextmanager
    async def orm_connection(self) -> AsyncIterator[AsyncConnection]:
        """A SQLAlchemy AsyncConnection over this transaction; its own commit and rollback touch nothing."""
        async with self.orm_engine().connect() as connection:
            yield connection

    async def guarded(self, name: str, call: Callable[[float], Awaitable[T]]) -> T:
        """Run one call of the driver under the rules of this module; `call` is given its limit in seconds."""
        if self._busy or self.failed:
            raise self._refusal(name)
        self._busy = True
        self.ran += 1
        try:
            return await call(self._limit if self._deadline is None else self._left_s(name))
        except Exception as cause:
            raise self._failure(cause, name) from cause
        except BaseException:
            self._cut()
            raise
        finally:
            self._busy = False

    def end(self) -> None:
        """Refuse every later statement; a body that kept the connection must not write into the next transaction."""
        if self._busy:
            # A task of the body still waits for a reply on this link.
            self.link.doom()
        self.over = self.over or "the transaction has ended"
        self.failed = self.failed or self.over

    @property
    def busy(self) -> bool:
        """Whether a statement runs at this moment."""
        return self._busy

    async def _run(self, text: str, args: Sequence[Any], name: str) -> tuple[list[Sequence[Any]], int]:
        async def call(limit_s: float) -> tuple[list[Sequence[Any]], int]:
            statement = self._prepared.get(text) or await self.link.prepare(text, limit_s)
            if self._limited:
                rows = await statement.fetch(*args)
            else:
                with self._limits.within(limit_s):
                    rows = await statement.fetch(*args)
            return rows, matched(statement.get_statusmsg())

        return await self.guarded(name, call)

    async def _command(self, text: str) -> None:
        async def call(limit_s: float) -> None:
            with self._limits.within(None if self._limited else limit_s):
                await self.link.driver.execute(text)

        await self.guarded(text, call)

    def _left_s(self, name: str) -> float:
        """Seconds that a statement may take."""
        assert self._deadline is not None
        left_s = self._deadline - self._clock.monotonic()
        if left_s <= 0:
            raise DeadlinePassed(what=name, limit_s=0.0)
        return min(left_s, self._limit)

    def _refusal(self, name: str) -> DujiangError:
        return StatementsOverlap(sql=name) if self._busy else TransactionFailed(why=self.failed)

    def _failure(self, cause: Exception, name: str) -> DujiangError:
        """Remember a failure and say it in the port's words."""
        if isinstance(cause, DujiangError):
            error: DujiangError = cause
        elif isinstance(cause, TimeoutError):
            # The driver has asked the server to stop and will not wait for that; neither do we.
            self._lose()
            error = self._silence(name)
        else:
            error = translated(cause, url=self._url, sql=name, limit_s=self._limit - SILENCE_S)
            if is_stale(cause):
                self.link.forget_prepared()
            elif is_lost(cause):
                self.unsent = is_unsent(cause)
                self._lose()
            if isinstance(error, WriteInRead) and not self.link.read_only:
                # The server was fenced under our connection; the next one is made to whoever takes writes now.
                self.link.doom()
                error = DatabaseUnreachable(url=self._url, why="it has been set to read only")
        self.failed = self.failed or str(error)
        if isinstance(error, Conflict):
            self.conflict = error.why
        if self.lost:
            self.over = self.failed
        return error

    def _silence(self, name: str) -> DujiangError:
        if self._deadline is not None and self._clock.monotonic() >= self._deadline:
            return DeadlinePassed(what=name, limit_s=0.0)
        return DatabaseUnreachable(url=self._url, why=f"no reply within {self._limit:.0f} s")

    def _lose(self) -> None:
        self.lost = True
        self.link.doom()

    def _cut(self) -> None:
        """A caller left in the middle of a statement."""
        self.link.doom()
        self.failed = self.over = "a statement was cancelled"


def matched(status: str | None) -> int:
    """The number of rows in a command tag: "UPDATE 3", "INSERT 0 1", "SELECT 2"; 0 where the tag has none."""
    count = (status or "").rpartition(" ")[2]
    return int(count) if count.isdigit() else 0
