"""The shop's verbs: place an order, reserve its stock, read it, set stock; and the laws that always hold."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import bindparam, case, func, insert, select, update

from dujiang import Id, Module, Read, Refusal, Tx
from dujiang.systems.shop.contract import (
    NewOrder,
    OrderLine,
    OrderPlaced,
    OrderReceipt,
    OrderView,
    StockLevel,
    StockRefused,
    StockReserved,
    StockView,
)
from dujiang.systems.shop.tables import line, metadata, order, product, stock

STARTING_PRICES = {
    "itemA": Decimal("40.00"),
    "itemB": Decimal("60.00"),
    "laptop": Decimal("1100.00"),
    "mouse": Decimal("100.00"),
    "prod_67890": Decimal("99.99"),
}
STARTING_STOCK = 1000


async def seed(tx: Tx) -> None:
    """Fill an empty shop: five products, a thousand of each."""
    await tx.execute(insert(product), [{"sku": sku, "price": price} for sku, price in STARTING_PRICES.items()])
    rows = [{"sku": sku, "on_hand": STARTING_STOCK, "reserved": 0, "pending": 0} for sku in STARTING_PRICES]
    await tx.execute(insert(stock), rows)


shop = Module("shop", tables=metadata, migrations="dujiang.systems.shop.migrations", seed=seed)


class OutOfStock(Refusal):
    """The order asks for more than is left."""

    code = "out_of_stock"


class UnknownProduct(Refusal):
    """The order names a product that the shop does not have."""

    code = "unknown_product"
    status = 422


class TotalDiffers(Refusal):
    """The given total is not the computed one."""

    code = "total_differs"
    status = 422


class BelowReserved(Refusal):
    """The stock cannot be set below what is reserved."""

    code = "below_reserved"


# Built once, so that a request only binds values.
PRICE = select(product.c.price).where(product.c.sku == bindparam("sku"))
LEFT = stock.c.on_hand - stock.c.reserved - stock.c.pending
CLAIM = (
    update(stock)
    .where(stock.c.sku == bindparam("of"), bindparam("quantity") <= LEFT)
    .values(pending=stock.c.pending + bindparam("quantity"))
)
LEFT_OF = select(LEFT).where(stock.c.sku == bindparam("of"))
ADD_ORDER = insert(order)
ADD_LINE = insert(line)
RESERVE = (
    update(stock)
    .where(stock.c.sku == bindparam("of"), stock.c.on_hand - stock.c.reserved >= bindparam("quantity"))
    .values(pending=stock.c.pending - bindparam("quantity"), reserved=stock.c.reserved + bindparam("quantity"))
)
UNCLAIM = update(stock).where(stock.c.sku == bindparam("of")).values(pending=stock.c.pending - bindparam("quantity"))
UNRESERVE = (
    update(stock)
    .where(stock.c.sku == bindparam("of"))
    .values(pending=stock.c.pending + bindparam("quantity"), reserved=stock.c.reserved - bindparam("quantity"))
)
LINES = (
    select(line.c.sku, line.c.quantity, line.c.price)
    .where(line.c.order_id == bindparam("order_id"))
    .order_by(line.c.sku)
)
DECIDE = (
    update(order)
    .where(order.c.order_id == bindparam("of"), order.c.status == "pending")
    .values(status=bindparam("decided"))
)
ORDER = select(order).where(order.c.order_id == bindparam("order_id"))
STOCK = select(stock.c.sku, stock.c.on_hand, stock.c.reserved, stock.c.pending).where(stock.c.sku == bindparam("of"))


@shop.write("POST /api/v1/orders", aliases=("POST /orders/",))
async def place_order(tx: Tx, body: NewOrder) -> OrderReceipt | OutOfStock | UnknownProduct | TotalDiffers:
    """Accept an order that the stock covers; the reservation follows."""
    wanted = body.quantities()
    prices = {sku: await price_of(tx, sku) for sku in wanted}
    total = sum((prices[sku] * quantity for sku, quantity in wanted.items()), Decimal("0.00"))
    if body.total_amount is not None and body.total_amount != total:
        raise TotalDiffers(f"the total is {total}, not {body.total_amount}", total_amount=str(total))
    for sku, quantity in wanted.items():
        if (await tx.execute(CLAIM, {"of": sku, "quantity": quantity})).rowcount == 0:
            left = (await tx.execute(LEFT_OF, {"of": sku})).scalar_one()
            raise OutOfStock(f"{quantity} of {sku} were asked for and {left} are left", sku=sku, left=left)
    order_id, user_id = tx.new_id(), str(body.user_id)
    row = {"order_id": order_id, "user_id": user_id, "status": "pending", "total": total, "created_at": tx.now}
    await tx.execute(ADD_ORDER, row)
    lines = [{"order_id": order_id, "sku": s, "quantity": q, "price": prices[s]} for s, q in wanted.items()]
    await tx.execute(ADD_LINE, lines if len(lines) > 1 else lines[0])
    tx.publish(OrderPlaced(order_id=order_id, user_id=user_id, total=total))
    tx.forget(read_order, order_id)  # Somebody may have asked for it and been told that there is none.
    return OrderReceipt(
        order_id=order_id,
        status="pending",
        total_amount=total,
        message="Order created successfully, processing in background.",
    )


async def price_of(tx: Tx, sku: str) -> Decimal:
    """The price of a product. Raises UnknownProduct."""
    price: Decimal | None = (await tx.execute(PRICE, {"sku": sku})).scalar_one_or_none()
    if price is None:
        raise UnknownProduct(f"the shop has no {sku}", sku=sku)
    return price


@shop.react(OrderPlaced)
async def reserve_stock(tx: Tx, event: OrderPlaced) -> None:
    """Turn what the order claimed into a reservation, or refuse the order if the stock was lowered meanwhile."""
    lines = (await tx.execute(LINES, {"order_id": event.order_id})).all()
    short = ""
    reserved: list[dict[str, Any]] = []
    for row in lines:
        of = {"of": row.sku, "quantity": row.quantity}
        if (await tx.execute(RESERVE, of)).rowcount == 0:
            short = row.sku
            break
        reserved.append(of)
    if short:
        for of in reserved:
            await tx.execute(UNRESERVE, of)
        for row in lines:
            await tx.execute(UNCLAIM, {"of": row.sku, "quantity": row.quantity})
    await tx.execute(DECIDE, {"of": event.order_id, "decided": "refused" if short else "reserved"})
    tx.forget(read_order, event.order_id)
    if short:
        tx.publish(StockRefused(order_id=event.order_id, sku=short))
    else:
        tx.publish(StockReserved(order_id=event.order_id))


@shop.read("GET /api/v1/orders/{order_id}", ttl="2h", absent="30s", tags=("order:{order_id}",))
async def read_order(db: Read, order_id: Id) -> OrderView | None:
    """An order with its lines."""
    found = (await db.execute(ORDER, {"order_id": order_id})).one_or_none()
    if found is None:
        return None
    lines = (await db.execute(LINES, {"order_id": order_id})).all()
    return OrderView(
        order_id=found.order_id,
        user_id=found.user_id,
        status=found.status,
        total_amount=found.total,
        created_at=found.created_at,
        lines=[OrderLine(sku=row.sku, quantity=row.quantity, price=row.price) for row in lines],
    )


@shop.write("PUT /_dj/shop/stock/{sku}")
async def set_stock(tx: Tx, sku: str, body: StockLevel) -> StockView | UnknownProduct | BelowReserved:
    """Set how many of a product lie in the warehouse."""
    change = update(stock).where(stock.c.sku == sku, stock.c.reserved <= body.on_hand).values(on_hand=body.on_hand)
    changed = (await tx.execute(change)).rowcount
    found = (await tx.execute(STOCK, {"of": sku})).one_or_none()
    if found is None:
        raise UnknownProduct(f"the shop has no {sku}", sku=sku)
    if not changed:
        raise BelowReserved(f"{found.reserved} of {sku} are reserved", sku=sku, reserved=found.reserved)
    return stock_view(found)


@shop.read("GET /_dj/shop/stock/{sku}")
async def read_stock(db: Read, sku: str) -> StockView | None:
    """The stock of one product."""
    found = (await db.execute(STOCK, {"of": sku})).one_or_none()
    return None if found is None else stock_view(found)


def stock_view(row: Any) -> StockView:
    """A row of `stock` as it is shown."""
    left = row.on_hand - row.reserved - row.pending
    return StockView(sku=row.sku, on_hand=row.on_hand, reserved=row.reserved, pending=row.pending, left=left)


def quantity_in(status: str) -> Any:
    """The quantity of one product in orders of one status, as a subquery of `stock`."""
    return (
        select(func.coalesce(func.sum(line.c.quantity), 0))
        .join(order, order.c.order_id == line.c.order_id)
        .where(line.c.sku == stock.c.sku, order.c.status == status)
        .scalar_subquery()
    )


@shop.invariant("never oversold: 0 <= reserved <= on_hand")
async def never_oversold(db: Read) -> list[Any]:
    """Products that promise more than there is."""
    wrong = select(stock).where((stock.c.reserved < 0) | (stock.c.reserved > stock.c.on_hand) | (stock.c.pending < 0))
    return list((await db.execute(wrong)).all())


@shop.invariant("stock is conserved: reserved and pending are what orders say")
async def stock_is_conserved(db: Read) -> list[Any]:
    """Products whose counters differ from their orders; a reservation that is stuck shows here too."""
    wrong = select(stock.c.sku, stock.c.reserved, stock.c.pending).where(
        (stock.c.reserved != quantity_in("reserved")) | (stock.c.pending != quantity_in("pending"))
    )
    return list((await db.execute(wrong)).all())


@shop.invariant("the total of an order is the sum of its lines")
async def totals_add_up(db: Read) -> list[Any]:
    """Orders whose total differs from their lines."""
    added = (
        select(func.sum(line.c.price * line.c.quantity)).where(line.c.order_id == order.c.order_id).scalar_subquery()
    )
    wrong = select(order.c.order_id).where(case((added.is_(None), True), else_=added != order.c.total))
    return list((await db.execute(wrong)).all())
