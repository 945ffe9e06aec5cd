"""Column types that mean the same on every database; they carry the names of the field types in data/types.py.

    type            PostgreSQL               SQLite, others      in Python
    Id              BIGINT                   BIGINT              int, 0 .. 2**63-1
    Money(scale)    BIGINT, minor units      BIGINT              Decimal with exactly `scale` decimals
    Instant         TIMESTAMP WITH TIME ZONE BIGINT, microsec.   aware datetime, UTC
    Json            JSONB                    JSON, sorted keys   what json.loads gives; None is NULL
    Choice(*values) VARCHAR + CHECK          VARCHAR + CHECK     str, one of `values`
    Key(length)     VARCHAR COLLATE "C"      VARCHAR             str, ordered by bytes

Money counts minor units because SQLite has no exact decimals: its NUMERIC is a double, and sums of it drift. In SQL,
sums and differences of amounts of one scale are amounts, and so is an amount times a whole number; a product of two
amounts or a sum with a plain number is refused when the statement is built, an average when it is read.

An instant is compared with instants from Python (`tx.now`), never with the database's own clock (`func.now()`), whose
type differs; arithmetic on instants is Python's.

A value that its column cannot hold exactly is refused before it reaches the database, with the same error everywhere;
so it is for SQLAlchemy's own types (data/values.py). tests/conformance/test_statements.py runs every type on every
database.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError, PydanticKnownError
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    MetaData,
    Numeric,
    String,
    TypeDecorator,
    event,
    types,
)
from sqlalchemy.sql import operators

from dujiang.data.types import EXACT, INTEGER_MAX, Scale
from dujiang.data.values import ColumnRefused, Misfit, canonical_json, check_text, shape, text_rule
from dujiang.kernel.clock import instant, microseconds
from dujiang.kernel.errors import Declared

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.engine import Dialect
    from sqlalchemy.types import TypeEngine

__all__ = ["Choice", "ColumnRefused", "Id", "Instant", "Json", "Key", "Money", "refuse_unportable"]

FACTORS = {operators.mul, operators.truediv, operators.floordiv, operators.mod}


class Id(TypeDecorator[int]):
    """A 63-bit id, made by us: the database never draws one."""

    impl = BigInteger
    cache_ok = True

    def _set_parent(self, parent: Any, outer: bool = False, **options: Any) -> None:  # noqa: FBT001, FBT002
        # PostgreSQL would otherwise make a BIGSERIAL of a primary key, and an insert without an id would work there
        # and fail elsewhere.
        super()._set_parent(parent, outer=outer, **options)
        if parent.autoincrement == "auto":
            parent.autoincrement = False

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        """Refuse what is no id."""
        if value is None or (type(value) is int and 0 <= value <= INTEGER_MAX):
            return value
        raise ColumnRefused(column="Id", value=shape(value), why="an id is an int from 0 to 2**63-1")

    @staticmethod
    def quick_form(*, assigned: bool) -> str:  # noqa: ARG004  (every type that has this is asked the same)
        """See `Rule.quick`."""
        return f"{{v}}.__class__ is int and 0 <= {{v}} <= {INTEGER_MAX}"


class MoneyComparator(TypeDecorator.Comparator[Decimal], BigInteger.Comparator[Decimal]):
    """What the type of an expression with an amount on its left side is."""

    type: Money

    def _adapt_expression(self, op: Any, other_comparator: Any) -> tuple[Any, TypeEngine[Any]]:
        other = other_comparator.type
        amount = isinstance(other, Money)
        if amount and (op in FACTORS or other.scale != self.type.scale):
            raise self.type.refused(op.__name__, "amounts of two scales, or as factors of each other, have no unit")
        if not amount and op not in FACTORS:
            raise self.type.refused(op.__name__, f"the other side is {other!r}, which is no amount")
        return op, self.type


class Money(TypeDecorator[Decimal]):
    """An amount of money, kept as a whole number of its smallest unit.

    Args:
        scale: Number of decimals, 0 to 9.
    """

    impl = BigInteger
    cache_ok = True
    comparator_factory = MoneyComparator

    # A whole number on the left, `quantity * price`, then yields the type of its right side.
    _type_affinity = Numeric

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self._exact = Scale(scale).exact

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        """Count `value`, a Decimal or an int, in minor units."""
        if value is None:
            return None
        if type(value) is int:
            value = Decimal(value)
        if not isinstance(value, Decimal):
            raise self.refused(value, "an amount is a Decimal; a float has already lost the exact amount")
        try:
            return int(self._exact(value).scaleb(self.scale, context=EXACT))
        except (PydanticCustomError, PydanticKnownError) as cause:
            raise self.refused(value, str(cause)) from None

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """The amount of a count of minor units; a sum may come as a Decimal."""
        if value is None:
            return None
        if value != int(value):
            raise self.refused(value, "the expression has parts of the smallest unit; divide and round in Python")
        return Decimal(int(value)).scaleb(-self.scale, context=EXACT)

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        """A factor is a plain number; everything else beside an amount is an amount."""
        if op not in FACTORS:
            return self
        if type(value) is not int:
            raise self.refused(value, "an amount is multiplied in SQL by whole numbers only; use Python for others")
        return BigInteger()

    def refused(self, value: object, why: str) -> ColumnRefused:
        """The error for a value, or the name of an operator."""
        shown = f"the operator {value}" if isinstance(value, str) and value.isidentifier() else shape(value)
        return ColumnRefused(column=repr(self), value=shown, why=why)

    def __repr__(self) -> str:
        return f"Money({self.scale})"

    @staticmethod
    def quick_form(*, assigned: bool) -> str:  # noqa: ARG004  (every type that has this is asked the same)
        """See `Rule.quick`; there is none."""
        return ""


class InstantComparator(TypeDecorator.Comparator[datetime], BigInteger.Comparator[datetime]):
    """Refuses arithmetic: its result would be a number here and an interval there."""

    def _adapt_expression(self, op: Any, other_comparator: Any) -> tuple[Any, TypeEngine[Any]]:
        raise ColumnRefused(column="Instant", value=op.__name__, why="arithmetic on instants is done in Python")


class Instant(TypeDecorator[datetime]):
    """A point in time, in UTC, to the microsecond. Takes aware datetimes only."""

    impl = BigInteger
    cache_ok = True
    comparator_factory = InstantComparator

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The database's own type where it keeps microseconds and the zone; microseconds since 1970 elsewhere."""
        own = DateTime(timezone=True) if dialect.name == "postgresql" else BigInteger()
        return dialect.type_descriptor(own)

    def process_bind_param(self, value: Any, dialect: Dialect) -> datetime | int | None:
        """Refuse what is no aware datetime."""
        if value is None:
            return None
        if not isinstance(value, datetime) or value.utcoffset() is None:
            raise ColumnRefused(column="Instant", value=shape(value), why="an instant is a datetime with a time zone")
        if dialect.name != "postgresql" and 1 < value.year < 9999:
            return microseconds(value)
        try:
            moment = value.astimezone(UTC)
        except OverflowError:
            why = "an instant lies in the years 1 to 9999, UTC"
            raise ColumnRefused(column="Instant", value=shape(value), why=why) from None
        return moment if dialect.name == "postgresql" else microseconds(moment)

    def __repr__(self) -> str:
        return "Instant()"

    @staticmethod
    def quick_form(*, assigned: bool) -> str:  # noqa: ARG004  (every type that has this is asked the same)
        """See `Rule.quick`; there is none."""
        return ""

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """The instant, in UTC."""
        if value is None:
            return None
        if not isinstance(value, datetime):
            return instant(value)
        # asyncpg reads and writes the first and the last instant as PostgreSQL's infinities, without a zone.
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """Any JSON value. `None` is SQL NULL. Written with sorted keys, so that equal values have equal texts."""

    impl = types.JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """JSONB where it exists."""
        if dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import JSONB  # noqa: PLC0415  (loads all of that dialect)

            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(types.JSON(none_as_null=True))

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        """The canonical text, instead of the dialect's own."""
        return canonical_json

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        """As plain JSON does: an index is no JSON value."""
        return self.impl_instance.coerce_compared_value(op, value)


class Choice(TypeDecorator[str]):
    """One of a few strings; the database checks it too.

    Args:
        values: The strings; at least one.
    """

    impl = String
    cache_ok = True

    def __init__(self, *values: str) -> None:
        if not values:
            raise ValueError("a Choice needs at least one value")
        super().__init__(max(len(value) for value in values))
        self.values = values

    @property
    def _static_cache_key(self) -> Any:
        # SQLAlchemy makes the key from named arguments and would not see `*values`.
        return (Choice, self.values)

    def __repr__(self) -> str:
        return f"Choice({', '.join(map(repr, self.values))})"

    def copy(self, **options: Any) -> Choice:
        """A copy for another table."""
        return Choice(*self.values)

    def _set_parent(self, parent: Any, outer: bool = False, **options: Any) -> None:  # noqa: FBT001, FBT002
        super()._set_parent(parent, outer=outer, **options)
        event.listen(parent, "after_parent_attach", self._constrain)

    def _constrain(self, column: Column[Any], table: Table) -> None:
        check(column, table, "choice", column.in_(self.values))

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Refuse what is none of the values."""
        if value is None or (isinstance(value, str) and value in self.values):
            return value
        raise ColumnRefused(column=repr(self), value=shape(value), why="it is none of the choices")

    def quick_form(self, *, assigned: bool) -> str:
        """See `Rule.quick`."""
        values = repr(self.values).replace("{", "{{").replace("}", "}}")
        return f"{{v}}.__class__ is str and {{v}} in {values}"

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        """A pattern is text; whatever is compared for equality is a choice."""
        return self if op in (operators.eq, operators.ne, operators.in_op, operators.not_in_op) else String()


class Key(TypeDecorator[str]):
    """Text that names something: compared and ordered by its bytes on every database, whatever its locale.

    Args:
        length: Longest text, in characters.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text with binary collation."""
        own = String(self.length, collation="C") if dialect.name == "postgresql" else String(self.length)
        return dialect.type_descriptor(own)

    def __repr__(self) -> str:
        return f"Key({self.length})"

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Refuse what is no text, and text that not every database keeps; the length matters where it is assigned."""
        if value is not None:
            try:
                check_text(value)
            except Misfit as misfit:
                raise ColumnRefused(column=repr(self), value=shape(value), why=str(misfit)) from None
        return value  # type: ignore[no-any-return]

    def quick_form(self, *, assigned: bool) -> str:
        """See `Rule.quick`."""
        return text_rule(self.length if assigned else None).quick


def check(column: Column[Any], table: Table, what: str, condition: ColumnElement[bool]) -> CheckConstraint:
    """Add a CHECK that belongs to the column's type: a copy of the table gets it from the type again."""
    constraint = CheckConstraint(condition, name=f"{column.name}_{what}", _type_bound=True)
    table.append_constraint(constraint)
    return constraint


def refuse_unportable(metadata: MetaData, *, zones: bool = True) -> None:
    """Refuse columns that mean something else, or nothing exact, on another database.

    Args:
        metadata: The tables.
        zones: The database keeps the zone of `DateTime(timezone=True)`; without it such columns are refused as well.

    Raises:
        Declared: Names every such column, with the cure.
    """
    found = [
        (f"{table.name}.{column.name}", why)
        for table in metadata.sorted_tables
        for column in table.columns
        if (why := unportable(column, zones=zones))
    ]
    if found:
        raise Declared(
            where=", ".join(name for name, _ in found),
            what="; ".join(dict.fromkeys(what for _, (what, _) in found)),
            how="; ".join(dict.fromkeys(how for _, (_, how) in found)),
        )


def unportable(column: Column[Any], *, zones: bool) -> tuple[str, str] | None:
    """What is wrong with a column and how to cure it, or None."""
    if isinstance(column.type, types.CHAR):
        return ("CHAR is filled up with spaces on PostgreSQL", "use dujiang.columns.Key(length), or String(length)")
    if isinstance(column.type, Float) and is_single(column.type):
        return ("a Float of 24 bits or less has 4 bytes on PostgreSQL and 8 on SQLite", "use Double, or a plain Float")
    if isinstance(column.type, Numeric):
        return ("Numeric is a double on SQLite and loses cents", "use dujiang.columns.Money(scale)")
    if isinstance(column.type, DateTime) and not (column.type.timezone and zones):
        return ("DateTime says no zone, or the database forgets it", "use dujiang.columns.Instant")
    if isinstance(column.type, Instant) and (column.server_default is not None or column.server_onupdate is not None):
        return ("the databases' own clocks have different types", "set the instant in the statement, from tx.now")
    return None


def is_single(kind: Float[Any]) -> bool:
    """Whether a server keeps such numbers in 4 bytes."""
    return isinstance(kind, types.REAL) or (kind.precision is not None and kind.precision <= 24)
