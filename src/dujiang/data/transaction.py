"""Transaction: what a handler holds while it works, and the steps that stand around its commit.

    body(tx)                    statements of the handler
    before_commit               steps in order of registration; may run statements
    session flush               pending ORM changes become statements, with their row locks
    closing pieces              the platform's own rows, all in ONE statement where the database can
    COMMIT                      once
    after_commit                plain calls: wake a relay, count; never awaited, never failing the answer

The pieces come last on purpose: sequence numbers of events are drawn while the row locks of the handler's own changes are
held, and that is what makes the order of events with one key the order of their commits. And they come together: what
would be three round trips (events, stored answer, acknowledgement) is one.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.data.database import Conflict, PartitionMissing
from dujiang.data.sql import Sql
from dujiang.kernel.clock import instant
from dujiang.kernel.context import CURRENT, Context, current
from dujiang.kernel.errors import DujiangError
from dujiang.telemetry.crash import crash_point
from dujiang.telemetry.tracing import NO_SPAN, begun, span

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Executable

    from dujiang.data.database import Connection, Database, Isolation, Settle
    from dujiang.data.orm import TransactionSession
    from dujiang.data.statements import Result

T = TypeVar("T")

RUNS_MAX = 5
PAUSE_S, PAUSE_S_MAX = 0.005, 0.2


@dataclass(eq=False, kw_only=True)
class NestedTransaction(DujiangError):
    """A transaction was opened inside a transaction."""

    code = "nested_transaction"
    move = "report"
    says = "{what} would open a transaction inside the one that is open"
    cure = (
        "pass the open one on: `await operation(tx, body)`; for a part that may fail use `async with tx.savepoint():`"
    )

    what: str


class Stale(DujiangError):
    """A row was changed between being read and being written; the transaction runs again from its start.

    Raise it, or a subclass with a `code` of its own, when an optimistic write has matched no row:

        done = await tx.execute(update(page).where(page.c.id == id, page.c.version == seen).values(version=seen + 1, ...))
        if not done.rowcount:
            raise Stale(f"page {id} is not at version {seen}")

    The transaction is rolled back and runs again, five times at most and with a little chance between; then Conflict is
    raised. So it is for versions that the handler itself has read: one that a client has sent is as old in every run.

    Args:
        what: Which row, for logs.
    """

    code = "stale"
    move = "wait"

    def __init__(self, what: str = "", /) -> None:
        super().__init__(what)

    @property
    def detail(self) -> str:
        """Which row."""
        return str(self.args[0]) if self.args and self.args[0] else super().detail


@dataclass(frozen=True, slots=True)
class Piece:
    """One of the platform's own writes at the end of a transaction.

    Attributes:
        name: The name of its part in the combined statement: letters and underscores, unique per transaction.
        sql: An INSERT, UPDATE or DELETE ... RETURNING 1.
        args: Its parameters.
        expect: Rows that it must touch; None = any number.
        otherwise: Makes the error that is raised when it touches another number.
    """

    name: str
    sql: Sql
    args: tuple[Any, ...]
    expect: int | None = None
    otherwise: Callable[[], Exception] | None = None


# The combined statement of each combination of pieces, made once. Bounded: there are few kinds of pieces.
COMBINED: dict[tuple[Sql, ...], Sql] = {}


def combined(pieces: Sequence[Piece]) -> Sql:
    """One statement that does all pieces and returns their counts and the transaction's id."""
    shape = tuple(piece.sql for piece in pieces)
    found = COMBINED.get(shape)
    if found is None:
        parts, shift = [], 0
        for piece in pieces:
            parts.append(f"{piece.name} AS ({piece.sql.shifted(shift)})")
            shift += len(piece.args)
        counts = ", ".join(f"(SELECT count(*) FROM {piece.name})" for piece in pieces)
        # The id is forced before any part draws a sequence number; see messaging/outbox.py.
        text = (
            "WITH own AS MATERIALIZED (SELECT pg_current_xact_id() AS xid), "
            + ", ".join(parts)
            + f" SELECT {counts}, (SELECT xid::text FROM own)"
        )
        found = COMBINED[shape] = Sql(
            "closing_" + "_".join(piece.name for piece in pieces),
            text,
            "Closes a transaction with the platform's rows.",
        )
    return found


class Transaction:
    """One open transaction on the primary.

    Statements run one after another. A handler may run again from its start, so it has no effect but this transaction.
    """

    __slots__ = (
        "_connection",
        "_database",
        "_pieces",
        "_savepoints",
        "_session",
        "after_commit",
        "before_commit",
        "ended",
        "now_us",
    )

    def __init__(self, connection: Connection, database: Database, now_us: int) -> None:
        self._connection = connection
        self._database = database
        self._pieces: list[Piece] = []
        self._savepoints = 0
        self._session: TransactionSession | None = None
        self.before_commit: list[Callable[[], Awaitable[None]]] = []
        self.after_commit: list[Callable[[], None]] = []
        self.now_us = now_us
        self.ended = False

    @property
    def now(self) -> datetime:
        """The instant at which this transaction began, UTC; the same for the whole transaction."""
        return instant(self.now_us)

    def new_id(self, bucket_of: int | None = None) -> int:
        """A new 63-bit id; in the bucket of `bucket_of` if given, so that an aggregate stays together."""
        new_id: int = current().runtime.ids.new_id(bucket_of)
        return new_id

    async def execute(
        self, statement: Executable, params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> Result:
        """Run a SQLAlchemy statement; a list of parameter sets runs it once for each.

        Returns a SQLAlchemy result; for a write its `rowcount` is the number of matched rows.
        """
        from dujiang.data.statements import execute  # noqa: PLC0415  (SQLAlchemy loads when a statement first runs)

        return await execute(self._connection, self._database.dialect, statement, params)

    async def fetch(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run one of the platform's own statements."""
        return await self._connection.fetch(sql, *args)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A part that may fail: an error inside undoes the part alone, and is raised.

        The ORM session goes along: it is flushed at both ends; after an error it has forgotten what was added inside, and
        its other objects are expired (`await tx.session.refresh(x)` reads one again).
        """
        self._savepoints += 1
        name = f"dj_{self._savepoints}"
        mark = self._mark()
        known = set() if self._session is None else await self._session.flushed()
        await self._connection.savepoint(name)
        try:
            yield
        except BaseException:
            self._back_to(mark)
            await self._connection.rollback_to(name)
            if self._session is not None:
                self._session.forget(known)
            raise
        if self._session is not None:
            await self._session.flush()
        await self._connection.release(name)

    def _mark(self) -> tuple[int, ...]:
        """What a savepoint must be able to forget; subclasses add their own lists."""
        return (len(self._pieces), len(self.before_commit), len(self.after_commit))

    def _back_to(self, mark: tuple[int, ...]) -> None:
        del self._pieces[mark[0] :]
        del self.before_commit[mark[1] :]
        del self.after_commit[mark[2] :]

    @property
    def session(self) -> TransactionSession:
        """A SQLAlchemy ORM session on this same transaction. It is flushed before the commit; it never commits itself."""
        if self._session is None:
            from dujiang.data.orm import TransactionSession  # noqa: PLC0415

            self._session = TransactionSession(self._connection.orm_engine(), expire_on_commit=False)
        return self._session

    def close_with(self, piece: Piece) -> None:
        """Add a platform write that joins the last statement before the commit."""
        self._pieces.append(piece)

    async def finish(self) -> None:
        """Run everything that stands between the handler's end and the commit."""
        for step in self.before_commit:
            await step()
        if self._session is not None:
            await self._session.flush()
        self.add_closing()
        crash_point("before_outbox_insert")
        if self._pieces:
            await self._close()
        crash_point("before_commit")

    def add_closing(self) -> None:
        """Add the pieces that are known only now; for subclasses."""

    async def _close(self) -> None:
        if self._database.capabilities.writable_cte:
            args = [arg for piece in self._pieces for arg in piece.args]
            row = (await self._connection.fetch(combined(self._pieces), *args))[0]
            counts: Sequence[int] = row[:-1]
            self._connection.note_xid(row[-1])
        else:
            counts = [len(await self._connection.fetch(piece.sql, *piece.args)) for piece in self._pieces]
        crash_point("after_outbox_insert")
        for piece, count in zip(self._pieces, counts, strict=True):
            if piece.expect is not None and count != piece.expect and piece.otherwise is not None:
                raise piece.otherwise()

    @property
    def has_session(self) -> bool:
        """Whether the ORM session was used."""
        return self._session is not None

    async def dispose(self) -> None:
        """End the session, if there is one; the connection stays the database's."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.end()


X = TypeVar("X", bound=Transaction)


async def mended(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`; if a row of it finds no part of its table, let the running copy make the part, and run it once more."""
    try:
        return await work()
    except PartitionMissing as error:
        await current().runtime.cleaner.mend(error)
        return await work()


async def fresh(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`; if it raises Stale run it again, RUNS_MAX times in all. Raises Conflict when it was stale each time."""
    runs = 1
    while True:
        try:
            return await work()
        except Stale as stale:
            context = current()
            if runs >= RUNS_MAX or context.remaining_s() == 0:
                raise Conflict(runs=runs, why=stale.detail) from stale
            await context.node.clock.sleep(context.node.entropy.uniform(0.0, min(PAUSE_S_MAX, PAUSE_S * 2.0**runs)))
            runs += 1


def refuse_nested(context: Context, what: str) -> None:
    """Raise NestedTransaction inside an open transaction or read; one that has ended, inherited by a task, is none."""
    if context.transaction is not None and not context.transaction.ended:
        raise NestedTransaction(what=what)


async def transact(
    database: Database,
    make: Callable[[Connection, int], X],
    body: Callable[[X], Awaitable[T]],
    *,
    what: str,
    isolation: Isolation = "read_committed",
    settle: Settle | None = None,
) -> T:
    """Run `body` in a transaction of its own, with the steps around the commit; returns when it is durable.

    Args:
        database: Where.
        make: Makes the transaction object from the connection and the present time in microseconds.
        body: The work; may run again from its start.
        what: Named in errors.
        isolation: See `Isolation`.
        settle: See `Database.write`.
    """
    context = current()
    refuse_nested(context, what)
    done: list[X] = []
    commit: Any = NO_SPAN

    async def run(connection: Connection) -> T:
        nonlocal commit
        tx = make(connection, context.node.clock.now_us())
        token = CURRENT.set(context.inside(tx))
        try:
            answer = await body(tx)
            await tx.finish()
        finally:
            CURRENT.reset(token)
            tx.ended = True
            if tx.has_session:
                await tx.dispose()
        done[:] = [tx]
        commit.end()  # Of an earlier run that was sent back.
        commit = begun("data.commit")
        return answer

    with span("data.transaction", operation=what):
        try:
            answer = await fresh(lambda: mended(lambda: database.write(run, isolation=isolation, settle=settle)))
        finally:
            commit.end()
    crash_point("after_commit")
    for step in done[0].after_commit:
        step()
    return answer


async def run_one(database: Database, sql: Sql, *args: Any) -> list[Sequence[Any]]:
    """Run one platform statement in a transaction of its own and return its rows."""
    return await database.statement(sql, *args)


class ReadSession:
    """What a read handler holds: statements that only read."""

    __slots__ = ("_clock", "_connection", "_database", "_now_us", "ended")

    def __init__(self, connection: Connection, database: Database, context: Context) -> None:
        self._connection = connection
        self._database = database
        self._clock = context.node.clock
        self._now_us: int | None = None
        self.ended = False

    @property
    def now_us(self) -> int:
        """The instant of this read in microseconds: when it was first asked for, then always the same."""
        if self._now_us is None:
            self._now_us = self._clock.now_us()
        return self._now_us

    @property
    def now(self) -> datetime:
        """The instant of this read, UTC: when it was first asked for, then always the same."""
        return instant(self.now_us)

    async def execute(self, statement: Executable, params: Mapping[str, Any] | None = None) -> Result:
        """Run a SELECT. A statement that writes raises WriteInRead."""
        from dujiang.data.statements import execute, refuse_write  # noqa: PLC0415

        refuse_write(statement)
        return await execute(self._connection, self._database.dialect, statement, params)

    async def fetch(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run one of the platform's own statements."""
        return await self._connection.fetch(sql, *args)
