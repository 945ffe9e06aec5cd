"""The flows of an app: which there are, and what a request of each holds."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body
from pydantic import Field

from dujiang import App, Client, Id, Model, Module, Tx
from dujiang.drill.workload.contract import flows_of, readers_of
from dujiang.systems.shop import app as shop
from tests.unit.drill.workload.apps import bank, flow_named, posting


class Known(Model):
    """Its author knows an account."""

    account: Id = Field(examples=["77"])


class TestFlows:
    def test_writes_are_flows_and_reads_are_readers(self) -> None:
        """Each write stands there once, though it has aliases or is hidden from the documentation."""
        app = bank()

        assert [flow.title for flow in flows_of(app)] == [
            "POST /accounts (bank.open_account)",
            "POST /transfers (bank.transfer)",
            "the operation bank.close_quarter",
            "DELETE /accounts/{account_id} (bank.close)",
        ]
        assert [flow.path for flow in readers_of(app)] == ["/accounts", "/accounts/{account_id}", "/transfers/{id}"]

    def test_an_operation_that_a_handler_calls_is_no_flow_of_its_own(self) -> None:
        """`book` is run by `transfer`, and `load` takes what no schema describes."""
        names = [flow.name for flow in flows_of(bank())]

        assert "bank.book" not in names
        assert "bank.load" not in names

    def test_an_operation_that_a_plain_function_calls_is_driven_too(self) -> None:
        """The name is found through a function of the same package, and in what a workload runs."""
        module = Module("m")

        @module.write()
        async def inner(tx: Tx, size: int) -> None: ...

        @module.write()
        async def run_by_workload(tx: Tx, size: int) -> None: ...

        @module.write()
        async def alone(tx: Tx, size: int) -> None:
            await alone(tx, size - 1)

        async def through(tx: Tx) -> None:
            await inner(tx, 1)

        @module.write("POST /outer")
        async def outer(tx: Tx) -> None:
            await through(tx)

        @module.workload
        async def clients(client: Client) -> None:
            await client.run(run_by_workload, 1)

        assert [flow.name for flow in flows_of(App(modules=[module]))] == ["m.alone", "m.outer"]

    def test_a_flow_says_what_the_sender_must_add(self) -> None:
        """The operator's token and the idempotency key."""
        flows = {flow.name: flow for flow in [*flows_of(shop), *flows_of(bank())]}

        assert flows["shop.set_stock"].operator
        assert not flows["shop.place_order"].operator
        assert flows["bank.transfer"].key_required
        assert flows["bank.open_account"].takes_key
        assert not flows["bank.open_account"].key_required

    def test_a_body_of_another_kind_is_an_obstacle(self) -> None:
        """A body that is not JSON cannot be made, and that is said."""
        module = Module("m")

        @module.write("POST /texts")
        async def take(tx: Tx, text: Annotated[str, Body(media_type="text/plain")]) -> None: ...

        assert "not JSON" in flows_of(App(modules=[module]))[0].obstacle


class TestRequests:
    def test_what_a_dependency_asks_for_is_part_of_the_request(self) -> None:
        """The header of a dependency stands beside the body."""
        schema = flow_named(bank(), "bank.transfer").schema

        assert set(schema["required"]) == {"header", "body"}
        assert schema["properties"]["header"]["properties"]["x-signature"]["examples"] == ["yes"]

    def test_the_gateway_decides_what_is_valid(self) -> None:
        """Whole requests are read as the gateway reads them, validators and path parameters included."""
        app = bank()
        transfer, close = flow_named(app, "bank.transfer"), flow_named(app, "bank.close")
        header = {"x-signature": "yes"}
        fine = {"from_account": "1", "to_account": "2", "cents": 1}

        assert transfer.why_not({"header": header, "body": fine}) == ""
        assert "the accounts are one" in transfer.why_not({"header": header, "body": {**fine, "to_account": "1"}})
        assert "body" in transfer.why_not({"header": header})
        assert close.why_not({"path": {"account_id": "7"}}) == ""
        assert close.why_not({"path": {"account_id": "seven"}})

    def test_slots_are_ids_and_keys_but_no_other_values(self) -> None:
        """The accounts of a transfer by their type, a sku by its name; amounts and choices never."""
        transfer = flow_named(bank(), "bank.transfer")
        order = flow_named(shop, "shop.place_order")
        body = {"user_id": 1, "items": [{"sku": "itemA", "quantity": 2}, "itemB"], "total_amount": "1.00"}

        slots = transfer.slots({"header": {}, "body": {"from_account": "1", "to_account": "2", "cents": 3}})

        assert [(slot.label, slot.stem, slot.typed) for slot in slots] == [
            ("body.from_account", "from_account", True),
            ("body.to_account", "to_account", True),
        ]
        assert [slot.label for slot in order.slots({"body": body})] == ["body.user_id", "body.items.sku"]

    def test_a_bare_id_belongs_to_what_holds_it(self) -> None:
        """`{id}` of /transfers/{id} is a transfer, and so is the `id` in the answer of POST /transfers."""
        reader = flow_named(bank(), "bank.one_transfer")

        assert [slot.stem for slot in reader.slots({"path": {"id": "1"}})] == ["transfer"]

    def test_an_example_is_lent_to_the_field_of_the_same_name(self) -> None:
        """The sku of an operator's path has no example; that of an order's line has, and serves both."""
        path = flow_named(shop, "shop.set_stock").schema["properties"]["path"]

        assert path["properties"]["sku"]["examples"] == ["itemA", "itemB"]

    def test_the_example_of_a_type_is_nobodys_id(self) -> None:
        """`Id`, `Money` and `Instant` show an example in the documentation; it is not taken for an existing value."""
        schema = flow_named(shop, "shop.read_order").schema["properties"]["path"]["properties"]["order_id"]
        order = flow_named(shop, "shop.place_order").refs["#/components/schemas/NewOrder"]

        assert schema["x-id"]
        assert "examples" not in schema
        assert all("examples" not in each for each in order["properties"]["total_amount"]["anyOf"])

    def test_an_author_may_give_an_id_an_example(self) -> None:
        """An example that stands at the field itself is one."""
        refs = flows_of(posting(Known))[0].refs

        assert refs["#/components/schemas/Known"]["properties"]["account"]["examples"] == ["77"]
