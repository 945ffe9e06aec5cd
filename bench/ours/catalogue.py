"""The application that `read` measures: one read whose answers are kept; the table is made by bench/read.py."""

import os
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, select

from dujiang import App, Module, Read

tables = MetaData()
product = Table(
    "product",
    tables,
    Column("id", Integer, primary_key=True),
    Column("title", Text, nullable=False),
    Column("price_cents", Integer, nullable=False),
    Column("stock", Integer, nullable=False),
)


class Product(BaseModel):
    """A product as a customer sees it."""

    id: int
    title: str
    price_cents: int
    stock: int


# Built once, so that a request only binds its value.
FIND = select(product).where(product.c.id == bindparam("of"))
catalogue = Module("catalogue")
kept: dict[str, Any] = {} if os.environ.get("BENCH_PLAIN") else {"ttl": "1h", "absent": "30s"}


@catalogue.read("GET /products/{product_id}", **kept)
async def read_product(db: Read, product_id: int) -> Product | None:
    """A product."""
    found = (await db.execute(FIND, {"of": product_id})).one_or_none()
    if found is None:
        return None
    return Product(id=found.id, title=found.title, price_cents=found.price_cents, stock=found.stock)


app = App(modules=[catalogue])
