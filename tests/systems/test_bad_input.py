"""The shop against bad requests: each gets a problem document that says what to change, and none changes anything.

The numbers are those of the corpus; the forms that only a raw socket can send are in tests/unit/gateway/test_server.py.
"""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from dujiang import App, Module, Tx
from dujiang.systems.shop import app
from dujiang.systems.shop.contract import NewOrder, OrderReceipt
from dujiang.testing.harness import World, running
from dujiang.testing.servers import PostgresServer

ORDERS = "/api/v1/orders"
GOOD = {"items": ["itemA"], "user_id": 1}


def ordered(**changed: Any) -> bytes:
    """A good order with some members replaced."""
    return json.dumps({**GOOD, **changed}).encode()


BODIES = [
    (1, b"", 400, "body_required"),
    (2, b"{", 400, "bad_json"),
    (3, b'{"items":["itemA"],"user_id":1} x', 400, "bad_json"),
    (4, b'{"items":["itemA"],"user_id":NaN}', 400, "bad_number"),
    (5, b'{"items":["itemA"],"user_id":1,"total_amount":1e999}', 400, "bad_number"),
    (6, b'{"items":["itemA"],"user_id":1,"user_id":2}', 400, "duplicate_key"),
    (7, b"[" * 100_000, 400, "too_deep"),
    (8, b'{"items":["itemA"],"user_id":' + b"9" * 5000 + b"}", 400, "number_too_long"),
    (9, ordered(product_id="itemA", items=None, quantity=2**63), 422, "out_of_range"),
    (10, ordered(product_id="itemA", items=None, quantity=1.5), 422, None),
    (11, ordered(product_id="itemA", items=None, quantity="1"), 422, None),
    (12, ordered(product_id="itemA", items=None, quantity=True), 422, None),
    (13, b'{"items":["\\ud800"],"user_id":1}', 400, "bad_unicode"),
    (14, b'{"items":["\xff"],"user_id":1}', 400, "bad_unicode"),
    (15, json.dumps(GOOD).encode("utf-16"), 400, "bad_encoding"),
    (16, b"\xef\xbb\xbf" + ordered(), 400, "bad_encoding"),
    (17, ordered(user_id="a\x00b"), 422, "nul_not_allowed"),
    (18, b"[]", 422, None),
    (19, ordered(colour="red"), 422, "unknown_field"),
    (20, b'{"items":["itemA"],"user_id":1,"__proto__":{}}', 422, "unknown_field"),
    (21, ordered(user_id=None), 422, None),
    (22, ordered(user_id=""), 422, None),
    (27, ordered(product_id="itemA", items=None, quantity=-1), 422, None),
    (28, ordered(product_id="itemA", items=None, quantity=0), 422, None),
    (29, ordered(total_amount=0.1 + 0.2), 422, "use_decimal_string"),
    (30, ordered(total_amount="1." + "0" * 20), 422, None),
    (36, b'{"items":["' + b"x" * (1024 * 1024) + b'"]}', 413, "body_too_large"),
]


async def untouched(world: World) -> bool:
    """Whether the shop is as it was filled."""
    await world.settle()
    stock = await world.operate("GET", "/_dj/shop/stock/itemA")
    return stock.json["left"] == 1000 and await world.violations() == []


class TestBodies:
    """Bodies that are no order."""

    async def test_each_gets_its_problem_and_changes_nothing(self, store: str) -> None:
        """Every entry of the corpus is answered with its status and code, in one running copy, which serves on."""
        async with running(app, database=store) as world:
            for number, body, status, code in BODIES:
                answer = await world.request(
                    "POST", ORDERS, body, headers={"content-type": "application/json", "content-length": str(len(body))}
                )

                assert answer.status == status, (number, answer.body[:300])
                assert answer.headers["content-type"] == "application/problem+json", number
                assert code is None or answer.json["code"] == code, (number, answer.json)
                assert answer.json["detail"], number
                assert b"Traceback" not in answer.body, number
            assert await untouched(world)
            assert (await world.post(ORDERS, GOOD)).status == 201


class TestHeads:
    """Addresses, headers and keys that cannot be."""

    @pytest.mark.parametrize(
        ("number", "method", "path", "headers", "status", "code"),
        [
            (23, "GET", f"{ORDERS}/../../etc/passwd", {}, 400, None),
            (24, "GET", f"{ORDERS}/1%00", {}, 400, "bad_path"),
            (25, "GET", f"{ORDERS}/1 OR 1=1", {}, 422, None),
            (26, "GET", f"{ORDERS}/'; drop table", {}, 422, None),
            (43, "GET", f"{ORDERS}/1", {"host": "evil.example"}, 421, "foreign_host"),
            (44, "GET", f"{ORDERS}/1", {"x": "x" * 100_000}, 431, "headers_too_large"),
            (50, "GET", f"{ORDERS}/{'1' * 10_240}", {}, 414, "target_too_long"),
            (51, "DELETE", ORDERS, {}, 405, "method_not_allowed"),
            (51, "FOO", ORDERS, {}, 405, "method_not_allowed"),
            (52, "TRACE", ORDERS, {}, 405, "method_not_allowed"),
            (53, "POST", ORDERS, {"content-type": "text/plain"}, 415, "unsupported_media_type"),
            (54, "POST", ORDERS, {"content-encoding": "gzip"}, 415, "content_coding"),
            (55, "POST", ORDERS, {"content-encoding": "br"}, 415, None),
            (56, "GET", f"{ORDERS}/1", {"accept": "image/png"}, 406, "not_acceptable"),
            (58, "POST", ORDERS, {"idempotency-key": "k" * 256}, 400, "idempotency_key_malformed"),
            (59, "POST", ORDERS, {"idempotency-key": "a\tb"}, 400, "idempotency_key_malformed"),
        ],
    )
    async def test_each_gets_its_problem(
        self, number: int, method: str, path: str, headers: dict[str, str], status: int, code: str | None
    ) -> None:
        """A wrong address, method, type or key is refused with the documented code."""
        async with running(app) as world:
            answer = await world.request(method, path, GOOD if method == "POST" else None, headers=headers)

            assert answer.status == status, (number, answer.body)
            assert code is None or answer.json["code"] == code
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.status != 405 or "POST" in answer.headers["allow"].split(", ")
            assert (await world.get(answer.json["type"])).status == 200
            assert await untouched(world)

    async def test_a_key_belongs_to_one_request(self) -> None:
        """60: another body under a key that was used is refused, and the first answer stays under it."""
        async with running(app) as world:
            first = await world.post(ORDERS, GOOD, key="k")
            other = await world.post(ORDERS, {**GOOD, "user_id": 2}, key="k")
            again = await world.post(ORDERS, GOOD, key="k")

            assert (first.status, other.status, other.json["code"]) == (201, 422, "idempotency_key_reused")
            assert (again.body, again.headers["idempotent-replayed"]) == (first.body, "true")

    async def test_a_key_whose_request_is_in_flight_says_when_to_come_back(self) -> None:
        """61: while the first request works, its twin waits as long as it wants to, then 409 with Retry-After; then 201."""
        slow, holds, release = Module("slow"), asyncio.Event(), asyncio.Event()

        @slow.write("POST /slow")
        async def work(tx: Tx, body: NewOrder) -> NewOrder:
            """Wait."""
            holds.set()
            await release.wait()
            return body

        async with running(App(modules=[slow])) as world, asyncio.TaskGroup() as tasks:
            first = tasks.create_task(world.post("/slow", GOOD, key="k"))
            await holds.wait()
            early = await world.post("/slow", GOOD, key="k", headers={"x-dj-timeout-ms": "20"})
            release.set()
            late = await world.post("/slow", GOOD, key="k")

            assert (early.status, early.json["code"], early.headers["retry-after"]) == (409, "in_flight", "1")
            assert (late.status, late.body) == (201, (await first).body)

    async def test_a_required_key_is_asked_for(self) -> None:
        """57: a route that requires a key says so, and takes the request with one."""
        strict = Module("strict")

        @strict.write("POST /pay", idempotency="required")
        async def pay(tx: Tx, body: NewOrder) -> OrderReceipt:
            """Answer without writing."""
            total = body.total_amount or Decimal("0.00")
            return OrderReceipt(order_id=tx.new_id(), status="pending", total_amount=total, message="paid")

        async with running(App(modules=[strict])) as world:
            without = await world.post("/pay", {**GOOD, "total_amount": "1.00"})
            given = await world.post("/pay", {**GOOD, "total_amount": "1.00"}, key="k")

            assert (without.status, without.json["code"]) == (400, "idempotency_key_required")
            assert given.status == 201


class TestDatabaseAway:
    """75: a dependency that is down."""

    async def test_a_request_gets_503_and_works_again_when_the_database_is_back(self) -> None:
        """The database dies: 503 with Retry-After and nothing of the inside; it returns: 201 without a restart."""
        with PostgresServer() as server:
            url = server.create_database()
            async with running(app, database=url, request_timeout_s=5.0) as world:
                assert (await world.post(ORDERS, GOOD, key="before")).status == 201
                server.kill()
                away = await world.post(ORDERS, GOOD, key="during")
                ready = await world.get("/health/ready")
                live = await world.get("/health/live")
                server.start()
                back = await world.post(ORDERS, GOOD, key="during")
                for _ in range(50):
                    if "retry-after" not in back.headers:
                        break
                    back = await world.post(ORDERS, GOOD, key="during")
                await world.settle()

                assert away.status == 503
                assert "retry-after" in away.headers
                assert b"127.0.0.1" not in away.body
                assert (ready.status, live.status) == (503, 200)
                assert back.status == 201
                assert await world.violations() == []
