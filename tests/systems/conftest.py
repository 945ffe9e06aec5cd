"""Stores for tests of whole systems: the embedded one and a private PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

# Imported by the test modules here, so that the stores and the rule about skips of this folder hold for them.
LEDGER = tuple(f"dujiang.systems.ledger.tests.test_{name}" for name in ("chain", "crowd", "ledger", "provider"))
pytest.register_assert_rewrite(
    "dujiang.systems.shop.tests.test_shop", "dujiang.systems.starter.tests.test_starter", *LEDGER
)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One private server for all tests of this folder; fsync off, because nothing here cuts the power."""
    with PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store; empty text = an embedded store of the test's own."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()
