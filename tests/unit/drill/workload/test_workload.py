"""Workload: what is sent next, by draws of which 0 is the simplest."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from fastapi import Query
from pydantic import Field

from dujiang import App, Client, Id, Model, Module, Read, Tx
from dujiang.drill.workload import RUN, Memory, Request, Workload
from dujiang.drill.workload.pool import Kept
from dujiang.drill.workload.workload import OPERATOR_WEIGHT, WEIGHT
from tests.unit.drill.workload.apps import chance, posting, top, zero


class NewProduct(Model):
    """To be sold, under a key that the client chooses."""

    sku: str = Field(max_length=9)


def named(workload: Workload, name: str) -> Any:
    """A flow or reader."""
    return next(flow for flow in [*workload.flows, *workload.readers] if flow.name == name)


def body_of(request: Request) -> Any:
    """The body of a request."""
    return json.loads(request.body or b"null")


class TestDraws:
    def test_zero_is_the_first_flow_and_its_simplest_request(self, workload_of_shop: Workload) -> None:
        """Draws that are all 0 place the first example of the shop's first write."""
        made = workload_of_shop
        asked: list[tuple[str, int]] = []

        def draw(label: str, high: int) -> int:
            asked.append((label, high))
            return 0

        request = made.request(made.pick(draw), draw, Memory())

        assert (request.method, request.path) == ("POST", "/api/v1/orders")
        assert body_of(request) == {"user_id": 123, "items": ["itemA", "itemB"]}
        assert request.headers == {"content-type": "application/json"}
        assert asked == [("workload.flow", 4), ("workload.request shop.place_order", 63)]

    def test_the_same_draws_make_the_same_requests(self, workload_of_bank: Workload) -> None:
        """Requests depend on draws and answers alone."""
        made = workload_of_bank

        def run() -> list[tuple[str, bytes | None]]:
            draw, memory = chance(5), Memory()
            requests = []
            for number in range(100):
                request = made.request(made.pick(draw), draw, memory)
                memory.learn(request.flow, 201, {"account_id": str(number)}, request)
                requests.append((request.path, request.body))
            return requests

        assert run() == run()

    def test_an_operators_flow_is_picked_less_often(self, workload_of_shop: Workload) -> None:
        """Of the draws for a flow the shop's orders have four and setting stock has one."""
        made = workload_of_shop
        draws = iter(range(WEIGHT + OPERATOR_WEIGHT))
        picked = [made.pick(lambda *_: next(draws)).name for _ in range(WEIGHT + OPERATOR_WEIGHT)]

        assert picked == ["shop.place_order"] * WEIGHT + ["shop.set_stock"] * OPERATOR_WEIGHT

    def test_an_app_without_writes_has_nothing_to_pick(self) -> None:
        """It is said instead of an index error."""
        with pytest.raises(LookupError, match="no flow"):
            Workload(App(modules=[Module("m")])).pick(zero)


class TestChaining:
    def test_an_id_of_an_answer_is_used_in_later_paths_and_bodies(self, workload_of_bank: Workload) -> None:
        """The lowest draw takes the latest id; the highest keeps what the pool holds."""
        made = workload_of_bank
        memory = Memory()
        memory.learn(named(made, "bank.open_account"), 201, {"account_id": "77", "owner": "x"})
        close = named(made, "bank.close")

        assert made.request(close, zero, memory).path == "/accounts/77"
        assert made.request(close, top, memory).path != "/accounts/77"

    def test_a_request_stays_valid_when_two_slots_take_one_id(self, workload_of_bank: Workload) -> None:
        """A transfer to itself would be refused for its form: such a filling is given up, two ids are used."""
        made = workload_of_bank
        memory = Memory()
        transfer = named(made, "bank.transfer")
        memory.learn(named(made, "bank.open_account"), 201, {"account_id": "77"})
        alone = body_of(made.request(transfer, zero, memory))
        memory.learn(named(made, "bank.open_account"), 201, {"account_id": "78"})
        draw = chance(1)
        bodies = [body_of(made.request(transfer, draw, memory)) for _ in range(200)]
        pairs = [{each["from_account"], each["to_account"]} for each in bodies]

        assert alone["from_account"] != alone["to_account"]
        assert all(len(pair) == 2 for pair in pairs)
        assert pairs.count({"77", "78"}) > 40

    def test_what_a_successful_request_named_exists(self, workload_of_bank: Workload) -> None:
        """The keys of a request are known once it succeeded, and not when it was refused."""
        made = workload_of_bank
        memory = Memory()
        transfer = named(made, "bank.transfer")
        request = made.request(transfer, zero, memory)

        memory.learn(transfer, 409, {}, request)
        before = list(memory.known("from_account"))
        memory.learn(transfer, 201, {}, request)

        assert before == []
        assert list(memory.known("from_account")) == [body_of(request)["from_account"]]

    def test_a_flow_that_makes_a_thing_seldom_takes_a_known_key_for_it(self) -> None:
        """POST /products with a sku that exists is refused; a path that names products by sku tells."""
        app = posting(NewProduct, "/products")
        module = app.modules[0]

        @module.write("DELETE /products/{sku}")
        async def drop(tx: Tx, sku: str) -> None: ...

        made = Workload(app)
        memory, draw = Memory(), chance(2)
        memory.learn(made.flows[0], 201, {"sku": "known"})
        bodies = [body_of(made.request(made.flows[0], draw, memory)) for _ in range(200)]
        paths = [made.request(made.flows[1], draw, memory).path for _ in range(200)]

        assert sum(each["sku"] == "known" for each in bodies) < 60
        assert sum(path == "/products/known" for path in paths) > 120


class TestRequests:
    def test_a_required_key_is_there_and_differs(self, workload_of_bank: Workload) -> None:
        """A route that takes nothing without an Idempotency-Key gets one for each request."""
        made = workload_of_bank
        memory = Memory()
        transfer = named(made, "bank.transfer")
        keys = [made.request(transfer, zero, memory).headers["idempotency-key"] for _ in range(3)]

        assert len(set(keys)) == 3
        assert "idempotency-key" not in made.request(named(made, "bank.open_account"), zero, memory).headers

    def test_headers_and_queries_are_sent(self, workload_of_bank: Workload) -> None:
        """A dependency's header, and a boolean of the query in its JSON form."""
        made = workload_of_bank
        draw = chance(4)
        paths = {made.request(named(made, "bank.close"), draw, Memory()).path for _ in range(200)}

        assert made.request(named(made, "bank.transfer"), zero, Memory()).headers["x-signature"] == "yes"
        assert {path.partition("?")[2] for path in paths} >= {"", "force=true"}

    def test_a_list_in_a_query_stands_there_by_member(self) -> None:
        """?tag=a&tag=b."""
        module = Module("m")

        @module.write("POST /things")
        async def take(tx: Tx, tag: Annotated[list[str], Query(min_length=2, examples=[["a b", "c"]])]) -> None: ...

        made = Workload(App(modules=[module]))

        assert made.request(made.flows[0], zero, Memory()).path == "/things?tag=a+b&tag=c"

    def test_an_operation_has_arguments(self, workload_of_bank: Workload) -> None:
        """Python values as `Runtime.run` takes them, valid by their types."""
        made = workload_of_bank
        draw = chance(6)
        requests = [made.request(named(made, "bank.close_quarter"), draw, Memory()) for _ in range(50)]

        assert {request.method for request in requests} == {RUN}
        assert {request.arguments()["quarter"] for request in requests} == {1, 2, 3, 4}


class TestReads:
    def test_nothing_known_reads_lists_only(self, workload_of_bank: Workload) -> None:
        """Before an answer taught an id, only what needs none is read; afterwards the thing itself."""
        made = workload_of_bank
        memory, draw = Memory(), chance(1)
        before = {request.path for _ in range(30) if (request := made.reads(draw, memory))}
        memory.learn(named(made, "bank.transfer"), 201, {"id": "5"})
        after = {request.path for _ in range(60) if (request := made.reads(draw, memory))}

        assert before == {"/accounts"}
        assert {"/accounts", "/transfers/5"} <= after
        assert not any(path.startswith("/accounts/") for path in after)

    def test_an_app_without_lists_has_nothing_to_read_at_first(self) -> None:
        """None, and no request for an id that nobody gave."""
        module = Module("m")

        @module.read("GET /things/{id}")
        async def thing(db: Read, id: Id) -> None: ...  # noqa: A002

        pools: dict[str, Kept] = {"m.thing": [("plain", {"path": {"id": "1"}})]}
        made = Workload(App(modules=[module]), pools=pools)

        assert [flow.name for flow in made.readers] == ["m.thing"]
        assert made.reads(zero, Memory()) is None

    def test_openings_read_the_lists_of_the_seed(self, workload_of_bank: Workload) -> None:
        """What needs to know nothing is offered for the beginning of a run."""
        made = workload_of_bank
        assert [request.path for request in made.openings()] == ["/accounts"]


class TestDeclared:
    def test_a_modules_workload_is_beside_the_flows_or_instead(self) -> None:
        """`only=True` takes the module's writes out of the generated flows, and out of what must be exercised."""

        def app(*, only: bool) -> App:
            module = Module("m")

            @module.write("POST /things")
            async def take(tx: Tx) -> None: ...

            @module.read("GET /things")
            async def things(db: Read) -> None: ...

            @module.workload(only=only)
            async def clients(client: Client) -> None: ...

            return App(modules=[module])

        beside, instead = Workload(app(only=False)), Workload(app(only=True))

        assert [flow.name for flow in beside.flows] == ["m.take"]
        assert instead.flows == []
        assert [flow.name for flow in instead.readers] == ["m.things"]
        assert [each.name for each in instead.declared] == ["m.clients"]
        assert len(beside.coverage.not_exercised()) == 1
        assert instead.coverage.not_exercised() == []

    def test_a_call_by_hand_is_found_among_the_flows(self, workload_of_bank: Workload) -> None:
        """The answers of a declared workload count for the flow that they came from."""
        made = workload_of_bank
        close = named(made, "bank.close")

        found = made.flow_at("DELETE", "/accounts/7?force=true")

        assert found is not None
        assert found.verb is close.verb
        assert made.flow_at("DELETE", "/accounts") is None
        assert made.flow_at("POST", "/elsewhere") is None
        assert made.flow_of(close.verb) is close
