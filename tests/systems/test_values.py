"""Values that no column holds, sent over HTTP: one answer, whichever database is below.

The expected problem document stands here whole, so that an answer that differs between the databases fails on one.
"""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import registry

from dujiang import App, Id, Json, Model, Module, Read, Tx, columns
from dujiang.testing.harness import World, running

OUT_OF_RANGE = "the int 1099511627776: it takes whole numbers of 32 bits, from -2147483648 to 2147483647"
HINT = "send a value that fits; a limit in the body's model, such as Field(max_length=64), refuses it earlier"


class NewItem(Model):
    """A row of anything; `by` is the way it takes into the table."""

    by: str
    row: dict[str, Json]


class Asked(Model):
    """What was found."""

    ids: list[int]


class Row:
    """A row of the table, for the session."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


def application() -> tuple[App, Any]:
    """An app that puts into its table whatever it is sent, and the registry of its class."""
    mapping = registry(metadata=sa.MetaData())
    item = sa.Table(
        "t_item",
        mapping.metadata,
        sa.Column("id", columns.Id, primary_key=True),
        sa.Column("sku", columns.Key(4)),
        sa.Column("name", sa.String(4)),
        sa.Column("qty", sa.Integer, nullable=False, default=1),
        sa.Column("weight", sa.Float),
        sa.Column("flag", sa.Boolean),
        sa.Column("at", columns.Instant),
        sa.CheckConstraint("qty > -10", name="t_item_qty"),
    )
    mapping.map_imperatively(Row, item)

    async def seed(tx: Tx) -> None:
        await (await tx.session.connection()).run_sync(mapping.metadata.create_all)

    items = Module("items", tables=mapping.metadata, seed=seed)

    @items.write("POST /items")
    async def put(tx: Tx, body: NewItem) -> None:
        """Put a row into the table, unchecked."""
        if body.by == "session":
            tx.session.add(Row(**body.row))
            await tx.session.flush()
        elif body.by == "late session":
            tx.session.add(Row(**body.row))
        else:
            await tx.execute(sa.insert(item), body.row)

    @items.write("POST /items/{item_id}/more")
    async def more(tx: Tx, item_id: Id, by: int) -> None:
        """Add to the quantity of a row."""
        await tx.execute(sa.update(item).where(item.c.id == item_id).values(qty=item.c.qty + by))

    @items.read("GET /items")
    async def find(db: Read, limit: int = 10, qty: int = 1, like: str = "%") -> Asked:
        """The rows of a quantity."""
        found = sa.select(item.c.id).where(item.c.qty == qty, sa.func.coalesce(item.c.name, "").like(like))
        return Asked(ids=list((await db.execute(found.order_by(item.c.id).limit(limit))).scalars()))

    return App(modules=[items]), mapping


ITEMS, MAPPING = application()
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sku": "xxxxx"}, "t_item.sku, Key(4), does not hold a text of 5 characters: it takes at most 4 characters"),
    (
        {"name": "12345"},
        "t_item.name, String(length=4), does not hold a text of 5 characters: it takes at most 4 characters",
    ),
    ({"name": 5}, "t_item.name, String(length=4), does not hold the int 5: it takes text"),
    ({"qty": 2**40}, f"t_item.qty, Integer(), does not hold {OUT_OF_RANGE}"),
    ({"qty": "abc"}, "t_item.qty, Integer(), does not hold a text of 3 characters: it takes whole numbers"),
    ({"weight": "much"}, "t_item.weight, Float(), does not hold a text of 4 characters: it takes numbers"),
    ({"flag": 7}, "t_item.flag, Boolean(), does not hold the int 7: it takes True and False"),
    (
        {"at": "2026-03-01"},
        "t_item.at, Instant(), does not hold a text of 10 characters: an instant is a datetime with a time zone",
    ),
    ({"id": -1}, "t_item.id, Id(), does not hold the int -1: an id is an int from 0 to 2**63-1"),
]


def problem(detail: str) -> dict[str, Any]:
    """The whole answer for a value that does not fit."""
    return {
        "type": "/docs/errors/column_value",
        "title": "A value does not fit the place that it was sent to",
        "status": 422,
        "detail": detail,
        "code": "column_value",
        "move": "fix",
        "hint": HINT,
    }


async def count(world: World) -> int:
    """The rows of quantity 1."""
    return len((await world.get("/items")).json["ids"])


class TestValues:
    @pytest.mark.parametrize("by", ["core", "session", "late session"])
    async def test_a_value_that_its_column_does_not_hold_is_422_and_changes_nothing(self, store: str, by: str) -> None:
        """The problem names the column, the shape of the value and the cure; nothing of it depends on the database."""
        async with running(ITEMS, database=store) as world:
            for row, detail in REFUSED:
                answer = await world.post("/items", {"by": by, "row": {"id": 1, **row}})
                assert answer.json == problem(detail)
                assert answer.headers["content-type"] == "application/problem+json"
            assert await count(world) == 0

    @pytest.mark.parametrize("by", ["core", "session", "late session"])
    async def test_a_broken_constraint_is_409_by_each_way(self, store: str, by: str) -> None:
        """A key that is there twice, and a CHECK, have one answer, whichever way the row came."""
        async with running(ITEMS, database=store) as world:
            await world.post("/items", {"by": by, "row": {"id": 1}})
            twice = await world.post("/items", {"by": by, "row": {"id": 1}})
            low = await world.post("/items", {"by": by, "row": {"id": 2, "qty": -10}})

            for answer in (twice, low):
                told = {name: answer.json[name] for name in ("status", "code", "move")}
                assert told == {"status": 409, "code": "integrity", "move": "report"}
            assert await count(world) == 1

    async def test_what_sql_computes_is_held_to_its_column(self, store: str) -> None:
        """A sum that the column does not hold is 422 and leaves the row as it was."""
        async with running(ITEMS, database=store) as world:
            await world.post("/items", {"by": "core", "row": {"id": 1}})
            answer = await world.post(f"/items/1/more?by={2**31 - 1}", None)

            why = "a number is out of the range of its column or of its type"
            assert answer.json == problem(f"t_item.qty does not hold what is computed for it: {why}")
            assert await count(world) == 1

    async def test_a_question_out_of_range_is_422(self, store: str) -> None:
        """A LIMIT below zero, a number beyond the column and a pattern that ends in nothing are refused alike."""
        async with running(ITEMS, database=store) as world:
            details = [
                (await world.get(address)).json["detail"]
                for address in ("/items?limit=-1", "/items?qty=1099511627776", "/items?like=a%5C")
            ]

            assert details == [
                "LIMIT does not hold the int -1: it takes whole numbers from 0",
                f"a parameter of type Integer() does not hold {OUT_OF_RANGE}",
                "LIKE does not hold a text of 2 characters: the pattern ends with the escape character \\",
            ]
