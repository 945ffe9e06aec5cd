"""Conformance of statements: what SQL computes, orders, compares and refuses is the same on every database.

V2.2 comparisons, V3 what SQL computes, V4 LIMIT, V5 constraints by each way in, V6 what expressions mean, V7 statements
that are refused, V8 what still holds for bare text. The expected outcome stands in the tables.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import bindparam, func, insert, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from dujiang.data.database import IntegrityFailed, StatementFailed
from dujiang.data.statements import execute, execute_whole
from dujiang.data.values import ColumnRefused
from dujiang.kernel.tasks import outcomes_of
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.values import ValueCases

if TYPE_CHECKING:
    from dujiang.data.database import Connection, Database

ROWS: list[dict[str, Any]] = [
    {
        "id": 1,
        "name": "Beta",
        "sku": "b",
        "qty": 7,
        "big": 2**62,
        "weight": 0.5,
        "flag": True,
        "price": Decimal("1.00"),
    },
    {"id": 2, "name": "alpha", "sku": "B", "qty": -7, "big": 5, "weight": None, "flag": False, "price": None},
    {"id": 3, "name": "Äpfel", "sku": "a", "qty": None, "big": None, "weight": 2.0, "flag": None, "price": None},
    {"id": 4, "name": "a\\b%", "sku": None, "qty": 0, "big": 0, "weight": 1.0, "flag": None, "price": Decimal("2.50")},
]


def meanings(t: Any) -> list[tuple[str, Any, Any]]:
    """A name, a SELECT, and the values of its first column: comparison, order and limits."""
    ids = select(t.c.id).order_by(t.c.id)
    two = t.alias("two")
    return [
        ("like tells letters apart", ids.where(t.c.name.like("a%")), [2, 4]),
        ("ilike does not", ids.where(t.c.name.ilike("B%")), [1]),
        ("a backslash escapes in like", ids.where(t.c.name.like("%\\%")), [4]),
        ("a pattern that ends with a backslash", ids.where(t.c.name.like("a\\")), "refused"),
        ("an escaped percent", ids.where(t.c.name.like("%\\%%", escape="/")), [4]),
        ("an escaped backslash", ids.where(t.c.name.like("a\\\\b%")), [4]),
        ("contains, escaped by us", ids.where(t.c.name.contains("\\b%", autoescape=True)), [4]),
        ("startswith", ids.where(t.c.name.startswith("a")), [2, 4]),
        ("endswith a backslash", ids.where(t.c.name.endswith("\\")), "refused"),
        ("ilike that ends with a backslash", ids.where(t.c.name.ilike("x\\")), "refused"),
        ("text in order of bytes", select(t.c.name).order_by(t.c.name), ["Beta", "a\\b%", "alpha", "Äpfel"]),
        ("text compared by bytes", ids.where(t.c.name < "a"), [1]),
        ("the largest text", select(func.max(t.c.name)), ["Äpfel"]),
        ("null is the largest", select(t.c.id).order_by(t.c.qty), [2, 4, 1, 3]),
        ("null is the largest, downwards", select(t.c.id).order_by(t.c.qty.desc(), t.c.id), [3, 1, 4, 2]),
        ("null first when told", select(t.c.id).order_by(t.c.qty.nulls_first()), [3, 2, 4, 1]),
        (
            "null of an outer join is the largest",
            select(t.c.id).outerjoin(two, (two.c.id == t.c.id) & (two.c.id > 2)).order_by(two.c.id, t.c.id),
            [3, 4, 1, 2],
        ),
        (
            "null is the largest in a window",
            select(func.row_number().over(order_by=t.c.qty)).where(t.c.qty.is_(None) | (t.c.qty == 7)).order_by(t.c.id),
            [1, 2],
        ),
        ("false before true", select(t.c.id).where(t.c.flag.is_not(None)).order_by(t.c.flag), [2, 1]),
        ("a truth compared", ids.where(t.c.flag == True), [1]),  # noqa: E712
        ("in with nothing", ids.where(t.c.id.in_([])), []),
        ("a longer text equals nothing", ids.where(t.c.name == "x" * 100), []),
        ("a longer key equals nothing", ids.where(t.c.sku == "x" * 100), []),
        ("a longer key in a list", ids.where(t.c.sku.in_(["x" * 100, "a"])), [3]),
        ("a number out of range compared", ids.where(t.c.qty == 2**40), "refused"),
        ("a number out of range in a list", ids.where(t.c.qty.in_([1, 2**40])), "refused"),
        ("a number out of range of an id", ids.where(t.c.id == 2**63), "refused"),
        ("a NUL compared", ids.where(t.c.name == "a\0"), "refused"),
        ("limit below zero", ids.limit(-1), "refused"),
        ("offset below zero", ids.offset(-1), "refused"),
        ("limit by a parameter", ids.limit(bindparam("n", -5)), "refused"),
        ("limit beyond 32 bits", ids.limit(2**40), "refused"),
        ("no limit and an offset", ids.offset(2), [3, 4]),
        ("limit zero", ids.limit(0), []),
    ]


def arithmetic(t: Any) -> list[tuple[str, Any, Any]]:
    """The same of what is computed."""
    first = select(t.c.id).where(t.c.id == 1)
    two = t.alias("two")

    def one(expression: Any) -> Any:
        return first.with_only_columns(expression)

    return [
        ("text and null", one(t.c.name + sa.null()), [None]),
        ("text put together", one(t.c.name + "!"), ["Beta!"]),
        ("whole division of negatives", select(t.c.qty // 2).where(t.c.id == 2), [-3]),
        ("the rest of a negative", select(t.c.qty % 4).where(t.c.id == 2), [-3]),
        ("a fraction", one(t.c.qty / 3), [Decimal("2.3333333333")]),
        ("a fraction of doubles", one(t.c.weight / 4.0), [0.125]),
        ("division by zero", select(t.c.qty // bindparam("zero", 0)), "refused"),
        ("a fraction of zero", select(literal(1) / t.c.qty), "refused"),
        ("the rest of nothing", select(t.c.qty % bindparam("zero", 0)), "refused"),
        ("a sum of BIGINTs", select(func.sum(t.c.big)).where(t.c.id < 3), [2**62 + 5]),
        ("a sum of a window", select(func.sum(t.c.big).over()).where(t.c.id == 1), [2**62]),
        ("a sum of some", select(func.sum(t.c.big).filter(t.c.id == 2)), [5]),
        (
            "a sum that is too large",
            select(func.sum(t.c.big + two.c.big)).where(t.c.id == 1, two.c.id == 2),
            [2**62 + 5],
        ),
        ("a sum of nothing", select(func.sum(t.c.big)).where(t.c.id > 9), [None]),
        ("a sum of money", select(func.sum(t.c.price)), [Decimal("3.50")]),
        ("an average of whole numbers", select(func.avg(t.c.qty)).where(t.c.id != 2), [3.5]),
        ("an average of doubles", select(func.avg(t.c.weight)).where(t.c.id != 1), [1.5]),
        ("a literal truth", select(literal(True)), [True]),  # noqa: FBT003
        ("a comparison as value", one(t.c.qty > 1), [True]),
        ("lower and upper of ASCII", one(func.lower(t.c.name).concat(func.upper(t.c.name))), ["betaBETA"]),
        ("length counts characters", select(func.length(t.c.name)).where(t.c.id == 3), [5]),
        ("a case", one(sa.case((t.c.qty > 5, "many"), else_="few")), ["many"]),
        (
            "a column decided by the key",
            select(t.c.name, func.count()).group_by(t.c.id).order_by(t.c.id).limit(1),
            ["Beta"],
        ),
    ]


def wrongs(t: Any) -> list[tuple[str, Any, str]]:
    """A name, a statement that no database takes, and the SQLSTATE of the refusal."""
    return [
        ("a bare column beside an aggregate", select(t.c.name, func.count()), "42803"),
        ("a bare column of a group", select(t.c.name, func.count()).group_by(t.c.qty), "42803"),
        ("a bare column in an expression", select(t.c.qty + func.sum(t.c.qty)), "42803"),
        ("a number compared with text", select(t.c.id).where(t.c.qty == "5"), "42883"),
        ("text compared with a number", select(t.c.id).where(t.c.name == 5), "42883"),
        ("a truth compared with a number", select(t.c.id).where(t.c.flag == literal(1)), "42883"),
        ("a day compared with text", select(t.c.id).where(t.c.day > "2026-01-01"), "42883"),
    ]


class MeaningCases(ValueCases):
    """The cases of statements."""

    async def put_rows(self, database: Database, connection: Connection) -> None:
        """The rows that the cases read."""
        for row in ROWS:
            await execute(connection, database.dialect, insert(self.thing), row)

    @case("V6.1")
    async def test_an_expression_means_the_same(self) -> None:
        """Order, comparison, patterns, arithmetic, aggregates and limits have the outcome of the table, both ways."""
        async with self.filled() as database, database.held() as connection:
            await self.put_rows(database, connection)
            for name, statement, expected in [*meanings(self.thing), *arithmetic(self.thing)]:
                for short in (True, False):
                    await connection.savepoint("here")
                    run = (
                        execute(connection, database.dialect, statement)
                        if short
                        else execute_whole(connection, statement, None)
                    )
                    (outcome,) = await outcomes_of(run)
                    if expected == "refused":
                        assert isinstance(outcome, ColumnRefused), (name, outcome)
                    else:
                        assert not isinstance(outcome, BaseException), (name, outcome)
                        found = [row[0] for row in outcome.all()]
                        assert found == expected, (name, found)
                        kinds = [(type(one), type(other)) for one, other in zip(found, expected, strict=True)]
                        assert all(issubclass(one, other) for one, other in kinds), (name, kinds)
                    await connection.rollback_to("here")

    @case("V7.1")
    async def test_a_statement_without_meaning_is_refused(self) -> None:
        """What one database would guess at is StatementFailed with the same SQLSTATE on all."""
        async with self.filled() as database:
            for name, statement, state in wrongs(self.thing):
                for short in (True, False):
                    async with database.held() as connection:
                        await connection.savepoint("here")
                        run = (
                            execute(connection, database.dialect, statement)
                            if short
                            else execute_whole(connection, statement, None)
                        )
                        (outcome,) = await outcomes_of(run)
                        assert isinstance(outcome, StatementFailed), (name, outcome)
                        assert outcome.sqlstate == state, (name, outcome)
                        await connection.rollback_to("here")

    @case("V3.1")
    async def test_a_computed_value_that_does_not_fit_is_refused(self) -> None:
        """What SQL computes is held to its column too, and the error names the column that the statement computes."""
        t = self.thing
        wide = "a number is out of the range of its column or of its type"
        long = "a text is longer than its column takes"
        changes: list[tuple[str, Any, str]] = [
            ("qty", t.c.qty + (2**31 - 1), wide),
            ("big", t.c.big + 2**62, wide),
            ("small", t.c.qty * 10_000, wide),
            ("price", t.c.price * 2**62 * 3, wide),
            ("name", t.c.name + "12345", long),
            ("sku", t.c.sku + "12345678", long),
            ("qty", t.c.qty / bindparam("zero", 0), "it divides by zero"),
        ]
        async with self.filled() as database:
            for name, computed, why in changes:
                async with database.held() as connection:
                    await self.put_rows(database, connection)
                    await connection.savepoint("here")
                    change = update(t).where(t.c.id == 1).values({name: computed})
                    (outcome,) = await outcomes_of(execute(connection, database.dialect, change))
                    await connection.rollback_to("here")
                    assert isinstance(outcome, ColumnRefused), (name, outcome)
                    assert outcome.values == {
                        "column": f"dj_thing.{name}",
                        "value": "what is computed for it",
                        "why": why,
                    }, (name, outcome)
                    rows = await execute(connection, database.dialect, select(t.c.id).where(t.c.qty == 7))
                    assert rows.scalars().all() == [1]
                    await execute(connection, database.dialect, sa.delete(t))

    @case("V5.1")
    async def test_a_broken_constraint_is_one_error_by_each_way_in(self) -> None:
        """Unique, not null and check come as IntegrityFailed from Core, from SQLAlchemy's execution and from the ORM."""
        broken: dict[str, dict[str, Any]] = {
            "unique": {"id": 2, "sole": 5},
            "not_null": {"id": 2, "must": None},
            "check": {"id": 2, "must": 100},
        }
        async with self.filled() as database:
            ways = {name: way for name, way in self.ways(database).items() if name not in ("many", "update")}
            for way, put in ways.items():
                for kind, row in broken.items():
                    async with database.held() as connection:
                        await put(connection, {"id": 1, "sole": 5})
                        await connection.savepoint("here")
                        # The session takes None for "not given" when it inserts.
                        run = (
                            self.emptied(connection) if (way, kind) == ("session", "not_null") else put(connection, row)
                        )
                        (outcome,) = await outcomes_of(run)
                        await connection.rollback_to("here")
                        assert isinstance(outcome, IntegrityFailed), (way, kind, outcome)
                        assert outcome.kind == kind, (way, outcome)
                        await execute(connection, database.dialect, sa.delete(self.thing))

    async def emptied(self, connection: Connection) -> None:
        """The session sets a column that must not be NULL to None."""
        async with AsyncSession(connection.orm_engine()) as session:
            found = await session.get(self.mapped, 1)
            assert found is not None
            found.must = None
            await session.flush()

    @case("V8.1")
    async def test_bare_text_takes_no_value_that_no_database_keeps(self) -> None:
        """Parameters of a text have no type, but NUL, half a surrogate pair and a long number are refused there too."""
        put = text("INSERT INTO dj_thing (id, note, big) VALUES (1, :note, :big)")
        rows = [{"note": "a\0", "big": 1}, {"note": "\ud800", "big": 1}, {"note": "a", "big": 2**63}]
        async with self.filled() as database:
            for row in rows:
                async with database.held() as connection:
                    await connection.savepoint("here")
                    (outcome,) = await outcomes_of(execute(connection, database.dialect, put, row))
                    await connection.rollback_to("here")
                    assert isinstance(outcome, ColumnRefused), (row, outcome)

    @case("V8.2")
    async def test_bare_text_is_held_to_the_columns(self) -> None:
        """Bare text cannot put a value of another type into a column of a table that SQLAlchemy made."""
        wrong = (
            ("qty", "'abc'"),
            ("small", "40000"),
            ("name", "'123456789'"),
            ("sku", "'123456789'"),
            ("day", "'no day'"),
            ("stamp", "'2026-13-01 08:00:00'"),
            ("clock", "'25:00:00'"),
            ("letter", "'c'"),
        )
        async with self.filled() as database:
            for column, value in wrong:
                async with database.held() as connection:
                    await connection.savepoint("here")
                    put = text(f"INSERT INTO dj_thing (id, {column}) VALUES (1, {value})")
                    (outcome,) = await outcomes_of(execute(connection, database.dialect, put))
                    await connection.rollback_to("here")
                    assert isinstance(outcome, ColumnRefused), (column, outcome)

    @case("V2.2")
    async def test_an_extreme_day_is_compared_as_a_day(self) -> None:
        """The first and the last day are ordered as days."""
        t = self.thing
        async with self.filled() as database, database.held() as connection:
            for id_, day in enumerate((date.max, date(2026, 1, 1), date.min), 1):
                await execute(connection, database.dialect, insert(t), {"id": id_, "day": day})
            ordered = await execute(connection, database.dialect, select(t.c.id).order_by(t.c.day))
            after = await execute(connection, database.dialect, select(t.c.id).where(t.c.day > date(2000, 1, 1)))
            assert ordered.scalars().all() == [3, 2, 1]
            assert sorted(after.scalars()) == [1, 2]
