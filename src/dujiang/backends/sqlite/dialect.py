"""SQLAlchemy on the embedded store: the dialect, engines over an open transaction, and the engine for migrations.

The dialect is SQLAlchemy's own for SQLite with our PEP-249 module. It serves two ends: `data/statements.py` compiles
with it, and the ORM runs through it. These generic types work, stored as said:

    Integer, BigInteger, Boolean   INTEGER (a bool as 0 or 1)        String, Text, Unicode, Enum   TEXT
    Float                          REAL                              LargeBinary                   BLOB
    JSON                           TEXT                              Uuid                          CHAR(32), hexadecimal
    DateTime, Date, Time           TEXT without time zone            Interval                      TEXT

Each column has a CHECK that what it holds is this, and fits (compiler.py). Money and instants are not for these:
`dujiang.columns` stores both as integers, and a plain Numeric would pass through a float. Comparing JSON, or ordering
by a Uuid, means what the text means.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import URL, Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import NullPool

from dujiang.backends.sqlite import orm
from dujiang.backends.sqlite.compiler import DDLCompiler, StatementCompiler, TypeCompiler
from dujiang.backends.sqlite.errors import MARK
from dujiang.backends.sqlite.file import FileLock, open_writer
from dujiang.data.values import strict_json

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine.interfaces import PoolProxiedConnection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from dujiang.backends.sqlite.connection import Session

AUTOCOMMIT = "AUTOCOMMIT"


class EmbeddedDialect(SQLiteDialect):
    """SQLite through our PEP-249 module; what SQLAlchemy would ask a first connection is known beforehand."""

    driver = "dujiang"
    supports_statement_cache = True
    returns_native_bytes = True
    statement_compiler = StatementCompiler
    ddl_compiler = DDLCompiler
    type_compiler_cls = TypeCompiler

    def __init__(self, **options: Any) -> None:
        super().__init__(dbapi=orm, json_serializer=strict_json, **options)
        self.server_version_info = orm.sqlite_version_info
        self.default_schema_name = "main"
        self.default_isolation_level = "SERIALIZABLE"

    def initialize(self, connection: Any) -> None:
        """Nothing is left to ask."""

    def get_isolation_level_values(self, dbapi_connection: Any) -> list[Any]:
        """The levels that may be set; none changes anything, because there is one writer."""
        return ["SERIALIZABLE", AUTOCOMMIT]

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Nothing: one writer is serial."""

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        """Always serial."""
        return "SERIALIZABLE"

    def get_check_constraints(self, connection: Any, table_name: str, schema: Any = None, **options: Any) -> list[Any]:
        """The CHECKs of a table but those of its columns' types, which a copy of the table is given anew."""
        found = super().get_check_constraints(connection, table_name, schema, **options)  # type: ignore[no-untyped-call]
        return [check for check in found if not MARK.search(check["sqltext"])]

    def do_savepoint(self, connection: Any, name: str) -> None:
        """Set a savepoint through the session, which keeps the failed state."""
        connection.connection.dbapi_connection.mark("SAVEPOINT", name)

    def do_release_savepoint(self, connection: Any, name: str) -> None:
        """Release a savepoint."""
        connection.connection.dbapi_connection.mark("RELEASE", name)

    def do_rollback_to_savepoint(self, connection: Any, name: str) -> None:
        """Roll back to a savepoint; a failed transaction becomes usable again."""
        connection.connection.dbapi_connection.mark("ROLLBACK TO", name)


class AsyncEmbeddedDialect(EmbeddedDialect):
    """The same for AsyncEngine; its statements run inline and so never switch."""

    is_async = True
    supports_statement_cache = True


@cache
def shared_dialect() -> AsyncEmbeddedDialect:
    """The one dialect of this process: what was compiled for one store need not be compiled for the next."""
    return AsyncEmbeddedDialect()


class SessionEngine(OptionEngine):
    """An engine whose every connection is one open transaction; it shares the compiled statements of its root."""

    def __init__(self, root: Engine, session: Session) -> None:
        super().__init__(root, {})
        own = orm.Connection(session)
        self._own_pool = NullPool(lambda: own, dialect=root.dialect)  # type: ignore[arg-type]

    def raw_connection(self) -> PoolProxiedConnection:
        """The transaction, in the wrapping that SQLAlchemy expects."""
        return self._own_pool.connect()


def root_engine(url: str) -> Engine:
    """The engine from which those of transactions descend; it cannot connect."""

    def refuse() -> Any:
        raise orm.InterfaceError("connect through a transaction")

    dialect = shared_dialect()
    return Engine(NullPool(refuse, dialect=dialect), dialect, URL.create("sqlite", database=url))


def engine_over(session: Session, root: Engine) -> AsyncEngine:
    """An AsyncEngine whose every connection is the session's transaction."""
    from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415  (loads SQLAlchemy's ORM: 0.1 s of every start)

    return AsyncEngine(SessionEngine(root, session))


def sync_engine(path: str | Path) -> Engine:
    """An Engine that opens the file alone, for migrations; DDL is transactional.

    Each connection holds the file's lock while it is open, so no store may be open on the file in any process. With
    Alembic pass `transactional_ddl=True` to `context.configure`.

    Raises:
        StoreInUse: On connect, when the file is open.
        DatabaseRefused: On connect, when the file is no store.
    """
    real = os.path.realpath(path)
    url = f"sqlite:///{real}"

    def connect() -> Any:
        lock = FileLock(real)
        try:
            return orm.Own(orm.Alone(open_writer(real, url), url), lock)
        except BaseException:
            lock.release()
            raise

    dialect = EmbeddedDialect()
    return Engine(NullPool(connect, dialect=dialect), dialect, URL.create("sqlite", database=real))
