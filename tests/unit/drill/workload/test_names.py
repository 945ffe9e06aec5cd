"""Which fields name something, and which name the same thing."""

from __future__ import annotations

import pytest

from dujiang.drill.workload.names import is_key, resource, same, singular, stem


class TestStem:
    @pytest.mark.parametrize(
        ("name", "inside", "said"),
        [
            ("order_id", "", "order"),
            ("orderId", "", "order"),
            ("OrderID", "", "order"),
            ("id", "order", "order"),
            ("id", "", "id"),
            ("uuid", "customer", "customer"),
            ("sku", "product", "sku"),
            ("from_account_id", "transfer", "from_account"),
        ],
    )
    def test_a_stem_says_what_is_named(self, name: str, inside: str, said: str) -> None:
        """The ending that only says "this is an id" goes; a bare id names what holds it."""
        assert stem(name, inside) == said

    @pytest.mark.parametrize(
        ("wanted", "known", "fits"),
        [
            ("order", "order", True),
            ("from_account", "account", True),
            ("account", "from_account", False),
            ("reorder", "order", False),
            ("order", "product", False),
        ],
    )
    def test_a_whole_word_at_the_end_fits(self, wanted: str, known: str, *, fits: bool) -> None:
        """A `from_account` is an account; a `reorder` is no order, and an account may not be a `from_account`."""
        assert same(wanted, known) is fits


class TestKeys:
    @pytest.mark.parametrize("name", ["id", "order_id", "orderId", "sku", "product_code", "email", "X-Request-Id"])
    def test_names_of_keys(self, name: str) -> None:
        """The last word tells that a field names something."""
        assert is_key(name)

    @pytest.mark.parametrize("name", ["quantity", "paid", "idea", "status", "token_count", ""])
    def test_names_of_other_fields(self, name: str) -> None:
        """A field that only holds such letters, or such a word further ahead, names nothing."""
        assert not is_key(name)


class TestResource:
    @pytest.mark.parametrize(
        ("path", "until", "about"),
        [
            ("/api/v1/orders", "", "order"),
            ("/orders/{order_id}", "", "order"),
            ("/orders/{id}/lines/{line}", "", "line"),
            ("/orders/{id}/lines/{line}", "id", "order"),
            ("/{id}", "id", ""),
            ("/", "", ""),
        ],
    )
    def test_a_path_is_about_its_last_fixed_segment(self, path: str, until: str, about: str) -> None:
        """Also before one of its parameters."""
        assert resource(path, until) == about

    @pytest.mark.parametrize(
        ("many", "one"),
        [
            ("orders", "order"),
            ("categories", "category"),
            ("boxes", "box"),
            ("addresses", "address"),
            ("status", "status"),
            ("order_ids", "order_id"),
            ("news", "new"),
        ],
    )
    def test_singular(self, many: str, one: str) -> None:
        """English as far as paths need it; a wrong guess is wrong everywhere alike."""
        assert singular(many) == one
