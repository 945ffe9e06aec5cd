"""Conformance of `Connection`: what holds inside one transaction, on every database.

The numbers are those of the port: C1 overlap, C2 a failed transaction, C3 errors, C4 cancellation; C5 savepoints, C6
values and counts, C7 the ORM on the same transaction, C8 what capabilities promise.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from dujiang.data.database import IntegrityFailed, StatementFailed, StatementsOverlap, TransactionFailed
from dujiang.data.sql import Sql
from dujiang.data.values import ColumnRefused
from dujiang.kernel.tasks import outcomes_of
from dujiang.testing.conformance.cases import Suite, case

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from dujiang.data.database import Connection, Database

DROP = Sql("scratch_drop", "DROP TABLE IF EXISTS dj_scratch", "Forgets the scratch table of an earlier test.")
CREATE = Sql(
    "scratch_create",
    "CREATE TABLE dj_scratch (id BIGINT PRIMARY KEY, n BIGINT NOT NULL CHECK (n >= 0),"
    " parent BIGINT REFERENCES dj_scratch (id), words TEXT, octets {octets})",
    "Makes the scratch table.",
)
ADD = Sql("scratch_add", "INSERT INTO dj_scratch (id, n) VALUES ($1, $2)", "Adds a row.")
ADD_ALL = Sql(
    "scratch_add_all",
    "INSERT INTO dj_scratch (id, n, parent, words, octets) VALUES ($1, $2, $3, $4, $5)",
    "Adds a row with every column.",
)
RAISE = Sql("scratch_raise", "UPDATE dj_scratch SET n = n + $1 WHERE id = $2", "Adds to a row's number.")
SET = Sql("scratch_set", "UPDATE dj_scratch SET n = $1 WHERE id <= $2", "Sets the number of the first rows.")
GET = Sql("scratch_get", "SELECT n FROM dj_scratch WHERE id = $1", "Reads one number.")
ALL = Sql("scratch_all", "SELECT id, n FROM dj_scratch ORDER BY id", "Reads all rows.")
WHOLE = Sql("scratch_whole", "SELECT id, n, parent, words, octets FROM dj_scratch ORDER BY id", "Reads all columns.")
ONE = Sql("scratch_one", "SELECT 1", "Answers one.")
WRONG = Sql("scratch_wrong", "SELECT nothing_of_this_name FROM dj_scratch", "Is wrong on purpose.")


def pairs(rows: Sequence[Sequence[Any]]) -> list[tuple[int, int]]:
    """The rows as plain tuples of the first two columns."""
    return [(row[0], row[1]) for row in rows]


async def stored(database: Database) -> list[tuple[int, int]]:
    """What a fresh reader sees in the scratch table."""

    async def body(connection: Connection) -> list[tuple[int, int]]:
        return pairs(await connection.fetch(ALL))

    return await database.read(body)


class ConnectionCases(Suite):
    """The cases of one transaction. See `DatabaseConformance` for what an adapter's test supplies."""

    #: Write transactions that the tested database lets run at once.
    lanes: ClassVar[int] = 1

    async def open_database(self) -> Database:
        """A started database on this test's store; each call within one test opens the same store again."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Database]:
        """A started database with an empty scratch table; stopped at the end."""
        database = await self.open_database()
        try:

            async def body(connection: Connection) -> None:
                octets = "BYTEA" if database.dialect.name == "postgresql" else "BLOB"
                await connection.execute(DROP)
                await connection.execute(Sql(CREATE.name, CREATE.text.format(octets=octets), CREATE.says))

            await database.write(body)
            yield database
        finally:
            await database.stop()

    @case("C1.1")
    async def test_a_second_statement_at_the_same_time_is_refused(self) -> None:
        """One of two statements started at once raises StatementsOverlap; the other is not disturbed."""
        async with self.opened() as database:

            async def body(connection: Connection) -> list[Any]:
                return await outcomes_of(connection.execute(ADD, 1, 1), connection.execute(ADD, 2, 2))

            first, second = await database.write(body)

            assert first == 1
            assert isinstance(second, StatementsOverlap)
            assert await stored(database) == [(1, 1)]

    @case("C2.1")
    async def test_after_a_failed_statement_everything_else_is_refused(self) -> None:
        """A failed statement leaves a transaction that takes no other, though the database itself might."""
        async with self.opened() as database:
            seen: list[BaseException] = []

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)
                for sql in (WRONG, ONE):
                    try:
                        await connection.fetch(sql)
                    except (StatementFailed, TransactionFailed) as error:
                        seen.append(error)

            (outcome,) = await outcomes_of(database.write(body))

            assert [type(error) for error in seen] == [StatementFailed, TransactionFailed]
            assert isinstance(outcome, TransactionFailed)
            assert await stored(database) == []

    @case("C2.2")
    async def test_a_rollback_to_a_savepoint_makes_a_failed_transaction_usable(self) -> None:
        """What was done before the savepoint stays, what failed after it is gone, and work goes on."""
        async with self.opened() as database:

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)
                await connection.savepoint("s1")
                await connection.execute(ADD, 2, 2)
                (outcome,) = await outcomes_of(connection.execute(ADD, 1, 1))
                assert isinstance(outcome, IntegrityFailed)
                await connection.rollback_to("s1")
                await connection.execute(ADD, 3, 3)

            await database.write(body)

            assert await stored(database) == [(1, 1), (3, 3)]

    @case("C2.3")
    async def test_an_argument_that_no_database_knows_fails_the_transaction(self) -> None:
        """An error that the driver finds before sending counts as a failed statement like any other."""
        async with self.opened() as database:

            async def body(connection: Connection) -> None:
                (outcome,) = await outcomes_of(connection.execute(ADD, object(), 1))
                assert isinstance(outcome, ColumnRefused)
                await connection.fetch(ONE)

            (outcome,) = await outcomes_of(database.write(body))

            assert isinstance(outcome, TransactionFailed)

    @case("C2.4")
    async def test_a_failure_that_the_body_hides_is_no_commit(self) -> None:
        """Swallowing an error, also one that the database never saw, does not turn the transaction into a success."""
        async with self.opened() as database:

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)
                await outcomes_of(connection.execute(ADD, object(), 1))

            (outcome,) = await outcomes_of(database.write(body))

            assert isinstance(outcome, TransactionFailed)
            assert await stored(database) == []

    @case("C2.5")
    async def test_a_connection_is_dead_after_its_transaction(self) -> None:
        """A body that keeps its connection cannot write into the transaction of the next caller."""
        async with self.opened() as database:
            kept: list[Connection] = []

            async def keep(connection: Connection) -> None:
                await connection.fetch(ONE)
                kept.append(connection)

            async def fail(connection: Connection) -> None:
                kept.append(connection)
                raise ValueError("undo")

            await database.write(keep)
            await database.read(keep)
            await outcomes_of(database.write(fail))
            async with database.held():
                late = [(await outcomes_of(connection.execute(ADD, 1, 1)))[0] for connection in kept]

            assert [type(outcome) for outcome in late] == [TransactionFailed] * 3
            assert await stored(database) == []

    @case("C3.1")
    async def test_each_broken_constraint_is_told_by_its_kind(self) -> None:
        """Unique, not null, check and foreign key come as IntegrityFailed with that kind."""
        async with self.opened() as database:
            await database.statement(ADD, 1, 1)
            rows = {
                "unique": (1, 1, None),
                "not_null": (2, None, None),
                "check": (2, -1, None),
                "foreign_key": (2, 1, 99),
            }
            for kind, (id_, n, parent) in rows.items():

                async def body(connection: Connection, row: tuple[Any, ...] = (id_, n, parent)) -> None:
                    await connection.execute(ADD_ALL, *row, None, None)

                (outcome,) = await outcomes_of(database.write(body))

                assert isinstance(outcome, IntegrityFailed), (kind, outcome)
                assert outcome.kind == kind
            assert await stored(database) == [(1, 1)]

    @case("C3.2")
    async def test_a_wrong_statement_is_named_in_its_error(self) -> None:
        """StatementFailed says which statement it was."""
        async with self.opened() as database:

            async def body(connection: Connection) -> None:
                await connection.fetch(WRONG)

            (outcome,) = await outcomes_of(database.write(body))

            assert isinstance(outcome, StatementFailed)
            assert "scratch_wrong" in str(outcome)

    @case("C5.1")
    async def test_savepoints_nest(self) -> None:
        """An inner rollback undoes the inner part; an outer rollback undoes a released inner part as well."""
        async with self.opened() as database:

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)
                await connection.savepoint("a")
                await connection.execute(ADD, 2, 2)
                await connection.savepoint("b")
                await connection.execute(ADD, 3, 3)
                await connection.rollback_to("b")
                await connection.release("b")
                assert pairs(await connection.fetch(ALL)) == [(1, 1), (2, 2)]
                await connection.rollback_to("a")
                await connection.savepoint("c")
                await connection.execute(ADD, 4, 4)
                await connection.release("c")

            await database.write(body)

            assert await stored(database) == [(1, 1), (4, 4)]

    @case("C6.1")
    async def test_matched_rows_are_counted_not_changed_ones(self) -> None:
        """An UPDATE to the same value counts; rows that do not match do not; `execute`, `run`, `run_many` agree."""
        async with self.opened() as database:
            style = database.dialect.paramstyle
            update = "UPDATE dj_scratch SET n = $1 WHERE id = $2"
            text = update if style == "numeric_dollar" else re.sub(r"\$\d", "?", update)

            async def body(connection: Connection) -> tuple[int, ...]:
                for id_ in (1, 2, 3):
                    await connection.execute(ADD, id_, 7)
                same = await connection.execute(SET, 7, 2)
                none = await connection.execute(SET, 7, 0)
                rows, matched = await connection.run(text, (7, 3))
                assert list(rows) == []
                return same, none, matched, await connection.run_many(text, [(8, 1), (8, 2), (8, 99)])

            assert await database.write(body) == (2, 0, 1, 2)
            assert await stored(database) == [(1, 8), (2, 8), (3, 7)]

    @case("C6.2")
    async def test_values_come_back_as_they_went_in(self) -> None:
        """The largest integers, any text, any bytes and nothing at all survive the way there and back."""
        async with self.opened() as database:
            rows = [
                (-(2**63), 2**63 - 1, None, "江 🌊 ' \" \\ $1 ?", bytes(range(256))),
                (0, 0, -(2**63), "", b""),
                (1, 1, None, None, None),
            ]

            async def body(connection: Connection) -> list[tuple[Any, ...]]:
                for row in rows:
                    assert await connection.execute(ADD_ALL, *row) == 1
                return [tuple(row) for row in await connection.fetch(WHOLE)]

            assert await database.write(body) == rows

    @case("C7.1")
    async def test_an_orm_connection_is_the_same_transaction(self) -> None:
        """Each side sees the other's rows, its commit and rollback touch nothing, and all is undone together."""
        from sqlalchemy import text  # noqa: PLC0415  (only this case needs SQLAlchemy)

        async with self.opened() as database:

            async def body(connection: Connection, *, fail: bool) -> None:
                await connection.execute(ADD, 1, 1)
                async with connection.orm_connection() as orm:
                    await orm.execute(text("INSERT INTO dj_scratch (id, n) VALUES (2, 2)"))
                    found = (await orm.execute(text("SELECT count(*) FROM dj_scratch"))).scalar_one()
                    assert found == 2
                    await orm.commit()
                    await orm.execute(text("UPDATE dj_scratch SET n = 5 WHERE id = 1"))
                    await orm.rollback()
                assert pairs(await connection.fetch(ALL)) == [(1, 5), (2, 2)]
                if fail:
                    raise ValueError("undo all")

            (outcome,) = await outcomes_of(database.write(lambda connection: body(connection, fail=True)))
            assert isinstance(outcome, ValueError)
            assert await stored(database) == []

            await database.write(lambda connection: body(connection, fail=False))
            assert await stored(database) == [(1, 5), (2, 2)]

    @case("C7.2")
    async def test_an_orm_session_is_the_same_transaction(self) -> None:
        """Objects of an AsyncSession and our statements stand or fall together; its savepoints are ours."""
        from sqlalchemy import BigInteger, Column, MetaData, Table  # noqa: PLC0415
        from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415
        from sqlalchemy.orm import registry  # noqa: PLC0415

        class Row:
            def __init__(self, id_: int, n: int) -> None:
                self.id, self.n = id_, n

        mapping = registry(metadata=MetaData())
        columns = (Column("id", BigInteger, primary_key=True, autoincrement=False), Column("n", BigInteger))
        mapping.map_imperatively(Row, Table("dj_scratch", mapping.metadata, *columns))
        async with self.opened() as database:

            async def body(connection: Connection) -> None:
                async with AsyncSession(connection.orm_engine(), expire_on_commit=False) as session:
                    await connection.execute(ADD, 1, 1)
                    session.add(Row(2, 2))
                    await session.flush()
                    assert pairs(await connection.fetch(ALL)) == [(1, 1), (2, 2)]
                    found = await session.get(Row, 1)
                    assert found is not None
                    found.n = 9
                    await session.flush()
                    await connection.execute(ADD, 3, 3)
                    try:
                        async with session.begin_nested():
                            session.add(Row(3, 4))
                    except IntegrityFailed:
                        session.expunge_all()
                    session.add(Row(4, 4))
                    await session.flush()

            await database.write(body)

            assert await stored(database) == [(1, 9), (2, 2), (3, 3), (4, 4)]
            mapping.dispose()

    @case("C8.1", needs="arrays")
    async def test_a_list_is_one_parameter(self) -> None:
        """With `arrays`, a list unfolds by `unnest`."""
        async with self.opened() as database:
            unfold = Sql("unfold", "SELECT unnest($1::bigint[])", "Unfolds a list.")

            async def body(connection: Connection) -> list[int]:
                return [row[0] for row in await connection.fetch(unfold, [3, 1, 2])]

            assert await database.read(body) == [3, 1, 2]

    @case("C8.2", needs="writable_cte")
    async def test_several_writes_fit_in_one_statement(self) -> None:
        """With `writable_cte`, an INSERT and a DELETE stand in one statement that returns their counts."""
        async with self.opened() as database:
            both = Sql(
                "both",
                "WITH a AS (INSERT INTO dj_scratch (id, n) VALUES ($1, 0) RETURNING 1),"
                " d AS (DELETE FROM dj_scratch WHERE id = $2 RETURNING 1)"
                " SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM d)",
                "Adds one row and deletes another.",
            )
            await database.statement(ADD, 1, 1)

            assert tuple((await database.statement(both, 2, 1))[0]) == (1, 1)
            assert await stored(database) == [(2, 0)]
