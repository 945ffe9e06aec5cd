"""Database on SQLite: one file, one writer, nothing to install.

How each promise of data/database.py is kept:
  1. once, durable   group commit at synchronous=FULL; `write` returns after its group's fsync (writer.py)
  2. body's error    the body's savepoint is rolled back; the error leaves after the group's fsync
  3. runs again      there are no deadlocks; a lost group runs again, at most 5 times in all
  4. lost reply      there is none inside one process
  5. read only       a connection opened read-only, `query_only` besides
  6. back again      a full or failing disk is met anew by each call; nothing is remembered
  7. matched rows    SQLite counts matched rows; triggers and cascades are left out
  8. fair, bounded   one queue of 10,000, first come first served, at most until the caller's deadline
  9. stop            waits 10 s, takes the writer from the rest, copies the log into the data, gives the lock back

Isolation is serial whatever is asked for. Reads run inline on one reader in autocommit: each statement sees what is
committed when it starts, and none holds a snapshot, so the log can always be copied.

Left for later: the unix socket `<file>.sock` (0600), through which commands reach the process that owns the file.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from dujiang.backends.sqlite.connection import Session
from dujiang.backends.sqlite.dialect import shared_dialect
from dujiang.backends.sqlite.errors import translated
from dujiang.backends.sqlite.file import path_of
from dujiang.backends.sqlite.store import Store, join
from dujiang.data.database import Capabilities, DatabaseUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from dujiang.data.database import Connection, Isolation, Settle
    from dujiang.data.sql import Sql
    from dujiang.kernel.node import Node

T = TypeVar("T")

STOP_GRACE_S = 10.0
SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
MEANS = (
    "an acknowledged write was synced to this machine's disk (write-ahead log, synchronous=FULL) and survives the "
    "loss of the process and of power; it does not survive the loss of the disk"
)
WEAKER = "an acknowledged write may be lost with power: synchronous is {synchronous}, journal_mode is {journal_mode}"


class SqliteDatabase:
    """The embedded store.

    Args:
        url: `sqlite:///relative/app.db` or `sqlite:////absolute/app.db`.
        node: Gives the time.

    Raises:
        DatabaseRefused: The URL names no file.
    """

    capabilities = Capabilities(
        arrays=False,
        writable_cte=False,
        skip_locked=False,
        key_locks=False,
        xid_horizon=False,
        many_writers=False,
        listen=False,
        partitions=False,
    )

    def __init__(self, url: str, node: Node) -> None:
        self.url = url
        self.path = path_of(url)
        self.dialect = shared_dialect()
        self._node = node
        self._store: Store | None = None
        self._stopping = False

    def __repr__(self) -> str:
        return f"<SqliteDatabase {self.path}{'' if self._store else ', stopped'}>"

    epoch = 0  # One file, and whoever opens it sees every commit.

    async def servers(self) -> list[dict[str, str]]:
        """There is no server."""
        return []

    async def start(self) -> None:
        """Open the file, made if need be. Raises StoreInUse, DatabaseRefused, DatabaseUnreachable."""
        if self._store is None:
            self._store = await join(self.path, self.url, self._node)
            self._stopping = False

    async def stop(self) -> None:
        """Let open transactions end, at most 10 s, and leave the file. May be called twice."""
        store = self._store
        if store is None or self._stopping:
            return
        self._stopping = True
        await store.writer.drain(self, STOP_GRACE_S)
        self._store = None
        await store.leave()

    async def write(
        self,
        body: Callable[[Connection], Awaitable[T]],
        *,
        isolation: Isolation = "read_committed",
        settle: Settle | None = None,
    ) -> T:
        """Run `body` in its turn, commit with its group, return its answer. Always serial; `settle` is not needed."""
        return await self._open().writer.write(body, self)

    async def statement(self, sql: Sql, *args: Any) -> list[Sequence[Any]]:
        """Run one platform statement as a whole transaction."""
        return await self._open().writer.write(lambda connection: connection.fetch(sql, *args), self)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Connection]:
        """A transaction open for the block. It shares a group; if that is lost, the block's end raises."""
        async with self._open().writer.held(self) as session:
            yield session

    async def read(self, body: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `body` on the reader; each statement sees what is committed when it starts."""
        store = self._open()
        session = Session(store.reader, self.url, store.engine_over, writes=False)
        try:
            return await body(session)
        finally:
            session.end()

    async def notify(self, payload: str) -> None:
        """Nothing: no other process opens the file."""

    def listen(self, hear: Callable[[str], None]) -> None:
        """Nothing: no other process opens the file."""

    async def durability(self) -> dict[str, str]:
        """The settings of the writing connection, read back, and what they mean."""

        async def body(connection: Connection) -> dict[str, str]:
            names = ("journal_mode", "synchronous", "fullfsync", "foreign_keys", "page_size")
            return {name: str((await connection.run(f"PRAGMA {name}", ()))[0][0][0]) for name in names}

        found = await self._open().writer.write(body, self)
        found["synchronous"] = SYNCHRONOUS.get(int(found["synchronous"]), found["synchronous"])
        safe = found["synchronous"] in ("FULL", "EXTRA") and found["journal_mode"] == "wal"
        return {
            "database": f"SQLite {apsw.sqlite_lib_version()}",
            "path": self.path,
            **found,
            "wal_bytes": str(self.stats()["wal_bytes"]),
            "safe": "yes" if safe else "no",
            "means": MEANS if safe else WEAKER.format(**found),
        }

    def stats(self) -> dict[str, int]:
        """Counters of the file's writer since it was opened, its queue, and the size of the log."""
        writer = self._open().writer
        own = {"evicted": writer.watch.evicted, "log_copies": writer.log.copies, "wal_bytes": writer.log.bytes}
        return {**writer.counts, **own, "waiting": len(writer.line)}

    async def health(self) -> None:
        """Return if the file can be read, else raise."""
        store = self._open()
        try:
            store.reader.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except apsw.Error as cause:
            raise translated(cause, "health", self.url) from cause

    def _open(self) -> Store:
        if self._store is None or self._stopping:
            raise DatabaseUnreachable(url=self.url, why="it is not started")
        return self._store
