"""The port `lock` on every adapter: locks in the database, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dujiang.backends.postgres.database import PostgresDatabase
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.testing.conformance.locks import LockConformance
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for all cases; fsync off, because nothing here cuts the power."""
    with PostgresServer(fsync=False) as running:
        yield running


class TestSqlOnSqlite(LockConformance, capabilities=SqliteDatabase.capabilities):
    """Locks in the embedded store."""

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.url = f"sqlite:///{tmp_path}/app.db"


class TestSqlOnPostgres(LockConformance, capabilities=PostgresDatabase.capabilities):
    """Locks in PostgreSQL."""

    @pytest.fixture(autouse=True)
    def _store(self, server: PostgresServer, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.url = server.create_database()
