"""Renaming: names are renamed, words are not, and what comes out is Python that says the same."""

from __future__ import annotations

import ast

import pytest

from dujiang.cli.project import project_of, shipped, sources
from dujiang.cli.renaming import Renaming, names_in

TO_BAKERY = Renaming("shop", "bakery")


class TestRenaming:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("import dujiang.systems.shop.tables as t", "import bakery.tables as t"),
            ("from dujiang.systems.shop import app", "from bakery import app"),
            ("from dujiang.systems.shopping import app", "from dujiang.systems.shopping import app"),
            (
                'shop = Module("shop", migrations="dujiang.systems.shop.migrations")',
                'bakery = Module("bakery", migrations="bakery.migrations")',
            ),
            ('@shop.write("PUT /_dj/shop/stock/{sku}")', '@bakery.write("PUT /_dj/bakery/stock/{sku}")'),
            ('App(title="Shop")', 'App(title="Bakery")'),
            ("world.shop.close(shopping, my_shop)", "world.shop.close(shopping, my_shop)"),
            ('Table("shop_order", "my_shop_order", "shopping")', 'Table("bakery_order", "my_shop_order", "shopping")'),
            ('run("shop:app", "shop.place_order", "a.shop.b")', 'run("bakery:app", "bakery.place_order", "a.shop.b")'),
            ('raise X("the shop has no milk")', 'raise X("the shop has no milk")'),
            (
                'x = f"/_dj/shop/{sku} of the shop {shop_of} {shop.name}"',
                'x = f"/_dj/bakery/{sku} of the shop {shop_of} {bakery.name}"',
            ),
            ("x = 1  # the shop's, see dujiang.systems.shop.orders", "x = 1  # the shop's, see bakery.orders"),
            (
                '"""The shop: shop_order, and dujiang.systems.shop.\n\nMore of shop."""',
                '"""The shop: shop_order, and bakery.\n\nMore of shop."""',
            ),
            (
                'x = """\nSELECT 1 FROM shop_order\n  JOIN shop_line"""',
                'x = """\nSELECT 1 FROM bakery_order\n  JOIN bakery_line"""',
            ),
            ('ä = "é" + "/shop/" + shop', 'ä = "é" + "/bakery/" + bakery'),
        ],
    )
    def test_names_are_renamed_and_words_are_not(self, before: str, after: str) -> None:
        """Identifiers, modules, tables, paths and stored names are; attributes of others, longer words and prose are not."""
        assert TO_BAKERY.source(before) == after

    def test_a_title_is_written_with_spaces(self) -> None:
        """`my_bakery` is called "My bakery" where people read it."""
        assert Renaming("shop", "my_bakery").source('App(title="Shop")') == 'App(title="My bakery")'

    def test_files_are_renamed_by_whole_words(self) -> None:
        """The test of the system carries its name, other files do not."""
        assert [TO_BAKERY.path(name) for name in ("tests/test_shop.py", "shop.py", "workshop.py", "orders.py")] == [
            "tests/test_bakery.py",
            "bakery.py",
            "workshop.py",
            "orders.py",
        ]

    @pytest.mark.parametrize("system", sorted(shipped()))
    def test_a_copy_has_the_shape_of_the_system(self, system: str) -> None:
        """Of every shipped system: as many nodes of the same kinds, the new name, and nothing that leads back."""
        project = project_of("zz_copy", system, flag="")
        copied = {path: text for path, text in project.items() if path.endswith(".py")}
        originals = [text for path, text in sources(shipped()[system]) if path.endswith(".py")]

        shapes = [sorted(type(node).__name__ for node in ast.walk(ast.parse(text))) for text in copied.values()]
        assert shapes == [sorted(type(node).__name__ for node in ast.walk(ast.parse(text))) for text in originals]
        assert not any("dujiang.systems" in text for text in project.values())
        assert not any(system in names_in(text) for text in copied.values())
