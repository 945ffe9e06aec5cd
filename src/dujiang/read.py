"""Read: verb 3, a query that cannot write; its answers may be kept.

    key of the call ──► caching/through.py ──► bytes that were kept, sent as they are
                                │ not there, or dead
                                └──► a read-only session on the primary ──► the handler ──► bytes

With `ttl` the answer's bytes are kept, with `absent` that there is none (404). Every parameter is part of the key, and so
are caller and tenant; a read that takes the request itself, or sets headers of the response, cannot be cached. `tags` say
what the answer depends on besides its own parameters: `tx.forget(read_order, 7)` drops one read's answer,
`tx.forget("order:7")` those of all reads that carry the tag. Whether a kept answer may still be given is decided in
caching/guard.py.

An answer that is given although it could not be loaded again says so: `X-DJ-Stale: 1`, and `Age` in seconds. An answer of
None is 404. `app.run(read, ...)` always reads the database: it returns what the function returns, and that is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_json
from starlette.responses import Response

from dujiang.caching.caching import AROUND
from dujiang.caching.through import Wanted
from dujiang.gateway.handler import inspected, is_response, members_of, method_of, options_of, where_of
from dujiang.gateway.problems import JSON_HEADERS, Answer, NotFound
from dujiang.gateway.response import answer_of_response, asks_request, fresh, with_response
from dujiang.kernel.codec import Codec
from dujiang.kernel.context import CURRENT, current
from dujiang.kernel.errors import DeadlinePassed, Declared, DujiangError, Refusal
from dujiang.kernel.units import duration_s
from dujiang.messaging.forgotten import number_of, tag_name
from dujiang.messaging.tx import ForgetRefused
from dujiang.messaging.tx import Read as ReadSession
from dujiang.telemetry.tracing import enabled, span

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from dujiang.caching.caching import Caching
    from dujiang.data.database import Connection, Database
    from dujiang.gateway.handler import Handler
    from dujiang.gateway.routes import Call
    from dujiang.kernel.units import Duration

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False, kw_only=True)
class KeyRefused(DujiangError):
    """A parameter of a cached read cannot be part of the key under which its answer lies."""

    code = "cache_key_refused"
    move = "report"
    says = "{read} is cached, and a parameter cannot be part of the key: {why}"
    cure = "take what the read needs of it as parameters of their own, or declare the read without ttl and absent"

    read: str
    why: str


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
        absent_s: How long "there is none" may be cached; None = not at all.
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

    def __post_init__(self) -> None:
        """Refuse what cannot be cached. Raises Declared."""
        where = where_of(self.function)
        if isinstance(self.tags, str):
            raise Declared(where=where, what="has tags that are one text", how=f"write tags=({self.tags!r},)")
        for tag in self.tags:
            try:
                names = {name for _, name, _, _ in Formatter().parse(tag) if name is not None}
            except ValueError as error:
                raise Declared(
                    where=where, what=f"has the tag {tag!r}: {error}", how="write 'order:{order_id}'"
                ) from None
            if unknown := names - set(self.handler.parameters):
                what = f"has the tag {tag!r}, and no parameter {', '.join(sorted(unknown)) or 'without a name'}"
                raise Declared(
                    where=where, what=what, how="name parameters of the read in braces, as 'order:{order_id}'"
                )
        asks = self.handler.responses or any(asks_request(hint) for hint, _ in self.handler.parameters.values())
        if self.cached and (asks or any(is_response(member) for member in members_of(self.handler.answer))):
            what = "is cached and takes the request, or makes the response; only JSON can be kept for others"
            raise Declared(where=where, what=what, how="take the query, header or path parameters that it needs")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run the function in the caller's session."""
        return self.function(*args, **self.handler.completed(args[1:], kwargs))

    @property
    def cached(self) -> bool:
        """Whether anything of it is kept."""
        return bool(self.ttl_s or self.absent_s)

    def names_of(self, *args: Any, **kwargs: Any) -> Iterable[str]:
        """The name under which the answers to these parameters lie; for `tx.forget`. Raises ForgetRefused."""
        try:
            bound: BoundRead = current().runtime.bound(self)
        except KeyError:
            raise ForgetRefused(what=self.name, why="the read belongs to no module of this app") from None
        return (bound.name_of(bound.given(args, kwargs)),)


class BoundRead:
    """A read inside one running copy.

    Args:
        verb: The declaration.
        database: Where.
        caching: Keeps answers.
        provided: What the app injects, by parameter.
        answer_type: What it returns.

    Attributes:
        forgotten: Whether a transaction of this copy ever forgot an answer.
    """

    def __init__(
        self,
        verb: ReadVerb[Any, Any],
        database: Database,
        caching: Caching,
        *,
        provided: Mapping[str, Any],
        answer_type: Any,
    ) -> None:
        self.verb = verb
        self._provided = dict(provided)
        self._database = database
        self._codec: Codec[Any] = Codec(answer_type)
        ours = {*self._provided, *verb.handler.responses}
        self._names = [name for name in verb.handler.parameters if name not in ours]
        self._types: dict[str, TypeAdapter[Any]] = {}
        self._through = None
        self.forgotten = False
        if verb.cached:
            ttl_s, absent_s = verb.ttl_s or 0.0, verb.absent_s or 0.0
            self._through = caching.through(
                verb.name, ttl_s=ttl_s, absent_s=absent_s, contract=self._contract() if caching.second else b""
            )

    async def value(self, values: Mapping[str, Any], response: Response | None = None) -> Any:
        """Run the read and return what the function returns; `response` is filled in by a handler that asks for one."""
        context = current()
        if responses := self.verb.handler.responses:
            values = {**values, **dict.fromkeys(responses, response or fresh())}

        async def body(connection: Connection) -> Any:
            session = ReadSession(connection, self._database, context)
            token = CURRENT.set(context.inside(session))  # A write cannot hide in a read.
            try:
                return await self.verb.function(session, **values, **self._provided)
            finally:
                CURRENT.reset(token)
                session.ended = True

        limit = context.node.limits.until(context.deadline)
        try:
            with limit:
                if enabled():
                    with span("read", operation=self.verb.name):
                        return await self._database.read(body)
                return await self._database.read(body)
        except TimeoutError:
            if not limit.expired:
                raise  # The handler's own.
            raise DeadlinePassed(what=self.verb.name, limit_s=max(0.0, limit.seconds or 0.0)) from None

    async def respond(self, call: Call) -> Answer:
        """Make the answer, kept or loaded. Raises NotFound for None."""
        if self._through is not None and not AROUND.get():
            return await self._kept(call)
        response = fresh() if self.verb.handler.responses else None
        value = await self.value(call.values, response)
        if value is None:
            raise NotFound(what=call.target)
        answer = self._answer(value)
        return answer if response is None else with_response(answer, response)

    def _answer(self, value: Any) -> Answer:
        if isinstance(value, Refusal):
            raise value
        if isinstance(value, Response):
            return answer_of_response(value)
        return Answer(self.verb.status, list(JSON_HEADERS), self._codec.encode(value))

    # Kept answers -----------------------------------------------------------------------------------------------------

    async def _kept(self, call: Call) -> Answer:
        assert self._through is not None
        context, values = current(), call.values
        text = self._key_of(values)

        async def load() -> bytes | None:
            value = await self.value(values)
            return None if value is None else self._answer(value).body

        wanted = Wanted(
            (self.verb.name, text, context.tenant, context.caller), lambda: self._numbers(text, values), load
        )
        limit = context.node.limits.until(context.deadline)
        try:
            with limit:
                entry, stale = await self._through.get(wanted)
        except TimeoutError:
            if not limit.expired:
                raise
            raise DeadlinePassed(what=self.verb.name, limit_s=max(0.0, limit.seconds or 0.0)) from None
        if entry.body is None:
            raise NotFound(what=call.target)
        headers = list(JSON_HEADERS)
        if stale:
            age_s = max(0, int(context.node.clock.monotonic() - entry.loaded_s))
            headers += [(b"x-dj-stale", b"1"), (b"age", b"%d" % age_s)]
        return Answer(self.verb.status, headers, entry.body)

    def _contract(self) -> bytes:
        """Tells these answers from those of another version of the code: their schema, what they are asked by, and tags."""
        try:
            schema = self._codec.adapter.json_schema(mode="serialization")
        except PydanticUserError:
            schema = {"type": repr(self._codec.adapter)}
        return to_json([schema, self._names, self.verb.tags, self.verb.status])

    def _key_of(self, values: Mapping[str, Any]) -> bytes:
        try:
            return to_json([values[name] for name in self._names if name in values])
        except PydanticSerializationError as error:
            raise KeyRefused(read=self.verb.name, why=str(error)) from None

    def _numbers(self, text: bytes, values: Mapping[str, Any]) -> tuple[int, ...]:
        """The numbers of what an answer depends on: its own name and its tags."""
        names = [self._name(text)]
        names += [tag_name(tag.format_map(values)) for tag in self.verb.tags]
        return tuple(dict.fromkeys(map(number_of, names)))

    def name_of(self, values: Mapping[str, Any]) -> str:
        """The name of the answers to these parameters, whoever asks."""
        return self._name(self._key_of(values))

    def _name(self, text: bytes) -> str:
        return f"read\x1f{self.verb.name}\x1f{text.decode()}"

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that a `tx.forget` means, as a request would bring them. Raises ForgetRefused."""
        self.forgotten = True
        what, given = self.verb.name, {**dict(zip(self._names, args, strict=False)), **kwargs}
        wrong = set(self._names) ^ set(given)
        if len(args) > len(self._names) or wrong or len(given) != len(args) + len(kwargs):
            raise ForgetRefused(what=what, why=f"it takes {', '.join(self._names) or 'no parameters'}, each once")
        try:
            return {name: self._type(name).validate_python(given[name]) for name in self._names}
        except ValidationError as error:
            raise ForgetRefused(what=what, why=str(error.errors()[0]["msg"])) from None

    def _type(self, name: str) -> TypeAdapter[Any]:
        found = self._types.get(name)
        if found is None:
            found = self._types[name] = TypeAdapter(self.verb.handler.parameters[name][0])
        return found


def declared(
    function: Callable[P, Coroutine[Any, Any, T]],
    *,
    name: str,
    route: str | None,
    ttl: Duration | None,
    absent: Duration | None,
    tags: tuple[str, ...],
    status: int,
    options: dict[str, Any],
) -> ReadVerb[P, T]:
    """The declaration of a function as a read. Raises Declared."""
    handler = inspected(function, worlds=(ReadSession,))
    method_of(route, function, write=False)
    try:
        ttl_s = None if ttl is None else duration_s(ttl)
        absent_s = None if absent is None else duration_s(absent)
    except ValueError as error:
        raise Declared(where=where_of(function), what=str(error), how="correct the duration") from None
    return ReadVerb(
        function=function,
        handler=handler,
        name=name,
        route=route,
        status=status,
        ttl_s=ttl_s,
        absent_s=absent_s,
        tags=tags,
        options=options_of(options, function),
    )
