"""The short path of statements answers as SQLAlchemy's own execution does, for every construct and type, everywhere.

Method: each case runs three times on the short path (unknown, known by its identity, known by its construct) and once
through SQLAlchemy on the same connection, each inside a savepoint that is rolled back. Rows, names, types, counts and
what is left in the tables have to be equal.
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.dialects import postgresql

from dujiang.backends.postgres.database import PostgresDatabase
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.data.columns import ColumnRefused
from dujiang.data.database import IntegrityFailed, TransactionFailed, WriteInRead
from dujiang.data.statements import Result, execute, execute_whole, prepare, refuse_write, writes
from dujiang.kernel.node import Node
from dujiang.testing.servers import PostgresServer
from tests.conformance.constructs import CASES, FULL, PART_SEEDS, SEEDS, Case, item, metadata, part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dujiang.data.database import Connection, Database

DATABASES = ["sqlite", "postgresql"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    """A store of each kind, with the tables and a few rows."""
    node = Node.system("statements")

    async def fill(connection: Connection) -> None:
        async with connection.orm_connection() as whole:
            await whole.run_sync(metadata.create_all)
            await whole.execute(insert(item), SEEDS)
            await whole.execute(insert(part), PART_SEEDS)

    with PostgresServer() as server:
        made: dict[str, Any] = {
            "sqlite": SqliteDatabase(f"sqlite:///{tmp_path_factory.mktemp('statements')}/app.db", node),
            "postgresql": PostgresDatabase(server.url(), node),
        }
        for store in made.values():
            await store.start()
            await store.write(fill)
        yield made
        for store in made.values():
            await store.stop()


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, stores: dict[str, Any]) -> Database:
    """Each of the stores."""
    return cast("Database", stores[request.param])


async def undone(connection: Connection, run: Callable[[], Awaitable[Result]]) -> tuple[Any, ...]:
    """Everything that can be seen of a run, which is then rolled back."""
    await connection.savepoint("seen")
    result = await run()
    counted = result.rowcount
    shown: tuple[Any, ...] = ("no rows",)
    if result.returns_rows:
        names = list(result.keys())
        rows = result.all()
        kinds = [[type(value) for value in row] for row in rows]
        shown = (names, [tuple(row) for row in rows], kinds, [dict(row._mapping) for row in rows])
        counted = len(rows)
    left = [tuple(row) for table in (item, part) for row in await dump(connection, table)]
    await connection.rollback_to("seen")
    await connection.release("seen")
    return (*shown, counted, left)


async def dump(connection: Connection, table: sa.FromClause) -> list[Any]:
    """All rows of a table, read by SQLAlchemy."""
    return list(await execute_whole(connection, select(table).order_by(table.c.id), None))


@pytest.mark.parametrize(
    ("database", "tried"),
    [
        pytest.param(name, tried, id=f"{name}-{tried.name}")
        for name in DATABASES
        for tried in CASES
        if tried.only in ("", name)
    ],
    indirect=["database"],
)
async def test_both_ways_agree(tried: Case, database: Database) -> None:
    """A statement means the same on the short path and through SQLAlchemy."""
    dialect = database.dialect
    statement, params = tried.build()
    first = params[0] if isinstance(params, list) else params or {}
    assert isinstance(params, list) or (prepare(statement, dialect, first) is not None) == tried.short

    async with database.held() as connection:
        whole = await undone(connection, partial(execute_whole, connection, statement, params))
        for again in (statement, statement, tried.build()[0]):
            short = await undone(connection, partial(execute, connection, dialect, again, params))
            assert short == whole


async def test_rows_are_found_by_the_columns_of_the_statement_at_hand(database: Database) -> None:
    """An equal statement that was built anew finds its own labels in the rows of a form compiled for another."""
    for _ in range(3):
        doubled = (item.c.qty * 2).label("doubled")
        async with database.held() as connection:
            row = (await execute(connection, database.dialect, select(item.c.id, doubled).where(item.c.id == 1))).one()
        assert row._mapping[doubled] == row.doubled == row[1] == row._mapping["doubled"] == 10
        assert row._mapping[item.c.id] == row.id == 1


async def test_values_of_an_equal_statement_are_its_own(database: Database) -> None:
    """What was compiled for one value is run with the other."""
    async with database.held() as connection:
        names = [
            (await execute(connection, database.dialect, select(item.c.name).where(item.c.id == wanted))).scalar_one()
            for wanted in (1, 2, 3)
        ]
    assert names == ["nut", "bolt", "gear"]


async def test_a_set_of_names_is_compiled_for_itself(database: Database) -> None:
    """One insert with different parameters writes different columns."""
    statement = insert(item)
    async with database.held() as connection:
        await connection.savepoint("here")
        await execute(connection, database.dialect, statement, {"id": 50, "name": "a"})
        await execute(connection, database.dialect, statement, {"name": "b", "id": 51, "qty": 4})
        await execute(connection, database.dialect, statement, {"id": 52, "name": "c"})
        rows = (await execute(connection, database.dialect, select(item.c.qty).where(item.c.id >= 50))).scalars().all()
        await connection.rollback_to("here")
    assert sorted(rows) == [4, 7, 7]


async def test_a_dead_statements_identity_is_not_taken_for_a_new_one(database: Database) -> None:
    """Statements that are built and dropped in a row, and so share addresses, are told apart."""
    async with database.held() as connection:
        for turn in range(200):
            wanted = turn % 3 + 1
            column = item.c.name if turn % 2 else item.c.id
            expected = ["nut", "bolt", "gear"][wanted - 1] if turn % 2 else wanted
            found = await execute(connection, database.dialect, select(column).where(item.c.id == wanted))
            assert found.scalar_one() == expected


async def test_a_value_that_changed_inside_a_statement_is_sent_as_it_is_now(database: Database) -> None:
    """A dict, a list or a function that a statement holds is looked at on every run."""
    doc, wanted, counted = {"n": 1}, [1], [1]
    change = update(item).where(item.c.id == 1).values(doc=doc)
    among = select(item.c.id).where(item.c.id.in_(wanted)).order_by(item.c.id)
    asked = select(item.c.id).where(item.c.id == bindparam("w", callable_=lambda: counted[0]))
    async with database.held() as connection:
        await connection.savepoint("here")
        for turn in (1, 2, 3):
            doc["n"] = counted[0] = turn
            await execute(connection, database.dialect, change)
            read = await execute(connection, database.dialect, select(item.c.doc).where(item.c.id == 1))
            assert read.scalar_one() == {"n": turn}
            assert (await execute(connection, database.dialect, asked)).scalar_one() == turn
            short = (await execute(connection, database.dialect, among)).scalars().all()
            assert short == (await execute_whole(connection, among, None)).scalars().all()
            wanted.append(turn + 1)
        await connection.rollback_to("here")


async def test_every_type_comes_back_as_it_was_written(database: Database) -> None:
    """A row of every type is read back equal, type by type."""
    async with database.held() as connection:
        await connection.savepoint("here")
        await execute(connection, database.dialect, insert(item), FULL)
        row = (await execute(connection, database.dialect, select(item).where(item.c.id == 10))).one()
        await connection.rollback_to("here")
    expected = FULL | {"loud": "<quiet>", "wrapped": "MIXED"}
    assert {name: row._mapping[name] for name in FULL} == expected
    assert row.qty == 3
    assert row.origin == "shop"


async def test_many_sets_count_all_rows(database: Database) -> None:
    """The count of a list of parameter sets is the sum; an empty list runs nothing."""
    statement = update(item).where(item.c.id == bindparam("wanted")).values(qty=1)
    async with database.held() as connection:
        await connection.savepoint("here")
        done = await execute(connection, database.dialect, statement, [{"wanted": n} for n in (1, 2, 99)])
        none = await execute(connection, database.dialect, insert(part), [])
        await connection.rollback_to("here")
    assert (done.rowcount, none.rowcount) == (2, 0)


async def test_sets_of_unequal_names_are_each_run_as_they_are(database: Database) -> None:
    """A set of a list that names more columns than the first one writes them all."""
    sets: list[dict[str, Any]] = [{"id": 8, "item": 1}, {"id": 9, "item": 1, "label": "own"}]
    async with database.held() as connection:
        await connection.savepoint("here")
        done = await execute(connection, database.dialect, insert(part), sets)
        labels = await execute(connection, database.dialect, select(part.c.label).where(part.c.id > 7))
        await connection.rollback_to("here")
    assert done.rowcount == 2
    assert sorted(labels.scalars()) == ["none", "own"]


async def test_a_missing_parameter_is_named(database: Database) -> None:
    """A statement that lacks a parameter fails before it reaches the database."""
    statement = select(item.c.id).where(item.c.id == bindparam("wanted"))
    async with database.held() as connection:
        for params in (None, {}, {"other": 1}):
            with pytest.raises(sa.exc.SQLAlchemyError, match="wanted"):
                await execute(connection, database.dialect, statement, params)
        assert (await execute(connection, database.dialect, statement, {"wanted": 1})).scalar_one() == 1


@pytest.mark.parametrize("whole", [False, True])
async def test_a_value_that_does_not_fit_is_refused(database: Database, whole: bool) -> None:
    """A float in a money column is refused in our words, on both ways."""
    async with database.held() as connection:
        for price in (0.1, Decimal("0.001"), Decimal("NaN"), 2**63):
            statement = update(item).where(item.c.id == 1).values(price=price)
            with pytest.raises(ColumnRefused):
                await (
                    execute_whole(connection, statement, None)
                    if whole
                    else execute(connection, database.dialect, statement)
                )


@pytest.mark.parametrize("whole", [False, True])
async def test_a_failing_statement_says_why_in_our_words(database: Database, whole: bool) -> None:
    """A broken constraint is the port's error on both ways, and the transaction then takes no statement."""
    params = {"id": 1, "name": "again"}
    async with database.held() as connection:
        await connection.savepoint("here")
        with pytest.raises(IntegrityFailed):
            await (
                execute_whole(connection, insert(item), params)
                if whole
                else execute(connection, database.dialect, insert(item), params)
            )
        with pytest.raises(TransactionFailed):
            await execute_whole(connection, select(item), None)
        await connection.rollback_to("here")


async def test_a_write_is_known_as_one() -> None:
    """Writes are told from reads, also inside WITH and in bare text."""
    gone = sa.delete(part).returning(part.c.id).cte("gone")
    for write in (insert(item), update(item), sa.delete(item), postgresql.insert(item), select(gone)):
        assert writes(write)
    for bare in ("delete from x", "WITH a AS (DELETE FROM x RETURNING 1) SELECT 1", "vacuum"):
        assert writes(text(bare))
    assert not writes(select(item))
    assert not writes(text(" SELECT 1"))
    with pytest.raises(WriteInRead):
        refuse_write(update(item).values(qty=1))
    refuse_write(select(item))
