"""The application that `write` and `embedded` measure: one write, one reaction, in the plain and in the batched form.

    app, batched                 with the reaction: all roles
    app_alone, batched_alone     without it: nothing consumes, so the timed part holds the write alone

The tables are those of bench/orders.py; outbox, inbox and keys are the platform's own.
"""

import os
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, bindparam, insert, select, text, update

from dujiang import App, Event, Id, Module, Refusal, Tx, key

tables = MetaData()
stock = Table("stock", tables, Column("sku", Integer, primary_key=True), Column("quantity", Integer, nullable=False))
orders = Table(
    "orders",
    tables,
    Column("id", BigInteger, primary_key=True),
    Column("user_id", Integer, nullable=False),
    Column("sku", Integer, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("status", Text, nullable=False),
)
handled = Table("handled", tables, Column("order_id", BigInteger, primary_key=True))

Positive = Annotated[int, Field(ge=1)]


class NewOrder(BaseModel):
    """A request for one product."""

    model_config = ConfigDict(extra="forbid", strict=True)
    user_id: Positive
    sku: Positive
    quantity: Annotated[int, Field(ge=1, le=100)]


class OrderView(BaseModel):
    """An order as the customer sees it."""

    id: Id
    user_id: int
    sku: int
    quantity: int
    status: str


class OrderPlaced(Event):
    """An order was written."""

    order_id: Id = key()
    user_id: int
    sku: int
    quantity: int


class OutOfStock(Refusal):
    """The product is short."""

    code = "out_of_stock"
    status = 409


# Built once, so that a request only binds values; the peer's statements are text, written once too.
TAKE = (
    update(stock)
    .where(stock.c.sku == bindparam("of"), stock.c.quantity >= bindparam("taken"))
    .values(quantity=stock.c.quantity - bindparam("taken"))
)
PLACE = insert(orders)


# Locked in one order everywhere, so two batches cannot wait for each other.
WANTED = bindparam("wanted", expanding=True, type_=Integer)
LOCK = select(stock.c.sku, stock.c.quantity).where(stock.c.sku.in_(WANTED)).order_by(stock.c.sku).with_for_update()
# Takes as much of each of these products; run once for each number that was asked for.
TAKE_EACH = (
    update(stock).where(stock.c.sku.in_(WANTED)).values(quantity=stock.c.quantity - bindparam("taken", type_=Integer))
)


async def place(tx: Tx, body: NewOrder) -> OrderView:
    """One order in one transaction."""
    taken = await tx.execute(TAKE, {"of": body.sku, "taken": body.quantity})
    if taken.rowcount != 1:
        raise OutOfStock
    view = OrderView(id=tx.new_id(), user_id=body.user_id, sku=body.sku, quantity=body.quantity, status="new")
    row = {"id": view.id, "user_id": view.user_id, "sku": view.sku, "quantity": view.quantity, "status": view.status}
    await tx.execute(PLACE, row)
    tx.publish(OrderPlaced(order_id=view.id, user_id=view.user_id, sku=view.sku, quantity=view.quantity))
    return view


async def place_many(tx: Tx, bodies: list[NewOrder]) -> list[OrderView | Refusal]:
    """Orders that wait at the same moment, in one transaction; who comes first is served first."""
    rows = await tx.execute(LOCK, {"wanted": sorted({body.sku for body in bodies})})
    left: dict[int, int] = {row.sku: row.quantity for row in rows}
    before, answers = dict(left), list[OrderView | Refusal]()
    for body in bodies:
        if left.get(body.sku, 0) < body.quantity:
            answers.append(OutOfStock())
            continue
        left[body.sku] -= body.quantity
        answers.append(OrderView(id=tx.new_id(), **body.model_dump(), status="new"))
    views = [answer for answer in answers if isinstance(answer, OrderView)]
    taken: dict[int, list[int]] = {}
    for sku, quantity in left.items():
        if quantity != before[sku]:
            taken.setdefault(before[sku] - quantity, []).append(sku)
    for quantity, skus in taken.items():
        await tx.execute(TAKE_EACH, {"wanted": skus, "taken": quantity})
    if views:
        await tx.execute(PLACE, [view.model_dump() for view in views])
    tx.publish(
        *(OrderPlaced(order_id=view.id, user_id=view.user_id, sku=view.sku, quantity=view.quantity) for view in views)
    )
    return answers


async def durability(tx: Tx) -> dict[str, Any]:
    """The settings of the session that writes."""
    on_sqlite = os.environ["BENCH_STORE"].startswith("sqlite")
    names = ("journal_mode", "synchronous") if on_sqlite else ("fsync", "full_page_writes", "synchronous_commit")
    query = "PRAGMA {}" if on_sqlite else "SHOW {}"
    return {name: (await tx.execute(text(query.format(name)))).scalar_one() for name in names}


async def handle(tx: Tx, event: OrderPlaced) -> None:
    """One row per handled order; its primary key would refuse a second effect."""
    await tx.execute(insert(handled), {"order_id": event.order_id})


async def handle_many(tx: Tx, events: list[OrderPlaced]) -> None:
    """The batched form: events that wait at the same moment, in one transaction."""
    await tx.execute(insert(handled), [{"order_id": event.order_id} for event in events])


def application(*, batch: int, consuming: bool) -> App:
    """The app in one of its forms; stored names are the same in all."""
    module = Module("bench")
    if batch:
        module.write("POST /orders", name="place", batch=batch)(place_many)
    else:
        module.write("POST /orders", name="place")(place)
    module.write("POST /durability", status_code=200)(durability)
    if consuming and batch:
        module.react(OrderPlaced, name="handle", start="beginning", batch=batch)(handle_many)
    elif consuming:
        module.react(OrderPlaced, name="handle", start="beginning")(handle)
    return App(modules=[module])


app = application(batch=0, consuming=True)
app_alone = application(batch=0, consuming=False)
batched = application(batch=64, consuming=True)
batched_alone = application(batch=64, consuming=False)
