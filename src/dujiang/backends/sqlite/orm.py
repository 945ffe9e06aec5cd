"""A PEP-249 module over our own connection, so that SQLAlchemy's ORM joins a transaction that it did not open.

Its cursors run on the session of the body; its commit, rollback and close do nothing, because beginning and ending
belong to the writer. `Own` is the other kind, for migrations: it holds a connection of its own, begins a transaction
before the first statement, DDL included, and its commit and rollback are real.

The port's errors pass through SQLAlchemy unchanged, as they do on PostgreSQL: a key that is there twice is
IntegrityFailed, whichever way it came. Only `Own` speaks PEP-249's classes, which SQLAlchemy turns into its own of the
same names with the port's error as their cause; a migration script may expect those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import apsw
from sqlalchemy.util import await_only

from dujiang.backends.sqlite.connection import described
from dujiang.backends.sqlite.errors import DRIVER_ERRORS, translated
from dujiang.data.database import Conflict, DatabaseUnreachable, IntegrityFailed, StatementFailed
from dujiang.data.values import ColumnRefused

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from dujiang.backends.sqlite.file import FileLock
    from dujiang.kernel.errors import DujiangError

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"
sqlite_version = apsw.sqlite_lib_version()
sqlite_version_info = tuple(int(part) for part in sqlite_version.split("."))
Binary = bytes


class Error(Exception):
    """The root of PEP-249."""


class InterfaceError(Error):
    """Never raised; PEP-249 wants it."""


class DatabaseError(Error):
    """The database refuses."""


class DataError(DatabaseError):
    """A value does not fit."""


class OperationalError(DatabaseError):
    """The database cannot work."""


class IntegrityError(DatabaseError):
    """A constraint refuses the change."""


class InternalError(DatabaseError):
    """Never raised; PEP-249 wants it."""


class ProgrammingError(DatabaseError):
    """The statement is wrong."""


class NotSupportedError(DatabaseError):
    """Never raised; PEP-249 wants it."""


def raised_for(error: DujiangError) -> Exception:
    """The exception that PEP-249 has for one of the port's errors; others stay what they are."""
    if isinstance(error, IntegrityFailed):
        return IntegrityError(error.why)
    if isinstance(error, ColumnRefused):
        return DataError(error.why)
    if isinstance(error, StatementFailed):
        return ProgrammingError(error.why) if error.sqlstate.startswith("42") else OperationalError(error.why)
    if isinstance(error, (DatabaseUnreachable, Conflict)):
        return OperationalError(error.why)
    return error


class Runner(Protocol):
    """What a cursor runs on: a body's session, or a connection alone."""

    driver: apsw.Connection

    def perform_described(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int, Any]:
        """Run a statement: rows, matched rows, description."""
        ...

    def perform_many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run a statement for each row of parameters: matched rows."""
        ...

    def mark(self, verb: str, name: str) -> None:
        """Set, release or roll back to a savepoint."""
        ...


class Connection:
    """A PEP-249 connection over a transaction that somebody else ends."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def cursor(self) -> Cursor:
        """A new cursor."""
        return AwaitingCursor(self.runner)

    def commit(self) -> None:
        """Nothing: the transaction is the writer's."""

    def rollback(self) -> None:
        """Nothing: an error that leaves the body rolls back."""

    def close(self) -> None:
        """Nothing: the connection is the writer's."""

    def mark(self, verb: str, name: str) -> None:
        """Set, release or roll back to a savepoint."""
        self.runner.mark(verb, name)


class Cursor:
    """A PEP-249 cursor whose rows are all there when `execute` returns."""

    arraysize = 1

    def __init__(self, runner: Runner) -> None:
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._runner = runner
        self._rows: list[Sequence[Any]] = []
        self._at = 0

    def execute(self, text: str, args: Sequence[Any] = ()) -> Cursor:
        """Run a statement."""
        self._at = 0
        self._rows, self.rowcount, self.description = self._runner.perform_described(text, args)
        self.lastrowid = self._runner.driver.last_insert_rowid()
        return self

    def executemany(self, text: str, rows: Sequence[Sequence[Any]]) -> Cursor:
        """Run a statement for each row of parameters."""
        self._rows, self._at, self.description = [], 0, None
        self.rowcount = self._runner.perform_many(text, rows)
        return self

    def fetchone(self) -> Sequence[Any] | None:
        """The next row, or None."""
        if self._at >= len(self._rows):
            return None
        self._at += 1
        return self._rows[self._at - 1]

    def fetchmany(self, size: int | None = None) -> list[Sequence[Any]]:
        """Up to `size` more rows."""
        start = self._at
        self._at = min(len(self._rows), start + (size or self.arraysize))
        return self._rows[start : self._at]

    def fetchall(self) -> list[Sequence[Any]]:
        """The rows that are left."""
        start, self._at = self._at, len(self._rows)
        return self._rows[start:]

    def close(self) -> None:
        """Forget the rows."""
        self._rows = []

    def setinputsizes(self, *_sizes: Any) -> None:
        """Nothing; PEP-249 wants it."""

    def setoutputsize(self, *_size: Any) -> None:
        """Nothing; PEP-249 wants it."""


class Already:
    """An awaitable that is done."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


ALREADY = Already()


class AwaitingCursor(Cursor):
    """A cursor for AsyncConnection, which refuses a driver that never awaits; ours has nothing to wait for."""

    def execute(self, text: str, args: Sequence[Any] = ()) -> Cursor:
        """Run a statement."""
        await_only(ALREADY)
        return super().execute(text, args)

    def executemany(self, text: str, rows: Sequence[Sequence[Any]]) -> Cursor:
        """Run a statement for each row of parameters."""
        await_only(ALREADY)
        return super().executemany(text, rows)

    async def _async_soft_close(self) -> None:
        """Nothing: the rows are here, and SQLAlchemy may read them without awaiting."""


class Alone:
    """Runs statements on a connection of its own, each inside a transaction that it begins when there is none."""

    def __init__(self, driver: apsw.Connection, url: str) -> None:
        self.driver = driver
        self._url = url

    def _begin(self, text: str) -> None:
        # A PRAGMA and VACUUM often refuse to work inside a transaction, and never need one.
        if not self.driver.in_transaction and not text.lstrip()[:6].upper().startswith(("PRAGMA", "VACUUM")):
            self.driver.execute("BEGIN IMMEDIATE")

    def perform_described(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int, Any]:
        """Run a statement: rows, matched rows, description."""
        try:
            self._begin(text)
            return described(self.driver, text, args)
        except DRIVER_ERRORS as cause:
            error = translated(cause, text, self._url)
            raise raised_for(error) from error

    def perform_many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run a statement for each row of parameters: matched rows."""
        return sum(self.perform_described(text, row)[1] for row in rows)

    def mark(self, verb: str, name: str) -> None:
        """Set, release or roll back to a savepoint."""
        self.perform_described(f"{verb} {name}", ())


class Own(Connection):
    """A PEP-249 connection that opened the file itself, under its lock.

    Foreign keys are not enforced statement by statement but checked whole before the commit: SQLite changes a table by
    copying it and dropping the old one, and a drop under enforced keys deletes the rows that refer to it.
    """

    def __init__(self, runner: Alone, lock: FileLock) -> None:
        super().__init__(runner)
        self._lock = lock
        runner.driver.pragma("foreign_keys", "off")

    def cursor(self) -> Cursor:
        """A new cursor."""
        return Cursor(self.runner)

    def commit(self) -> None:
        """Commit what is open, once every foreign key has its target. Raises IntegrityError when one has not."""
        driver = self.runner.driver
        dangling = driver.execute("PRAGMA foreign_key_check").fetchall() if driver.in_transaction else []
        if dangling:
            table, row, parent = dangling[0][:3]
            raise IntegrityError(f"row {row} of {table} refers to a row of {parent} that is not there")
        self._end("COMMIT")

    def rollback(self) -> None:
        """Roll back what is open."""
        self._end("ROLLBACK")

    def _end(self, text: str) -> None:
        driver = self.runner.driver
        try:
            if driver.in_transaction:
                driver.execute(text)
        except DRIVER_ERRORS as cause:
            error = translated(cause, text, "")
            raise raised_for(error) from cause

    def close(self) -> None:
        """Close the file and give its lock back."""
        self.runner.driver.close()
        self._lock.release()
