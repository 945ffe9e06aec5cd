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
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, TypeVarTuple, overload

from dujiang.gateway.client import Client, DeclaredWorkload, declared_workload
from dujiang.gateway.handler import inspected, method_of, options_of, refuse_promises
from dujiang.kernel.errors import Declared
from dujiang.kernel.units import Duration, duration_s
from dujiang.messaging.tx import Read, Tx
from dujiang.resilience.external import declared_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from dujiang.accept import Accept
    from dujiang.data.database import Isolation
    from dujiang.jobs.job import Job
    from dujiang.jobs.schedule import Misfire, Overlap
    from dujiang.messaging.message import Event
    from dujiang.messaging.subscription import OnFail, Start
    from dujiang.react import Reaction
    from dujiang.read import ReadVerb
    from dujiang.resilience.external import External
    from dujiang.resilience.retry import Retry
    from dujiang.write import Write

    Verb = Write[Any, Any] | ReadVerb[Any, Any] | Reaction[Any, Any] | Accept[*tuple[Any, ...], Any]

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NAME = re.compile(r"[a-z][a-z0-9_]*")
EVERY_S_MIN = 1.0


@dataclass(frozen=True, eq=False)
class Invariant:
    """A declared law: rows are violations.

    Attributes:
        says: What always holds.
        name: `module.function`.
        check: Returns the violating rows.
        every_s: How often it is checked while the app works; 0 = only by an audit and in the drill.
    """

    says: str
    name: str
    check: Callable[[Read], Awaitable[Sequence[Any]]]
    every_s: float = 0.0


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
        self.verbs: list[Verb] = []
        self.invariants: list[Invariant] = []
        self.workloads: list[DeclaredWorkload] = []
        self.externals: list[External] = []

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
        requires: Sequence[str] = (),
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
            requires: `("broker",)` refuses it with 503 while the broker is away; else its events wait in the outbox.
            status_code: Of a success; default 201 for POST, otherwise 200.
            aliases: Further routes to the same operation.
            options: Further options of a FastAPI route.
        """
        from dujiang.write import declared  # noqa: PLC0415  (FastAPI loads with the first verb, not with `import dujiang`)

        def declare(function: Callable[P, Coroutine[Any, Any, T]]) -> Write[P, T]:
            verb = declared(
                function,
                name=f"{self.name}.{name or function.__name__}",
                route=route,
                idempotency=idempotency,
                isolation=isolation,
                batch=batch,
                requires=requires,
                status=status_code,
                aliases=aliases,
                options=options,
            )
            self.verbs.append(verb)
            return verb

        return declare

    def accept(
        self,
        route: str | None = None,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        concurrency: int = 8,
        limit: int | None = None,
        timeout: Duration = "1h",
        keep: Duration = "1d",
        idempotency: str = "optional",
        requires: Sequence[str] = (),
        aliases: Sequence[str] = (),
        **options: Any,
    ) -> Callable[[Callable[[Job, *Ts], Coroutine[Any, Any, T]]], Accept[*Ts, T]]:
        """Declare a durable job: `async def f(job: Job, body: Body) -> Result`; a request is answered 202 at once.

        Args:
            route: "POST /path"; None = no request starts it: `await tx.enqueue(f, body)`, or `app.run`.
            name: The stored name; default: the function's. Renaming it later needs `App(renamed=...)`.
            retry: The bound on runs; default 8 within 24 h from when it is due.
            concurrency: Runs at once in one process.
            limit: Runs at once over all processes; None = as many as there are.
            timeout: How long one run may take.
            keep: How long its result is known after its end.
            idempotency: "optional" or "required": whether a request needs an Idempotency-Key.
            requires: As of a write.
            aliases: Further routes to it.
            options: Further options of a FastAPI route.
        """
        from dujiang.accept import declared  # noqa: PLC0415

        def declare(function: Callable[[Job, *Ts], Coroutine[Any, Any, T]]) -> Accept[*Ts, T]:
            for each in (route, *aliases):
                method_of(each, function, write=True)
            refuse_promises(function, idempotency, requires)
            verb = declared(
                function,
                name=f"{self.name}.{name or function.__name__}",
                route=route,
                retry=retry,
                concurrency=concurrency,
                limit=limit,
                timeout=timeout,
                keep=keep,
                key_required=idempotency == "required",
                requires=requires,
                aliases=aliases,
                options=options_of(options, function),
            )
            self.verbs.append(verb)
            return verb

        return declare

    def every(
        self,
        when: Duration,
        *,
        tz: str = "UTC",
        misfire: Misfire = "once",
        catch_up: int = 100,
        overlap: Overlap = "allow",
        jitter: Duration | None = None,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration = "1h",
        keep: Duration = "1d",
    ) -> Callable[[Callable[[Job], Coroutine[Any, Any, T]]], Accept[*tuple[()], T]]:
        """Declare a job of the clock: `async def f(job: Job) -> Result`; each of its times makes one job, once.

        Args:
            when: An interval, "15m", counted from the Unix epoch; or five fields, "0 3 * * MON-FRI", or "@daily".
            tz: The zone of a pattern, "Asia/Shanghai".
            misfire: Of times that were missed by more than a minute only the latest fires ("once"), each ("all"), or none
                ("skip").
            catch_up: How many missed times fire at most, the latest, with misfire="all".
            overlap: While a run has not ended, the next is made all the same ("allow"), is passed over ("skip"), waits its
                turn ("queue"), or ends the one before it ("cancel_running").
            jitter: Jobs begin up to so much after their time, always equally late: it follows from the name.
            name: The stored name; default: the function's. Renaming it later needs `App(renamed=...)`.
            retry: As of an accept.
            timeout: As of an accept.
            keep: As of an accept.
        """
        from dujiang.accept import scheduled  # noqa: PLC0415

        def declare(function: Callable[[Job], Coroutine[Any, Any, T]]) -> Accept[*tuple[()], T]:
            rules = {"tz": tz, "misfire": misfire, "catch_up": catch_up, "overlap": overlap, "jitter": jitter}
            known = f"{self.name}.{name or function.__name__}"
            verb = scheduled(function, when, rules, name=known, retry=retry, timeout=timeout, keep=keep)
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
        from dujiang.read import declared  # noqa: PLC0415

        def declare(function: Callable[P, Coroutine[Any, Any, T]]) -> ReadVerb[P, T]:
            verb = declared(
                function,
                name=f"{self.name}.{name or function.__name__}",
                route=route,
                ttl=ttl,
                absent=absent,
                tags=tags,
                status=status_code,
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

        With `call: Call` instead of `tx: Tx` it runs outside any transaction, at least once, and hands `call.key` on.

        Args:
            event: The class of its events.
            name: The stored name; default: the function's. Renaming it later needs `App(renamed=...)`.
            ordered: Handle events with one key one after another, in commit order.
            on_fail: A dead event parks its key, is skipped, or halts the subscription.
            retry: The bound on tries; default 8 within 24 h.
            batch: Events at most in one transaction; the function then takes a list.
            concurrency: Transactions at once in one process.
            timeout: How long one run may take.
            start: Whether a new subscription begins "now", at the "beginning" of what the outbox still holds, or with what
                was published since an aware datetime. Of no meaning for one that is known already.
        """
        from dujiang.react import declared  # noqa: PLC0415

        def declare(function: Callable[P, Coroutine[Any, Any, T]]) -> Reaction[P, T]:
            verb = declared(
                function,
                event,
                name=f"{self.name}.{name or function.__name__}",
                ordered=ordered,
                on_fail=on_fail,
                retry=retry,
                batch=batch,
                concurrency=concurrency,
                timeout=timeout,
                start=start,
            )
            self.verbs.append(verb)
            return verb

        return declare

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
