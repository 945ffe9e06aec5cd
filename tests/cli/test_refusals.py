"""Starts that must not happen: each is one message with its cure, one exit code, and nothing left behind."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dujiang.testing.servers import PostgresServer
from tests.cli.processes import APP, Ended, Site, Up, dujiang, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

MADE = "op.execute('CREATE TABLE desk_made (id BIGINT PRIMARY KEY)')"


@dataclass
class Case:
    """One command that is refused.

    Attributes:
        words: The command line.
        code: The exit code.
        error: The code of the error, as the message names it.
        says: What the message holds.
        settings: The settings in the environment; `{server}` is the private server's address.
        scripts: The migrations of `site_app:app`, in whose folder the command runs.
        source: Further source of that module.
        out: How stdout begins.
    """

    words: str
    code: int
    error: str
    says: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    source: str = ""
    out: str = ""


SERVER = {"database": "postgresql://dujiang@{server}/postgres"}
CASES = {
    "database-down": Case(
        "up", 69, "database_unreachable", ("127.0.0.1:1/x",), {"database": "postgresql://u@127.0.0.1:1/x"}
    ),
    "database-down-workers": Case(
        "up --workers 2", 69, "database_unreachable", ("127.0.0.1:1/x",), {"database": "postgresql://u@127.0.0.1:1/x"}
    ),
    "database-down-migrate": Case(
        "migrate", 69, "database_unreachable", ("127.0.0.1:1/x",), {"database": "postgresql://u@127.0.0.1:1/x"}
    ),
    "database-down-audit": Case(
        "audit", 69, "database_unreachable", ("127.0.0.1:1/x",), {"database": "postgresql://u@127.0.0.1:1/x"}
    ),
    "wrong-user": Case(
        "up", 78, "database_refused", ('role "stranger"',), {"database": "postgresql://stranger@{server}/postgres"}
    ),
    "no-database": Case(
        "up",
        78,
        "database_refused",
        ('"nowhere" does not exist',),
        {"database": "postgresql://dujiang@{server}/nowhere"},
    ),
    "not-durable": Case("up", 78, "not_durable", ("fsync is off",), {**SERVER, "profile": "production"}),
    "workers-on-one-writer": Case("up --workers 2", 78, "one_writer", ("2 workers",)),
    "public-address": Case("up --host 0.0.0.0", 78, "host_refused", ("0.0.0.0",)),
    "unknown-setting": Case("up", 78, "settings_refused", ("did you mean 'DUJIANG_PORT'",), {"prot": "1"}),
    "crash-point": Case("up", 78, "unknown_crash_point", ("NAME:N",), {"crash_at": "nowhere:1"}),
    "no-app": Case("up site_app:nothing", 78, "app_missing", ("did you mean 'app'",), scripts={"0001": MADE}),
    "broken-statement": Case(
        f"up {APP}",
        78,
        "migration_failed",
        ("0001_step.py", "nowhere"),
        scripts={"0001": "op.execute('SELECT 1 FROM nowhere')"},
    ),
    "broken-python": Case(
        f"up {APP}",
        78,
        "migration_failed",
        ("0002_step.py", "ZeroDivisionError"),
        scripts={"0001": MADE, "0002": "1 / 0"},
    ),
    "broken-syntax": Case(f"up {APP}", 78, "migration_failed", ("SyntaxError",), scripts={"0001": "def def"}),
    "broken-migrate": Case(
        f"migrate {APP}",
        78,
        "migration_failed",
        ("0001_step.py", "nowhere"),
        scripts={"0001": "op.execute('SELECT 1 FROM nowhere')"},
        out="done: dujiang 0001 ",
    ),
    "unportable-column": Case(
        f"up {APP}",
        78,
        "declaration",
        ("desk_bad.price",),
        scripts={"0001": MADE},
        source="import sqlalchemy as sa\ndesk.tables = sa.MetaData()\n"
        "sa.Table('desk_bad', desk.tables, sa.Column('price', sa.Numeric, primary_key=True))\n",
    ),
}


@pytest.fixture(scope="module")
def ended(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Path, Ended]]]:
    """Every case run once, two at a time: most of a refusal's second is Python loading."""

    def run(name: str) -> tuple[Path, Ended]:
        case, folder = CASES[name], tmp_path_factory.mktemp(name)
        Site(folder, case.scripts).write(case.source)
        settings = {
            key: value.replace("{server}", f"127.0.0.1:{postgres.port}") for key, value in case.settings.items()
        }
        words = case.words.split()
        if words[0] == "up":
            words += ["--port", str(free_port())]
        return folder, dujiang(folder, *words, **settings)

    with ThreadPoolExecutor(2) as pool:
        yield dict(zip(CASES, pool.map(run, CASES), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_start_that_cannot_be_is_one_message(name: str, ended: dict[str, tuple[Path, Ended]]) -> None:
    """The message names the values and the cure, the exit code whose turn it is; no traceback, no address left behind."""
    case, (folder, end) = CASES[name], ended[name]

    assert end.code == case.code, end.err
    assert end.out.startswith(case.out)
    assert_one_message(end, case.error, *case.says)
    assert not (folder / "var" / "up.json").exists()


def assert_one_message(end: Ended, error: str, *says: str) -> None:
    """Nothing is ready; stderr is one error with its code, its values, and a cure, and not more."""
    assert "ready" not in end.out
    assert end.err.startswith("error: ")
    assert "Traceback" not in end.err
    assert end.err.count("error: ") == 1
    assert end.err.count("\ncure:  ") == 1
    assert f"[{error}]" in end.err
    for part in says:
        assert part in end.err
    assert '"level"' not in end.err


def test_a_wrong_password_is_refused(tmp_path: Path) -> None:
    """The password is wrong for good: 78, and neither it nor the right one is shown."""
    with PostgresServer(fsync=False) as server:
        server.require_password("rightone")
        url = server.url().replace("rightone", "wrongone")

        end = dujiang(tmp_path, "up", "--port", str(free_port()), database=url)

    assert end.code == 78
    assert_one_message(end, "database_refused", "password authentication failed")
    assert "wrongone" not in end.err
    assert "rightone" not in end.err


def test_a_port_in_use_is_refused_before_the_store_is_opened(tmp_path: Path) -> None:
    """The message names the port and its owner; no store was made."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        end = dujiang(tmp_path, "up", "--port", str(port))

    assert end.code == 69
    assert_one_message(end, "port_in_use", f"port {port} ", "process ")
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_use_names_its_owner(tmp_path: Path) -> None:
    """A second `up` on the store, and a migration, end with 69 and the pid of the first; the first goes on."""
    with Up(tmp_path).started() as up:
        second = dujiang(tmp_path, "up", "--port", str(free_port()))
        migrate = dujiang(tmp_path, "migrate")

        for end in (second, migrate):
            assert end.code == 69
            assert_one_message(end, "store_in_use", f"process {up.process.pid}")
        assert up.request("GET", "/health/ready").status == 200


class TestSchema:
    def test_pending_migrations_wait_for_whoever_deploys(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """On a server `up` refuses pending scripts, `migrate --check` tells them, `migrate` runs them; then `up` starts."""
        store = {"database": postgres.create_database()}
        site = Site(tmp_path, {"0001": MADE}).write()
        first = dujiang(tmp_path, "migrate", APP, **store)
        site.scripts["0002"] = MADE.replace("desk_made", "desk_more")
        site.write()

        check = dujiang(tmp_path, "migrate", APP, "--check", **store)
        refused = dujiang(tmp_path, "up", APP, "--port", str(free_port()), **store)
        migrated = dujiang(tmp_path, "migrate", APP, **store)

        assert first.code == 0, first.err
        done = [line.split("  ")[0] for line in first.out.splitlines()]
        assert (done[0], done[-1]) == ("done: dujiang 0001", "done: desk 0001")
        assert (check.code, check.out, check.err) == (78, "pending: desk 0002\n", "")
        assert refused.code == 78
        assert_one_message(refused, "schema_pending", "1 migrations: desk 0002", "dujiang migrate")
        assert (migrated.code, migrated.out) == (0, "done: desk 0002  Make 0002.\n")
        with Up(tmp_path, APP, **store).started() as up:
            assert up.stop() == 0

    def test_the_embedded_store_is_upgraded_by_its_owner(self, tmp_path: Path) -> None:
        """There `up` runs what is pending, and refuses tables that newer code has changed."""
        site = Site(tmp_path, {"0001": MADE}).write()
        with Up(tmp_path, APP).started() as up:
            assert up.stop() == 0
        site.scripts["0002"] = "op.execute('ALTER TABLE desk_made RENAME TO desk_more')"
        site.write()
        with Up(tmp_path, APP).started() as up:
            assert up.stop() == 0
        check = dujiang(tmp_path, "migrate", APP, "--check")
        (tmp_path / "scripts" / "0002_step.py").unlink()

        refused = dujiang(tmp_path, "up", APP, "--port", str(free_port()))

        assert (check.code, check.out) == (0, "current\n")
        assert refused.code == 78
        assert_one_message(refused, "schema_ahead", "desk 0002")
