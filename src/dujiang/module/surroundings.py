"""Surroundings: what a module declares beside its verbs: laws that hold, clients of a drill, effects outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from dujiang.gateway.client import Client, DeclaredWorkload, declared_workload
from dujiang.gateway.handler import inspected
from dujiang.kernel.errors import Declared
from dujiang.kernel.units import Duration, duration_s
from dujiang.messaging.laws import Invariant
from dujiang.messaging.tx import Read
from dujiang.resilience.external import declared_in

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dujiang.resilience.external import External

P = ParamSpec("P")
T = TypeVar("T")

EVERY_S_MIN = 1.0


class Surroundings:
    """The part of a module that is no verb.

    Args:
        name: Of the module.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.invariants: list[Invariant] = []
        self.workloads: list[DeclaredWorkload] = []
        self.externals: list[External] = []

    def invariant(
        self, says: str, *, every: Duration | None = None
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
        """Declare a law: `async def f(db: Read) -> list[Row]`; rows are violations.

        Args:
            says: What always holds, in words.
            every: How often it is checked while the app works, as "10s"; None = by `dujiang audit` and the drill alone.
        """
        every_s = 0.0 if every is None else duration_s(every)
        if every is not None and every_s < EVERY_S_MIN:
            raise Declared(where=repr(self), what=f"checks {says!r} every {every}", how="give it at least a second")

        def declare(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
            inspected(function, worlds=(Read,))
            self.invariants.append(Invariant(says, f"{self.name}.{function.__name__}", function, every_s))  # type: ignore[arg-type]
            return function

        return declare

    @overload
    def workload(self, function: Callable[[Client], Coroutine[Any, Any, None]], /) -> Callable[[Client], Any]: ...

    @overload
    def workload(
        self, /, *, only: bool = False
    ) -> Callable[[Callable[[Client], Coroutine[Any, Any, None]]], Callable[[Client], Any]]: ...

    def workload(self, function: Any = None, /, *, only: bool = False) -> Any:
        """Declare what a client of the app does in a drill: `async def buyers(client: Client) -> None`.

        A drill makes calls from the types of the handlers by itself; this is for what types cannot say: an order of calls,
        a value that must be computed, a sign-in.

        Args:
            function: The function, when the decorator stands without parentheses.
            only: Leave the module's writes to this function alone.
        """

        def declare(function: Callable[[Client], Coroutine[Any, Any, None]]) -> Callable[[Client], Any]:
            taken = [each.name for each in self.workloads]
            self.workloads.append(declared_workload(self.name, function, taken, only=only))
            return function

        return declare if function is None else declare(function)

    @overload
    def external(self, given: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def external(
        self, given: str = "", /, *, key: Callable[..., Any] | None = None
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]: ...

    def external(self, given: Any = "", /, *, key: Callable[..., Any] | None = None) -> Any:
        """Name an async function as an effect outside: `@payments.external`, `@payments.external("bank", key=...)`.

        See `App.external`.
        """
        return declared_in(self.externals, given, key)
