"""Migrations on both kinds of store: independent histories, broken scripts, and processes that start together."""

from __future__ import annotations

import asyncio
import shutil
import sys
import textwrap
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from dujiang.backends.postgres import migrating as on_postgres
from dujiang.backends.postgres.database import PostgresDatabase
from dujiang.backends.sqlite import migrating as on_sqlite
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.data import portable
from dujiang.data.database import DatabaseUnreachable, StoreInUse
from dujiang.data.migrate import (
    PLATFORM,
    History,
    MigrationFailed,
    SchemaRefused,
    overall,
    status,
    upgrade,
)
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from pathlib import Path

    from dujiang.data.migrate import Opener

GOOD = "op.create_table('{table}', sa.Column('id', sa.BigInteger, primary_key=True))"


class Scripts:
    """A package of scripts, written as the test goes."""

    def __init__(self, folder: Path) -> None:
        self.package = f"scripts_{uuid.uuid4().hex}"
        self.folder = folder / self.package
        self.folder.mkdir()
        (self.folder / "__init__.py").write_text('"""Scripts."""\n')
        self.last: str | None = None

    def write(self, revision: str, body: str, *, after: str | None = "last") -> Scripts:
        """Add a script; it follows the last one unless it is told what it follows."""
        follows = self.last if after == "last" else after
        (self.folder / f"{revision}_made.py").write_text(
            f'"""Make {revision}."""\nimport sqlalchemy as sa\nfrom alembic import op\n'
            f"revision = {revision!r}\ndown_revision = {follows!r}\n"
            f"def upgrade():\n{textwrap.indent(body, '    ')}\n"
        )
        # A script that is written anew within a second, and is as long as before, would be taken for the compiled one.
        shutil.rmtree(self.folder / "__pycache__", ignore_errors=True)
        self.last = revision
        return self

    def history(self, name: str = "shop") -> History:
        """The history of these scripts."""
        return History(name, self.package)


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripts:
    """An empty package that can be imported."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return Scripts(tmp_path)


async def tables(opener: Opener) -> set[str]:
    """The names of all tables."""
    async with opener(alone=False) as run:
        return set(await run(lambda connection: sa.inspect(connection).get_table_names()))


async def run_sql(opener: Opener, *statements: str) -> None:
    """Change the store behind the back of the migrations."""

    def work(connection: sa.Connection) -> None:
        with connection.begin():
            for statement in statements:
                connection.execute(sa.text(statement))

    async with opener(alone=False) as run:
        await run(work)


class TestUpgrade:
    async def test_runs_what_is_pending_in_order(self, opener: Opener, scripts: Scripts) -> None:
        """An empty store gets every script, a current one none, a pending one the rest."""
        history = scripts.write("0001", GOOD.format(table="a")).write("0002", GOOD.format(table="b")).history()
        seen: list[str] = []
        (before,) = await status(opener, [history])

        done = await upgrade(opener, [history], lambda step: seen.append(step.revision))
        again = await upgrade(opener, [history])
        (current,) = await status(opener, [history])
        scripts.write("0003", GOOD.format(table="c"))
        (later,) = await status(opener, [history])
        last = await upgrade(opener, [history])

        assert (before.state, before.current, before.head, before.pending) == ("empty", "", "0002", ("0001", "0002"))
        assert [(step.name, step.revision, step.says) for step in done] == [
            ("shop", "0001", "Make 0001."),
            ("shop", "0002", "Make 0002."),
        ]
        assert seen == ["0001", "0002"]
        assert again == []
        assert (current.state, current.names) == ("current", ())
        assert (later.state, later.pending, later.names) == ("pending", ("0003",), ("shop 0003",))
        assert [step.revision for step in last] == ["0003"]
        assert await tables(opener) == {"a", "b", "c", "dj_version_shop"}

    async def test_histories_do_not_know_each_other(self, opener: Opener, tmp_path: Path, scripts: Scripts) -> None:
        """Two histories with equal revisions share a store, and the user's own Alembic table stays as it is."""
        other = Scripts(tmp_path).write("0001", GOOD.format(table="mine"))
        await run_sql(
            opener, "CREATE TABLE alembic_version (version_num VARCHAR(32))", "INSERT INTO alembic_version VALUES ('x')"
        )
        histories = [scripts.write("0001", GOOD.format(table="a")).history(), other.history("pay")]

        await upgrade(opener, histories)

        assert [each.state for each in await status(opener, histories)] == ["current", "current"]
        assert await tables(opener) == {"a", "mine", "alembic_version", "dj_version_shop", "dj_version_pay"}
        async with opener(alone=False) as run:
            kept = await run(lambda connection: connection.scalar(sa.text("SELECT version_num FROM alembic_version")))
        assert kept == "x"

    async def test_the_platforms_own_scripts_run(self, opener: Opener) -> None:
        """The platform's history brings an empty store to its head."""
        await upgrade(opener, [PLATFORM])

        (found,) = await status(opener, [PLATFORM])
        assert (found.name, found.state) == ("dujiang", "current")
        assert "dj_outbox" in await tables(opener)

    async def test_upgrades_that_start_together_run_each_script_once(
        self, server: PostgresServer, scripts: Scripts
    ) -> None:
        """Several processes that start at once on one server do not run a script twice.

        Method: three upgrades on connections of their own; the turns inside one process are taken away.
        """
        opener = on_postgres.opener(server.create_database())
        history = scripts.write("0001", GOOD.format(table="a")).write("0002", GOOD.format(table="b")).history()

        async def one() -> int:
            from dujiang.data import migrate

            migrate.TURNS.clear()
            return len(await upgrade(opener, [history]))

        assert sorted(await asyncio.gather(one(), one(), one())) == [0, 0, 2]


class TestBroken:
    @pytest.mark.parametrize(
        ("body", "why", "statement"),
        [
            (
                "op.execute('CREATE TABLE half (id BIGINT)')\nop.execute('SELECT nonsense FROM nowhere')",
                "nowhere",
                "SELECT",
            ),
            ("op.execute('CREATE TABLE half (id BIGINT)')\nraise KeyError('gone')", "KeyError: 'gone'", "-"),
            ("op.execute('CREATE TABLE a (id BIGINT)')", "already exists", "CREATE TABLE a"),
        ],
    )
    async def test_a_script_that_fails_leaves_nothing(
        self, opener: Opener, scripts: Scripts, body: str, why: str, statement: str
    ) -> None:
        """What a failing script did is undone, those before it stay, and the error names script, statement and cause."""
        history = scripts.write("0001", GOOD.format(table="a")).write("0002", body).history()

        with pytest.raises(MigrationFailed) as caught:
            await upgrade(opener, [history])

        failed = caught.value
        assert (failed.name, failed.revision, failed.script) == ("shop", "0002", "0002_made.py")
        assert why in failed.why
        assert failed.statement.startswith(statement)
        assert "Traceback" not in failed.detail
        assert await tables(opener) == {"a", "dj_version_shop"}
        (found,) = await status(opener, [history])
        assert (found.state, found.current, found.pending) == ("pending", "0001", ("0002",))

        scripts.last = "0001"
        scripts.write("0002", GOOD.format(table="b"))
        assert [step.revision for step in await upgrade(opener, [history])] == ["0002"]

    async def test_scripts_that_cannot_be_loaded_are_named(self, opener: Opener, scripts: Scripts) -> None:
        """A syntax error, a missing package and a history with two ends are refused before the store is opened."""
        with pytest.raises(MigrationFailed, match="no package"):
            await status(opener, [History("shop", "no_such_package_anywhere")])
        scripts.write("0001", "pass").write("0002", "pass").write("0003", "pass", after="0001")
        with pytest.raises(MigrationFailed, match="two ends"):
            await upgrade(opener, [scripts.history()])
        (scripts.folder / "0004_broken.py").write_text("def upgrade(:\n")
        with pytest.raises(MigrationFailed, match="SyntaxError"):
            await upgrade(opener, [scripts.history()])

    async def test_a_store_ahead_of_the_code_is_left_alone(self, opener: Opener, scripts: Scripts) -> None:
        """A revision that the code does not know refuses the upgrade."""
        history = scripts.write("0001", GOOD.format(table="a")).history()
        await upgrade(opener, [history])
        await run_sql(opener, "UPDATE dj_version_shop SET version_num = '0009'")

        (found,) = await status(opener, [history])
        with pytest.raises(SchemaRefused, match="ahead"):
            await upgrade(opener, [history])

        assert (found.state, found.names) == ("ahead", ("shop 0009",))

    async def test_two_versions_at_once_are_dirty(self, opener: Opener, scripts: Scripts) -> None:
        """A record with two revisions cannot be right."""
        history = scripts.write("0001", GOOD.format(table="a")).history()
        await upgrade(opener, [history])
        await run_sql(opener, "INSERT INTO dj_version_shop VALUES ('0002')")

        (found,) = await status(opener, [history])
        with pytest.raises(SchemaRefused, match="dirty"):
            await upgrade(opener, [history])

        assert found.names == ("shop 0001, 0002",)

    async def test_platform_tables_without_a_version_are_dirty(self, opener: Opener) -> None:
        """Tables of the platform that nobody recorded are not built upon."""
        await run_sql(opener, "CREATE TABLE dj_outbox (id BIGINT)")

        found = await status(opener, [PLATFORM])

        assert overall(found) == ("dirty", ("dujiang tables without a version",))


class TestStores:
    async def test_a_store_in_use_is_not_migrated(self, tmp_path: Path, scripts: Scripts) -> None:
        """The embedded store is migrated alone."""
        opener = on_sqlite.opener(f"sqlite:///{tmp_path}/app.db")
        async with opener(alone=True):
            with pytest.raises(StoreInUse):
                await upgrade(opener, [scripts.history()])

    async def test_a_server_that_is_down_is_named(self, scripts: Scripts) -> None:
        """No answer is our error, not the driver's."""
        opener = on_postgres.opener("postgresql://nobody@127.0.0.1:1/none")
        with pytest.raises(DatabaseUnreachable):
            await status(opener, [scripts.history()])

    async def test_scripts_are_told_what_the_adapters_declare(self, opener: Opener) -> None:
        """The questions of a script have the answers of the store's adapter."""

        def ask(connection: sa.Connection) -> tuple[str, Any]:
            op = Operations(MigrationContext.configure(connection))
            with connection.begin():
                op.execute(f"CREATE TABLE t (k {portable.key_type(op)}, b {portable.bytes_type(op)})")
                portable.partial_index(op, "t_some", "t", ["k"], "b IS NOT NULL", unique=True)
            return connection.dialect.name, (portable.has_many_writers(op), portable.has_partitions(op))

        async with opener(alone=True) as run:
            name, answers = await run(ask)
        declared = (PostgresDatabase if name == "postgresql" else SqliteDatabase).capabilities
        assert answers == (declared.many_writers, declared.partitions)


def test_the_gravest_state_is_that_of_the_schema() -> None:
    """A store that lacks one history while it has another is pending, not empty."""
    from dujiang.data.migrate import HistoryStatus

    def at(state: Any, current: str = "") -> HistoryStatus:
        return HistoryStatus(name="x", current=current, head="2", state=state, pending=())

    assert overall([])[0] == "current"
    assert overall([at("empty"), at("empty")])[0] == "empty"
    assert overall([at("current", "2"), at("empty")])[0] == "pending"
    assert overall([at("current", "2"), at("pending", "1"), at("ahead", "3")])[0] == "ahead"
