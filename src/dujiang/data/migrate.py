"""Migrations: several independent histories of one schema, each with its own table of versions.

    history          scripts                            its version
    the platform's   dujiang.data.migrations.versions   dj_version
    module `shop`    the package it names               dj_version_shop
    the user's own   wherever they are                  alembic_version; not looked at, not touched

Histories are separate, instead of branches of one, because they belong to different people: a module can be installed,
upgraded and tested without knowing which others share its database, and a program that has used Alembic for years keeps
its own commands. Alembic loads the scripts and runs their operations; its env.py and alembic.ini are not used, since
all that they would say is known here.

Each script runs in one transaction together with the row that records it. What it was going to do is read again inside
that transaction, and upgrades of one database wait for each other, so any number of processes may start at once.

Code that is older than the store goes on where the scripts that it does not know only added something; see additive.py.

Not possible: a script that leaves its transaction (`autocommit_block`, CREATE INDEX CONCURRENTLY).

tests/unit/data/test_migrate.py breaks scripts in each way on both kinds of store.
"""

from __future__ import annotations

import asyncio
import importlib.util
import weakref
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import sqlalchemy
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from dujiang.data.additive import additions, leads, only_added, remember, shape_of
from dujiang.data.history import PLATFORM, History
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from alembic.runtime.migration import RevisionStep

__all__ = [
    "PLATFORM",
    "History",
    "HistoryStatus",
    "MigrationFailed",
    "Opener",
    "Run",
    "SchemaRefused",
    "State",
    "Step",
    "advance",
    "load",
    "overall",
    "status",
    "turn",
    "upgrade",
]

T = TypeVar("T")

State = Literal["current", "newer", "empty", "pending", "ahead", "dirty"]

# From harmless to grave; a schema is in the gravest state of its histories.
GRAVITY: tuple[State, ...] = ("current", "newer", "empty", "pending", "ahead", "dirty")

TURNS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()


class Run(Protocol):
    """Runs plain SQLAlchemy code on an open connection."""

    def __call__(self, body: Callable[[sqlalchemy.Connection], T], /) -> Awaitable[T]:
        """Call `body` with the connection and return its answer."""
        ...


class Opener(Protocol):
    """Opens one connection to a store; each backend has one, in its module `migrating`."""

    def __call__(self, *, alone: bool) -> AbstractAsyncContextManager[Run]:
        """Connect; with `alone`, wait until no other upgrade of this store is under way."""
        ...


@dataclass(frozen=True, kw_only=True)
class HistoryStatus:
    """Where a store stands in one history.

    Attributes:
        name: The history's name; `dujiang` for the platform's.
        current: The revision of the store; several, separated by commas, if it is dirty; empty if there is none.
        head: The last revision that the code knows; empty if it has no scripts.
        state: `empty` nothing was ever run; `pending` some scripts were not; `newer` the store is at a revision that the
            code does not know, and what leads there only added something; `ahead` it is, and something was changed;
            `dirty` the store's record cannot be right.
        pending: The revisions that an upgrade would run, in order.
    """

    name: str
    current: str
    head: str
    state: State
    pending: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What is pending, unknown or wrong, for people: `shop 0002`."""
        of = self.pending or (
            (self.current or "tables without a version",) if self.state in ("newer", "ahead", "dirty") else ()
        )
        return tuple(f"{self.name} {revision}" for revision in of)


@dataclass(frozen=True)
class Step:
    """One script that was run.

    Attributes:
        name: The history's name.
        revision: The script's revision.
        says: The first line of its docstring.
    """

    name: str
    revision: str
    says: str


@dataclass(eq=False, kw_only=True)
class MigrationFailed(DujiangError):
    """A migration failed; the store is as it was before it."""

    code = "migration_failed"
    move = "fix"
    says = "migration {revision} of {name} ({script}) failed: {why}; statement: {statement}"
    cure = "correct the script; nothing of it was kept, so `dujiang migrate` can simply be run again"

    name: str
    revision: str
    script: str
    statement: str
    why: str


@dataclass(eq=False, kw_only=True)
class SchemaRefused(DujiangError):
    """The store's record of its migrations does not fit the code, so nothing was run."""

    code = "schema_refused"
    move = "fix"
    says = "the schema of {name} is {state}: the store is at {current}, the code knows {head}"
    cure = "ahead: run the version of the code that knows it; dirty: restore the backup, or put the record right"

    name: str
    state: str
    current: str
    head: str


async def status(opener: Opener, histories: Sequence[History]) -> list[HistoryStatus]:
    """Where a store stands in each history; changes nothing.

    Raises:
        MigrationFailed: Scripts cannot be loaded.
        DujiangError: The store cannot be opened.
    """
    loaded = [(history, load(history)) for history in histories]
    async with opener(alone=False) as run:
        return await run(lambda connection: [stand(connection, *each) for each in loaded])


def overall(found: Sequence[HistoryStatus]) -> tuple[State, tuple[str, ...]]:
    """The gravest state of all histories, and the names of what is pending or wrong. A store is empty as a whole."""
    states = {each.state for each in found}
    state: State = max(states, key=GRAVITY.index, default="current")
    if state == "empty" and states & {"current", "newer"} and any(each.current for each in found):
        state = "pending"
    return state, tuple(name for each in found for name in each.names)


async def upgrade(
    opener: Opener, histories: Sequence[History], progress: Callable[[Step], None] = lambda _: None
) -> list[Step]:
    """Run every pending script, history by history, each in a transaction of its own; returns what was run.

    Args:
        opener: The store.
        histories: In this order.
        progress: Called after each script is committed.

    Raises:
        MigrationFailed: A script failed; those before it stay.
        SchemaRefused: The store is ahead or dirty; nothing was run in that history.
        DujiangError: The store cannot be opened.
    """
    loaded = [(history, load(history)) for history in histories]
    done: list[Step] = []
    async with turn(), opener(alone=True) as run:
        for history, scripts in loaded:
            while step := await run(partial(advance, history=history, scripts=scripts)):
                done.append(step)
                progress(step)
    return done


def turn() -> asyncio.Lock:
    """The lock under which scripts run in this loop: the object `op` that they import is one for the whole process."""
    return TURNS.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def load(history: History) -> ScriptDirectory:
    """The scripts of a history, checked. Raises MigrationFailed."""
    found = importlib.util.find_spec(history.package)
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise unloadable(history, f"there is no package {history.package}")
    try:
        scripts = ScriptDirectory(places[0], version_locations=places)
        heads = scripts.get_heads()
    except Exception as cause:  # A script is anybody's code.
        raise unloadable(history, f"{type(cause).__name__}: {cause}") from cause
    if len(heads) > 1:
        raise unloadable(history, f"it has two ends, {' and '.join(heads)}; one of them must follow the other")
    return scripts


def unloadable(history: History, why: str) -> MigrationFailed:
    """The error of scripts that cannot be loaded."""
    return MigrationFailed(name=str(history), revision="-", script=history.package, statement="-", why=why)


def context_of(connection: sqlalchemy.Connection, history: History, **options: Any) -> MigrationContext:
    """Alembic's view of a history on a connection."""
    options |= {"version_table": history.table, "transactional_ddl": True}
    return MigrationContext.configure(connection=connection, opts=options)


def stand(connection: sqlalchemy.Connection, history: History, scripts: ScriptDirectory) -> HistoryStatus:
    """Where the store stands in one history."""
    with connection.begin():
        heads = context_of(connection, history).get_current_heads()
        tables = [] if heads else sqlalchemy.inspect(connection).get_table_names()
        known = [script.revision for script in scripts.walk_revisions()][::-1]
        beyond = len(heads) == 1 and heads[0] not in known
        added = beyond and bool(known) and leads(additions(connection, history), known[-1], heads[0])
    state: State = "current"
    pending: tuple[str, ...] = ()
    left_over = not history.name and any(name.startswith("dj_") and "version" not in name for name in tables)
    if len(heads) > 1 or left_over:
        state = "dirty"
    elif beyond:
        state = "newer" if added else "ahead"
    else:
        pending = tuple(known[known.index(heads[0]) + 1 :] if heads else known)
        state = "current" if not pending else "pending" if heads else "empty"
    return HistoryStatus(
        name=str(history),
        current=", ".join(sorted(heads)),
        head=known[-1] if known else "",
        state=state,
        pending=pending,
    )


def advance(connection: sqlalchemy.Connection, history: History, scripts: ScriptDirectory) -> Step | None:
    """Run the next pending script of a history and commit it; None if there is none."""
    found = stand(connection, history, scripts)
    if found.state in ("ahead", "dirty"):
        raise SchemaRefused(name=found.name, state=found.state, current=found.current or "no version", head=found.head)
    if not found.pending:
        return None
    script = scripts.get_revision(found.pending[0])

    def only(heads: Any, _context: MigrationContext) -> list[RevisionStep]:
        return scripts._upgrade_revs(script.revision, heads)  # noqa: SLF001

    try:
        with connection.begin():
            before = shape_of(connection) if found.current else None
            context = context_of(connection, history, fn=only)
            with Operations.context(context):
                context.run_migrations()
            said = getattr(script.module, "additive", None)  # What its author says stands above what is seen.
            if before is not None and (only_added(before, shape_of(connection)) if said is None else said):
                remember(connection, history, found.current, script.revision)
    except Exception as cause:
        statement, why = told(cause)
        raise MigrationFailed(
            name=found.name,
            revision=script.revision,
            script=Path(script.path).name,
            statement=statement,
            why=why,
        ) from cause
    return Step(found.name, script.revision, script.doc.partition("\n")[0])


def told(cause: Exception) -> tuple[str, str]:
    """The statement that failed, on one line, and why."""
    if not isinstance(cause, DBAPIError):
        return "-", f"{type(cause).__name__}: {cause}"
    inner = cause.orig and (cause.orig.__cause__ or cause.orig)
    why = getattr(inner, "why", None) or str(inner)
    return " ".join((cause.statement or "-").split())[:500], why
