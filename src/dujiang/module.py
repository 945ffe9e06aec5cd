"""Module: declares what one system does. Nothing is global, nothing is registered at import.

    shop = Module("shop")

    @shop.write("POST /api/v1/orders")
    async def place_order(tx: Tx, body: NewOrder) -> OrderView: ...

    @shop.react(OrderPlaced, ordered=True)
    async def count_sale(tx: Tx, event: OrderPlaced) -> None: ...

    app = App(modules=[shop])

A decorated function stays callable: inside an open transaction, `await place_order(tx, body)`. What cannot hold is refused
here, at import, with the cure: an untyped handler, an ordered reaction to an event without a key, a write on GET.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args, get_origin

from dujiang.gateway.handler import inspected, where_of
from dujiang.kernel.errors import Declared
from dujiang.kernel.units import Duration, duration_s
from dujiang.messaging.tx import Read, Tx
from dujiang.resilience.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from dujiang.data.database import Isolation
    from dujiang.messaging.message import Event
    from dujiang.messaging.subscription import OnFail, Start
    from dujiang.react import Reaction
    from dujiang.read import ReadVerb
    from dujiang.write import Write

P = ParamSpec("P")
T = TypeVar("T")

ROUTE = re.compile(r"(GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) (/\S*)")
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, eq=False)
class Invariant:
    """A declared law: rows are violations.

    Attributes:
        says: What always holds.
        name: `module.function`.
        check: Returns the violating rows.
    """

    says: str
    name: str
    check: Callable[[Read], Awaitable[Sequence[Any]]]


class Module:
    """The declarations of one system.

    Args:
        name: Lower-case; the first part of every stored name.
        tables: The module's SQLAlchemy MetaData; its column types are checked at start.
        migrations: The package that holds its Alembic scripts; None = it has no tables of its own.
        seed: Runs once on an empty store: `async def seed(tx: Tx) -> None`.
    """

    def __init__(
        self,
        name: str,
        *,
        tables: Any = None,
        migrations: str | None = None,
        seed: Callable[[Tx], Awaitable[None]] | None = None,
    ) -> None:
        if not NAME.fullmatch(name):
            raise Declared(
                where=f"Module({name!r})", what="is not a module name", how="use lower-case letters, digits, _"
            )
        self.name = name
        self.tables = tables
        self.migrations = migrations
        self.seed = seed
        self.verbs: list[Write[Any, Any] | ReadVerb[Any, Any] | Reaction[Any, Any]] = []
        self.invariants: list[Invariant] = []

    def __repr__(self) -> str:
        return f"<Module {self.name}: {len(self.verbs)} verbs, {len(self.invariants)} invariants>"

    def write(
        self,
        route: str | None = None,
        *,
        name: str | None = None,
        idempotency: str = "optional",
        isolation: Isolation = "read_committed",
        batch: int = 0,
        status_code: int | None = None,
        aliases: Sequence[str] = (),
        **options: Any,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Write[P, T]]:
        """Declare a synchronous write: `async def f(tx: Tx, ...) -> View`.

        Args:
            route: "POST /path/{name}"; None = an operation, run by `app.run` or inside a transaction.
            name: The stored name; default: the function's.
            idempotency: "optional" or "required": whether a request needs an Idempotency-Key.
            isolation: "read_committed" or "serializable" (then it may run several times).
            batch: Calls at most in one transaction; the function then takes and returns lists.
            status_code: Of a success; default 201 for POST, otherwise 200.
            aliases: Further routes to the same operation.
            options: Further options of a FastAPI route.
        """
        from dujiang.write import Write  # noqa: PLC0415  (FastAPI loads with the first verb, not with `import dujiang`)

        def declare(function: Callable[P, Coroutine[Any, Any, T]]) -> Write[P, T]:
            handler = inspected(function, worlds=(Tx,))
            method = self._checked(route, function, write=True)
            for alias in aliases:
                self._checked(alias, function, write=True)
            if idempotency not in ("optional", "required"):
                raise Declared(
                    where=where_of(function), what=f"idempotency={idempotency!r}", how="optional or required"
                )
            if batch and get_origin(handler.answer) is not list:
                raise Declared(where=where_of(function), what="batch without lists", how="return list[View | Refusal]")
            verb = Write(
                function=function,
                handler=handler,
                name=f"{self.name}.{name or function.__name__}",
                route=route,
                status=status_code or (201 if method == "POST" else 200),
                key_required=idempotency == "required",
                isolation=isolation,
                batch=batch,
                aliases=tuple(aliases),
                options=options,
            )
            self.verbs.append(verb)
            return verb

        return declare

    def read(
        self,
        route: str | None = None,
        *,
        name: str | None = None,
        ttl: Duration | None = None,
        absent: Duration | None = None,
        tags: tuple[str, ...] = (),
        status_code: int = 200,
        **options: Any,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], ReadVerb[P, T]]:
        """Declare a read: `async def f(db: Read, ...) -> View | None`; None is 404.

        Args:
            route: "GET /path/{name}"; None = an operation.
            name: The stored name; default: the function's.
            ttl: How long an answer may be cached, as "2h".
            absent: How long "there is none" may be cached.
            tags: What the answer depends on, as "order:{order_id}".
            status_code: Of an answer.
            options: Further options of a FastAPI route.
        """
        from dujiang.read import ReadVerb  # noqa: PLC0415

        def declare(function: Callable[P, Coroutine[Any, Any, T]]) -> ReadVerb[P, T]:
            handler = inspected(function, worlds=(Read,))
            self._checked(route, function, write=False)
            try:
                ttl_s = None if ttl is None else duration_s(ttl)
                absent_s = None if absent is None else duration_s(absent)
            except ValueError as error:
                raise Declared(where=where_of(function), what=str(error), how="correct the duration") from None
            verb = ReadVerb(
                function=function,
                handler=handler,
                name=f"{self.name}.{name or function.__name__}",
                route=route,
                status=status_code,
                ttl_s=ttl_s,
                absent_s=absent_s,
                tags=tags,
                options=options,
            )
            self.verbs.append(verb)
            return verb

        return declare

    def react(
        self,
        event: type[Event],
        *,
        name: str | None = None,
        ordered: bool = False,
        on_fail: OnFail = "park_key",
        retry: Retry | None = None,
        batch: int = 0,
        concurrency: int = 8,
        timeout: Duration = "60s",
        start: Start = "now",
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Reaction[P, T]]:
        """Declare a consumer: `async def f(tx: Tx, event: OrderPlaced) -> None`, effectively once.

        Args:
            event: The class of its events.
            name: The stored name; default: the function's. Renaming it later needs `App(renamed=...)`.
            ordered: Handle events with one key one after another, in commit order.
            on_fail: A dead event parks its key, is skipped, or halts the subscription.
            retry: The bound on tries; default 8 within 24 h.
            batch: Events at most in one transaction; the function then takes a list.
            concurrency: Transactions at once in one process.
            timeout: How long one run may take.
            start: Whether a new subscription begins "now" or at the "beginning" of what the outbox still holds.
        """
        from dujiang.react import Reaction  # noqa: PLC0415

        def declare(function: Callable[P, Coroutine[Any, Any, T]]) -> Reaction[P, T]:
            handler = inspected(function, worlds=(Tx,))
            where = where_of(function)
            wanted = list[event] if batch else event  # type: ignore[valid-type]
            takes = [parameter for parameter, (hint, _) in handler.parameters.items() if hint == wanted]
            if len(takes) != 1:
                shown = f"list[{event.__name__}]" if batch else event.__name__
                raise Declared(where=where, what="does not take the event", how=f"add a parameter `event: {shown}`")
            if ordered and event.key_field is None:
                raise Declared(
                    where=where, what=f"is ordered, and {event.__name__} has no key", how="mark a field with `= key()`"
                )
            verb = Reaction(
                function=function,
                handler=handler,
                name=f"{self.name}.{name or function.__name__}",
                event=event,
                event_name=takes[0],
                ordered=ordered,
                on_fail=on_fail,
                retry=retry or Retry(),
                batch=batch,
                concurrency=concurrency,
                timeout_s=duration_s(timeout),
                start=start,
            )
            self.verbs.append(verb)
            return verb

        return declare

    def invariant(
        self, says: str
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
        """Declare a law: `async def f(db: Read) -> list[Row]`; rows are violations."""

        def declare(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
            inspected(function, worlds=(Read,))
            self.invariants.append(Invariant(says, f"{self.name}.{function.__name__}", function))  # type: ignore[arg-type]
            return function

        return declare

    def _checked(self, route: str | None, function: Callable[..., Any], *, write: bool) -> str:
        """The method of a route. Raises Declared when the route does not fit the verb."""
        if route is None:
            return ""
        where, match = where_of(function), ROUTE.fullmatch(route)
        if match is None:
            raise Declared(where=where, what=f"{route!r} is not a route", how='write "POST /path/{name}"')
        if write and match[1] == "GET":
            raise Declared(where=where, what="a write on GET", how="use POST, PUT, PATCH or DELETE, or declare a read")
        return match[1]


def member_of(hint: Any) -> Any:
    """The member type of a list type."""
    return get_args(hint)[0]
