"""The shop's contract: bodies, views and events; the only file of the shop that another system may import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from dujiang import Event, Id, Instant, Model, Money, key

Status = Literal["pending", "reserved", "refused"]
Sku = Annotated[str, Field(min_length=1, max_length=64, examples=["itemA", "itemB"])]
Quantity = Annotated[int, Field(ge=1, le=10_000, examples=[1, 2, 5])]
Customer = Annotated[str, Field(min_length=1, max_length=64)] | int


class Line(Model):
    """One product and how many of it."""

    sku: Sku
    quantity: Quantity


class NewOrder(Model):
    """An order to be placed: either `items`, or one `product_id` with its `quantity`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": 123, "items": ["itemA", "itemB"]},
                {"user_id": 123, "items": ["itemA", "itemB"], "total_amount": "100.00"},
                {"user_id": 123, "items": [{"sku": "laptop", "quantity": 2}, "mouse"]},
                {"user_id": "user_12345", "product_id": "prod_67890", "quantity": 2},
            ]
        }
    )

    user_id: Customer = Field(examples=[123, "user_12345"])
    items: Annotated[list[Sku | Line], Field(min_length=1, max_length=100)] | None = None
    product_id: Sku | None = None
    quantity: Quantity | None = None
    total_amount: Money | None = Field(default=None, description="If given, it must equal the computed total.")

    @model_validator(mode="after")
    def one_form(self) -> NewOrder:
        """Refuse both forms at once, neither, and half of one."""
        if (self.items is None) == (self.product_id is None):
            raise ValueError("give either `items` or `product_id`")
        if (self.product_id is None) != (self.quantity is None):
            raise ValueError("`product_id` and `quantity` belong together")
        return self

    def quantities(self) -> dict[str, int]:
        """How many of each product, in the order of their names: locks are taken in that order."""
        if self.product_id is not None:
            return {self.product_id: self.quantity or 1}
        wanted: dict[str, int] = {}
        for item in self.items or ():
            sku, quantity = (item, 1) if isinstance(item, str) else (item.sku, item.quantity)
            wanted[sku] = wanted.get(sku, 0) + quantity
        return dict(sorted(wanted.items()))


class OrderReceipt(Model):
    """The answer to an order that was placed."""

    order_id: Id
    status: Status
    total_amount: Money
    message: str


class OrderLine(Model):
    """One line of an order, at the price of its day."""

    sku: str
    quantity: int
    price: Money


class OrderView(Model):
    """An order as it stands."""

    order_id: Id
    user_id: str
    status: Status
    total_amount: Money
    created_at: Instant
    lines: list[OrderLine]


class StockLevel(Model):
    """How many of a product lie in the warehouse."""

    on_hand: Annotated[int, Field(ge=0, le=1_000_000_000, examples=[1000, 500, 200])]


class StockView(Model):
    """The stock of one product; `left` is what a new order may still ask for."""

    sku: str
    on_hand: int
    reserved: int
    pending: int
    left: int


class OrderPlaced(Event):
    """An order was accepted; its stock is not yet reserved."""

    order_id: Id = key()
    user_id: str
    total: Money


class StockReserved(Event):
    """The stock of an order is reserved."""

    order_id: Id = key()


class StockRefused(Event):
    """The stock of an order could not be reserved; the order is refused."""

    order_id: Id = key()
    sku: str
