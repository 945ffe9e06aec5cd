"""External: a plain async function that is named as an effect outside: a bank, a mail server, another team's service.

    @app.external                                             named after the function
    async def charge_card(key: str, amount: Money) -> str: ...

    pay = app.external("payment", key=lambda order: f"pay-{order.id}")(charge)

What the name gives: a span and a metric for each call, the refusal of a call inside a transaction (its locks would be held
while it waits for a stranger), and in a drill a network between the caller and the function: there the function itself
stands for the other side, and a request may be lost, an effect may lose its answer or happen twice.

The key of a call is what lets the other side tell a repeat: the value of the parameter `key`, or of the first one whose
name ends in `_key`, unless `key=` says how it follows from the arguments. A function that is harmless when it is repeated,
because its arguments name the same thing, says so in the same way: `key=lambda document: document.id`.

The outgoing HTTP client will do the same for its requests. Refused: a class to inherit from; a decorated function stays a
function, with its types. tests/unit/resilience/test_external.py and tests/unit/drill/test_outside.py hold it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from pydantic_core import to_json

from dujiang.kernel.context import Context, current_or_none
from dujiang.kernel.errors import Declared, DujiangError
from dujiang.telemetry.tracing import span

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

NAME = re.compile(r"[a-z][a-z0-9_-]*")
DIGEST_BYTES = 8


@dataclass(eq=False, kw_only=True)
class ExternalInTransaction(DujiangError):
    """An external effect was called inside an open transaction."""

    code = "external_in_transaction"
    move = "report"
    says = "{external} was called inside an open transaction: its locks would be held while it waits, and a rollback cannot undo it"
    cure = (
        "publish an event in the transaction and make the call in a reaction to it that takes `call: Call`; "
        "write down what came of it with `await app.run(operation, ...)`"
    )

    external: str


@dataclass(frozen=True, eq=False)
class External:
    """A named external effect.

    Attributes:
        name: In reports, metrics and the labels of a drill's faults: `external.<name>`.
        function: What runs: in production the client, in a drill the stand-in for the other side.
        key: How the key follows from the arguments; None = nothing tells a repeat.
        where: File, line and function.
    """

    name: str
    function: Callable[..., Coroutine[Any, Any, Any]] = field(repr=False)
    key: Callable[..., Any] | None = field(repr=False)
    where: str

    def key_of(self, args: tuple[Any, ...], values: dict[str, Any]) -> str | None:
        """The key that a call with these arguments carries; None when it has none."""
        found = None if self.key is None else self.key(*args, **values)
        return None if found is None else str(found)

    async def call(self, context: Context, args: tuple[Any, ...], values: dict[str, Any]) -> Any:
        """Call the function, counted; on a simulated machine over its network. Raises what the function raises."""
        if context.transaction is not None and not context.transaction.ended:
            raise ExternalInTransaction(external=self.name)
        simulation, clock = context.node.simulation, context.node.clock
        began, outcome = clock.monotonic(), "failed"
        try:
            with span("external", external=self.name):
                if simulation is None:
                    answer = await self.function(*args, **values)
                else:
                    key, shown = self.key_of(args, values), digest_of(args, values)
                    effect = functools.partial(self.function, *args, **values)
                    answer = await simulation.external(self.name, key, shown, effect)
            outcome = "done"
        finally:
            if context.runtime is not None:
                context.runtime.counting.external(self.name, outcome, clock.monotonic() - began)
        return answer


def named(
    function: Callable[P, Coroutine[Any, Any, T]], name: str, key: Callable[..., Any] | None
) -> Callable[P, Coroutine[Any, Any, T]]:
    """The function as an external effect; its declaration is its attribute `external`. Raises Declared.

    Args:
        function: An async function, or a method that is bound.
        name: Its name; empty = that of the function.
        key: How the key follows from the arguments; None = the parameter that is named as one.
    """
    where = where_of(function)
    if not inspect.iscoroutinefunction(function):
        raise Declared(where=where, what="an external effect is not an async function", how="write `async def`")
    name = name or function.__name__
    if not NAME.fullmatch(name):
        raise Declared(where=where, what=f"{name!r} names no external", how="use lower-case letters, digits, _ and -")
    if key is not None and not callable(key):
        raise Declared(
            where=where, what=f"key={key!r}", how="give a function of the same arguments: `key=lambda x: x.id`"
        )
    declared = External(name, function, key or key_parameter(function), where)

    @functools.wraps(function)
    async def external(*args: P.args, **values: P.kwargs) -> T:
        context = current_or_none()
        if context is None:  # A plain call in a script or a test.
            return await function(*args, **values)
        return cast("T", await declared.call(context, args, values))

    external.__dict__["external"] = declared
    return external


def declared_in(externals: list[External], given: Any, key: Callable[..., Any] | None) -> Any:
    """What `@app.external` and `@module.external` do: with a function, name it; with a name, wait for the function.

    Args:
        externals: Where the declaration is kept.
        given: The function, or its name.
        key: See `named`.
    """

    def declare(function: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
        made = named(function, given if isinstance(given, str) else "", key)
        externals.append(made.__dict__["external"])
        return made

    return declare if isinstance(given, str) else declare(given)


def key_parameter(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Reads the parameter `key`, or the first one whose name ends in `_key`; None when there is none."""
    signature = inspect.signature(function)
    names = [name for name in signature.parameters if name == "key" or name.endswith("_key")]
    if not names:
        return None
    name = "key" if "key" in names else names[0]

    def read(*args: Any, **values: Any) -> Any:
        return signature.bind(*args, **values).arguments.get(name)

    return read


def digest_of(args: tuple[Any, ...], values: dict[str, Any]) -> str:
    """The same text for the same arguments; what is no data counts by its type."""
    text = to_json([args, sorted(values.items())], fallback=lambda value: type(value).__qualname__)
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).hexdigest()


def where_of(function: Any) -> str:
    """File, line and function."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return name if code is None else f"{code.co_filename}:{code.co_firstlineno} {name}"
