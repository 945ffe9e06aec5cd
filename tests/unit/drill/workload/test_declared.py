"""`@module.workload`: what it takes, and what it refuses with a cure."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang import App, Client, Module, Tx
from dujiang.kernel.errors import Declared


class TestDeclaring:
    def test_with_and_without_parentheses(self) -> None:
        """The function stays what it is, and the app lists it with its module's name."""
        module = Module("m")

        @module.workload
        async def buyers(client: Client) -> None: ...

        @module.workload(only=True)
        async def sellers(client: Client) -> None: ...

        app = App(modules=[module])

        assert [(each.name, each.function, each.only) for each in app.workloads()] == [
            ("m.buyers", buyers, False),
            ("m.sellers", sellers, True),
        ]

    def test_a_class_with_the_methods_of_a_client_will_do(self) -> None:
        """A workload may name a client of its own type, as long as that is one."""

        class Mine(Client):
            """Has all of its methods."""

        module = Module("m")

        async def buyers(client: Any) -> None: ...

        buyers.__annotations__ = {"client": Mine, "return": None}
        module.workload(buyers)

        assert [each.name for each in module.workloads] == ["m.buyers"]


class TestRefusals:
    def test_what_is_no_workload_is_refused(self) -> None:
        """Another world, a further parameter, an answer, a plain function: each with what to write instead."""
        module = Module("m")

        async def of_tx(tx: Tx) -> None: ...

        async def two(client: Client, size: int) -> None: ...

        async def answers(client: Client) -> int:
            return 1

        def plain(client: Client) -> None: ...

        told = []
        wrong: list[Any] = [of_tx, two, answers, plain]
        for function in wrong:
            with pytest.raises(Declared) as caught:
                module.workload(function)
            told.append((caught.value.what, caught.value.how))

        assert told == [
            ("its first parameter is not Client", "begin with `(client: Client, ...)`"),
            ("a workload takes size", "take `client: Client` and nothing else"),
            ("a workload returns something", "declare `-> None`"),
            ("is not an async function", "write `async def`"),
        ]
        assert module.workloads == []

    def test_two_of_one_name_are_refused(self) -> None:
        """A report could not tell them apart."""
        module = Module("m")

        async def buyers(client: Client) -> None: ...

        module.workload(buyers)

        with pytest.raises(Declared, match=r"two workloads are named m\.buyers"):
            module.workload(buyers)
