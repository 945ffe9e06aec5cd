"""Externals: a name on an async function, which stays one; a count, and a key."""

from __future__ import annotations

import inspect
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from dujiang import App, Module
from dujiang.kernel.context import entered
from dujiang.kernel.errors import Declared
from dujiang.resilience.external import External, digest_of
from dujiang.testing.harness import running

if TYPE_CHECKING:
    from collections.abc import Callable


async def charge(stable_key: str, amount: Decimal) -> str:
    """Charge."""
    return f"{stable_key}:{amount}"


async def send(text: str) -> None:
    """Send."""
    if not text:
        raise ConnectionError("nothing to send")


def declared(function: Any) -> External:
    """The declaration behind a function."""
    found: External = function.external
    return found


class Bank:
    """A client that an app provides."""

    async def pay(self, key: str) -> str:
        """Pay."""
        return f"paid {key}"


class TestNaming:
    @pytest.mark.parametrize("owner", [App(modules=[]), Module("bank")])
    def test_a_function_is_named_by_itself_or_by_a_word(self, owner: Any) -> None:
        """With and without parentheses, on an app and on a module."""
        assert declared(owner.external(charge)).name == "charge"
        assert declared(owner.external("payment")(charge)).name == "payment"
        assert declared(owner.external()(send)).name == "send"

    def test_an_app_lists_its_own_and_those_of_its_modules(self) -> None:
        """A drill takes them all."""
        module = Module("bank")
        module.external("payment")(charge)
        app = App(modules=[module])
        app.external("mail")(send)

        assert [external.name for external in app.externals()] == ["payment", "mail"]

    @pytest.mark.parametrize(
        ("declare", "says"),
        [
            (lambda app: app.external("Bank")(charge), "names no external"),
            (lambda app: app.external("bank.eu")(charge), "names no external"),
            (lambda app: app.external("bank")(len), "not an async function"),
            (lambda app: app.external("bank", key="stable_key")(charge), "key='stable_key'"),
            (lambda app: (app.external("bank")(charge), app.external("bank")(send)), "two externals are named bank"),
        ],
    )
    def test_what_cannot_be_named_is_refused(self, declare: Callable[[App], Any], says: str) -> None:
        """At import, with what is wrong."""
        with pytest.raises(Declared) as caught:
            declare(App(modules=[]))

        assert says in caught.value.detail

    async def test_a_named_function_stays_a_function(self) -> None:
        """Outside a running app it is called as it is, and its signature is the same."""
        pay = App(modules=[]).external("payment")(charge)

        assert await pay("k", Decimal(2)) == "k:2"
        assert inspect.signature(pay) == inspect.signature(charge)
        assert inspect.iscoroutinefunction(pay)

    async def test_a_method_of_a_provided_client_may_be_named(self) -> None:
        """What `App(provide=...)` gives may be an external too: its bound method is an async function."""
        pay = App(modules=[]).external("payment")(Bank().pay)

        assert await pay("k") == "paid k"
        assert declared(pay).key_of(("k",), {}) == "k"


class TestKeys:
    def test_the_key_is_the_parameter_named_as_one(self) -> None:
        """By position and by name; a function without such a parameter has no key."""
        app = App(modules=[])

        assert declared(app.external(charge)).key_of(("k", Decimal(1)), {}) == "k"
        assert declared(app.external("other")(charge)).key_of((), {"amount": 1, "stable_key": "k"}) == "k"
        assert declared(app.external(send)).key_of(("hello",), {}) is None

    def test_a_function_says_how_the_key_follows(self) -> None:
        """Whatever it makes is taken as text."""
        made = App(modules=[]).external("mail", key=len)(send)

        assert declared(made).key_of(("hello",), {}) == "5"

    def test_equal_arguments_have_equal_digests(self) -> None:
        """What is no data counts by its type, not by where it lies in memory."""
        assert digest_of(("k", Decimal(1), Bank()), {}) == digest_of(("k", Decimal(1), Bank()), {})
        assert digest_of(("k",), {}) != digest_of(("l",), {}) != digest_of((), {"k": "l"})


class TestCounting:
    async def test_each_call_is_counted_by_its_outcome(self) -> None:
        """Answered and failed calls, and their times, stand in the metrics under the external's name."""
        app = App(modules=[])
        mail = app.external("mail")(send)
        async with running(app) as world:
            with entered(world.runtime.context()):
                await mail("hello")
                with pytest.raises(ConnectionError):
                    await mail("")
            counter, times = world.runtime.metrics.counter, world.runtime.metrics.histogram

            assert counter("dujiang_external_total", external="mail", outcome="done").value == 1
            assert counter("dujiang_external_total", external="mail", outcome="failed").value == 1
            assert times("dujiang_external_seconds", external="mail").count == 2
