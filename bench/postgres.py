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
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg  # type: ignore[import-untyped]

from bench.environments import home, tool
from bench.processes import READY_S_MAX, SideFailed, free_port, log_of, log_tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.runner import Checks

SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
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

    def __init__(self, port: int, user: str) -> None:
        self.port = port
        self.user = user

    def url(self, database: str = "postgres") -> str:
        """`postgresql://user@127.0.0.1:port/database`."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

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
        checks.state("no role or database overrides a setting", overrides == 0, overrides)


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A private server on a free port, its data in a new folder on the disk that the probe reads; removed at the end.

    Raises:
        SetupFailed: If PostgreSQL is not installed.
        SideFailed: If it does not start.
    """
    initdb, program = tool("initdb", package="postgresql"), tool("postgres", package="postgresql")
    with tempfile.TemporaryDirectory(prefix="dujiang-bench-", dir=_reachable()) as name:
        folder, port = Path(name), free_port()
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        data = folder / "data"
        made = [initdb, "-D", str(data), "-A", "trust", "-U", "bench", "--locale=C", "-E", "UTF8", "--no-instructions"]
        done = subprocess.run(made, capture_output=True, text=True, check=False, cwd="/", **_owner())
        if done.returncode != 0:
            raise SideFailed(f"initdb failed: {done.stderr}")
        settings = SETTINGS | {"port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        words = [word for setting in settings.items() for word in ("-c", "=".join(setting))]
        with log_of("postgres").open("wb") as log:
            process = subprocess.Popen(
                [program, "-D", str(data), *words], stdout=log, stderr=log, cwd="/", start_new_session=True, **_owner()
            )
        try:
            server = Postgres(port, "bench")
            _wait_ready(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # Its fast shutdown: sessions are ended, nothing is waited for.
            process.wait()


def _owner() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; for root it runs as the user that its package made."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def _reachable() -> Path:
    """The cache folder; for root /var/tmp, since the server's user may not enter root's home."""
    return Path("/var/tmp") if os.geteuid() == 0 else home()  # The folder made in it is private.


def _wait_ready(server: Postgres, process: subprocess.Popen[bytes]) -> None:
    until = time.perf_counter() + READY_S_MAX
    while process.poll() is None and time.perf_counter() < until:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            server.value("SELECT 1")
            return
        time.sleep(0.05)
    raise SideFailed(f"PostgreSQL did not start\n{log_tail('postgres')}")
