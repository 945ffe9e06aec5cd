"""Attach: Dujiang inside an application that is already there.

    fastapi = FastAPI(lifespan=existing)
    app = App(modules=[shop])
    app.attach(fastapi)

    @fastapi.post("/legacy")
    async def legacy(body: Old, tx: Annotated[Tx, Transaction()]) -> New: ...

The attached verbs are routes of the existing application; `Transaction()` gives any of its own routes a transaction that
commits before the answer leaves and rolls back when the route raises. Such a transaction cannot run again: a conflict
reaches the client as 503 with `Retry-After`.

Everything below `/_dj/` is served by the running copy's own front, which asks for the operator's token: as plain routes
of the existing application, operations would be open to everybody. The rest of that front (the checks of the guard,
`/health/`, `/metrics`) belongs to whoever serves the application.

tests/docs/test_adopt.py runs all of it inside an application that has tables and an engine of its own.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from dujiang.data.transaction import refuse_nested
from dujiang.kernel.context import CURRENT, changed, current_or_none, entered
from dujiang.kernel.errors import DeadlinePassed
from dujiang.telemetry.crash import crash_point
from dujiang.telemetry.tracing import span

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping

    from fastapi import FastAPI

    from dujiang.app.declaration import App
    from dujiang.app.runtime import Runtime
    from dujiang.messaging.tx import Tx

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPERATIONS = "/_dj/"


def attach(app: App, fastapi: FastAPI) -> None:
    """See `App.attach`."""
    from starlette.routing import Route  # noqa: PLC0415

    from dujiang.app.composition import Composition  # noqa: PLC0415
    from dujiang.gateway.openapi import complete_openapi  # noqa: PLC0415
    from dujiang.gateway.pages import ErrorPages  # noqa: PLC0415
    from dujiang.gateway.problems import PAGES, answer_of_exception  # noqa: PLC0415
    from dujiang.kernel.errors import DujiangError  # noqa: PLC0415

    inner = fastapi.router.lifespan_context
    routes = [route for route in Composition(app).routes if not route.path.startswith(OPERATIONS)]
    complete_openapi(fastapi)
    fastapi.router.routes.extend(routes)
    fastapi.router.routes.append(Route(f"{OPERATIONS}{{rest:path}}", Front(), include_in_schema=False))
    for path in (PAGES, f"{PAGES}/{{code}}"):  # Where the `type` of a problem document leads.
        fastapi.router.routes.append(Route(path, ErrorPages(), methods=["GET"], include_in_schema=False))

    @asynccontextmanager
    async def both(application: Any) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            theirs = await stack.enter_async_context(inner(application))
            ours = await stack.enter_async_context(app.lifespan(application))
            yield {**(theirs or {}), **ours}

    async def answered(_: Any, error: Exception) -> Any:
        from fastapi import Response  # noqa: PLC0415

        answer = answer_of_exception(error)
        response = Response(answer.body, answer.status)
        response.raw_headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
        return response

    fastapi.router.lifespan_context = both
    fastapi.add_exception_handler(DujiangError, answered)


class Front:
    """The ASGI application that hands a connection to the running copy's own front, guard and operator's token included."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        from dujiang.gateway.routes import runtime_of  # noqa: PLC0415

        runtime: Any = runtime_of(scope)
        await runtime.asgi(scope, receive, send)


@asynccontextmanager
async def held(runtime: Runtime) -> AsyncIterator[Tx]:
    """A transaction that is open for the block; see `Runtime.held`. Raises NestedTransaction inside another one."""
    context = current_or_none() or runtime.context()
    refuse_nested(context, "a held transaction")
    with entered(context), span("data.transaction", operation="held"):
        async with runtime.database.held() as connection:
            tx = runtime.make_tx(connection, runtime.node.clock.now_us())
            try:
                with changed(transaction=tx):
                    yield tx
                    await tx.finish()
            finally:
                tx.ended = True
                await tx.dispose()
        crash_point("after_commit")
        for step in tx.after_commit:
            step()


@asynccontextmanager
async def open_transaction(request: Any) -> AsyncIterator[Tx]:
    """The dependency behind `Transaction()`: one transaction in the context of this request, its trace included."""
    from dujiang.gateway.routes import Head, runtime_of, trace_of  # noqa: PLC0415

    runtime: Any = runtime_of(request.scope)
    head = Head(request.scope)
    context = runtime.request_context(*trace_of(head.traceparent), head.timeout_ms)
    token = CURRENT.set(context)
    limit_s = context.remaining_s()
    try:
        with context.node.limits.within(limit_s):
            async with runtime.held() as tx:
                yield tx
    except TimeoutError:
        raise DeadlinePassed(what=f"{request.method} {request.url.path}", limit_s=limit_s or 0.0) from None
    finally:
        CURRENT.reset(token)


def Transaction() -> Any:  # noqa: N802  (it stands where a type's metadata stands, like FastAPI's Depends)
    """The dependency that gives a route a transaction of its own.

        async def legacy(body: Old, tx: Annotated[Tx, Transaction()]) -> New: ...

    It commits after the route function has returned and before the answer is sent, and rolls back when the route raises.
    Two parameters of one request share one transaction.
    """
    from fastapi import Depends  # noqa: PLC0415

    return Depends(transaction_of_request(), scope="function")


@cache
def transaction_of_request() -> Callable[..., AsyncIterator[Tx]]:
    """The one function behind every `Transaction()`: FastAPI solves it once for each request."""
    from fastapi import Request  # noqa: PLC0415

    async def dependency(request: Request) -> AsyncIterator[Tx]:
        # Not `async for`: what the route raises must reach the transaction here, not when a generator is collected.
        async with open_transaction(request) as tx:
            yield tx

    # FastAPI reads the annotation, which the name of a function-local import cannot be found by.
    dependency.__annotations__["request"] = Request
    return dependency
