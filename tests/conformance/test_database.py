"""The port `database` on every adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dujiang.backends.postgres.database import PostgresDatabase
from dujiang.backends.sqlite import line
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.kernel.node import Node
from dujiang.testing.conformance.database import DatabaseConformance
from dujiang.testing.servers import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for all cases; each case makes its scratch table anew."""
    with PostgresServer() as running:
        yield running


class TestPostgres(DatabaseConformance, capabilities=PostgresDatabase.capabilities):
    """PostgreSQL keeps every promise of the port."""

    lanes = 3
    waiters_max = 40

    @pytest.fixture(autouse=True)
    def _store(self, server: PostgresServer) -> None:
        self.url = f"{server.url()}?pool_size=3&reader_pool_size=3&waiters_max=40"

    async def open_database(self) -> PostgresDatabase:
        """One more database object on the server."""
        database = PostgresDatabase(self.url, Node.system("conformance"))
        await database.start()
        return database

    async def open_listening(self, hear: Callable[[str], None]) -> PostgresDatabase:
        """The same, with a hearer."""
        database = PostgresDatabase(self.url, Node.system("conformance"))
        database.listen(hear)
        await database.start()
        return database


def test_no_case_is_left_out_on_postgres() -> None:
    """PostgreSQL has every capability that a case asks for."""
    assert TestPostgres.excluded == {}


class TestSqlite(DatabaseConformance, capabilities=SqliteDatabase.capabilities):
    """The embedded store keeps every promise of the port that one writer can be asked for."""

    lanes = 1
    waiters_max = 40

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = f"sqlite:///{tmp_path}/app.db"
        monkeypatch.setattr(line, "WAITERS_MAX", self.waiters_max)

    async def open_database(self) -> SqliteDatabase:
        """One more database object on the file."""
        database = SqliteDatabase(self.url, Node.system("conformance"))
        await database.start()
        return database
