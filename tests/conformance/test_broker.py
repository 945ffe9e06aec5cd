"""The port `broker` on every adapter: the broker in the database, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dujiang.backends.postgres.database import PostgresDatabase
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.testing.conformance.broker import BrokerConformance
from dujiang.testing.servers import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for all cases, each with a database of its own; fsync off, because nothing here cuts the power."""
    with PostgresServer(fsync=False) as running:
        yield running


class TestSqlOnSqlite(BrokerConformance, capabilities=SqliteDatabase.capabilities):
    """The broker in the embedded store keeps every promise that one writing process can be asked for."""

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.url = f"sqlite:///{tmp_path}/app.db"


class TestSqlOnPostgres(BrokerConformance, capabilities=PostgresDatabase.capabilities):
    """The broker in PostgreSQL keeps every promise."""

    @pytest.fixture(autouse=True)
    def _store(self, server: PostgresServer, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.url = server.create_database()
