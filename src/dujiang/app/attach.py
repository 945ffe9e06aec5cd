"""Attach: Dujiang inside an application that is already there.

    fastapi = FastAPI(lifespan=existing)
    app = App(modules=[shop])
    app.attach(fastapi)

    @fastapi.post("/legacy")
    async def legacy(body: Old, tx: Annotated[Tx, Transaction()]) -> New: ...

The attached verbs are routes of the existing application; `Transaction()` gives any of its own routes a transaction that
commits before the answer leaves and rolls back when the route raises. Such a transaction cannot run again: a conflict
reaches the client as 503 with `Retry-After`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from dujiang.kernel.context import CURRENT, changed, current_or_none, entered
from dujiang.telemetry.crash import crash_point

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from dujiang.app.declaration import App
    from dujiang.app.runtime import Runtime
    from dujiang.messaging.tx import Tx


def attach(app: App, fastapi: FastAPI) -> None:
    """See `App.attach`."""
    from dujiang.app.composition import Composition  # noqa: PLC0415
    from dujiang.gateway.problems import answer_of_exception  # noqa: PLC0415
    from dujiang.kernel.errors import DujiangError  # noqa: PLC0415

    inner = fastapi.router.lifespan_context
    fastapi.router.routes.extend(Composition(app).routes)

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


@asynccontextmanager
async def held(runtime: Runtime) -> AsyncIterator[Tx]:
    """A transaction that is open for the block; see `Runtime.held`."""
    with entered(current_or_none() or runtime.context()):
        async with runtime.database.held() as connection:
            tx = runtime.make_tx(connection, runtime.node.clock.now_us())
            try:
                with changed(transaction=tx):
                    yield tx
                    await tx.finish()
            finally:
                await tx.dispose()
        crash_point("after_commit")
        for step in tx.after_commit:
            step()


async def open_transaction(request: Any) -> AsyncIterator[Tx]:
    """The dependency behind `Transaction()`."""
    from dujiang.gateway.routes import runtime_of  # noqa: PLC0415

    runtime: Any = runtime_of(request.scope)
    token = CURRENT.set(runtime.request_context("", "", None))
    try:
        async with runtime.held() as tx:
            yield tx
    finally:
        CURRENT.reset(token)


def Transaction() -> Any:  # noqa: N802  (it stands where a type's metadata stands, like FastAPI's Depends)
    """Give a route of another application a transaction of its own: `tx: Annotated[Tx, Transaction()]`.

    It commits after the route function has returned and before the answer is sent.
    """
    from fastapi import Depends, Request  # noqa: PLC0415

    async def dependency(request: Request) -> AsyncIterator[Tx]:
        async for tx in open_transaction(request):
            yield tx

    dependency.__annotations__["request"] = Request
    return Depends(dependency, scope="function")
