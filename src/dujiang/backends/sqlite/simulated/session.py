"""Simulated session: the statements of one transaction or read on the simulated store, each with its way there and back.

    statement ── hop ──► the server: locks, runs ── hop ──► rows          each arrow takes drawn time
                  │                     │             │
              cut here:             error here:    cut here: the statement was done,
              nothing done          deadlock ...   the transaction is gone all the same

Unlike on the embedded store a statement suspends, so other nodes come in between: that is the point. A transaction takes
the writer at its first write; the platform's own transactions, which are written for a store with one writer, at their
first statement. An insert that only claims a key (data/sql.py) holds that key until the writer is taken.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.util import await_only

from dujiang.backends.sqlite.connection import KNOWN, described, recognise
from dujiang.backends.sqlite.errors import DRIVER_ERRORS, shown, translated
from dujiang.backends.sqlite.simulated.redo import TEXTS_KEPT, reads
from dujiang.data.database import (
    HELD_S_MAX,
    Conflict,
    DatabaseUnreachable,
    IntegrityFailed,
    StatementFailed,
    StatementsOverlap,
    TransactionFailed,
    WriteInRead,
)
from dujiang.kernel.context import CURRENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    import apsw
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from dujiang.backends.sqlite.simulated.store import SimulatedStore
    from dujiang.data.sql import Sql
    from dujiang.kernel.errors import DujiangError
    from dujiang.kernel.simulation import Simulation

# Statements that servers with many writers know and SQLite does not, in its words.
IN_ITS_WORDS = {"store_clock": "SELECT server_now_us()"}
FOR_UPDATE = "/* for update */"
# The ways with which a statement, or the end of a transaction, begins.
SETS_OUT = ("db.request", "db.commit.sent")

# Labels of the faults that may meet a way over the network.
CUTS = {way: f"cut.{way}" for way in ("db.request", "db.reply", "db.commit.sent", "db.commit.reply")}


@lru_cache(maxsize=TEXTS_KEPT)
def only_reads(text: str) -> bool:
    """Whether a statement takes no lock."""
    return reads(text) and FOR_UPDATE not in text


class Cut(DatabaseUnreachable):
    """The connection broke; whatever the transaction had done is gone."""


class SimulatedSession:
    """One open transaction, or one read, of one node.

    Args:
        store: The server.
        simulation: The node's machine.
        url: Named in errors.
        engine_over: Makes the SQLAlchemy engine of a session.
        writes: Whether it is a transaction.
        serial: Whether it takes the writer at its first statement whatever that is.
    """

    def __init__(
        self,
        store: SimulatedStore,
        simulation: Simulation,
        url: str,
        engine_over: Callable[[Any], AsyncEngine],
        *,
        writes: bool,
        serial: bool = False,
    ) -> None:
        self.held = store.begin(simulation)
        self.held.undo = self._forget
        self.broken: DujiangError | None = None
        self.conflict: str | None = None
        self.reads: list[tuple[str, Sequence[Any], list[Any], str]] = []
        self.cause = ""
        self.committed = False
        self._store = store
        self._simulation = simulation
        self._url = url
        self._engine_over = engine_over
        self._writes = writes
        self._serial = serial
        self._pending: list[tuple[str, Sequence[Any]]] = []
        self._connected = self._busy = False
        self._failed = ""
        self._ended: DujiangError | None = None
        self._rests_since_s: float | None = simulation.awake_s()  # Since when no statement has been under way.
        self._rests_at = ""

    def __repr__(self) -> str:
        return f"<SimulatedSession {'write' if self._writes else 'read'} of {self._simulation.name}>"

    @property
    def driver(self) -> apsw.Connection:
        """The side on which statements run."""
        return self._store.primary if self.held.writer else self._store.committed

    # The port ---------------------------------------------------------------------------------------------------------

    async def fetch(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run a platform statement and return its rows."""
        if sql.claims and self._writes and not self.held.writer and not self._platform():
            return await self._claim(sql, args)
        rows: list[Sequence[Any]] = (await self._go(sql.numbered, args, self._rows))[0]
        return rows

    async def execute(self, sql: Sql, *args: Any) -> int:
        """Run a platform statement and return the number of rows that it matched."""
        matched: int = (await self._go(sql.numbered, args, self._rows))[1]
        return matched

    async def run(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int]:
        """Run compiled text: (rows, matched rows)."""
        found: tuple[list[Sequence[Any]], int] = await self._go(text, args, self._rows)
        return found

    async def run_many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run compiled text once for each row of parameters; the number of matched rows in all."""
        matched: int = await self._go(text, rows, self._many)
        return matched

    def perform_described(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int, Any]:
        """`run` with a description, for the ORM, inside its greenlet."""
        found: tuple[list[Sequence[Any]], int, Any] = await_only(self._go(text, args, self._described))
        return found

    def perform_many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        """`run_many`, for the ORM, inside its greenlet."""
        matched: int = await_only(self._go(text, rows, self._many))
        return matched

    def mark(self, verb: str, name: str) -> None:
        """Set, release or roll back to a savepoint, for the ORM, inside its greenlet."""
        await_only(self._mark(verb, name))

    async def alone(self, sql: Sql, args: Sequence[Any]) -> list[Sequence[Any]]:
        """Run a statement that is a whole transaction, in one round trip."""
        text = IN_ITS_WORDS.get(sql.name, sql.numbered)
        self._admit(text)
        await self._way("db.request")
        if self._simulation.draw("db.deadlock"):
            self._fail("deadlock detected")
        if not only_reads(text):
            await self._take_writer()
        rows: list[Sequence[Any]] = self._performed(text, args, self._rows)[0]
        number = self._store.commit(self.held, self.cause)
        self.committed, self.held.undo = True, lambda: None
        if number:
            self._simulation.note("commit", f"{number} {sql.name}")
        await self._way("db.reply", number)
        return rows

    async def savepoint(self, name: str) -> None:
        """Set a savepoint."""
        await self._mark("SAVEPOINT", name)

    async def release(self, name: str) -> None:
        """Forget a savepoint and keep what was done since."""
        await self._mark("RELEASE", name)

    async def rollback_to(self, name: str) -> None:
        """Undo what was done since the savepoint; a failed transaction becomes usable again."""
        await self._mark("ROLLBACK TO", name)

    def orm_engine(self) -> AsyncEngine:
        """A SQLAlchemy AsyncEngine whose every connection is this transaction."""
        return self._engine_over(self)

    def orm_connection(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A SQLAlchemy AsyncConnection over this transaction."""
        return self.orm_engine().connect()

    def note_xid(self, xid: str) -> None:
        """Nothing to remember: the server here knows its own transactions."""

    # Its life ---------------------------------------------------------------------------------------------------------

    async def commit(self) -> int:
        """Commit; the number of the commit. Raises Cut when no reply came; `committed` then says."""
        await self._way("db.commit.sent")
        if self._pending:
            await self._take_writer()
        number = self._store.commit(self.held, self.cause)
        self.committed = True
        self.held.undo = lambda: None
        self._ended = TransactionFailed(why="the transaction has ended")
        if number:
            self._simulation.note("commit", f"{number} {self.cause}")
        await self._way("db.commit.reply", number)
        return number

    def verdict(self) -> DujiangError | None:
        """Why this transaction cannot be committed although its body returned, or None."""
        if self.broken is not None:
            return self.broken
        return TransactionFailed(why=self._failed) if self._failed else None

    def end(self) -> None:
        """Roll back what was not committed, and take no statement from now on."""
        self._note_held()
        self._store.roll_back(self.held)
        self._ended = self._ended or TransactionFailed(why="the transaction has ended")

    def _forget(self) -> None:
        self._ended = self.broken = Cut(url=self._url, why="the connection was closed")

    # One statement ----------------------------------------------------------------------------------------------------

    async def _go(self, text: str, args: Any, perform: Callable[[str, Any], Any]) -> Any:
        self._admit(text)
        self._busy = True
        try:
            await self._way("db.request")
            reading = only_reads(text)
            if self._writes and not self.held.writer and (not reading or self._serial or self._platform()):
                await self._take_writer()
            elif not self._writes and not reading:
                raise WriteInRead(sql=shown(text))
            if not reading and self._simulation.draw("db.deadlock"):
                self._fail("deadlock detected")
            found = self._performed(text, args, perform)
            if self._simulation.tracing and reading and self._writes:
                self._note_read(text, args, found)
            await self._way("db.reply")
        except asyncio.CancelledError:
            # A server's connection that is left in the middle of a statement is closed, and its transaction with it.
            self.broken = self.broken or Cut(url=self._url, why="the call was cancelled")
            self.end()
            raise
        finally:
            self._busy = False
        return found

    def _note_read(self, text: str, args: Any, found: Any) -> None:
        site = call_site(self._simulation)
        if not self.held.writer and site:
            self.reads.append((text, args, found[0], site))
        if len(found[0]) > 1 and "ORDER BY" not in text.upper() and site:
            self._simulation.note("unordered rows", f"{site}||{shown(text)}")

    def _performed(self, text: str, args: Any, perform: Callable[[str, Any], Any]) -> Any:
        self._store.asking(self.held if self._writes else None)
        try:
            return perform(text, args)
        except DRIVER_ERRORS as cause:
            error = translated(cause, text, self._url)
            self._failed = error.detail
            if self._simulation.tracing:
                self._simulation.note("statement failed", f"{call_site(self._simulation)}||{error.detail}")
            raise error from cause
        finally:
            self._store.asking(None)

    async def _way(self, what: str, number: int = 0) -> None:
        """One way over the network; it may break."""
        if what in SETS_OUT:
            self._note_held()
        await self._simulation.hop(what if self._connected else "db.connect")  # The first waits for a connection too.
        self._connected = True
        down_us = self._store.down_until_us
        if (down_us and down_us > self._simulation.now_us()) or self._simulation.draw(CUTS[what]):
            self.broken = Cut(url=self._url, why="the connection broke" if not number else "no reply to COMMIT")
            self._store.roll_back(self.held)
            raise self.broken
        if what == "db.reply":
            self._rests_since_s, self._rests_at = self._simulation.awake_s(), call_site(self._simulation)

    def _note_held(self) -> None:
        """A statement begins, or the transaction ends: say so if it has held what it holds for too long since the last one."""
        since_s, self._rests_since_s = self._rests_since_s, None
        if self._writes and since_s is not None:
            rested_s = self._simulation.awake_s() - since_s
            if rested_s > HELD_S_MAX:
                self._simulation.held(rested_s, self._rests_at, self._simulation.here())

    def _fail(self, why: str) -> None:
        self.conflict = self._failed = why
        self._store.roll_back(self.held)
        raise Conflict(runs=1, why=why)

    async def _take_writer(self) -> None:
        site = call_site(self._simulation)
        await self._store.lock_writer(self.held)
        if self._simulation.tracing:
            self._note_stale(site)
        pending, self._pending = self._pending, []
        for text, args in pending:
            if not self._rows(text, args)[1]:
                self._fail("a key was claimed by another transaction")

    def _note_stale(self, site: str) -> None:
        """Note what this transaction has read and others have changed since: what it now writes may rest on it."""
        for text, args, rows, read_at in self.reads:
            with suppress(*DRIVER_ERRORS):
                if self._rows(text, args)[0] != rows:
                    self._simulation.note("stale read", f"{read_at}|{site}|{shown(text)}")

    async def _claim(self, sql: Sql, args: Sequence[Any]) -> list[Sequence[Any]]:
        """Hold a key without the writer: the insert itself is done when the writer is taken."""
        self._admit(sql.numbered)
        await self._way("db.request")
        if self._simulation.poisoned((sql.name, *args)):
            self._failed = "poisoned by the drill"
            raise StatementFailed(why=self._failed, sqlstate="XX000", sql=sql.name)
        if not await self._store.lock_key(self.held, (sql.name, *args)):
            self._fail("deadlock detected")
        rows: list[Sequence[Any]] = self._performed(numbered(sql.claims), args, self._rows)[0]
        if rows:
            self._pending.append((sql.numbered, args))
        else:  # Somebody has it: the statement itself says what a server would answer.
            await self._take_writer()
            rows = self._performed(sql.numbered, args, self._rows)[0]
        await self._way("db.reply")
        return rows

    async def _mark(self, verb: str, name: str) -> None:
        if verb == "ROLLBACK TO" and self._ended is None and self.broken is None and self.conflict is None:
            self._failed = ""
        self._admit(verb)
        if not self._writes:
            return
        # A savepoint of a transaction without the writer would have nothing to undo; it takes the writer, soundly.
        await self._way("db.request")
        if not self.held.writer:
            await self._take_writer()
        self._performed(f"{verb} {name}", (), self._rows)
        await self._way("db.reply")

    def _rows(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int]:
        driver = self.driver
        before = driver.total_changes()
        rows: list[Sequence[Any]] = driver.execute(text, args).fetchall()  # type: ignore[assignment]
        self._store.done(self.held, text, args)
        return rows, driver.changes() if driver.total_changes() != before else len(rows)

    def _many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        return sum(self._rows(text, row)[1] for row in rows)

    def _described(self, text: str, args: Sequence[Any]) -> tuple[list[Sequence[Any]], int, Any]:
        found = described(self.driver, text, args)
        self._store.done(self.held, text, args)
        return found

    def _platform(self) -> bool:
        """Whether the platform itself works here, not a handler."""
        context = CURRENT.get(None)
        return context is None or context.transaction is None

    def _admit(self, text: str) -> None:
        if self._ended is not None:
            raise self._ended
        if self.broken is not None:
            raise self.broken
        if self._failed:
            raise TransactionFailed(why=self._failed)
        if self._busy:
            raise StatementsOverlap(sql=shown(text))
        if text not in KNOWN and not text.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK TO")):
            recognise(text)
        context = CURRENT.get(None)
        if context is not None and context.deadline is not None:
            context.check_deadline("the transaction")


@lru_cache(maxsize=TEXTS_KEPT)
def numbered(text: str) -> str:
    """A text with `$n` in the driver's style."""
    return re.sub(r"\$(\d+)", r"?\1", text)


def call_site(simulation: Simulation) -> str:
    """Where the program is, for a story; empty when nobody listens."""
    return simulation.here() if simulation.tracing else ""


__all__ = ["Cut", "IntegrityFailed", "SimulatedSession"]
