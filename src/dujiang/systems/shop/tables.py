"""The shop's tables; the migrations beside this file make them."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, Table

from dujiang.columns import Choice, Id, Instant, Key, Money

metadata = MetaData()

product = Table(
    "shop_product", metadata, Column("sku", Key(64), primary_key=True), Column("price", Money(2), nullable=False)
)

# left = on_hand - reserved - pending; `pending` is claimed by accepted orders whose reservation is under way.
stock = Table(
    "shop_stock",
    metadata,
    Column("sku", Key(64), primary_key=True),
    Column("on_hand", Integer, nullable=False),
    Column("reserved", Integer, nullable=False),
    Column("pending", Integer, nullable=False),
)

order = Table(
    "shop_order",
    metadata,
    Column("order_id", Id, primary_key=True),
    Column("user_id", Key(64), nullable=False),
    Column("status", Choice("pending", "reserved", "refused"), nullable=False),
    Column("total", Money(2), nullable=False),
    Column("created_at", Instant, nullable=False),
)

line = Table(
    "shop_order_line",
    metadata,
    Column("order_id", Id, primary_key=True),
    Column("sku", Key(64), primary_key=True),
    Column("quantity", Integer, nullable=False),
    Column("price", Money(2), nullable=False),
)
