"""Schema: whether the tables are what the code expects, and bringing them there.

state      embedded store        server database
current    -                     -
empty      made                  made
pending    upgraded at start     refused: `dujiang migrate` first
newer      the code is older than the tables, and what it does not know only added something: a warning
ahead      refused: the code is older than the tables, and something that was there has changed
dirty      refused: the record of what was run cannot be right

On a server two versions of a program may run at once, so whoever deploys says when tables that hold data change. The
embedded store has one owner: there is nobody to surprise. A deploy must be possible to take back, so code may start on tables
of a newer version that only added to them (data/additive.py).

A start runs what is pending over the database that it has already opened, all of it in one transaction, so a start that
is killed leaves the store as it was. Processes that start together on a server take turns by a lock of that
transaction; whoever comes second finds nothing to do. `dujiang migrate` uses the openers of data/migrate.py instead: a
connection of its own, without the time limits of requests, and a transaction for each script.

The usual start finds everything current, and must not pay for Alembic to learn it (0.3 s): the last revisions are read
from the text of the scripts and compared with the version tables. Whatever does not compare equal is looked at in full.
tests/unit/app/test_schema.py goes through the table on both databases.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dujiang.backends.table import load_opener
from dujiang.data.database import StatementFailed
from dujiang.data.history import LOCK, PLATFORM, History
from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy

    from dujiang.data.database import Connection, Database
    from dujiang.data.migrate import Opener, State, Step
    from dujiang.messaging.tx import Tx
    from dujiang.module import Module

logger = logging.getLogger("dujiang.app.schema")

NO_SUCH_TABLE = "42P01"
NEWER = "the tables are at %s, which this version of the code does not know; it only added something, so this version goes on"
REVISION = re.compile(r"""^revision(?:\s*:[^=\n]*)?\s*=\s*["']([^"'\n]+)["']""", re.MULTILINE)
FOLLOWS = re.compile(r"""^down_revision(?:\s*:[^=\n]*)?\s*=\s*(?:None|["']([^"'\n]+)["'])\s*$""", re.MULTILINE)

UNSEEDED = Sql(
    "schema_unseeded", "SELECT 1 FROM dj_counter WHERE name = 'unseeded'", "Tells whether the store was never filled."
)
SEEDED = Sql(
    "schema_seeded",
    "DELETE FROM dj_counter WHERE name = 'unseeded' RETURNING 1",
    "Takes the one right to fill the store; part of the transaction that fills it.",
)


@dataclass(eq=False, kw_only=True)
class SchemaPending(DujiangError):
    """The database lacks changes that this code needs."""

    code = "schema_pending"
    move = "fix"
    says = "the database at {url} lacks {count} migrations: {names}"
    cure = "run `dujiang migrate` with this version of the code"

    url: str
    count: int
    names: str


@dataclass(eq=False, kw_only=True)
class SchemaAhead(DujiangError):
    """The database has changes that this code does not know, and not all of them only added something."""

    code = "schema_ahead"
    move = "fix"
    says = "the database at {url} is at {names}, which this version of the code does not know, and which is no mere addition"
    cure = (
        "run the newer version of the code; migrations are not undone; a script that older code can live with says "
        "`additive = True`"
    )

    url: str
    names: str


@dataclass(eq=False, kw_only=True)
class SchemaDirty(DujiangError):
    """The database's record of its migrations cannot be right."""

    code = "schema_dirty"
    move = "fix"
    says = "the record of migrations in the database at {url} cannot be right: {names}"
    cure = "look at what is there, put it right or restore the backup, then run `dujiang migrate`"

    url: str
    names: str


@dataclass(frozen=True)
class Standing:
    """Where a store stands.

    Attributes:
        state: See the table at the head of this module.
        names: The migrations that are pending, unknown, or recorded wrongly.
    """

    state: State
    names: tuple[str, ...] = ()

    def problem(self, url: str) -> DujiangError | None:
        """Why code cannot work on these tables, or None; an empty store is no problem, it is made."""
        names = ", ".join(self.names)
        if self.state == "pending":
            return SchemaPending(url=url, count=len(self.names), names=names)
        if self.state == "ahead":
            return SchemaAhead(url=url, names=names)
        return SchemaDirty(url=url, names=names) if self.state == "dirty" else None


class Schema:
    """The tables of one store.

    Args:
        database: The store; must be started before a method is called.
        modules: The modules whose tables it holds.

    Attributes:
        was_empty: After `prepare`: nobody has filled the store yet, nor decided not to.
    """

    def __init__(self, database: Database, modules: Sequence[Module]) -> None:
        self._database = database
        self._modules = modules
        self.was_empty = False

    def __repr__(self) -> str:
        return f"<Schema of {', '.join(['dujiang', *(module.name for module in self._modules)])}>"

    async def status(self) -> Standing:
        """Where the store stands; changes nothing. Raises MigrationFailed when scripts cannot be loaded."""
        if await self._is_current():
            return Standing("current")
        from dujiang.data import migrate  # noqa: PLC0415  (loads Alembic)

        found = await migrate.status(over(self._database), histories(self._modules))
        return Standing(*migrate.overall(found))

    async def upgrade(self) -> list[Step]:
        """Run everything that is pending in one transaction; returns what was run.

        Raises:
            MigrationFailed: A script failed; nothing was kept.
            SchemaRefused: The store is ahead or dirty; nothing was run.
        """
        from dujiang.data import migrate  # noqa: PLC0415  (loads Alembic)

        loaded = [(history, migrate.load(history)) for history in histories(self._modules)]

        def run_all(connection: sqlalchemy.Connection) -> list[Step]:
            done = []
            for history, scripts in loaded:
                while step := migrate.advance(connection, history, scripts):
                    done.append(step)
            return done

        async with migrate.turn(), over(self._database)(alone=True) as run:
            return await run(run_all)

    async def prepare(self) -> None:
        """Bring the tables in order as the table at the head of this module says, for a start.

        Raises:
            SchemaPending, SchemaAhead, SchemaDirty: With the cure.
            MigrationFailed: A script failed; the store is as it was.
            Declared: A module's table has a column that means something else on another database.
        """
        many_writers = self._database.capabilities.many_writers
        refuse_columns(self._modules, zones=many_writers)
        found = await self.status()
        if found.state == "empty" or (found.state == "pending" and not many_writers):
            await self.upgrade()
        elif problem := found.problem(self._database.url):
            raise problem
        elif found.state == "newer":
            logger.warning(NEWER, ", ".join(found.names))
        self.was_empty = bool(await self._database.read(lambda connection: connection.fetch(UNSEEDED)))

    async def seed(self, tx: Tx, *, demo: bool) -> None:
        """Fill the store with what its modules start from, once in its life, in the transaction that `tx` is.

        Without `demo` it is decided for good that the store stays as it is.
        """
        if not await tx.fetch(SEEDED) or not demo:
            return
        for module in self._modules:
            if module.seed is not None:
                await module.seed(tx)

    async def _is_current(self) -> bool:
        """Whether each version table holds exactly the last revision of its scripts; False also for "cannot tell"."""
        for history in histories(self._modules):
            last = last_revision(history.package)
            if not last or await self._recorded(history.table) != [last]:
                return False
        return True

    async def _recorded(self, table: str) -> list[str]:
        versions = Sql(f"schema_{table}", f"SELECT version_num FROM {table}", "Reads the version of one history.")
        try:
            rows = await self._database.read(lambda connection: connection.fetch(versions))
        except StatementFailed as refused:
            if refused.sqlstate != NO_SUCH_TABLE:
                raise
            return []
        return [str(row[0]) for row in rows]


def histories(modules: Sequence[Module]) -> list[History]:
    """The platform's history, then those of the modules that have one, in the order of the modules."""
    return [PLATFORM, *(History(m.name, scripts_of(m.migrations)) for m in modules if m.migrations is not None)]


def scripts_of(package: str) -> str:
    """The package that holds the scripts: the named one, or `versions` inside it, as Alembic lays it out."""
    inner = f"{package}.versions"
    try:
        return inner if importlib.util.find_spec(inner) is not None else package
    except ModuleNotFoundError:
        return package  # That there is no such package is said when it is loaded.


def last_revision(package: str) -> str:
    """The last revision of a package's scripts, read from their text; empty when the text does not say it surely."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return ""
    known: set[str] = set()
    followed: set[str] = set()
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for script in Path(folder).glob("*.py"):
            text = script.read_text("utf-8", "replace")
            revision, follows = REVISION.search(text), FOLLOWS.search(text)
            if revision is None and script.name == "__init__.py":
                continue
            if revision is None or follows is None:
                return ""
            known.add(revision[1])
            followed.add(follows[1] or "")
    last = known - followed
    return last.pop() if len(last) == 1 else ""


def refuse_columns(modules: Sequence[Module], *, zones: bool) -> None:
    """Refuse columns that are not portable. Raises Declared."""
    for module in modules:
        if module.tables is not None:
            from dujiang.data.columns import refuse_unportable  # noqa: PLC0415  (a module with tables has loaded it)

            refuse_unportable(module.tables, zones=zones)


def over(database: Database) -> Opener:
    """Opens a store for migrations that is already open: each call of `run` is one transaction of the database.

    What the body begins and commits inside is part of that transaction. With `alone` it first takes the lock of
    upgrades, which ends with it, on a server; an embedded store has one writer anyway.
    """
    alone_now = Sql("schema_lock", f"SELECT pg_advisory_xact_lock({LOCK})", "Waits until no other upgrade runs.")

    @asynccontextmanager
    async def opened(*, alone: bool) -> Any:
        async def run(body: Any) -> Any:
            async def transaction(connection: Connection) -> Any:
                if alone and database.capabilities.many_writers:
                    await connection.fetch(alone_now)
                async with connection.orm_connection() as plain:
                    return await plain.run_sync(body)

            return await database.write(transaction)

        yield run

    return opened


def opener_of(url: str) -> Opener:
    """Opens the store at `url` for migrations alone."""
    opener: Opener = load_opener(url)(url)
    return opener
