"""What the tests of the embedded store share: an open store in a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.data.sql import Sql
from dujiang.kernel.node import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TABLE = Sql(
    "make_item", "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)", "Makes the table of the tests."
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """A started store with the table `item`; stopped at the end."""
    database = SqliteDatabase(f"sqlite:///{tmp_path}/app.db", Node.system("test"))
    await database.start()
    await database.statement(TABLE)
    yield database
    await database.stop()
