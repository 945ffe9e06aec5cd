"""Database on a simulated server: the port `database` for the drill, at READ COMMITTED, behind a network that fails.

How each promise of data/database.py is kept:
  1. once, durable   the simulated store commits one transaction at a time; what it committed stays
  2. body's error    rolled back, raised unchanged
  3. runs again      a drawn deadlock or a lost commit runs the body again, at most 5 times in all
  4. lost reply      settled by `settle`, else by the store's own record, which is always right here
  5. read only       a read that would write raises WriteInRead
  6. back again      each call connects anew
  7. matched rows    SQLite counts matched rows
  8. fair, bounded   one queue, first come first served
  9. stop            nothing is left open

The node's `simulation` (kernel/simulation.py) supplies time and chance. Without one this adapter refuses to start.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.backends.sqlite.compiler import StatementCompiler
from dujiang.backends.sqlite.dialect import AsyncEmbeddedDialect, engine_over, root_engine
from dujiang.backends.sqlite.simulated.session import FOR_UPDATE, Cut, SimulatedSession
from dujiang.backends.sqlite.simulated.store import SimulatedStore, changes_of
from dujiang.data.database import Capabilities, Conflict, DatabaseRefused, DatabaseUnreachable, OutcomeUnknown
from dujiang.kernel.context import current_or_none
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from dujiang.backends.sqlite.simulated.store import Change
    from dujiang.data.database import Connection, Isolation, Settle
    from dujiang.data.sql import Sql
    from dujiang.kernel.node import Node
    from dujiang.kernel.simulation import Simulation

T = TypeVar("T")

RUNS_MAX = 5
JITTER_S = 0.01
STOP_GRACE_S = 10.0
NAME = "database"


class LockingCompiler(StatementCompiler):
    """SQLite's compiler, with a mark where FOR UPDATE would stand."""

    def for_update_clause(self, select: Any, **kw: Any) -> str:
        """The mark."""
        return f" {FOR_UPDATE}"


class SimulatedDialect(AsyncEmbeddedDialect):
    """SQLite, as far as SQLAlchemy knows."""

    statement_compiler = LockingCompiler
    supports_statement_cache = True


# One for all machines, for what it has learned of statements is kept with it: a text means the same on each of them.
DIALECT = SimulatedDialect()


class SimulatedDatabase:
    """One node's way to the simulated server.

    Args:
        url: `simulated:`.
        node: Its simulation holds the server under the name `database`.
    """

    capabilities = Capabilities(
        arrays=False,
        writable_cte=False,
        skip_locked=False,
        key_locks=True,
        xid_horizon=False,
        many_writers=True,
        listen=True,
        partitions=False,
    )

    def __init__(self, url: str, node: Node) -> None:
        if node.simulation is None:
            raise DatabaseRefused(url=url, why="only `dujiang drill` can use a simulated database")
        self.url = url
        self.dialect = DIALECT
        self._node = node
        self._simulation: Simulation = node.simulation
        self._engine_over: Any = partial(engine_over, root=root_engine("sqlite:///simulated"))
        self._ears: list[Callable[[str], None]] = []
        self._server: SimulatedStore | None = None

    def __repr__(self) -> str:
        return f"<SimulatedDatabase of {self._simulation.name}>"

    @property
    def store(self) -> SimulatedStore:
        """The server."""
        if self._server is None:
            self._server = self._simulation.shared(NAME, self._missing)
        return self._server

    def _missing(self) -> SimulatedStore:
        raise DatabaseUnreachable(url=self.url, why="the simulation has no database")

    epoch = 0  # One file, and whoever opens it sees every commit.

    async def servers(self) -> list[dict[str, str]]:
        """There is no server."""
        return []

    async def start(self) -> None:
        """Connect."""
        self.store.listen(self._simulation, self._ears)

    async def stop(self) -> None:
        """Let open transactions end, at most 10 s, and disconnect."""
        until = self._node.clock.monotonic() + STOP_GRACE_S
        while self._node.clock.monotonic() < until and self.store.owned_by(self._simulation):
            await self._node.clock.sleep(0.05)
        if not self._simulation.dead:
            self.store.disconnect(self._simulation)

    @staticmethod
    def changes_of(changeset: bytes) -> list[Change]:
        """The rows that a commit changed."""
        return changes_of(changeset)

    @staticmethod
    def serve(image: bytes, simulation: Simulation, history: tuple[str, ...] = ()) -> SimulatedStore:
        """The server itself, on the bytes of a database file; `history` names tables whose changed rows are told."""
        return SimulatedStore(image, simulation, history)

    def _session(self, *, writes: bool, serial: bool = False) -> SimulatedSession:
        return SimulatedSession(self.store, self._simulation, self.url, self._engine_over, writes=writes, serial=serial)

    async def write(
        self,
        body: Callable[[Connection], Awaitable[T]],
        *,
        isolation: Isolation = "read_committed",
        settle: Settle | None = None,
    ) -> T:
        """Run `body` in a transaction, commit, and return its answer."""
        for runs in range(1, RUNS_MAX + 1):
            session = self._session(writes=True, serial=isolation == "serializable")
            session.cause = operation()
            why: str
            try:
                answer = await body(session)
                if problem := session.verdict():
                    raise problem
                committed = await self._committed(session, settle)
            except DujiangError as error:
                if session.conflict is None:
                    raise
                cause, why = error, session.conflict
            else:
                if committed:
                    return answer
                cause, why = session.broken or Conflict(runs=runs, why=""), "the reply to COMMIT was lost"
            finally:
                session.end()
            if runs == RUNS_MAX:
                raise Conflict(runs=runs, why=why) from cause
            await self._node.clock.sleep(self._node.entropy.uniform(0.0, JITTER_S * 2**runs))
        raise AssertionError  # pragma: no cover

    async def _committed(self, session: SimulatedSession, settle: Settle | None) -> bool:
        """Commit; False when it is certain that it did not happen."""
        try:
            await session.commit()
        except Cut:
            # The record of the server itself is asked, as PostgreSQL's pg_xact_status would be; what the transaction
            # left behind is looked for first, because that is what the promise of the port says.
            left: bool | None = None
            if settle is not None:
                with suppress(DatabaseUnreachable):
                    left = await self.read(settle)
            return session.committed if left is None else left
        return True

    async def statement(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run one platform statement that is a whole transaction; one round trip."""
        runs = 0
        while True:
            runs += 1
            session = self._session(writes=True, serial=True)
            session.cause = sql.name
            try:
                return await session.alone(sql, args)
            except DujiangError:
                if session.conflict is None or runs == RUNS_MAX:
                    raise
            finally:
                session.end()
            await self._node.clock.sleep(self._node.entropy.uniform(0.0, JITTER_S))

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Connection]:
        """A transaction open for the block."""
        session = self._session(writes=True)
        session.cause = operation()
        try:
            yield session
            if problem := session.verdict():
                raise problem
            await session.commit()
        except Cut as cut:
            raise OutcomeUnknown(url=self.url) from cut
        finally:
            session.end()

    async def read(self, body: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `body` in a read-only session; each statement sees what is committed when it runs."""
        session = self._session(writes=False)
        try:
            return await body(session)
        finally:
            session.end()

    async def notify(self, payload: str) -> None:
        """Wake the other nodes; may get lost."""
        await self._simulation.hop("db.notify")
        for simulation, ears in self.store.ears(self._simulation):
            if not self._simulation.draw("lost.notify"):
                simulation.soon(self._hear, ears, payload)

    @staticmethod
    def _hear(ears: list[Callable[[str], None]], payload: str) -> None:
        for hear in ears:
            hear(payload)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Call `hear` with each payload that another node sent. Before `start`."""
        self._ears.append(hear)

    async def durability(self) -> dict[str, str]:
        """A simulated server keeps what it committed."""
        return {
            "database": "simulated",
            "safe": "yes",
            "means": "what was committed stays, as far as a simulation goes",
        }

    async def health(self) -> None:
        """Return if the server is up."""
        if self.store.down_until_us > self._simulation.now_us():
            raise DatabaseUnreachable(url=self.url, why="it is down")


def operation() -> str:
    """The trace of the present call, for the history of commits."""
    context = current_or_none()
    return context.trace_id if context is not None else ""
