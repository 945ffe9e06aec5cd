"""Private servers for trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dujiang.testing.rabbit import RabbitServer
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all trials; a killed client needs no fsync, the server itself stays up."""
    with PostgresServer(fsync=False, max_connections=100) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit() -> Iterator[RabbitServer]:
    """One RabbitMQ for all trials; each has a prefix of its own."""
    with RabbitServer() as server:
        yield server
