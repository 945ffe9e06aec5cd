"""Migrations on PostgreSQL: one connection of SQLAlchemy's own, apart from the pools.

Upgrades wait for each other by an advisory lock of the session, which ends with the session however it ends. Only after
that the wait for other locks is bounded: a migration that waits for a table holds up everybody who comes after it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.dialects import registry
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from dujiang.backends.postgres.errors import unconnected
from dujiang.backends.postgres.options import address
from dujiang.backends.postgres.orm import PostgresDialect
from dujiang.data.history import LOCK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dujiang.data.migrate import Opener, Run

# Under this name SQLAlchemy finds our dialect: tables are made by a migration as they are made by a start.
NAME = "dujiang"
registry.register(f"postgresql.{NAME}", PostgresDialect.__module__, PostgresDialect.__name__)


def opener(url: str) -> Opener:
    """Opens the database at `url` for migrations. Its errors are DatabaseUnreachable and DatabaseRefused."""
    where = address(url)

    async def connect() -> Any:
        try:
            return await asyncpg.connect(
                where.dsn,
                timeout=where.options.connect_timeout,
                server_settings={"application_name": "dujiang/migrate", "timezone": "UTC"},
            )
        except Exception as cause:
            raise unconnected(cause, url=where.shown) from cause

    @asynccontextmanager
    async def opened(*, alone: bool) -> AsyncIterator[Run]:
        engine = create_async_engine(f"postgresql+{NAME}://", async_creator=connect, poolclass=NullPool)
        async with engine.connect() as connection:
            if alone:
                await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
            limit = f"{round(where.options.lock_timeout * 1000)}ms"
            await connection.execute(text("SELECT set_config('lock_timeout', :limit, false)"), {"limit": limit})
            await connection.commit()
            yield connection.run_sync

    return opened
