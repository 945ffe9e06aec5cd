"""Memory: what answers teach, by name."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.drill.workload import Memory
from dujiang.systems.shop import app as shop
from dujiang.systems.shop.contract import OrderReceipt
from tests.unit.drill.workload.apps import bank, flow_named

ACCOUNTS = flow_named(bank(), "bank.open_account")
LIST = flow_named(bank(), "bank.accounts")
TRANSFER = flow_named(bank(), "bank.transfer")


class TestLearning:
    @pytest.mark.parametrize(
        ("answer", "stem", "values"),
        [
            ({"account_id": "7", "owner": "x"}, "account", ["7"]),
            ({"accountId": 7}, "account", [7]),
            ({"id": "7"}, "account", ["7"]),
            ([{"id": "1"}, {"id": "2"}], "account", ["2", "1"]),
            ({"items": [{"id": "1"}], "total": 1}, "account", ["1"]),
            ({"id": "1", "items": [{"id": "9"}]}, "account", ["1"]),
            ({"customer": {"id": "5"}}, "customer", ["5"]),
            ({"account_ids": ["1", "2"]}, "account", ["2", "1"]),
            ("7", "account", ["7"]),
            ({"lines": [{"sku": "itemA"}, {"sku": "itemB"}]}, "sku", ["itemB", "itemA"]),
            ({"total": 5, "owner": "x", "paid": True}, "total", []),
            ({"account_id": True}, "account", []),
            ({"account_id": None}, "account", []),
        ],
    )
    def test_an_answer_teaches_ids_by_their_place(self, answer: Any, stem: str, values: list[Any]) -> None:
        """A bare id is that of what holds it; a wrapper says nothing; other values are not remembered."""
        memory = Memory()

        memory.learn(ACCOUNTS, 201, answer)

        assert list(memory.known(stem)) == values

    @pytest.mark.parametrize("status", [199, 302, 404, 409, 422, 500])
    def test_only_a_success_teaches(self, status: int) -> None:
        """The id in a refusal exists for nobody."""
        memory = Memory()

        memory.learn(ACCOUNTS, status, {"account_id": "7"})

        assert list(memory.known("account")) == []

    def test_few_are_kept_the_latest_first(self) -> None:
        """Four of a kind, so that clients meet; one that is seen again moves to the front."""
        memory = Memory()

        for number in (1, 2, 3, 4, 5, 3):
            memory.learn(ACCOUNTS, 201, {"account_id": number})

        assert list(memory.known("account")) == [3, 5, 4, 2]

    def test_an_operations_value_teaches_like_its_answer(self) -> None:
        """What a function returned is looked at as a client would see it."""
        memory = Memory()
        receipt = OrderReceipt(order_id=7, status="pending", total_amount="1.00", message="")  # type: ignore[arg-type]

        memory.learn(flow_named(shop, "shop.place_order"), 200, receipt)

        assert list(memory.known("order")) == ["7"]

    def test_an_account_may_stand_where_a_from_account_is_asked_for(self) -> None:
        """The own name comes first, then what it ends with."""
        memory = Memory()
        memory.learn(LIST, 200, [{"account_id": "1"}])
        memory.learn(TRANSFER, 201, {"from_account_id": "2"})

        assert list(memory.known("from_account")) == ["2", "1"]
        assert list(memory.known("account")) == ["1"]
