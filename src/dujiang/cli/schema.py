"""Schema: whether the database's tables are those of the code, and what each command does about it.

    state      up                                                   migrate     doctor
    current    starts                                               nothing     fine
    empty      makes the tables                                     makes them  fine
    pending    embedded: makes the change; server: refuses          makes it    a problem
    ahead      refuses: this code is older than the tables          refuses     a problem
    dirty      refuses: a migration stopped half-way                refuses     a problem

On a server `up` changes no tables that hold data: two versions of a program may run at once there, and whoever deploys
says when the tables change. The embedded store has one owner, so there is nobody to surprise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dujiang.kernel.errors import DujiangError
from dujiang.settings import masked

if TYPE_CHECKING:
    from dujiang.app import Runtime
    from dujiang.settings import Settings


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
    """The database has changes that this code does not know."""

    code = "schema_ahead"
    move = "fix"
    says = "the database at {url} is at {names}, which this version of the code does not know"
    cure = "run the newer version of the code; migrations are not undone"

    url: str
    names: str


@dataclass(eq=False, kw_only=True)
class SchemaDirty(DujiangError):
    """A migration stopped half-way."""

    code = "schema_dirty"
    move = "fix"
    says = "a migration of the database at {url} stopped half-way: {names}"
    cure = "look at what it left, put it right or restore the backup, then run `dujiang migrate`"

    url: str
    names: str


@dataclass(frozen=True)
class Schema:
    """The state of the tables, against the code.

    Attributes:
        state: See the table at the head of this module.
        names: The migrations that are pending, unknown, or half done.
    """

    state: Literal["current", "empty", "pending", "ahead", "dirty"]
    names: tuple[str, ...] = ()


async def read_schema(runtime: Runtime) -> Schema:
    """The state of the tables of a started database."""
    from dujiang.data import migrate  # noqa: PLC0415  (loads Alembic)

    found = await migrate.status(runtime.database)
    return Schema(found.state, tuple(found.names))


async def change_schema(runtime: Runtime) -> None:
    """Run the pending migrations."""
    from dujiang.data import migrate  # noqa: PLC0415  (loads Alembic)

    await migrate.upgrade(runtime.database)


async def prepare_schema(runtime: Runtime, settings: Settings) -> Schema:
    """What `up` does. Raises SchemaPending, SchemaAhead, SchemaDirty."""
    found = await read_schema(runtime)
    embedded = not runtime.database.capabilities.many_writers
    if found.state == "empty" or (found.state == "pending" and embedded):
        await change_schema(runtime)
        return await read_schema(runtime)
    if problem := schema_problem(found, settings):
        raise problem
    return found


def schema_problem(found: Schema, settings: Settings) -> DujiangError | None:
    """Why the code cannot work on these tables, or None."""
    url, names = masked(settings.database), ", ".join(found.names)
    if found.state == "pending":
        return SchemaPending(url=url, count=len(found.names), names=names)
    if found.state == "ahead":
        return SchemaAhead(url=url, names=names)
    if found.state == "dirty":
        return SchemaDirty(url=url, names=names)
    return None
