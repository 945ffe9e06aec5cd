"""Imports go down only; the checker is fed bad lines first."""

from __future__ import annotations

import pytest

from tests.tidy import floors
from tests.tidy.source import Source, product, tell


def of(module: str, text: str, *, package: bool = False) -> Source:
    """A snippet that pretends to be a module of the package."""
    return Source(module, text, package=package)


class TestTheChecker:
    @pytest.mark.parametrize(
        "text",
        [
            "import dujiang.messaging.tx",
            "from dujiang.messaging import tx",
            "from dujiang.messaging.tx import Tx",
            "def f():\n    from dujiang.messaging import tx",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dujiang.messaging import tx",
            "import importlib\nimportlib.import_module('dujiang.messaging.tx')",
            "from ..messaging import tx",
            "from .. import messaging",
            "from dujiang import messaging",
            "from dujiang import App",
        ],
    )
    def test_an_import_that_goes_up_is_found_wherever_it_stands(self, text: str) -> None:
        """A lower floor that names a higher one is found, in each form that an import can take."""
        findings = floors.upward(of("dujiang.data.transaction", text))

        assert len(findings) == 1, findings
        assert "data (floor" in findings[0]

    @pytest.mark.parametrize(
        ("module", "text"),
        [
            ("dujiang.write", "from dujiang import react"),
            ("dujiang.write", "from dujiang.read import Read"),
            ("dujiang.caching.entry", "import dujiang.jobs"),
            ("dujiang.gateway.routes", "from dujiang.ml.registry import x"),
        ],
    )
    def test_neighbours_on_one_floor_do_not_know_each_other(self, module: str, text: str) -> None:
        """An import of a neighbour is found."""
        assert len(floors.upward(of(module, text))) == 1

    @pytest.mark.parametrize(
        ("module", "text"),
        [
            ("dujiang.messaging.tx", "from dujiang.data.transaction import Transaction\nfrom . import outbox"),
            ("dujiang.systems.shop", "from dujiang import App, columns\nimport sqlalchemy"),
            ("dujiang", "from dujiang.app import App\nfrom dujiang.kernel import clock"),
            ("dujiang.data.table", "from .sql import statement\nfrom dujiang.kernel.clock import Clock"),
        ],
    )
    def test_imports_of_oneself_and_downwards_are_free(self, module: str, text: str) -> None:
        """What the house allows is not found."""
        assert floors.upward(of(module, text)) == []

    def test_a_unit_without_a_floor_is_found(self) -> None:
        """A new top-level name needs a place in the table."""
        assert "no floor" in floors.upward(of("dujiang.helpers", ""))[0]

    def test_an_adapter_is_imported_by_nobody(self) -> None:
        """An adapter named from outside, or by another technology, is found; the table is for everybody."""
        line = "from dujiang.backends.sqlite.database import SqliteDatabase"

        assert len(floors.foreign_adapters(of("dujiang.app", line))) == 1
        assert len(floors.foreign_adapters(of("dujiang.backends.postgres.database", line))) == 1
        assert floors.foreign_adapters(of("dujiang.backends.sqlite.broker", line)) == []
        assert floors.foreign_adapters(of("dujiang.app", "from dujiang.backends.table import load")) == []
        assert floors.foreign_adapters(of("dujiang.app", "from dujiang.backends import table")) == []

    def test_a_system_sees_the_public_face_and_contracts(self) -> None:
        """A system that looks behind the face, or into another system, is found."""
        shop = "dujiang.systems.shop.orders"

        assert len(floors.foreign_systems(of(shop, "from dujiang.messaging.tx import Tx"))) == 1
        assert len(floors.foreign_systems(of(shop, "from dujiang.systems.ledger.accounts import debit"))) == 1
        assert len(floors.foreign_systems(of("dujiang.systems.shop", "import dujiang.kernel", package=True))) == 1
        assert floors.foreign_systems(of(shop, "from dujiang.systems.ledger.contract import Debited")) == []
        assert floors.foreign_systems(of(shop, "from dujiang import Tx\nfrom dujiang.columns import Id")) == []
        assert floors.foreign_systems(of(shop, "from dujiang.systems.shop.stock import reserve")) == []
        assert floors.foreign_systems(of("dujiang.systems.all", "from dujiang.systems.shop import shop")) == []

    def test_a_cycle_is_found_though_an_import_in_it_is_lazy(self) -> None:
        """Two modules that need each other are a cycle, whatever the import stands in."""
        first = of("dujiang.data.a", "from dujiang.data.b import B")
        second = of("dujiang.data.b", "def f():\n    from dujiang.data import a")

        assert floors.cycles([first, second]) == [["dujiang.data.a", "dujiang.data.b"]]
        assert floors.cycles([first, of("dujiang.data.b", "")]) == []

    def test_a_part_may_name_its_whole_for_types(self) -> None:
        """What is imported under TYPE_CHECKING makes no cycle."""
        first = of("dujiang.data.a", "from dujiang.data.b import B")
        second = of("dujiang.data.b", "if TYPE_CHECKING:\n    from dujiang.data.a import A")

        assert floors.cycles([first, second]) == []


class TestTheProduct:
    def test_imports_go_down_only(self) -> None:
        """No package names one above it or beside it."""
        findings = [finding for source in product() for finding in floors.upward(source)]

        assert not findings, tell(findings)

    def test_adapters_are_loaded_by_name(self) -> None:
        """Nobody imports an adapter."""
        findings = [finding for source in product() for finding in floors.foreign_adapters(source)]

        assert not findings, tell(findings)

    def test_systems_stand_on_the_public_face(self) -> None:
        """No shipped system uses what a user could not."""
        findings = [finding for source in product() for finding in floors.foreign_systems(source)]

        assert not findings, tell(findings)

    def test_no_two_modules_need_each_other(self) -> None:
        """There is no import cycle, at load time or hidden in a function."""
        findings = [" <-> ".join(group) for group in floors.cycles(product())]

        assert not findings, tell(findings)
