"""Stores for commands: the embedded one of a folder, and databases on a private PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One private server for all tests of this folder; fsync off, because nothing here cuts the power."""
    with PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of an empty store."""
    if request.param == "sqlite":
        return {}
    server: PostgresServer = request.getfixturevalue("postgres")
    return {"database": server.create_database()}
