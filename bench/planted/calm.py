"""Calm: an application's life without a fault: a few requests one after another, then what a client and the laws say.

    python -m bench.planted.calm bench.planted.apps.wallet:app

prints one JSON object: `statuses` of the answers in order, `laws` that do not hold, `dead` letters. Some planted bugs show
here already; the others need a race, a kill, a lost reply, or time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench.planted.bug import BOARD, COUPONS, LEDGER, PAYMENTS, ROUNDS, SEATS, SHOP, TRIPS, WALLET
from dujiang.testing.harness import OPERATOR_TOKEN, NotSettled, running

if TYPE_CHECKING:
    from collections.abc import Sequence

Request = tuple[str, str, dict[str, Any], str | None]

ORDERS, STOCK = "/api/v1/orders", "/_dj/shop/stock"
TRANSFERS, DEPOSITS = "/wallet/payments", "/wallet/deposits"
HOLDS, TICKETS = "/seats/holds", "/seats/tickets"
ANN = {"show": "opera", "customer": "ann"}


def payment(source: str, target: str, amount: str, key: str) -> Request:
    """One payment of the wallet."""
    return ("POST", TRANSFERS, {"source": source, "target": target, "amount": amount}, key)


# Application -> (method, path, body, key). A key that comes again is a retry, or a request that took another's key.
LIVES: dict[str, Sequence[Request]] = {
    SHOP: (
        ("POST", ORDERS, {"items": ["itemA"], "user_id": 1}, "a"),
        ("POST", ORDERS, {"items": [{"sku": "itemB", "quantity": 1001}], "user_id": 1}, "b"),
        ("PUT", f"{STOCK}/itemA", {"on_hand": 70}, "c"),
        ("PUT", f"{STOCK}/itemB", {"on_hand": 70}, "c"),
    ),
    WALLET: (
        payment("alice", "bob", "1.00", "a"),
        payment("alice", "bob", "25.00", "a"),
        payment("carol", "alice", "150.00", "b"),
        ("POST", DEPOSITS, {"name": "carol", "amount": "100.00"}, "c"),
        payment("carol", "alice", "150.00", "b"),
        payment("carol", "nobody", "1.00", "d"),
    ),
    COUPONS: tuple(
        ("POST", "/coupons/redemptions", {"code": "LAST2", "customer": customer}, None)
        for customer in ("ann", "ann", "ben", "cem")
    ),
    SEATS: (
        ("POST", HOLDS, {**ANN, "seats": ["A1", "A2", "A3"]}, None),
        ("POST", HOLDS, {**ANN, "seats": ["A4", "A1"], "customer": "ben"}, None),
        ("POST", TICKETS, {**ANN, "seat": "A1"}, None),
        ("POST", TICKETS, {**ANN, "seat": "A1"}, None),
        ("POST", TICKETS, {**ANN, "seat": "A2"}, None),
        ("POST", HOLDS, {**ANN, "seats": ["A1"]}, None),
    ),
    ROUNDS: tuple(("POST", "/rounds/pay", {"rounds": count}, None) for count in (3, 9)),
    LEDGER: tuple(
        ("POST", "/ledger/entries", {"account": account, "amount": amount}, None)
        for account, amount in (
            ("rent", "10.00"),
            ("rent", "-3.50"),
            ("wages", "0.10"),
            ("rent", "0.10"),
            ("x", "1.00"),
        )
    ),
    TRIPS: tuple(
        ("POST", "/trips", {"traveller": traveller, "amount": amount}, None)
        for traveller, amount in (("ann", "20.00"), ("ann", "20.00"), ("ben", "400.00"), ("nobody", "1.00"))
    ),
    BOARD: (
        ("GET", "/board/notices/exam", {}, None),
        ("PUT", "/board/notices/exam", {"title": "moved"}, None),
        ("GET", "/board/notices/exam", {}, None),
        ("GET", "/board/notices/trip", {}, None),
        ("PUT", "/board/notices/exam", {"title": "12"}, None),
        ("GET", "/board/count", {}, None),
    ),
    PAYMENTS: tuple(
        ("POST", "/payments", {"customer": customer, "amount": amount}, key)
        for customer, amount, key in (
            ("ann", "20.00", "a"),
            ("ann", "20.00", "a"),
            ("ann", "20.00", "b"),
            ("ben", "700.00", "c"),
            ("nobody", "1.00", "d"),
            ("ann", "1.00", None),
        )
    ),
}


async def lived(name: str) -> dict[str, Any]:
    """What a calm life of an application, `module:attribute`, shows."""
    module, _, attribute = name.partition(":")
    async with running(getattr(import_module(module), attribute), grace_s=0.5) as world:
        statuses = []
        for method, path, body, key in LIVES[name]:
            given = body if method != "GET" else None
            headers = {"authorization": f"Bearer {OPERATOR_TOKEN}"} if path.startswith("/_dj/") else None
            statuses.append((await world.request(method, path, given, key=key, headers=headers)).status)
            try:
                await world.settle(within_s=1.0)
            except NotSettled:  # A retry is under way; what it leads to is not awaited.
                statuses.append(0)
        laws = sorted(violation.name for violation in await world.violations())
        return {"statuses": statuses, "laws": laws, "dead": len(await world.runtime.deadletters.list())}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(asyncio.run(lived(sys.argv[1]))))
