"""Shop: orders and inventory, driven by events.

    POST /api/v1/orders ──► one transaction: stock claimed as pending, order, lines, OrderPlaced
                                  │ relay
                                  ▼
    reserve_stock       ──► one transaction: pending becomes reserved, order `reserved`, StockReserved
                            (or, if the stock was lowered meanwhile, order `refused`, StockRefused)

An order that cannot be covered when it arrives is refused at once and writes nothing. What is left of a product is
`on_hand - reserved - pending`; the condition stands in the UPDATE itself, so two orders never take the same piece.
"""

from __future__ import annotations

from dujiang import App
from dujiang.systems.shop.orders import shop

app = App(modules=[shop], title="Shop")

__all__ = ["app", "shop"]
