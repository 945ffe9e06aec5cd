"""App: a declaration of modules. Runtime: one running copy of it.

    app = App(modules=[shop])            keeps no state; an ASGI application
    runtime = Runtime(app, settings)     pools, tasks, cursors; any number in one process
    async with runtime: ...

Code finds its runtime by context only. Under a foreign ASGI server the lifespan starts one and hands it on in the
lifespan state; `TestClient(app)` works for the same reason. Inside an existing FastAPI application use `app.attach(fastapi)`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from dujiang.kernel.context import current
from dujiang.kernel.errors import Declared, OutsideRuntime
from dujiang.kernel.units import Duration, duration_s
from dujiang.resilience.external import declared_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence

    from fastapi import FastAPI

    from dujiang.app.runtime import Runtime
    from dujiang.gateway.client import DeclaredWorkload
    from dujiang.jobs.enqueue import JobRef
    from dujiang.jobs.view import JobView
    from dujiang.messaging.laws import Invariant
    from dujiang.module.module import Module, Verb
    from dujiang.resilience.external import External
    from dujiang.settings import Settings

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

P = ParamSpec("P")
T = TypeVar("T")


class App:
    """The declaration of an application.

    Args:
        modules: Its systems; names must differ.
        provide: Objects that handlers may ask for, by type: `{Mailer: SmtpMailer(...)}`.
        renamed: What became of stored names that the code no longer has: new name, or None when gone on purpose.
        settings: For a foreign ASGI server; default: resolved from the environment when the lifespan starts.
        title: Shown in the API's documentation.
        version: Shown there too.

    Raises:
        Declared: When two declarations take the same name or route.
    """

    def __init__(
        self,
        modules: Sequence[Module],
        *,
        provide: Mapping[Any, Any] | None = None,
        renamed: Mapping[str, str | None] | None = None,
        settings: Settings | None = None,
        title: str = "Dujiang",
        version: str = "1",
    ) -> None:
        self.modules = tuple(modules)
        self.provide = dict(provide or {})
        self.renamed = dict(renamed or {})
        self.settings = settings
        self.title = title
        self.version = version
        self.mounts: list[tuple[str, Any]] = []
        self._externals: list[External] = []
        self._platform: list[Verb] = []
        # Jobs of the clock belong to nobody who could ask for them over HTTP.
        if any(verb.kind == "accept" and getattr(verb, "schedule", None) is None for verb in self.verbs()):
            from dujiang.app.status import status  # noqa: PLC0415  (an app without jobs loads nothing of it)

            self._platform = status().verbs
        self._refuse_twins()

    def __repr__(self) -> str:
        return f"<App {', '.join(module.name for module in self.modules)}>"

    def _refuse_twins(self) -> None:
        routes = [route for verb in self.verbs() for route in (verb.route, *getattr(verb, "aliases", ())) if route]
        for what, names in (
            ("modules are named", [module.name for module in self.modules]),
            ("verbs are named", self.names()),
            ("verbs take the route", routes),
            ("externals are named", [external.name for external in self.externals()]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise Declared(where=repr(self), what=f"two {what} {name}", how="rename one of them")
        reactions: list[Any] = [verb for verb in self.verbs() if verb.kind in ("react", "saga")]
        stored = {name for verb in reactions for name in (verb.name, verb.event.event_name)}
        for name in sorted(stored & self.renamed.keys()):
            # Each start would take its work away from it again.
            what, how = f"says that {name} was renamed or is gone, and has it", "take it out of `renamed`"
            raise Declared(where=repr(self), what=what, how=how)

    def names(self) -> list[str]:
        """The stored names of all verbs."""
        return [verb.name for verb in self.verbs()]

    def verbs(self) -> list[Verb]:
        """All verbs, in the order of their declaration; last those of the platform itself."""
        return [*(verb for module in self.modules for verb in module.verbs), *self._platform]

    def invariants(self) -> list[Invariant]:
        """All declared laws."""
        return [invariant for module in self.modules for invariant in module.invariants]

    def workloads(self) -> list[DeclaredWorkload]:
        """All declared workloads of a drill."""
        return [workload for module in self.modules for workload in module.workloads]

    def externals(self) -> list[External]:
        """All functions that are named as effects outside."""
        return [*(external for module in self.modules for external in module.externals), *self._externals]

    @overload
    def external(self, given: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def external(
        self, given: str = "", /, *, key: Callable[..., Any] | None = None
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]: ...

    def external(self, given: Any = "", /, *, key: Callable[..., Any] | None = None) -> Any:
        """Name an async function as an effect outside; it stays a function with the same parameters.

            @app.external
            async def charge_card(key: str, amount: Decimal) -> str: ...

            mail = app.external("mail", key=lambda letter: letter.id)(mailer.send)

        Each call gets a span and is counted; inside an open transaction it is refused. In a drill the function stands for
        the other side, and the way to it loses requests and answers, delays them, and delivers some twice.

        Args:
            given: The function, or the name under which reports and metrics show it; default: the function's.
            key: How the idempotency key of a call follows from its arguments; default: the parameter `key`, or the first
                whose name ends in `_key`.

        Raises:
            Declared: When it is not an async function, or another external has its name.
        """
        made = declared_in(self._externals, given, key)
        if not isinstance(given, str):
            self._refuse_twins()
            return made

        def declare(function: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
            found = made(function)
            self._refuse_twins()
            return found

        return declare

    async def run(self, verb: Any, *args: Any, key: str | None = None, **values: Any) -> Any:
        """Run a write or read of this app from anywhere inside a running copy; returns what the function returns.

        Args:
            verb: The decorated function.
            args: Its parameters after the first, by position.
            key: An idempotency key; a replay returns the stored answer.
            values: Its parameters by name.
        """
        return await current().runtime.run(verb, args, values, key)

    async def wait_for(self, job: JobRef[Any] | JobView | int, *, within: Duration = "30s") -> JobView:
        """Wait for the end of a job of this caller, inside a running copy and outside any transaction.

        Args:
            job: What `tx.enqueue` or `app.run` gave, or its id.
            within: How long; a job that has not ended by then goes on, and JobNotEnded is raised.
        """
        from dujiang.jobs.view import JobView, wait_for  # noqa: PLC0415

        job_id = job if isinstance(job, int) else job.job_id if isinstance(job, JobView) else job.id
        return await wait_for(job_id, duration_s(within))

    def mount(self, path: str, application: Any) -> None:
        """Serve another ASGI application (FastAPI, Starlette, ...) below a path of this one."""
        self.mounts.append((path.rstrip("/"), application))

    def attach(self, fastapi: FastAPI) -> None:
        """Put this app's verbs into an existing FastAPI application; its lifespan then starts and stops the runtime.

        Its own routes may use `tx: Annotated[Tx, Transaction()]`; its engine, tables and migrations stay as they are.
        """
        from dujiang.app.attach import attach  # noqa: PLC0415

        attach(self, fastapi)

    @asynccontextmanager
    async def lifespan(self, _: Any = None) -> AsyncIterator[dict[str, Any]]:
        """Run one copy for the block; yields the lifespan state under which requests find it."""
        from dujiang.app.runtime import Runtime  # noqa: PLC0415
        from dujiang.settings import resolve  # noqa: PLC0415

        runtime = Runtime(self, self.settings or resolve())
        await runtime.start()
        try:
            yield {"dujiang": runtime}
        finally:
            await runtime.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection: the lifespan starts a runtime, requests go to it."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        runtime: Runtime | None = scope.get("dujiang") or (scope.get("state") or {}).get("dujiang")
        if runtime is None:
            raise OutsideRuntime(what="the app (its server did not run the lifespan)")
        await runtime.asgi(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self.lifespan() as state:
                scope.setdefault("state", {}).update(state)
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})
