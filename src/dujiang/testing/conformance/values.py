"""Conformance of values and statements: what the port takes, keeps and means is the same on every database.

The expected outcome stands in the table, not in the database at hand: an adapter that answers otherwise fails, and so
two adapters that pass agree. V1 values that fit no column, V2 values that just fit, V3 what SQL computes, V4 LIMIT, V5
constraints through each way in, V6 what expressions mean, V7 statements that are refused, V8 the limits of bare text.
"""

from __future__ import annotations

import math
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import registry

from dujiang.data import columns
from dujiang.data.statements import execute, execute_whole
from dujiang.data.values import ColumnRefused
from dujiang.kernel.tasks import outcomes_of
from dujiang.testing.conformance.cases import Suite, case

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dujiang.data.database import Connection, Database

    Way = Callable[[Connection, dict[str, Any]], Awaitable[Any]]

NAIVE = datetime(2026, 3, 1, 8)  # noqa: DTZ001  (without a zone on purpose)
AWARE = datetime(2026, 3, 1, 8, tzinfo=UTC)
EAST = timezone(timedelta(hours=8))
DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]

# A value that the column does not hold, what the error calls it, and a part of the reason.
REFUSED: list[tuple[str, Any, str, str]] = [
    ("sku", "x" * 9, "a text of 9 characters", "at most 8 characters"),
    ("sku", "x" * 8 + " ", "a text of 9 characters", "at most 8 characters"),
    ("sku", "a\0b", "a text of 3 characters", "NUL"),
    ("sku", "\ud800", "a text of 1 characters", "surrogate"),
    ("sku", 5, "the int 5", "text"),
    ("name", "江" * 9, "a text of 9 characters", "at most 8 characters"),
    ("name", "a\0b", "a text of 3 characters", "NUL"),
    ("name", "\udfff", "a text of 1 characters", "surrogate"),
    ("name", b"bytes", "5 bytes", "text"),
    ("name", 5, "the int 5", "text"),
    ("note", "a\0b", "a text of 3 characters", "NUL"),
    ("note", b"bytes", "5 bytes", "text"),
    ("small", 2**15, "the int 32768", "16 bits"),
    ("qty", 2**31, "the int 2147483648", "32 bits"),
    ("qty", -(2**31) - 1, "the int -2147483649", "32 bits"),
    ("qty", 2**40, "the int 1099511627776", "32 bits"),
    ("qty", "5", "a text of 1 characters", "whole numbers"),
    ("qty", "abc", "a text of 3 characters", "whole numbers"),
    ("qty", 5.0, "the float 5.0", "whole numbers"),
    ("qty", Decimal(5), "the Decimal 5", "whole numbers"),
    ("qty", {"a": 1}, "a value of type dict", "whole numbers"),
    ("big", 2**63, "the int 9223372036854775808", "64 bits"),
    ("big", 10**5000, "an int of 16610 bits", "64 bits"),
    ("weight", math.nan, "the float nan", "finite"),
    ("weight", math.inf, "the float inf", "finite"),
    ("weight", Decimal("NaN"), "the Decimal NaN", "finite"),
    ("weight", 10**400, "an int of 1329 bits", "double"),
    ("weight", "1.5", "a text of 3 characters", "numbers"),
    ("flag", 2, "the int 2", "True and False"),
    ("flag", "true", "a text of 4 characters", "True and False"),
    ("day", NAIVE, "the datetime 2026-03-01 08:00:00", "without a time"),
    ("day", "2026-03-01", "a text of 10 characters", "dates"),
    ("clock", time(8, tzinfo=UTC), "the time 08:00:00+00:00", "without a zone"),
    ("stamp", AWARE, "the datetime 2026-03-01 08:00:00+00:00", "without a zone"),
    ("span", timedelta(days=999_999_999), "the timedelta 999999999 days, 0:00:00", "8029 years"),
    ("octets", "text", "a text of 4 characters", "bytes"),
    ("uid", "not a uuid", "a text of 10 characters", "UUIDs"),
    ("uid_text", "not a uuid", "a text of 10 characters", "UUIDs"),
    ("letter", "c", "a text of 1 characters", "none of the choices"),
    ("tree", {"a": math.nan}, "a value of type dict", "JSON compliant"),
    ("tree", {"a": b"bytes"}, "a value of type dict", "not JSON serializable"),
    ("doc", math.inf, "the float inf", "JSON compliant"),
    ("doc", ["a\0b"], "a value of type list", "NUL"),
    ("doc", {"\ud800": 1}, "a value of type dict", "surrogate"),
    ("doc", DEEP, "a value of type list", "nested"),
    ("price", 0.1, "the float 0.1", "float"),
    ("price", Decimal("0.001"), "the Decimal 0.001", "2 decimal places"),
    ("price", Decimal("NaN"), "the Decimal NaN", "finite"),
    ("price", Decimal(2**63), "the Decimal 9223372036854775808", "between"),
    ("moment", NAIVE, "the datetime 2026-03-01 08:00:00", "time zone"),
    ("moment", datetime(1, 1, 1, tzinfo=EAST), "the datetime 0001-01-01 00:00:00+08:00", "1 to 9999"),
    ("moment", datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=8))), "the datetime 9999", "1 to 9999"),
    ("status", "lost", "a text of 4 characters", "choices"),
    ("status", ["new"], "a value of type list", "choices"),
    ("ref", -1, "the int -1", "from 0"),
    ("ref", 2**63, "the int 9223372036854775808", "2**63-1"),
    ("ref", True, "True", "from 0"),
]

# Values that just fit, and come back equal.
KEPT: dict[str, list[Any]] = {
    "sku": ["x" * 8, "", "江" * 8, " a ", "🌊" * 8],
    "name": ["x" * 8, "", "é" * 8, "a\nb\t"],
    "note": ["x" * 100_000, "\x01\x7f\uffff"],
    "small": [-(2**15), 2**15 - 1],
    "qty": [-(2**31), 2**31 - 1, 0],
    "big": [-(2**63), 2**63 - 1],
    "weight": [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 0.1, 7.0],
    "flag": [True, False],
    "day": [date.min, date.max],
    "clock": [time.min, time.max],
    "stamp": [datetime.min, datetime.max],  # noqa: DTZ901
    "span": [timedelta(days=-700_000), timedelta(days=2_900_000, microseconds=1)],
    "octets": [b"", bytes(range(256))],
    "uid": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)],
    "letter": ["a", "b"],
    "doc": [{"n": 2**70}, 2**70, "5", 5, 0.1, [], {"": None}, False],
    "tree": [{"n": 2**70}, 2**70, "5", 5, 0.1, [], {"": None}, False],
    "price": [Decimal("-92233720368547758.07"), Decimal("92233720368547758.07"), Decimal("0.00")],
    "moment": [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)],
    "status": ["new", "old"],
    "ref": [0, 2**63 - 1],
}


def tables() -> Any:
    """The tables of these cases, and a class that is mapped to the first."""
    mapping = registry(metadata=sa.MetaData())
    thing = sa.Table(
        "dj_thing",
        mapping.metadata,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sku", columns.Key(8)),
        sa.Column("name", sa.String(8)),
        sa.Column("note", sa.Text),
        sa.Column("small", sa.SmallInteger),
        sa.Column("qty", sa.Integer),
        sa.Column("big", sa.BigInteger),
        sa.Column("weight", sa.Float),
        sa.Column("flag", sa.Boolean),
        sa.Column("day", sa.Date),
        sa.Column("clock", sa.Time),
        sa.Column("stamp", sa.DateTime),
        sa.Column("span", sa.Interval),
        sa.Column("octets", sa.LargeBinary),
        sa.Column("uid", sa.Uuid),
        sa.Column("uid_text", sa.Uuid(as_uuid=False)),
        sa.Column("letter", sa.Enum("a", "b", name="dj_letter")),
        sa.Column("tree", sa.JSON),
        sa.Column("doc", columns.Json),
        sa.Column("price", columns.Money(2)),
        sa.Column("moment", columns.Instant),
        sa.Column("status", columns.Choice("new", "old")),
        sa.Column("ref", columns.Id),
        sa.Column("must", sa.Integer, nullable=False, server_default="1"),
        sa.Column("sole", sa.Integer, unique=True),
        sa.CheckConstraint("must < 100", name="dj_must_be_small"),
    )

    class Thing:
        def __init__(self, **values: Any) -> None:
            for name, value in values.items():
                setattr(self, name, value)

    mapping.map_imperatively(Thing, thing)
    return thing, Thing


class ValueCases(Suite):
    """The cases of values. See `DatabaseConformance` for what an adapter's test supplies."""

    thing: sa.Table
    mapped: type[Any]

    async def open_database(self) -> Database:
        """A started database on this test's store; each call within one test opens the same store again."""
        raise NotImplementedError

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[Database]:
        """A started database with an empty table of every type."""
        if not hasattr(ValueCases, "thing"):
            ValueCases.thing, ValueCases.mapped = tables()
        database = await self.open_database()
        metadata = self.thing.metadata
        try:

            async def body(connection: Connection) -> None:
                async with connection.orm_connection() as whole:
                    await whole.run_sync(metadata.drop_all)
                    await whole.run_sync(metadata.create_all)

            await database.write(body)
            yield database
        finally:
            await database.stop()

    def ways(self, database: Database) -> dict[str, Way]:
        """The ways by which a row gets into the table."""

        async def core(connection: Connection, row: dict[str, Any]) -> None:
            await execute(connection, database.dialect, insert(self.thing), row)

        async def values(connection: Connection, row: dict[str, Any]) -> None:
            await execute(connection, database.dialect, insert(self.thing).values(**row))

        async def change(connection: Connection, row: dict[str, Any]) -> None:
            await execute(connection, database.dialect, insert(self.thing), {"id": row["id"]})
            await execute(connection, database.dialect, update(self.thing).where(self.thing.c.id == row["id"]), row)

        async def many(connection: Connection, row: dict[str, Any]) -> None:
            empty = dict.fromkeys(row) | {"id": -row["id"], "must": 1}
            await execute(connection, database.dialect, insert(self.thing), [empty, {"must": 1, **row}])

        async def whole(connection: Connection, row: dict[str, Any]) -> None:
            await execute_whole(connection, insert(self.thing), row)

        async def session(connection: Connection, row: dict[str, Any]) -> None:
            async with AsyncSession(connection.orm_engine(), expire_on_commit=False) as opened:
                opened.add(self.mapped(**row))
                await opened.flush()

        return {
            "core": core,
            "values": values,
            "update": change,
            "many": many,
            "whole": whole,
            "session": session,
        }

    @case("V1.1")
    async def test_a_value_that_its_column_does_not_hold_is_refused(self) -> None:
        """Every way in names the column, the shape of the value and the reason, and stores nothing."""
        async with self.filled() as database:
            for way, put in self.ways(database).items():
                for name, value, called, why in REFUSED:
                    async with database.held() as connection:
                        await connection.savepoint("here")
                        (outcome,) = await outcomes_of(put(connection, {"id": 1, name: value}))
                        await connection.rollback_to("here")
                        counted = await execute(connection, database.dialect, select(func.count(self.thing.c.id)))

                        assert isinstance(outcome, ColumnRefused), (way, name, called, outcome)
                        assert outcome.column.startswith(f"dj_thing.{name}, "), (way, outcome)
                        assert outcome.value.startswith(called), (way, outcome)
                        assert why in outcome.why, (way, outcome)
                        assert counted.scalar_one() == 0

    @case("V2.1")
    async def test_a_value_that_just_fits_comes_back_equal(self) -> None:
        """The ends of every range are kept exactly, and as the same Python type."""
        async with self.filled() as database, database.held() as connection:
            for way, put in self.ways(database).items():
                await connection.savepoint("here")
                rows = [(name, value) for name, values in KEPT.items() for value in values]
                for id_, (name, value) in enumerate(rows, 1):
                    await put(connection, {"id": id_, name: value})
                    read = select(self.thing.c[name]).where(self.thing.c.id == id_)
                    found = (await execute(connection, database.dialect, read)).scalar_one()
                    assert found == value, (way, name, value, found)
                    assert isinstance(found, type(value)), (way, name, value, found)
                await connection.rollback_to("here")
