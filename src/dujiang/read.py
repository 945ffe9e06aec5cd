"""Read: verb 3, a query that cannot write.

It runs in a read-only session on the primary; `ttl`, `absent` and `tags` are declared as for good and take effect when
caches come. An answer of None is 404.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from dujiang.gateway.problems import JSON_HEADERS, Answer, NotFound
from dujiang.kernel.codec import Codec
from dujiang.kernel.context import CURRENT, current
from dujiang.kernel.errors import DeadlinePassed
from dujiang.messaging.tx import Read as ReadSession
from dujiang.telemetry.tracing import span

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from dujiang.data.database import Connection, Database
    from dujiang.gateway.handler import Handler
    from dujiang.gateway.routes import Call

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False, kw_only=True)
class ReadVerb(Generic[P, T]):
    """A declared read. Calling it calls the function.

    Attributes:
        function: The function.
        handler: Its signature.
        name: `module.function`.
        route: "GET /path", or None for an operation.
        status: The status of an answer.
        ttl_s: How long an answer may be cached; None = not at all.
        absent_s: How long "there is none" may be cached.
        tags: Templates of what the answer depends on.
        options: FastAPI's route options.
    """

    function: Callable[P, Coroutine[Any, Any, T]]
    handler: Handler
    name: str
    route: str | None
    status: int = 200
    ttl_s: float | None = None
    absent_s: float | None = None
    tags: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    kind = "read"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run the function in the caller's session."""
        return self.function(*args, **kwargs)


class BoundRead:
    """A read inside one running copy.

    Args:
        verb: The declaration.
        provided: What the app injects, by parameter.
        answer_type: What it returns.
        database: Where.
    """

    def __init__(
        self, verb: ReadVerb[Any, Any], *, provided: Mapping[str, Any], answer_type: Any, database: Database
    ) -> None:
        self.verb = verb
        self._provided = dict(provided)
        self._database = database
        self._codec: Codec[Any] = Codec(answer_type)

    async def value(self, values: Mapping[str, Any]) -> Any:
        """Run the read and return what the function returns."""
        context = current()

        async def body(connection: Connection) -> Any:
            session = ReadSession(connection, self._database, context)
            token = CURRENT.set(context.but(transaction=session))  # A write cannot hide in a read.
            try:
                return await self.verb.function(session, **values, **self._provided)
            finally:
                CURRENT.reset(token)
                session.ended = True

        limit_s = context.remaining_s()
        limit = context.node.limits.within(limit_s)
        try:
            with limit, span("read", operation=self.verb.name):
                return await self._database.read(body)
        except TimeoutError:
            if not limit.expired:
                raise  # The handler's own.
            raise DeadlinePassed(what=self.verb.name, limit_s=limit_s or 0.0) from None

    async def respond(self, call: Call) -> Answer:
        """Run the read and make its answer. Raises NotFound for None."""
        value = await self.value(call.values)
        if value is None:
            raise NotFound(what=call.target)
        return Answer(self.verb.status, list(JSON_HEADERS), self._codec.encode(value))
