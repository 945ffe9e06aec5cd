"""What the tests of migrations share: a store of each kind, reached as a process reaches it before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dujiang.backends.postgres import migrating as on_postgres
from dujiang.backends.sqlite import migrating as on_sqlite
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dujiang.data.migrate import Opener


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server; each test has a database of its own on it."""
    with PostgresServer() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return on_sqlite.opener(f"sqlite:///{tmp_path}/app.db")
    running: PostgresServer = request.getfixturevalue("server")
    return on_postgres.opener(running.create_database())
