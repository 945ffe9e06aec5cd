"""Stores for the tests: the embedded one, and a private PostgreSQL where its programs are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dujiang.testing.processes import BinaryMissing
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One private server for all tests; fsync off, because nothing here cuts the power."""
    try:
        server = PostgresServer(fsync=False)
    except BinaryMissing as missing:
        pytest.skip(missing.told)
    with server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store; empty text = an embedded store of the test's own."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()
