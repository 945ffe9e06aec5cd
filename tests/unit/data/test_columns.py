"""The column types: their SQL on each database, what their expressions are, and which columns are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from dujiang.data import columns
from dujiang.data.columns import ColumnRefused, refuse_unportable
from dujiang.kernel.errors import Declared

table = sa.Table(
    "t",
    sa.MetaData(),
    sa.Column("id", columns.Id, primary_key=True),
    sa.Column("price", columns.Money()),
    sa.Column("rate", columns.Money(4)),
    sa.Column("count", sa.Integer),
    sa.Column("at", columns.Instant),
    sa.Column("doc", columns.Json),
    sa.Column("status", columns.Choice("new", "old")),
    sa.Column("sku", columns.Key(40)),
)
c = table.c


def ddl(dialect: Any, of: sa.Table = table) -> str:
    """The statement that makes the table, on one line."""
    return " ".join(str(CreateTable(of).compile(dialect=dialect)).split())


def test_columns_are_the_databases_own_where_it_has_them() -> None:
    """On PostgreSQL ids and amounts are BIGINT, instants have a zone, keys compare by bytes."""
    assert ddl(postgresql.dialect()) == (
        "CREATE TABLE t ( id BIGINT NOT NULL, price BIGINT, rate BIGINT, count INTEGER, at TIMESTAMP WITH TIME ZONE, "
        'doc JSONB, status VARCHAR(3), sku VARCHAR(40) COLLATE "C", PRIMARY KEY (id), '
        "CONSTRAINT status_choice CHECK (status IN ('new', 'old')) )"
    )


def test_columns_are_portable_elsewhere() -> None:
    """On SQLite instants are integers, and choices are checked; the embedded store's own dialect checks more."""
    assert ddl(sqlite.dialect()) == (
        "CREATE TABLE t ( id BIGINT NOT NULL, price BIGINT, rate BIGINT, count INTEGER, at BIGINT, doc JSON, "
        "status VARCHAR(3), sku VARCHAR(40), PRIMARY KEY (id), "
        "CONSTRAINT status_choice CHECK (status IN ('new', 'old')) )"
    )


def test_a_copied_table_has_its_checks_once() -> None:
    """Copying a table to another metadata neither drops nor doubles the checks of its types."""
    copy = table.to_metadata(sa.MetaData())
    assert ddl(sqlite.dialect(), copy) == ddl(sqlite.dialect())


@pytest.mark.parametrize(
    "expression",
    [
        c.price + c.price,
        c.price - Decimal("0.10"),
        -c.price,
        c.price * 2,
        2 * c.price,
        c.price * c.count,
        c.count * c.price,
        sa.func.sum(c.price * c.count),
        sa.func.coalesce(sa.func.sum(c.price), 0),
        sa.case((c.count > 1, c.price), else_=c.price),
    ],
    ids=str,
)
def test_expressions_of_amounts_are_amounts(expression: sa.ColumnElement[Any]) -> None:
    """What is computed from amounts keeps their scale."""
    assert isinstance(expression.type, columns.Money)
    assert expression.type.scale == 2


@pytest.mark.parametrize(
    "build",
    [
        lambda: c.price + c.rate,
        lambda: c.price * c.price,
        lambda: c.price + c.count,
        lambda: c.price * 1.5,
        lambda: c.price * Decimal(2),
        lambda: c.at - c.at,
    ],
)
def test_expressions_without_a_unit_are_refused(build: Any) -> None:
    """Amounts of two scales, amounts as factors, and arithmetic on instants have no meaning that all databases share."""
    with pytest.raises(ColumnRefused):
        build()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (c.id, -1),
        (c.id, "1"),
        (c.id, True),
        (c.id, 2**63),
        (c.price, 0.1),
        (c.price, True),
        (c.price, "1.00"),
        (c.price, Decimal("0.001")),
        (c.price, Decimal("NaN")),
        (c.price, Decimal("92233720368547758.08")),
        (c.at, datetime(2026, 3, 1)),  # noqa: DTZ001
        (c.at, 5),
        (c.doc, {"x": float("nan")}),
        (c.doc, {"x": "a\0"}),
        (c.doc, {"x": Decimal(1)}),
        (c.status, "sold"),
        (c.sku, "a\0"),
        (c.sku, 5),
    ],
)
@pytest.mark.parametrize("dialect", [postgresql.dialect(), sqlite.dialect()], ids=lambda dialect: dialect.name)
def test_a_value_that_is_not_exact_is_refused(column: sa.Column[Any], value: Any, dialect: sa.Dialect) -> None:
    """Nothing is rounded, coerced or cut on the way to a column, on any database."""
    bind = column.type.bind_processor(dialect)
    assert bind is not None
    with pytest.raises(ColumnRefused):
        bind(value)
    assert bind(None) is None


def test_values_are_kept_in_the_smallest_unit() -> None:
    """An amount is a count of its smallest unit, an instant of microseconds, JSON a canonical text."""
    store: Any = sqlite.dialect()
    bound: dict[str, Any] = {name: c[name].type.bind_processor(store) for name in ("price", "rate", "at", "doc")}
    assert bound["price"](Decimal("-199.98")) == -19998
    assert bound["price"](Decimal("92233720368547758.07")) == 2**63 - 1
    assert bound["rate"](Decimal("1.5")) == 15000
    assert bound["at"](datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)) == 1_000_000
    assert bound["doc"]({"b": 1, "a": ["ü", "\\u0000"]}) == '{"a":["ü","\\\\u0000"],"b":1}'
    read: Any = c.price.type.result_processor(store, None)
    assert str(read(-19998)) == "-199.98"
    assert str(read(Decimal(30))) == "0.30"
    with pytest.raises(ColumnRefused, match="smallest unit"):
        read(Decimal("0.5"))


def test_unportable_columns_are_refused_with_the_cure() -> None:
    """A plain Numeric, a naive DateTime and an instant from the database's clock are named, all at once."""
    metadata = sa.MetaData()
    refuse_unportable(table.metadata)
    sa.Table(
        "u",
        metadata,
        sa.Column("n", sa.Numeric(10, 2)),
        sa.Column("f", sa.Float),
        sa.Column("d", sa.DateTime),
        sa.Column("z", sa.DateTime(timezone=True)),
        sa.Column("i", columns.Instant, server_default=sa.func.now()),
    )
    with pytest.raises(Declared) as caught:
        refuse_unportable(metadata)
    assert caught.value.where == "u.n, u.d, u.i"
    assert "Money" in caught.value.hint
    with pytest.raises(Declared, match=r"u\.z"):
        refuse_unportable(metadata, zones=False)
