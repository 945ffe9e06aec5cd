"""Database on PostgreSQL, by asyncpg.

    write    take a link -> BEGIN -> body -> [read the id] -> COMMIT -> give the link back
    read                take a read-only link -> body, each statement a transaction of its own -> give it back

How each promise of data/database.py is kept:
  1. once        COMMIT runs in a task of ours: a caller that leaves does not cut it in half; its answer is looked at,
                 because COMMIT of a failed transaction succeeds with the word ROLLBACK
  2. rollback    in a task of ours, 2 s; without an answer the connection is closed, which is a rollback too
  3. again       40001, 40P01, 55P03 and a stale prepared statement run the body again, after a jittered pause <= 50 ms
  4. settled     backends/postgres/commit.py; a COMMIT that is proved not to have happened is a lost run like any other
  5. read only   default_transaction_read_only on the readers' connections
  6. away        a broken connection is dropped; a BEGIN that fails on an old connection is tried on another one
  7. matched     the number in the command tag
  8. the line    backends/postgres/pool.py
  9. stop        the pools wait for their links; tasks end with the database

The transaction's id costs a round trip before COMMIT unless the body noted it (`note_xid`), which the platform's own
last statement does: five statements are then seven round trips. tests/unit/backends/postgres counts them on the wire.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.backends.postgres.commit import XID, outcome
from dujiang.backends.postgres.connection import PostgresConnection
from dujiang.backends.postgres.connector import Connector
from dujiang.backends.postgres.errors import is_lost, translated
from dujiang.backends.postgres.facts import DURABILITY, END_SESSIONS, ONE, is_safe, meaning
from dujiang.backends.postgres.listen import Bell
from dujiang.backends.postgres.options import address, session_name
from dujiang.backends.postgres.orm import Bridge, new_dialect
from dujiang.backends.postgres.pool import Pool, Pools
from dujiang.backends.postgres.sent import Sent
from dujiang.data.database import (
    Capabilities,
    Conflict,
    DatabaseUnreachable,
    OutcomeUnknown,
    StatementsOverlap,
    TransactionFailed,
)
from dujiang.kernel.context import changed, current_or_none
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import Tasks, outcomes_of, owned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sqlalchemy.engine.interfaces import Dialect

    from dujiang.backends.postgres.link import Link
    from dujiang.data.database import Connection, Isolation, Settle
    from dujiang.data.sql import Sql
    from dujiang.kernel.node import Node

T = TypeVar("T")

BEGIN: dict[Isolation, str] = {"read_committed": "BEGIN", "serializable": "BEGIN ISOLATION LEVEL SERIALIZABLE"}
RUNS_MAX = 5
JITTER_S, JITTER_S_MAX = 0.005, 0.05
ROLLBACK_S = 2.0
COMMIT_S = 30.0
STOP_S = 10.0
HEALTH_S = 1.0
NOT_COMMITTED = "the connection broke during COMMIT, and nothing was committed"


class PostgresDatabase:
    """The port `database` on a PostgreSQL server, version 14 or later.

    Args:
        url: postgresql://user:password@host:port/name, with our options in its query (see `Options`).
        node: The running copy that it works for; its name stands in the server's list of sessions.

    Attributes:
        url: The database without its password, for people.
    """

    capabilities: Capabilities = Capabilities(
        arrays=True,
        writable_cte=True,
        skip_locked=True,
        key_locks=True,
        xid_horizon=True,
        many_writers=True,
        listen=True,
        partitions=True,
    )

    def __init__(self, url: str, node: Node) -> None:
        self._address = address(url)
        self.url = self._address.shown
        self.options = self._address.options
        self._node = node
        self._dialect = new_dialect()
        self.dialect: Dialect = self._dialect
        self._connector = Connector(self._address, self._dialect, node.name)
        self._bridge = Bridge(self._dialect)
        self._tasks = Tasks("postgres")
        self._bell = Bell(self._connector.writer, node, self._tasks)
        self._pools = Pools(self._pool, self._connector.writer, self._connector.reader, self.options)

    def __repr__(self) -> str:
        return f"<PostgresDatabase {self.url}: {self._pools!r}>"

    @property
    def epoch(self) -> int:
        """Changes when another server, or the same one after a restart, has taken a connection."""
        return self._connector.hosts.epoch

    async def servers(self) -> list[dict[str, str]]:
        """What each server of the URL is at this moment: `host` and `state`."""
        return await self._connector.servers()

    async def start(self) -> None:
        """Open: makes one connection and reads the server's version. Raises DatabaseUnreachable, DatabaseRefused."""
        for pool in self._pools.all:
            pool.open()
        try:
            link = await self._pools.writing.take()
            try:
                await self._bridge.adjust(self._session(link))
            finally:
                self._pools.writing.give(link)
        except BaseException:
            await self.stop()
            raise
        self._bell.start()

    async def stop(self) -> None:
        """Let open transactions end, at most 10 s, and close everything."""
        await self._bell.stop()
        await outcomes_of(*(pool.stop(STOP_S) for pool in self._pools.all))
        await self._tasks.close(grace_s=ROLLBACK_S)

    async def write(
        self,
        body: Callable[[Connection], Awaitable[T]],
        *,
        isolation: Isolation = "read_committed",
        settle: Settle | None = None,
    ) -> T:
        """Run `body` in a transaction, commit, and return its answer. See the port for errors."""
        runs = 0
        while True:
            connection = await self._begun(isolation)
            runs += 1
            cause: Exception
            try:
                answer = await body(connection)
            except BaseException as error:
                await self._undo(connection)
                if connection.conflict is None or not isinstance(error, Exception):
                    raise
                cause, why = error, connection.conflict
            else:
                refused = await self._commit(connection, settle)
                if refused is None:
                    return answer
                if not isinstance(refused, Conflict):
                    raise refused
                cause, why = refused, refused.why
            await self._pause(runs, why, cause)

    async def statement(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run one platform statement that is a whole transaction; one round trip.

        Raises OutcomeUnknown when the connection breaks before the reply: nothing of it is left to look for.
        """
        runs = 0
        while True:
            link = await self._pools.writing.take()
            old, connection = not link.fresh, self._session(link)
            try:
                return await connection.fetch(sql, *args)
            except DujiangError as error:
                if connection.unsent and old:
                    continue
                if connection.lost and not connection.unsent and isinstance(error, DatabaseUnreachable):
                    raise OutcomeUnknown(url=self.url) from error
                if connection.conflict is None:
                    raise
                runs += 1
                cause, why = error, connection.conflict
            finally:
                self._end(connection, self._pools.writing)
            await self._pause(runs, why, cause)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[PostgresConnection]:
        """A transaction open for the block: commits at its end, rolls back on an error, never runs again."""
        connection = await self._begun("read_committed")
        try:
            yield connection
        except BaseException:
            await self._undo(connection)
            raise
        refused = await self._commit(connection, None)
        if refused is not None:
            raise refused

    async def read(self, body: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `body` in a read-only session; each statement sees what is committed when it starts."""
        while True:
            link = await self._pools.reading.take()
            old, connection = not link.fresh, self._session(link)
            try:
                return await body(connection)
            except DatabaseUnreachable:
                # The first statement found an old connection broken: the body has seen nothing yet.
                if not (old and connection.lost and connection.ran == 1):
                    raise
            finally:
                self._end(connection, self._pools.reading)

    async def notify(self, payload: str) -> None:
        """Wake other processes that `listen`; may get lost. Names are sent together, at most 20 times a second."""
        self._bell.ring(payload)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Call `hear` with each payload that another process sent. Before `start`."""
        self._bell.hear(hear)

    async def durability(self) -> dict[str, str]:
        """What an acknowledgement means right now: the server's settings by name, `safe`, and `means`."""
        settings = {str(name): str(value) for name, value in await self._ask(DURABILITY)}
        return {**settings, "safe": "yes" if is_safe(settings) else "no", "means": meaning(settings)}

    async def health(self) -> None:
        """Return if a trivial statement works within 1 s. Raises DatabaseUnreachable."""
        try:
            async with asyncio.timeout(HEALTH_S):
                await self._ask(ONE)
        except TimeoutError:
            raise DatabaseUnreachable(url=self.url, why=f"no answer within {HEALTH_S:.0f} s") from None

    async def terminate_sessions(self, holder: str) -> int:
        """End every server process that works for the node `holder`; their number.

        A process that is dead for us may live for the server: its transaction would hold its locks. This ends it.
        """
        return sum(bool(row[0]) for row in await self._ask(END_SESSIONS, session_name(holder)))

    async def _ask(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        while True:
            link = await self._pools.side.take()
            old, connection = not link.fresh, self._session(link)
            try:
                return await connection.fetch(sql, *args)
            except DatabaseUnreachable:
                if not old:
                    raise
            finally:
                self._end(connection, self._pools.side)

    async def _begun(self, isolation: Isolation) -> PostgresConnection:
        """A transaction on a link. An old link that turns out broken is dropped; there are at most `pool_size`."""
        while True:
            link = await self._pools.writing.take()
            connection = self._session(link)
            try:
                await connection.begin(BEGIN[isolation])
            except BaseException as error:
                link.doom()
                self._end(connection, self._pools.writing)
                if isinstance(error, DatabaseUnreachable) and not link.fresh:
                    continue
                raise
            return connection

    async def _undo(self, connection: PostgresConnection) -> None:
        """Roll back; also when the caller is cancelled meanwhile."""
        if connection.link.usable_inside and not connection.busy:
            await owned(self._tasks, self._roll_back(connection), name="rollback")
        else:
            connection.link.doom()
            self._end(connection, self._pools.writing)

    async def _roll_back(self, connection: PostgresConnection) -> None:
        try:
            await self._rollback(connection.link)
        finally:
            self._end(connection, self._pools.writing)

    async def _rollback(self, link: Link) -> None:
        try:
            await link.driver.execute("ROLLBACK", timeout=ROLLBACK_S)
        except BaseException as error:
            link.doom()  # Closing the connection is a rollback too.
            if not isinstance(error, Exception):
                raise

    async def _commit(self, connection: PostgresConnection, settle: Settle | None) -> DujiangError | None:
        """Commit and give the link back. None = committed; otherwise what became of it, Conflict for "run it again"."""
        refused = await self._unready(connection)
        if refused is not None:
            await self._undo(connection)
            return refused
        link = connection.link
        sent: Sent[str] = Sent(link.driver.execute(link.commit, timeout=COMMIT_S))
        try:
            await sent.answered()
        except BaseException:
            # The caller leaves; the commit does not.
            self._tasks.spawn(self._concluded(connection, settle, sent), name="commit")
            raise
        return await self._concluded(connection, settle, sent)

    async def _unready(self, connection: PostgresConnection) -> DujiangError | None:
        """Why the transaction cannot be committed, or None. Learns its id on the way if nobody noted it."""
        if connection.busy:
            return StatementsOverlap(sql="COMMIT")
        try:
            if connection.ran and not connection.xid and not connection.failed:
                # Nobody can ask for it once the reply to COMMIT is lost.
                connection.xid = (await connection.fetch(XID))[0][0]
        except DujiangError as error:
            return error
        except BaseException:
            self._end(connection, self._pools.writing)
            raise
        if connection.conflict is not None:
            return Conflict(runs=1, why=connection.conflict)
        if connection.failed:
            return TransactionFailed(why=connection.failed)
        if not connection.link.usable_inside:
            return DatabaseUnreachable(url=self.url, why="the connection broke before COMMIT")
        return None if connection.link.in_transaction else TransactionFailed(why="a statement of its body ended it")

    async def _concluded(
        self, connection: PostgresConnection, settle: Settle | None, sent: Sent[str]
    ) -> DujiangError | None:
        """What COMMIT answered."""
        try:
            await sent.answered()
            said = await sent
        except Exception as cause:  # noqa: BLE001  (what it is decides what became of the transaction)
            if isinstance(cause, TimeoutError) or is_lost(cause):
                connection.link.doom()
                return await owned(self._tasks, self._settled(connection, settle), name="settle")
            return translated(cause, url=self.url, sql="COMMIT", limit_s=self.options.statement_timeout)
        except BaseException:
            connection.link.doom()
            raise
        finally:
            self._end(connection, self._pools.writing)
        return None if said == "COMMIT" else TransactionFailed(why="a statement failed unseen; the server rolled back")

    async def _settled(self, connection: PostgresConnection, settle: Settle | None) -> DujiangError | None:
        """What became of a COMMIT without a reply: None, a lost run, or OutcomeUnknown."""
        if not connection.xid:
            return None  # It wrote nothing, so there is nothing that could be half done.
        limit_s = self.options.settle_timeout
        with changed(deadline=None) if current_or_none() is not None else nullcontext():
            committed = await outcome(
                connection, settle, self._connector.writer, self._session, self._node.clock, limit_s
            )
        if committed is None:
            return OutcomeUnknown(url=self.url)
        return None if committed else Conflict(runs=1, why=NOT_COMMITTED)

    async def _pause(self, runs: int, why: str, cause: Exception) -> None:
        """Wait a little before the next run, or raise Conflict when there is none."""
        context = current_or_none()
        if runs >= RUNS_MAX or (context is not None and context.remaining_s() == 0):
            raise Conflict(runs=runs, why=why) from cause
        ceiling_s = min(JITTER_S_MAX, JITTER_S * 2.0**runs)
        await self._node.clock.sleep(self._node.entropy.uniform(0.0, ceiling_s))

    def _end(self, connection: PostgresConnection, pool: Pool) -> None:
        """Take the link from a connection and give it back."""
        connection.end()
        pool.give(connection.link)

    def _session(self, link: Link) -> PostgresConnection:
        return PostgresConnection(link, self._bridge, self._node, url=self.url, limit_s=self.options.statement_timeout)

    def _pool(self, name: str, connect: Callable[[], Awaitable[Link]], size: int) -> Pool:
        return Pool(
            name,
            connect,
            self._tasks,
            self._node.limits,
            url=self.url,
            size=size,
            waiters_max=self.options.waiters_max,
            wait_s=self.options.wait,
        )
