"""Module: declares what one system does. Nothing is global, nothing is registered at import.

    shop = Module("shop")

    @shop.write("POST /api/v1/orders")
    async def place_order(tx: Tx, body: NewOrder) -> OrderView: ...

    app = App(modules=[shop])

A decorated function stays callable: inside an open transaction, `await place_order(tx, body)`. What cannot hold is refused
here, at import, with the cure: an untyped handler, an ordered reaction to an event without a key, a write on GET.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, TypeVarTuple

from dujiang.gateway.handler import method_of, options_of, refuse_promises
from dujiang.kernel.errors import Declared
from dujiang.module.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from dujiang.accept import Accept
    from dujiang.data.database import Isolation
    from dujiang.jobs.job import Job
    from dujiang.jobs.schedule import Misfire, Overlap
    from dujiang.kernel.units import Duration
    from dujiang.messaging.message import Event
    from dujiang.messaging.subscription import OnFail, Start
    from dujiang.messaging.tx import Tx
    from dujiang.react import Reaction
    from dujiang.read import ReadVerb
    from dujiang.resilience.retry import Retry
    from dujiang.saga.definition import Saga
    from dujiang.saga.verb import Orchestrated, Upgrade
    from dujiang.write import Write

    Verb = Write[Any, Any] | ReadVerb[Any, Any] | Reaction[Any, Any] | Accept[*tuple[Any, ...], Any] | Orchestrated

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
K = TypeVar("K", bound="Saga[Any]")

NAME = re.compile(r"[a-z][a-z0-9_]*")


class Module(Surroundings):
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
        super().__init__(name)
        self.tables = tables
        self.migrations = migrations
        self.seed = seed
        self.verbs: list[Verb] = []

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
            start: What a new one begins with: "now", the "beginning" of what the outbox holds, or an aware datetime.
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

    def saga(
        self,
        *,
        on: type[Event],
        within: Duration,
        key: Callable[[Any], object] | None = None,
        name: str | None = None,
        version: int = 1,
        upgrades: Mapping[int, Upgrade] | None = None,
        retry: Retry | None = None,
        concurrency: int = 8,
        stuck_after: int = 20,
        keep: Duration = "7d",
    ) -> Callable[[type[K]], type[K]]:
        """Declare a saga: `class Checkout(Saga[CheckoutState])`, whose steps all happen, or are undone in reverse order.

        Args:
            on: The event that begins one; its method `begin(event)` gives the state.
            within: How long it has to pass its pivot, the first step without an undo; then it is undone.
            key: Of the saga that an event begins, by default the event's. There is one saga for a key.
            name: The stored name; default: the class's. Renaming it later needs `App(renamed=...)`.
            version: Of its state, from 1.
            upgrades: `{1: function}` makes the JSON object of a state of version 1 one of version 2.
            retry: Tries of a step before the pivot, and the waits between tries; its `max_age` counts for nothing.
            stuck_after: Tries of an undo; then an operator is asked.
            concurrency: Runs at once in one process.
            keep: How long it is known after its end.
        """
        from dujiang.saga.verb import declared  # noqa: PLC0415

        def declare(kind: type[K]) -> type[K]:
            verb = declared(
                kind,
                name=f"{self.name}.{name or kind.__name__}",
                on=on,
                key=key,
                within=within,
                version=version,
                upgrades=upgrades,
                retry=retry,
                concurrency=concurrency,
                stuck_after=stuck_after,
                keep=keep,
            )
            self.verbs.append(verb)
            return kind

        return declare
