"""The constructs and types that the short path of data/statements.py and SQLAlchemy's own execution are compared on.

A case builds a statement and its parameters from the tables; it is built anew for each run, so that both ways of
recognising a statement are taken. `short` says that the short path has to take it: a case that quietly goes the long
way would prove nothing.
"""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from sqlalchemy import bindparam, case, delete, exists, func, insert, literal, select, text, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dujiang.data import columns

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(enum.Enum):
    """An enumeration kept by its names."""

    RED = "red"
    BLUE = "blue"


class Shouted(sa.TypeDecorator[str]):
    """A user's own type: upper case in the database."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Upper case on the way in."""
        return value and value.upper()

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Lower case, marked, on the way out; NULL too, because a processor sees it."""
        return "none" if value is None else f"<{value.lower()}>"


class Wrapped(sa.TypeDecorator[str]):
    """A user's own type that is an expression in SQL."""

    impl = sa.String(20)
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        """Lower case, made by the database."""
        return func.lower(bindvalue, type_=self)

    def column_expression(self, column: Any) -> Any:
        """Upper case, made by the database."""
        return func.upper(column, type_=self)


class Base(DeclarativeBase):
    """Mapped classes."""


metadata = Base.metadata


class Part(Base):
    """A mapped class, used with Core execution."""

    __tablename__ = "part"

    id: Mapped[int] = mapped_column(columns.Id, primary_key=True)
    item_id: Mapped[int] = mapped_column("item", columns.Id, sa.ForeignKey("item.id"))
    label: Mapped[str] = mapped_column(sa.String(20), default="none")


item = sa.Table(
    "item",
    metadata,
    sa.Column("id", columns.Id, primary_key=True),
    sa.Column("name", sa.String(30), nullable=False),
    sa.Column("qty", sa.Integer, nullable=False, default=7),
    sa.Column("revision", sa.Integer, default=1, onupdate=2),
    sa.Column("origin", sa.String(10), server_default="shop"),
    sa.Column("price", columns.Money()),
    sa.Column("rate", columns.Money(4)),
    sa.Column("moment", columns.Instant),
    sa.Column("doc", columns.Json),
    sa.Column("status", columns.Choice("new", "old")),
    sa.Column("sku", columns.Key(40)),
    sa.Column("small", sa.SmallInteger),
    sa.Column("big", sa.BigInteger),
    sa.Column("weight", sa.Float),
    sa.Column("width", sa.Double),
    sa.Column("flag", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("at", sa.DateTime),
    sa.Column("clock", sa.Time),
    sa.Column("span", sa.Interval),
    sa.Column("blob", sa.LargeBinary),
    sa.Column("uid", sa.Uuid),
    sa.Column("uid_text", sa.Uuid(as_uuid=False)),
    sa.Column("kind", sa.Enum(Kind, native_enum=False)),
    sa.Column("letter", sa.Enum("a", "b", native_enum=False)),
    sa.Column("tree", sa.JSON),
    sa.Column("note", sa.Text),
    sa.Column("loud", Shouted),
    sa.Column("wrapped", Wrapped),
)

part = cast("sa.Table", Part.__table__)

made = sa.Table(
    "made",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("label", sa.String(20)),
    sa.Column("token", sa.String(20), default=lambda: "called"),
    sa.Column("lowered", sa.String(20), default=func.lower("SQL")),
)

FULL: dict[str, Any] = {
    "id": 10,
    "name": "Äpfel %s :x $1 ?",
    "qty": 3,
    "price": Decimal("199.98"),
    "rate": Decimal("0.0001"),
    "moment": datetime(2026, 3, 1, 8, 0, 0, 123456, tzinfo=UTC),
    "doc": {"b": [1, 2.5, None, True], "a": {"deep": "x"}},
    "status": "new",
    "sku": "B-1",
    "small": 5,
    "big": 2**62,
    "weight": 1.25,
    "width": 0.1,
    "flag": True,
    "day": date(2026, 3, 1),
    "at": datetime(2026, 3, 1, 8, 0, 0, 5),  # noqa: DTZ001
    "clock": time(8, 30, 0, 7),
    "span": timedelta(days=1, seconds=5, microseconds=7),
    "blob": b"\x00\xff",
    "uid": uuid.UUID(int=7),
    "uid_text": str(uuid.UUID(int=8)),
    "kind": Kind.BLUE,
    "letter": "b",
    "tree": [1, {"x": "y"}],
    "note": "long",
    "loud": "quiet",
    "wrapped": "Mixed",
}

SEEDS: list[dict[str, Any]] = [
    {
        "id": 1,
        "name": "nut",
        "qty": 5,
        "price": Decimal("0.10"),
        "sku": "b",
        "flag": True,
        "status": "new",
        "weight": 2.0,
    },
    {
        "id": 2,
        "name": "bolt",
        "qty": 0,
        "price": Decimal("0.20"),
        "sku": "B",
        "flag": False,
        "status": "old",
        "weight": 0.5,
    },
    {"id": 3, "name": "gear", "qty": 9, "price": None, "sku": "a", "flag": None, "status": None, "weight": None},
]
PART_SEEDS = [
    {"id": 1, "item": 1, "label": "x"},
    {"id": 2, "item": 1, "label": "y"},
    {"id": 3, "item": 2, "label": "x"},
]

Built = tuple[Any, Any]


@dataclass(frozen=True)
class Case:
    """One statement.

    Attributes:
        name: Named in the test's id.
        build: Builds the statement and its parameters.
        short: Whether the short path has to take it.
        only: The one dialect that knows the construct; empty = all.
    """

    name: str
    build: Callable[[], Built]
    short: bool = True
    only: str = ""


i, p, m = item.c, part.c, made.c
other = item.alias("other")
numbers = select(literal(1).label("n")).union_all(select(literal(2))).cte("numbers")
deep = select(i.id, i.qty).where(i.qty > 0).cte("deep")


def counting() -> Any:
    """A recursive WITH."""
    start = select(literal(1).label("n")).cte("counting", recursive=True)
    return start.union_all(select(start.c.n + 1).where(start.c.n < 5))


def upsert(kind: Any) -> Any:
    """An insert that updates what is there."""
    start = kind.insert(item).values(id=bindparam("new_id"), name="again", qty=1)
    return start.on_conflict_do_update(index_elements=[i.id], set_={"qty": i.qty + start.excluded.qty, "name": "kept"})


def of(statement: Any, params: Any = None) -> Callable[[], Built]:
    """A statement of a module: one object for all runs."""
    return lambda: (statement, params)


inner = select(i.id, i.qty).where(i.qty > 0).subquery()
beside = select(p.label).where(p.item == i.id).lateral()
counted = counting()

CASES = [
    # Reading.
    Case("all columns", lambda: (select(item).order_by(i.id), None)),
    Case("some columns", lambda: (select(i.id, i.name).where(i.id == 1), None)),
    Case("a parameter", of(select(i.id, i.name).where(i.id == bindparam("wanted")), {"wanted": 2})),
    Case("a parameter twice", of(select(i.id).where((i.id == bindparam("v")) | (i.qty == bindparam("v"))), {"v": 5})),
    Case("a parameter with a default", of(select(i.id).where(i.id == bindparam("wanted", 2)), None)),
    Case("a default overridden", of(select(i.id).where(i.id == bindparam("wanted", 2)), {"wanted": 3})),
    Case(
        "a parameter of a strange name",
        of(select(i.id).where(i.id == bindparam("a b:(c)%", type_=sa.Integer)), {"a b:(c)%": 1}),
    ),
    Case("a computed parameter", lambda: (select(i.id).where(i.id == bindparam("w", callable_=lambda: 2)), None)),
    Case("unused parameters", of(select(i.id).where(i.id == bindparam("wanted")), {"wanted": 2, "more": 1})),
    Case("no rows", lambda: (select(item).where(i.id == 99), None)),
    Case("null", lambda: (select(i.id, i.price).where(i.price.is_(None)), None)),
    Case("null as value", lambda: (select(literal(None).label("empty"), sa.null().label("null")), None)),
    Case(
        "literals",
        lambda: (select(literal("a'b").label("s"), literal(5), literal(2.5), literal(True), literal(b"x")), None),
    ),
    Case("literal dates", lambda: (select(literal(FULL["day"]), literal(FULL["at"]), literal(FULL["span"])), None)),
    Case(
        "labels", lambda: (select((i.qty * 2).label("double"), func.upper(i.name).label("loud")).order_by(i.id), None)
    ),
    Case("two columns of one name", lambda: (select(i.id, p.id).join_from(item, part).order_by(p.id), None)),
    Case("one column twice", lambda: (select(i.id, i.id).order_by(i.id), None)),
    Case("unnamed expressions", lambda: (select(i.qty + 1, func.count()).group_by(i.qty).order_by(i.qty), None)),
    Case("aggregates", lambda: (select(func.count(), func.sum(i.qty), func.min(i.name), func.max(i.weight)), None)),
    Case("average", lambda: (select(func.avg(i.weight)), None)),
    Case("group by having", lambda: (select(p.label, func.count()).group_by(p.label).having(func.count() > 1), None)),
    Case("distinct", lambda: (select(p.label).distinct().order_by(p.label), None)),
    Case("limit offset", lambda: (select(i.id).order_by(i.id).limit(1).offset(1), None)),
    Case("in", lambda: (select(i.id).where(i.id.in_([1, 3])).order_by(i.id), None)),
    Case("in nothing", lambda: (select(i.id).where(i.id.in_([])), None)),
    Case("not in", lambda: (select(i.id).where(i.id.not_in([1, 3]), i.name == "bolt"), None)),
    Case(
        "in, processed",
        lambda: (select(i.id).where(i.price.in_([Decimal("0.10"), Decimal("0.20")])).order_by(i.id), None),
    ),
    Case(
        "in, expanding",
        of(
            select(i.id).where(i.id.in_(bindparam("ids", expanding=True)), i.qty >= bindparam("q")).order_by(i.id),
            {"ids": [1, 2, 3], "q": 0},
        ),
    ),
    Case("in, tuples", lambda: (select(i.id).where(tuple_(i.id, i.name).in_([(1, "nut"), (2, "x")])), None)),
    Case("literal execute", lambda: (select(i.id).where(i.id == bindparam("w", 2, literal_execute=True)), None)),
    Case("between", lambda: (select(i.id).where(i.qty.between(1, 6)), None)),
    Case(
        "like",
        lambda: (select(i.id).where(i.name.like("%u%") | i.name.startswith("g", autoescape=True)).order_by(i.id), None),
    ),
    Case("ilike", lambda: (select(i.id).where(i.name.ilike("NUT")), None)),
    Case("join", lambda: (select(i.name, p.label).join(part, i.id == p.item).order_by(p.id), None)),
    Case("outer join", lambda: (select(i.name, p.label).outerjoin(part, i.id == p.item).order_by(i.id, p.id), None)),
    Case(
        "self join",
        lambda: (select(i.id, other.c.id).join(other, i.qty < other.c.qty).order_by(i.id, other.c.id), None),
    ),
    Case(
        "subquery",
        lambda: (
            select(inner.c.id, inner.c.qty + 1).order_by(inner.c.id),
            None,
        ),
    ),
    Case(
        "scalar subquery",
        lambda: (
            select(i.id, select(func.count()).where(p.item == i.id).scalar_subquery().label("parts")).order_by(i.id),
            None,
        ),
    ),
    Case("exists", lambda: (select(i.id).where(exists().where(p.item == i.id)).order_by(i.id), None)),
    Case("in subquery", lambda: (select(i.id).where(i.id.in_(select(p.item).where(p.label == "y"))), None)),
    Case("with", lambda: (select(deep.c.id).order_by(deep.c.id), None)),
    Case("with, without a table", lambda: (select(numbers.c.n).order_by(numbers.c.n), None)),
    Case("with recursive", lambda: (select(counted.c.n).order_by(counted.c.n), None)),
    Case(
        "union",
        lambda: (
            select(i.id.label("x")).where(i.id == 1).union(select(p.id).where(p.label == "x")).order_by("x"),
            None,
        ),
    ),
    Case("except", lambda: (select(i.id).except_(select(p.item)), None)),
    Case("case", lambda: (select(case((i.qty > 5, "many"), (i.qty > 0, "some"), else_="none")).order_by(i.id), None)),
    Case("cast", lambda: (select(sa.cast(i.qty, sa.String), sa.cast(i.weight, sa.Integer)).where(i.id == 1), None)),
    Case("type coerce", lambda: (select(sa.type_coerce(i.name, Shouted)).order_by(i.id), None)),
    Case("coalesce", lambda: (select(func.coalesce(i.price, Decimal("9.00"))).order_by(i.id), None)),
    Case("window", lambda: (select(i.id, func.row_number().over(order_by=i.qty.desc())).order_by(i.id), None)),
    Case("window with partition", lambda: (select(p.id, func.count().over(partition_by=p.label)).order_by(p.id), None)),
    Case("aggregate filter", lambda: (select(func.count().filter(i.qty > 0)), None)),
    Case(
        "string functions",
        lambda: (select(func.length(i.name), i.name + "!", func.substr(i.name, 1, 2)).order_by(i.id), None),
    ),
    Case("arithmetic", lambda: (select(i.qty + 1, i.qty - 1, i.qty * 2, -i.qty, i.qty % 2).order_by(i.id), None)),
    Case("boolean", lambda: (select(i.id, i.flag, i.qty > 1).where(i.flag.is_(True)), None)),
    Case("nulls last", lambda: (select(i.id).order_by(i.price.desc().nulls_last(), i.id), None)),
    Case("for update", lambda: (select(i.id).where(i.id == 1).with_for_update(), None)),
    Case(
        "values",
        lambda: (select(sa.values(sa.column("a", sa.Integer), name="v").data([(1,), (2,)])), None),
        short=False,
        only="postgresql",
    ),
    Case(
        "lateral",
        lambda: (
            select(i.id, beside.c.label).join(beside, sa.true()).order_by(i.id, beside.c.label),
            None,
        ),
        only="postgresql",
    ),
    Case(
        "distinct on",
        lambda: (select(p.label, p.id).ext(postgresql.distinct_on(p.label)).order_by(p.label, p.id), None),
        only="postgresql",
    ),
    Case("array aggregate", lambda: (select(func.array_agg(p.label)).where(p.id == 1), None), only="postgresql"),
    Case(
        "array of numbers",
        lambda: (select(func.array_agg(i.weight)).where(i.id == 1), None),
        only="postgresql",
        short=False,
    ),
    Case(
        "any",
        lambda: (select(i.id).where(i.id == sa.any_(postgresql.array([1, 3]))).order_by(i.id), None),
        only="postgresql",
    ),
    Case("generated series", lambda: (select(func.generate_series(1, 3, type_=sa.Integer)), None), only="postgresql"),
    Case(
        "table function",
        lambda: (select(func.generate_series(1, 3).table_valued("n").render_derived()), None),
        only="postgresql",
    ),
    Case("column as text", lambda: (select(text("name"), i.id).select_from(item).order_by(i.id), None), short=False),
    Case(
        "literal column",
        lambda: (select(sa.literal_column("qty + 1").label("more")).select_from(item).order_by(i.id), None),
    ),
    Case("star", lambda: (select(sa.literal_column("*")).select_from(part).order_by(p.id), None), short=False),
    Case("text", of(text("SELECT id, name FROM item WHERE id = :wanted"), {"wanted": 1}), short=False),
    Case("text with columns", of(text("SELECT id, price FROM item ORDER BY id").columns(i.id, i.price)), short=False),
    Case("text that writes", of(text("UPDATE item SET qty = 1 WHERE id < :most"), {"most": 3}), short=False),
    Case("a bare function", lambda: (func.length("abc"), None), short=False),
    Case("execution options", lambda: (select(i.id).execution_options(note="x").order_by(i.id), None), short=False),
    Case("params method", lambda: (select(i.id).where(i.id == bindparam("w")).params(w=2), None), short=False),
    # Types of ours in expressions.
    Case(
        "money",
        lambda: (
            select(i.price, i.price * 2, i.qty * i.price, func.sum(i.price)).where(i.id == 1).group_by(i.id),
            None,
        ),
    ),
    Case("money compared", lambda: (select(i.id).where(i.price > Decimal("0.10")), None)),
    Case("keys in order of bytes", lambda: (select(i.sku).order_by(i.sku), None)),
    Case(
        "json path",
        lambda: (select(i.doc["a"]["deep"].as_string(), i.doc["b"][1].as_float(), i.doc["a"]).order_by(i.id), None),
    ),
    Case("json path as tuple", lambda: (select(i.doc[("a", "deep")].as_string()).order_by(i.id), None)),
    Case(
        "jsonb contains",
        lambda: (select(i.id).where(sa.cast(i.doc, postgresql.JSONB).contains({"a": {"deep": "x"}})), None),
        only="postgresql",
    ),
    # Mapped classes.
    Case("mapped class", lambda: (select(Part).order_by(Part.id), None)),
    Case("mapped columns", lambda: (select(Part.label, Part.item_id).where(Part.id == 1), None)),
    Case("mapped join", lambda: (select(Part.label, i.name).join(item, i.id == Part.item_id).order_by(Part.id), None)),
    Case("mapped update", lambda: (update(Part).where(Part.id == 1).values(label="z"), None)),
    Case("mapped insert", lambda: (insert(Part).values(id=9, item_id=1), None)),
    Case("mapped delete", lambda: (delete(Part).where(Part.label == "x"), None)),
    # Writing.
    Case("insert of every type", of(insert(item), FULL)),
    Case("insert of values", lambda: (insert(item).values(**FULL), None)),
    Case("insert of nulls", of(insert(item), dict.fromkeys(FULL) | {"id": 10, "name": "n", "qty": 0})),
    Case("insert with defaults", of(insert(item), {"id": 10, "name": "plain"})),
    Case(
        "insert of an expression",
        lambda: (
            insert(item).values(
                id=10, name=func.upper("x"), qty=select(func.count()).select_from(part).scalar_subquery()
            ),
            None,
        ),
    ),
    Case("insert from select", lambda: (insert(item).from_select(["id", "name"], select(i.id + 10, i.name)), None)),
    Case(
        "insert of several values",
        lambda: (insert(part).values([{"id": 8, "item": 1}, {"id": 9, "item": 1}]), None),
        short=False,
    ),
    Case(
        "insert returning",
        lambda: (insert(item).values(id=10, name="r").returning(i.id, i.qty, i.origin, i.price), None),
    ),
    Case(
        "insert, key drawn",
        lambda: (insert(made).values(label="x", token="t", lowered="l"), None),
    ),
    Case("insert, called default", lambda: (insert(made).values(id=1, label="x"), None), short=False),
    Case("insert, default in SQL", of(insert(made), {"id": 1, "label": "x", "token": "t"})),
    Case("insert many", of(insert(item), [{"id": 20 + n, "name": f"n{n}", "price": Decimal(n)} for n in range(5)])),
    Case("insert many of one", of(insert(item), [{"id": 20, "name": "one"}])),
    Case(
        "insert many returning",
        lambda: (
            insert(part).returning(p.id, sort_by_parameter_order=True),
            [{"id": 8, "item": 1}, {"id": 9, "item": 1}],
        ),
        short=False,
    ),
    Case("update", lambda: (update(item).where(i.id == 1).values(qty=i.qty - 1, price=Decimal("1.00")), None)),
    Case(
        "update by parameters",
        of(
            update(item).where(i.id == bindparam("wanted")).values(qty=i.qty - bindparam("taken")),
            {"wanted": 1, "taken": 2},
        ),
    ),
    Case(
        "update of columns",
        of(update(item).where(i.id == bindparam("wanted")), {"wanted": 1, "name": "new", "status": "old"}),
    ),
    Case("update that changes nothing", lambda: (update(item).where(i.id == 1).values(qty=5, revision=1), None)),
    Case("update of none", lambda: (update(item).where(i.id == 99).values(qty=5), None)),
    Case(
        "update returning",
        lambda: (update(item).where(i.id < 3).values(qty=1).returning(i.id, (i.qty + 1).label("more")), None),
    ),
    Case("update from", lambda: (update(item).where(i.id == p.item, p.label == "y").values(note=p.label), None)),
    Case(
        "update many",
        of(
            update(item).where(i.id == bindparam("wanted")).values(qty=bindparam("left")),
            [{"wanted": n, "left": n} for n in (1, 2, 99)],
        ),
    ),
    Case("update, ordered", lambda: (update(item).where(i.id == 1).ordered_values((i.qty, 1), (i.name, "o")), None)),
    Case("delete", lambda: (delete(part).where(p.id == 1), None)),
    Case("delete many", of(delete(part).where(p.id == bindparam("gone")), [{"gone": 1}, {"gone": 2}, {"gone": 7}])),
    Case("delete returning", lambda: (delete(part).where(p.label == "x").returning(p.id), None)),
    Case("delete with in", lambda: (delete(part).where(p.id.in_([1, 2])), None)),
    Case("upsert, PostgreSQL", of(upsert(postgresql), {"new_id": 1}), only="postgresql"),
    Case("upsert, SQLite", of(upsert(sqlite), {"new_id": 1}), only="sqlite"),
    Case(
        "insert or nothing, PostgreSQL",
        lambda: (postgresql.insert(item).values(id=1, name="x").on_conflict_do_nothing(), None),
        only="postgresql",
    ),
    Case(
        "insert or nothing, SQLite",
        lambda: (sqlite.insert(item).values(id=1, name="x").on_conflict_do_nothing(), None),
        only="sqlite",
    ),
    Case(
        "write in with",
        lambda: (select(delete(part).where(p.id == 1).returning(p.label).cte("gone").c.label), None),
        only="postgresql",
    ),
    Case("with before a write", lambda: (update(item).where(i.id.in_(select(deep.c.id))).values(qty=0), None)),
]
