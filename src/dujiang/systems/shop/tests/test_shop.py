"""The shop over HTTP, on the embedded store and on PostgreSQL: the same tests."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dujiang.systems.shop import app
from dujiang.testing.harness import Response, World, running

ORDERS = "/api/v1/orders"


async def settled_order(world: World, answer: Response) -> Any:
    """The order of a receipt once its reservation has been decided."""
    await world.settle()
    return (await world.get(f"{ORDERS}/{answer.json['order_id']}")).json


async def insisting(world: World, body: Any, key: str) -> Response:
    """Order, and ask again for as long as the answer says to wait."""
    answer = await world.post(ORDERS, body, key=key)
    for _ in range(40):
        if "retry-after" not in answer.headers:
            break
        answer = await world.post(ORDERS, body, key=key)
    assert answer.status == 201, answer.body
    return answer


class TestPlacing:
    """POST /api/v1/orders, with the bodies and prices of the documentation."""

    async def test_an_order_is_written_announced_reserved_and_readable(self, store: str) -> None:
        """One order goes the whole way: 201, event, reservation, view."""
        async with running(app, database=store) as world:
            answer = await world.post("/orders/", {"items": ["itemA", "itemB"], "total_amount": 100.0, "user_id": 123})
            order = await settled_order(world, answer)
            stock = await world.operate("GET", "/_dj/shop/stock/itemA")

            assert answer.status == 201
            assert answer.json["status"] == "pending"
            assert answer.json["total_amount"] == "100.00"
            assert answer.json["message"] == "Order created successfully, processing in background."
            assert order["status"] == "reserved"
            assert [line["sku"] for line in order["lines"]] == ["itemA", "itemB"]
            assert stock.json == {"sku": "itemA", "on_hand": 1000, "reserved": 1, "pending": 0, "left": 999}
            assert await world.violations() == []

    @pytest.mark.parametrize(
        ("body", "total"),
        [
            ({"items": ["laptop", "mouse"], "user_id": 1, "total_amount": "1200.00"}, "1200.00"),
            ({"user_id": "user_12345", "product_id": "prod_67890", "quantity": 2, "total_amount": "199.98"}, "199.98"),
            ({"items": [{"sku": "itemA", "quantity": 3}, "itemA"], "user_id": "u"}, "160.00"),
        ],
    )
    async def test_every_form_of_an_order_is_taken(self, store: str, body: Any, total: str) -> None:
        """Names, lines and the one-product form; a given total must be the computed one."""
        async with running(app, database=store) as world:
            answer = await world.post(ORDERS, body)

            assert (answer.status, answer.json["total_amount"]) == (201, total)

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"items": ["nothing"], "user_id": 1}, 422, "unknown_product"),
            ({"items": ["itemA"], "user_id": 1, "total_amount": "1.00"}, 422, "total_differs"),
            ({"items": [{"sku": "itemA", "quantity": 1001}], "user_id": 1}, 409, "out_of_stock"),
            ({"items": ["itemA"], "user_id": 1, "total_amount": 0.1 + 0.2}, 422, "use_decimal_string"),
            ({"items": [{"sku": "itemA", "quantity": 0}], "user_id": 1}, 422, None),
            ({"items": [{"sku": "itemA", "quantity": -1}], "user_id": 1}, 422, None),
            ({"items": ["itemA"], "product_id": "itemB", "quantity": 1, "user_id": 1}, 422, None),
            ({"user_id": 1}, 422, None),
            ({"items": ["itemA"], "user_id": 1, "is_admin": True}, 422, "unknown_field"),
        ],
    )
    async def test_what_cannot_be_is_refused_and_writes_nothing(
        self, store: str, body: Any, status: int, code: str | None
    ) -> None:
        """A refusal leaves no order, no event and no claim on stock."""
        async with running(app, database=store) as world:
            answer = await world.post(ORDERS, body)
            await world.settle()
            stock = await world.operate("GET", "/_dj/shop/stock/itemA")

            assert answer.status == status
            assert answer.headers["content-type"] == "application/problem+json"
            assert code is None or answer.json["code"] == code
            assert stock.json["left"] == 1000
            assert await world.violations() == []

    async def test_an_unknown_order_is_404(self, store: str) -> None:
        """None of a read is 404, and an id that is none is 422."""
        async with running(app, database=store) as world:
            assert (await world.get(f"{ORDERS}/77")).status == 404
            assert (await world.get(f"{ORDERS}/1 OR 1=1")).status == 422

    async def test_lowered_stock_refuses_the_reservation(self, store: str) -> None:
        """An order whose stock was lowered between its acceptance and its reservation is refused and releases its claim."""
        async with running(app, database=store) as world:
            world.runtime.bells.muffled = True
            answer = await world.post(ORDERS, {"items": [{"sku": "mouse", "quantity": 600}], "user_id": 1})
            lowered = await world.operate("PUT", "/_dj/shop/stock/mouse", {"on_hand": 10})
            order = await settled_order(world, answer)

            assert lowered.status == 200
            # Either the reservation came first and the stock could not be lowered below it, or it was refused.
            assert order["status"] in ("reserved", "refused")
            assert await world.violations() == []


class TestIdempotency:
    """The Idempotency-Key on the order route."""

    async def test_the_same_key_gives_the_same_bytes_once(self, store: str) -> None:
        """A retry is answered with the stored bytes, also through the alias, and orders once."""
        async with running(app, database=store) as world:
            body = {"items": ["itemA"], "user_id": 1}
            first = await world.post(ORDERS, body, key="k")
            second = await world.post(ORDERS, body, key="k")
            alias = await world.post("/orders/", body, key="k")
            await world.settle()
            stock = await world.operate("GET", "/_dj/shop/stock/itemA")

            assert first.body == second.body == alias.body
            assert "idempotent-replayed" not in first.headers
            assert second.headers["idempotent-replayed"] == "true"
            assert stock.json["reserved"] == 1

    async def test_another_body_under_the_key_is_refused(self, store: str) -> None:
        """A key belongs to one request: another body is 422, and the first answer stays."""
        async with running(app, database=store) as world:
            first = await world.post(ORDERS, {"items": ["itemA"], "user_id": 1}, key="k")
            other = await world.post(ORDERS, {"items": ["itemB"], "user_id": 1}, key="k")
            again = await world.post(ORDERS, {"items": ["itemA"], "user_id": 1}, key="k")

            assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
            assert again.body == first.body

    async def test_a_refusal_is_replayed_even_when_it_would_succeed_now(self, store: str) -> None:
        """A stored refusal stands: the same key gives the same 409 after the stock was raised."""
        async with running(app, database=store) as world:
            body = {"items": [{"sku": "itemA", "quantity": 1001}], "user_id": 1}
            first = await world.post(ORDERS, body, key="k")
            await world.operate("PUT", "/_dj/shop/stock/itemA", {"on_hand": 5000})
            again = await world.post(ORDERS, body, key="k")
            fresh = await world.post(ORDERS, body, key="k2")

            assert (first.status, again.status, fresh.status) == (409, 409, 201)
            assert first.body == again.body

    @pytest.mark.parametrize(("key", "code"), [("", "malformed"), ("x" * 256, "malformed"), ("a b", "malformed")])
    async def test_a_malformed_key_is_refused(self, store: str, key: str, code: str) -> None:
        """A key is 1 to 255 visible ASCII characters."""
        async with running(app, database=store) as world:
            answer = await world.post(ORDERS, {"items": ["itemA"], "user_id": 1}, key=key)

            assert (answer.status, answer.json["code"]) == (400, f"idempotency_key_{code}")

    async def test_a_thousand_requests_with_a_hundred_keys_make_a_hundred_orders(self, store: str) -> None:
        """Every request of a crowd of duplicates ends with its key's 201 bytes, on a pool of ten connections.

        Method: 1,000 concurrent requests; whoever is told to wait asks again, as `Retry-After` says.
        """
        async with running(app, database=store) as world:

            async def ask(number: int) -> bytes:
                body = {"items": ["itemA"], "user_id": number % 100}
                return (await insisting(world, body, f"k{number % 100}")).body

            bodies = await asyncio.gather(*(ask(number) for number in range(1000)))
            await world.settle()
            stock = await world.operate("GET", "/_dj/shop/stock/itemA")

            assert len(set(bodies)) == 100
            assert all(bodies[number] == bodies[number % 100] for number in range(1000))
            assert stock.json["reserved"] == 100
            assert await world.violations() == []


class TestCrowd:
    """Many buyers of little stock."""

    async def test_two_hundred_buyers_never_oversell_and_never_undersell(self, store: str) -> None:
        """Stock 10, quantities 1 to 3: what is refused asked for more than was left, and nothing stays stuck."""
        async with running(app, database=store) as world:
            await world.operate("PUT", "/_dj/shop/stock/laptop", {"on_hand": 10})

            async def buy(number: int) -> tuple[int, Response]:
                quantity = number % 3 + 1
                return quantity, await world.post(
                    ORDERS, {"user_id": number, "product_id": "laptop", "quantity": quantity}
                )

            answers = await asyncio.gather(*(buy(number) for number in range(200)))
            await world.settle()
            stock = (await world.operate("GET", "/_dj/shop/stock/laptop")).json
            sold = sum(quantity for quantity, answer in answers if answer.status == 201)
            refused = [(quantity, answer.json) for quantity, answer in answers if answer.status == 409]

            assert {answer.status for _, answer in answers} == {201, 409}
            assert all(quantity > problem["left"] for quantity, problem in refused)
            assert (stock["reserved"], stock["pending"], stock["left"]) == (sold, 0, 10 - sold)
            assert stock["left"] < min(quantity for quantity, _ in refused)
            assert await world.violations() == []


class TestTwoCopies:
    """Two running copies of one app on one store."""

    async def test_two_runtimes_share_one_store(self, postgres: Any) -> None:
        """Orders taken by either copy are reserved once and readable through both; a key holds across them."""
        url = postgres.create_database()
        async with running(app, database=url) as one, running(app, database=url) as two:
            copies = (one, two)

            async def ask(number: int) -> bytes:
                body = {"items": ["itemB"], "user_id": number // 2}
                return (await insisting(copies[number % 2], body, f"k{number // 2}")).body

            bodies = await asyncio.gather(*(ask(number) for number in range(100)))
            await one.settle()
            stock = (await two.operate("GET", "/_dj/shop/stock/itemB")).json

            assert all(bodies[number] == bodies[number + 1] for number in range(0, 100, 2))
            assert stock["reserved"] == 50
            assert await two.violations() == []
