"""Connection: what a body holds; statements run inline, on the loop's thread.

A statement of the embedded store takes microseconds; handing it to a thread costs hundreds beside a busy loop. So the
methods are coroutines that never suspend. Two things follow. A body that awaits only its statements keeps the writer
for no longer than they take. And two statements cannot really overlap, although they would on a database behind a
network. To keep one meaning, a task that is not the owner's marks the connection until the loop's next round: a
second task that comes in the same round is what would have overlapped, and is refused.

Order of the checks of a statement: ended, failed, overlap, deadline, first sight of its text. The last looks once at
the first word of every distinct text, because BEGIN, COMMIT and their like would break the group that others share.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import apsw

from dujiang.backends.sqlite.errors import DRIVER_ERRORS, shown, translated
from dujiang.data.database import IntegrityFailed, StatementFailed, StatementsOverlap, TransactionFailed
from dujiang.kernel.context import CURRENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    EngineOver = Callable[["Session"], AsyncEngine]

    from dujiang.data.sql import Sql
    from dujiang.kernel.errors import DujiangError

COMMENTS = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*", re.DOTALL)
FORBIDDEN = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "VACUUM"})
KNOWN_MAX = 4096

# Texts that were looked at and allowed; of the process, because a text means the same on every connection.
KNOWN: set[str] = set()


class Session:
    """The statements of one body on one driver connection.

    Args:
        driver: The connection of the driver.
        url: Named in errors.
        engine_over: Makes the SQLAlchemy engine of a session; given, because it is built on this module.
        writes: Whether a transaction is open around it; a read session is in autocommit.
    """

    __slots__ = (
        "_busy",
        "_ended",
        "_engine_over",
        "_failed",
        "_over",
        "_task",
        "_url",
        "_writes",
        "driver",
        "lost",
        "statements",
    )

    def __init__(self, driver: apsw.Connection, url: str, engine_over: EngineOver, *, writes: bool) -> None:
        self.driver = driver
        self.lost: DujiangError | None = None  # The error after which SQLite had ended the transaction by itself.
        self.statements = 0
        self._url = url
        self._engine_over = engine_over
        self._writes = writes
        self._task = asyncio.current_task()
        self._busy: asyncio.Task[Any] | None = None
        self._failed = ""
        self._over = False
        self._ended: DujiangError | None = None  # Says why, if there is more to say.

    def __repr__(self) -> str:
        kind = "write" if self._writes else "read"
        return f"<Session {kind}, {self.statements} statements{', ended' if self._over else ''}>"

    async def fetch(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run a platform statement and return its rows."""
        text = sql.numbered
        self._admit(text)
        try:
            return self.driver.execute(text, args).fetchall()  # type: ignore[return-value]
        except DRIVER_ERRORS as cause:
            raise self._refused(cause, f"{sql.name}: {text}") from cause

    async def execute(self, sql: Sql, *args: Any) -> int:
        """Run a platform statement and return the number of rows that it matched."""
        return self.perform(sql.numbered, args, sql.name)[1]

    async def run(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int]:
        """Run compiled text with `?` parameters: (rows, matched rows); of a SELECT, both are of the rows."""
        return self.perform(text, args)

    async def run_many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run compiled text once for each row of parameters; the number of matched rows in all."""
        return self.perform_many(text, rows)

    def perform(self, text: str, args: Sequence[Any], name: str = "") -> tuple[list[Sequence[Any]], int]:
        """`run`, for callers that are not coroutines; errors show the name if there is one."""
        self._admit(text)
        driver = self.driver
        before = driver.total_changes()
        try:
            rows: list[Sequence[Any]] = driver.execute(text, args).fetchall()  # type: ignore[assignment]
        except DRIVER_ERRORS as cause:
            raise self._refused(cause, f"{name}: {text}" if name else text) from cause
        # `changes` leaves out what triggers and cascades did, but keeps its value over a SELECT; the total tells.
        return rows, driver.changes() if driver.total_changes() != before else len(rows)

    def perform_many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        """`run_many`, for callers that are not coroutines."""
        self._admit(text)
        driver = self.driver
        matched = 0

        def feed() -> Iterator[Sequence[Any]]:
            # The driver asks for the next row when the statement is done with the last one: the moment to count.
            nonlocal matched
            total = driver.total_changes()
            for row in rows:
                yield row
                if (after := driver.total_changes()) != total:
                    matched += driver.changes()
                    total = after

        try:
            driver.executemany(text, feed()).fetchall()
        except DRIVER_ERRORS as cause:
            raise self._refused(cause, text) from cause
        return matched

    def perform_described(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int, Any]:
        """`run`, with the PEP-249 description of the columns; for the ORM."""
        self._admit(text)
        try:
            return described(self.driver, text, args)
        except DRIVER_ERRORS as cause:
            raise self._refused(cause, text) from cause

    async def savepoint(self, name: str) -> None:
        """Set a savepoint; on a read session there is nothing to undo, only the failed state to forget."""
        self.mark("SAVEPOINT", name)

    async def release(self, name: str) -> None:
        """Forget a savepoint and keep what was done since."""
        self.mark("RELEASE", name)

    async def rollback_to(self, name: str) -> None:
        """Undo what was done since the savepoint; a failed transaction becomes usable again."""
        self.mark("ROLLBACK TO", name)

    def mark(self, verb: str, name: str) -> None:
        """Set, release or roll back to a savepoint."""
        if verb == "ROLLBACK TO" and not self._over and self.lost is None:
            self._failed = ""
        self._check(verb)
        if self._writes:
            text = f"{verb} {name}"
            try:
                self.driver.execute(text)
            except DRIVER_ERRORS as cause:
                raise self._refused(cause, text) from cause

    def orm_engine(self) -> AsyncEngine:
        """A SQLAlchemy AsyncEngine whose every connection is this transaction."""
        return self._engine_over(self)

    def orm_connection(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A SQLAlchemy AsyncConnection over this transaction; its own commit and rollback touch nothing."""
        return self.orm_engine().connect()

    def note_xid(self, xid: str) -> None:
        """Nothing to remember: no reply to COMMIT can be lost inside one process."""

    def verdict(self) -> DujiangError | None:
        """Why this transaction cannot be committed although its body returned, or None."""
        if self._failed:
            return TransactionFailed(why=self._failed)
        if self.driver.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
            # Left to COMMIT, one body's dangling key would fail the whole group.
            return IntegrityFailed(kind="foreign_key", constraint="", why="a deferred foreign key has no target")
        return None

    def end(self, error: DujiangError | None = None) -> None:
        """Take no statement from now on; `error` says why to those who try."""
        self._over = True
        self._ended = error

    def _admit(self, text: str) -> None:
        self._check(text)
        if text not in KNOWN:
            recognise(text)

    def _check(self, text: str) -> None:
        if self._over:
            raise self._ended or TransactionFailed(why="the transaction has ended")
        if self._failed:
            raise TransactionFailed(why=self._failed)
        task = asyncio.current_task()
        if task is not self._task or self._busy is not None:
            self._mark_busy(task, text)
        context = CURRENT.get(None)
        if context is not None and context.deadline is not None:
            context.check_deadline("the transaction")
        self.statements += 1

    def _mark_busy(self, task: asyncio.Task[Any] | None, text: str) -> None:
        if self._busy is None:
            self._busy = task
            asyncio.get_running_loop().call_soon(self._rest)
        elif self._busy is not task:
            raise StatementsOverlap(sql=shown(text))

    def _rest(self) -> None:
        self._busy = None

    def _refused(self, cause: BaseException, text: str) -> DujiangError:
        error = translated(cause, text, self._url)
        self._failed = error.detail
        if self._writes and not self.driver.in_transaction:
            self.lost = error
        return error


def recognise(text: str) -> None:
    """Look at a text for the first time. Raises StatementFailed for one that would end or leave the transaction."""
    begins = COMMENTS.match(text)
    word = re.match(r"\w*", text[begins.end() if begins else 0 :])
    if word is not None and word[0].upper() in FORBIDDEN:
        why = f"{word[0].upper()} is not for a transaction's body; use the transaction's own methods"
        raise StatementFailed(why=why, sqlstate="25001", sql=shown(text))
    if len(KNOWN) >= KNOWN_MAX:
        KNOWN.clear()
    KNOWN.add(text)


def described(driver: apsw.Connection, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int, Any]:
    """Run a statement: rows, matched rows, and the description, which exists before the first row or not at all."""
    names: list[Any] = []

    def note(cursor: apsw.Cursor, _text: str, _bindings: Any) -> bool:
        names.extend(cursor.get_description())
        return True

    cursor = driver.cursor()
    cursor.exec_trace = note
    before = driver.total_changes()
    rows: list[Sequence[Any]] = cursor.execute(text, args).fetchall()  # type: ignore[assignment]
    matched = driver.changes() if driver.total_changes() != before else len(rows)
    return rows, matched, [(name, None, None, None, None, None, None) for name, _ in names] or None
