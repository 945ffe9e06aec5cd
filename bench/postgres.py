"""PostgreSQL for the claims: one private server, a fresh database per turn, and what its own statistics say.

Every turn starts from a copy of one template after a CHECKPOINT, so no side pays for the rows or the dirty pages of the
side before it. The server runs with fsync, full_page_writes and synchronous_commit on; `durable_facts` reads them back,
for the server and for overrides on roles and databases, and each side's own session answers POST /durability.

A session could still lie. `Flushes` therefore looks at what cannot be talked away: with synchronous_commit on, one WAL
sync serves at most the commits of the connections that wait for it at that moment; with it off, syncs come five times a
second whatever the load is, and hundreds of commits share one.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from bench.environments import SetupFailed, home
from bench.processes import SideFailed
from dujiang.testing.servers import BinaryMissing, PostgresServer, ServerFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.runner import Checks

SETTINGS = {
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
}
MUST_BE_ON = ("fsync", "full_page_writes", "synchronous_commit")


@dataclass(frozen=True)
class Flushes:
    """Commits of one database and WAL syncs of the server since its start."""

    commits: int
    syncs: int

    def since(self, before: Flushes) -> Flushes:
        """The difference to an earlier reading."""
        return Flushes(self.commits - before.commits, self.syncs - before.syncs)

    @property
    def commits_per_sync(self) -> float:
        """How many commits shared one sync, on average."""
        return self.commits / max(1, self.syncs)


class Postgres:
    """The running server. Methods block: the caller is a script, not a server."""

    def __init__(self, server: PostgresServer) -> None:
        self.url = server.url
        assert server.folder is not None
        self.folder = server.folder

    def execute(self, statements: str, *, database: str = "postgres") -> None:
        """Run statements as one script, without a transaction around them unless there are several."""

        async def go() -> None:
            connection = await asyncpg.connect(self.url(database))
            try:
                await connection.execute(statements)
            finally:
                await connection.close()

        asyncio.run(go())

    def value(self, query: str, *, database: str = "postgres") -> Any:
        """The first column of the first row."""

        async def go() -> Any:
            connection = await asyncpg.connect(self.url(database))
            try:
                return await connection.fetchval(query)
            finally:
                await connection.close()

        return asyncio.run(go())

    def template(self, name: str, statements: str) -> None:
        """Make a database that `fresh` copies."""
        self.drop(name)
        self.execute(f"CREATE DATABASE {name}")
        self.execute(statements, database=name)
        self.execute("VACUUM ANALYZE", database=name)

    def fresh(self, name: str, *, template: str = "template1") -> str:
        """A new database, copied from `template`, after a checkpoint; its URL."""
        self.drop(name)
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        self.execute("CHECKPOINT")
        return self.url(name)

    def drop(self, name: str) -> None:
        """Drop a database and whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def flushes(self, database: str) -> Flushes:
        """Counters as far as the sessions reported them: each does so at most once per second."""
        commits = self.value(f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{database}'")
        return Flushes(int(commits), int(self.value("SELECT wal_sync FROM pg_stat_wal")))

    def durable_facts(self, checks: Checks) -> None:
        """State that nothing on the server weakens a commit."""
        seen = {name: self.value(f"SHOW {name}") for name in MUST_BE_ON}
        checks.state("PostgreSQL runs with " + ", ".join(MUST_BE_ON), all(v == "on" for v in seen.values()), seen)
        overrides = self.value("SELECT count(*) FROM pg_db_role_setting")
        same = self.folder.stat().st_dev == home().stat().st_dev
        checks.state("PostgreSQL's data lie on the disk that the probe reads", same, self.folder)
        checks.state("no role or database overrides a setting", overrides == 0, overrides)


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A private server on a free port, with fsync; gone at the end.

    Raises:
        SetupFailed: If PostgreSQL is not installed.
        SideFailed: If it does not start.
    """
    tempfile.tempdir = str(home())  # The server's folder is made there; the usual /tmp may lie in memory.
    server = PostgresServer(fsync=True, max_connections=200, settings=SETTINGS)
    try:
        server.start()
    except BinaryMissing as cause:
        raise SetupFailed(f"{cause}; {cause.cure.format(package=cause.package)}") from None
    except ServerFailed as cause:
        raise SideFailed(str(cause)) from None
    try:
        yield Postgres(server)
    finally:
        server.close()
