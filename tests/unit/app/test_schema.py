"""The tables at a start: every state on both databases, starts that meet, scripts that fail, and the seed."""

from __future__ import annotations

import sys
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dujiang import Module
from dujiang.app.schema import Schema, SchemaAhead, SchemaDirty, SchemaPending, last_revision, scripts_of
from dujiang.backends.table import load
from dujiang.data import migrate
from dujiang.data.history import PLATFORM
from dujiang.data.sql import Sql
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import outcomes_of
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from dujiang.data.database import Database

MADE = "op.execute('CREATE TABLE {} (id BIGINT PRIMARY KEY)')"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server; each test has a database of its own on it."""
    with PostgresServer() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/app.db"
    running: PostgresServer = request.getfixturevalue("server")
    return running.create_database()


class Desk:
    """A module `desk` whose scripts are written as the test goes."""

    def __init__(self, folder: Path) -> None:
        self.package = f"scripts_{uuid.uuid4().hex}"
        self.folder = folder / self.package
        self.folder.mkdir()
        self.last: str | None = None
        self.seeded = 0
        self.module = Module("desk", migrations=self.package, seed=self.seed)

    async def seed(self, tx: Any) -> None:
        """Count how often the store was filled."""
        self.seeded += 1

    def write(self, revision: str, body: str) -> Path:
        """Add a script that follows the last one."""
        path = self.folder / f"{revision}_made.py"
        path.write_text(
            f'"""Make {revision}."""\nfrom alembic import op\nrevision = {revision!r}\n'
            f"down_revision = {self.last!r}\ndef upgrade():\n    {body}\n"
        )
        self.last = revision
        return path


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The module with one script."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    made = Desk(tmp_path)
    made.write("0001", MADE.format("desk_one"))
    return made


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """The store, open for the block."""
    node = Node.system()
    database: Database = load("database", url)(url, node)
    await database.start()
    try:
        yield database
    finally:
        await database.stop()
        await node.tasks.close()


async def run(database: Database, text: str) -> None:
    """Change the store behind the back of the schema."""
    await database.write(lambda connection: connection.execute(Sql("test", text, "A test's own.")))


class TestPrepare:
    async def test_an_empty_store_is_made_once(self, url: str, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty store gets all tables; the second start finds them current without asking Alembic."""
        async with opened(url) as database:
            schema = Schema(database, [desk.module])
            before = await schema.status()
            await schema.prepare()

            monkeypatch.setattr(migrate, "status", None)
            again = Schema(database, [desk.module])
            await again.prepare()

            assert before.state == "empty"
            assert (await again.status()).state == "current"
            assert (schema.was_empty, again.was_empty) == (True, True)

    async def test_pending_scripts_run_only_where_one_process_owns_the_store(self, url: str, desk: Desk) -> None:
        """The embedded store is upgraded; on a server the start is refused with the names."""
        async with opened(url) as database:
            await Schema(database, [desk.module]).prepare()
            desk.write("0002", MADE.format("desk_two"))
            schema = Schema(database, [desk.module])

            if database.capabilities.many_writers:
                with pytest.raises(SchemaPending, match="1 migrations: desk 0002"):
                    await schema.prepare()
                assert [step.revision for step in await schema.upgrade()] == ["0002"]
            await schema.prepare()

            assert (await schema.status()).state == "current"

    async def test_what_a_newer_version_only_added_is_no_hindrance(
        self, url: str, desk: Desk, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The older version, whose scripts end before, starts with a warning, runs nothing, and leaves the record alone."""
        async with opened(url) as database:
            await Schema(database, [desk.module]).prepare()
            added = desk.write("0002", MADE.format("desk_two"))
            await Schema(database, [desk.module]).upgrade()
            added.unlink()
            schema = Schema(database, [desk.module])

            await schema.prepare()

            assert "the tables are at desk 0002" in caplog.text
            assert await schema.upgrade() == []
            assert (await schema.status()).state == "newer"

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            ("UPDATE dj_version_desk SET version_num = '0009'", SchemaAhead),
            ("INSERT INTO dj_version_desk (version_num) VALUES ('0000')", SchemaDirty),
            ("DELETE FROM dj_version", SchemaDirty),
        ],
        ids=["ahead", "two-versions", "no-version"],
    )
    async def test_what_the_code_does_not_know_is_refused(
        self, url: str, desk: Desk, change: str, kind: type[Exception]
    ) -> None:
        """Tables of newer code, and a record that cannot be right, are left as they are."""
        async with opened(url) as database:
            await Schema(database, [desk.module]).prepare()
            await run(database, change)

            with pytest.raises(kind):
                await Schema(database, [desk.module]).prepare()

    async def test_a_script_that_fails_leaves_an_empty_store(self, url: str, desk: Desk) -> None:
        """Making a store is one transaction: after a failure there is nothing of it, and the next start makes it whole."""
        broken = desk.write("0002", "1 / 0")
        async with opened(url) as database:
            schema = Schema(database, [desk.module])

            with pytest.raises(migrate.MigrationFailed, match=r"0002_made\.py.*ZeroDivisionError"):
                await schema.prepare()
            state = (await schema.status()).state
            broken.unlink()
            await schema.prepare()

            assert state == "empty"
            assert (await schema.status()).state == "current"

    async def test_starts_that_meet_make_the_store_once(self, server: PostgresServer, desk: Desk) -> None:
        """Two processes start on one empty database: both get through, each script has run once.

        Method: two database objects with pools of their own; the turns inside one process are taken away.
        """
        url = server.create_database()
        async with opened(url) as one, opened(url) as two:
            schemas = [Schema(one, [desk.module]), Schema(two, [desk.module])]

            done = await outcomes_of(*(schema.prepare() for schema in schemas))

            assert [outcome for outcome in done if isinstance(outcome, BaseException)] == []
            assert [(await schema.status()).state for schema in schemas] == ["current", "current"]


class TestSeed:
    @pytest.mark.parametrize(("first", "fillings"), [(True, 1), (False, 0)], ids=["demo", "production"])
    async def test_a_store_is_filled_once_in_its_life(self, url: str, desk: Desk, first: bool, fillings: int) -> None:
        """The first start decides for good whether the store is filled, however it was made."""

        class Session:
            def __init__(self, connection: Any) -> None:
                self.fetch = connection.fetch

        async with opened(url) as database:
            await Schema(database, [desk.module]).upgrade()  # As `dujiang migrate` would have.
            empty = []
            for demo in (first, True):
                schema = Schema(database, [desk.module])
                await schema.prepare()
                empty.append(schema.was_empty)
                await database.write(lambda c, s=schema, d=demo: s.seed(Session(c), demo=d))  # type: ignore[misc]

            assert desk.seeded == fillings
            assert empty == [True, False]


class TestLastRevision:
    def test_it_is_read_from_the_text_as_alembic_reads_it(self) -> None:
        """For the platform's own scripts both answers are the same."""
        assert last_revision(PLATFORM.package) == migrate.load(PLATFORM).get_current_head()
        assert last_revision(scripts_of("dujiang.systems.shop.migrations")) == "0001"

    def test_a_text_that_does_not_say_it_surely_is_left_to_alembic(self, desk: Desk) -> None:
        """Two ends, a computed revision, and a package that does not exist have no last revision."""
        (desk.folder / "0002_b.py").write_text('revision: str = "0002"\ndown_revision: str | None = "0001"\n')
        assert last_revision(desk.package) == "0002"
        (desk.folder / "0003_c.py").write_text("revision = '0003'\ndown_revision = '0001'\n")
        assert last_revision(desk.package) == ""
        (desk.folder / "0003_c.py").write_text("revision = str(3)\ndown_revision = '0002'\n")
        assert last_revision(desk.package) == ""
        assert last_revision("no.such.package") == ""
