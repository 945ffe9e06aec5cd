"""ORM: SQLAlchemy's own execution on a transaction of ours.

    AsyncSession -> AsyncEngine -> SQLAlchemy's asyncpg dialect -> Stand-in -> PostgresConnection -> the same link

The dialect is given a stand-in for the driver's connection. Each of its statements goes through the same guard as
ours: one at a time, failures remembered, errors in the port's words. It works in AUTOCOMMIT isolation, so its commit
and rollback send nothing, and closing the stand-in closes nothing. Its savepoints become ours, because only a
rollback to a savepoint makes a failed transaction usable again.

An engine is made for each transaction that wants one, around the one dialect and the one cache of compiled
statements. Rejected: one engine for all, whose creator picks the transaction by a context variable. Two transactions
in one task (a held one, and another inside it) would then be mistaken for each other when a session connects late.
Cost: 13 us to make the engine, 66 us with its connection opened and closed, for each ORM transaction, which itself
costs about 1,100.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection, PGDialect_asyncpg
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.pool import NullPool
from sqlalchemy.util import LRUCache

from dujiang.backends.postgres.compiler import StatementCompiler, TypeCompiler
from dujiang.data.values import strict_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from dujiang.backends.postgres.connection import PostgresConnection

SAVEPOINT = re.compile(r"(SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO SAVEPOINT) (\w+)")
COMPILED_MAX = 1000
# SQLAlchemy has no types for its dialects.
DIALECT: Any = PGDialect_asyncpg
ADAPTER: Any = AsyncAdapt_asyncpg_connection


class PostgresDialect(DIALECT):  # type: ignore[misc]
    """SQLAlchemy's dialect with our compilers."""

    supports_statement_cache = True
    statement_compiler = StatementCompiler
    type_compiler_cls = TypeCompiler


def new_dialect() -> PGDialect_asyncpg:
    """The dialect for this driver, not yet adjusted to a server."""
    made: PGDialect_asyncpg = PostgresDialect(dbapi=DIALECT.import_dbapi(), json_serializer=strict_json)
    return made


class Bridge:
    """Makes engines over single transactions."""

    def __init__(self, dialect: PGDialect_asyncpg) -> None:
        self._dialect = dialect
        self._url = make_url("postgresql+asyncpg://")
        self._compiled: LRUCache[Any, Any] = LRUCache(COMPILED_MAX)

    def engine(self, connection: PostgresConnection) -> AsyncEngine:
        """An engine whose every connection is this transaction."""
        from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415  (loads SQLAlchemy's ORM: 0.1 s of every start)

        def adapted() -> Any:
            # Statements are kept by the link, for all transactions on it, so the adapter keeps none.
            made = ADAPTER(self._dialect.dbapi, StandIn(connection), prepared_statement_cache_size=0)
            made.isolation_level = "autocommit"
            return made

        pool = NullPool(adapted, dialect=self._dialect, reset_on_return=None)
        options = {"compiled_cache": self._compiled}
        return AsyncEngine(Engine(pool, self._dialect, self._url, query_cache_size=0, execution_options=options))

    async def adjust(self, connection: PostgresConnection) -> None:
        """Let the dialect read the server's version and settings."""
        async with self.engine(connection).connect() as opened:
            await opened.run_sync(self._dialect.initialize)


class StandIn:
    """What the dialect takes for the driver's connection."""

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection = connection

    async def prepare(self, text: str, *, name: str | None = None) -> StandInStatement | SavepointStatement:
        """The statement of a text; `name` is not needed, the driver names it."""
        connection = self._connection
        savepoint = SAVEPOINT.fullmatch(text)
        if savepoint is not None:
            return SavepointStatement(connection, savepoint[1], savepoint[2])

        async def call(limit_s: float) -> StandInStatement:
            link = connection.link
            statement = await link.prepare(text, limit_s)
            attributes = link.described.get(text)
            if attributes is None:
                attributes = statement.get_attributes()
                if text in link.prepared:
                    link.described[text] = attributes
            return StandInStatement(connection, text, statement, attributes)

        return await connection.guarded(text, call)

    async def executemany(self, text: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each row of parameters."""

        async def call(limit_s: float) -> None:
            statement = await self._connection.link.prepare(text, limit_s)
            await statement.executemany(rows, timeout=limit_s)

        await self._connection.guarded(text, call)

    async def reload_schema_state(self) -> None:
        """The schema changed: prepare everything anew."""
        self._connection.link.forget_prepared()
        await self._connection.link.driver.reload_schema_state()

    def is_closed(self) -> bool:
        """Whether the driver's connection is gone."""
        return bool(self._connection.link.driver.is_closed())

    async def close(self, timeout: float = 0.0) -> None:  # noqa: ASYNC109  (the dialect's signature)
        """Close nothing: the transaction goes on."""

    def terminate(self) -> None:
        """Close nothing: the transaction goes on."""


class StandInStatement:
    """What the dialect takes for a prepared statement."""

    def __init__(self, connection: PostgresConnection, text: str, statement: Any, attributes: Any) -> None:
        self._connection = connection
        self._text = text
        self._statement = statement
        self._attributes = attributes
        self._status: str | None = None

    def get_attributes(self) -> Any:
        """The columns of the result."""
        return self._attributes

    def get_statusmsg(self) -> str | None:
        """The command tag of the last run."""
        return self._status

    async def fetch(self, *args: Any) -> list[Any]:
        """Run it and return the rows."""

        async def call(limit_s: float) -> list[Any]:
            rows: list[Any] = await self._statement.fetch(*args, timeout=limit_s)
            self._status = self._statement.get_statusmsg()
            return rows

        return await self._connection.guarded(self._text, call)

    async def cursor(self, *args: Any) -> Rows:
        """Run it and hand the rows out in parts; all are read at once: the driver's cursors want a transaction of its."""
        return Rows(await self.fetch(*args))


class SavepointStatement:
    """A savepoint of the ORM, which is one of ours."""

    def __init__(self, connection: PostgresConnection, verb: str, name: str) -> None:
        calls = {"SAVEPOINT": connection.savepoint, "RELEASE SAVEPOINT": connection.release}
        self._call = calls.get(verb, connection.rollback_to)
        self._name = name

    def get_attributes(self) -> tuple[()]:
        """No columns."""
        return ()

    def get_statusmsg(self) -> str:
        """No rows."""
        return ""

    async def fetch(self) -> list[Any]:
        """Do it."""
        await self._call(self._name)
        return []


class Rows:
    """Rows that are handed out in parts."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows
        self._next = 0

    async def fetch(self, count: int) -> list[Any]:
        """The next rows, at most `count`."""
        part = self._rows[self._next : self._next + count]
        self._next += len(part)
        return part
