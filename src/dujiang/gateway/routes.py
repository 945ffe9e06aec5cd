"""Routes: real FastAPI routes with a short path.

    request ──► guard ──► dictionary on path and method ──► VerbRoute.app
                              │ not there                       │ short: read head, decode body once, run the verb, send bytes
                              └──► FastAPI's router             └ full: FastAPI solves dependencies, then the verb runs

The short path serves a handler that asks for nothing but path parameters and one body. Whatever else a FastAPI route may
ask for (query, headers, cookies, `Depends`) goes through FastAPI's own solving; the body is still read by our strict
decoder first. OpenAPI and the documentation pages are FastAPI's, made from the same signature.

Plain FastAPI costs three to four times what the server can do; bench/http.py measures what is left.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_origin

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError

from dujiang.gateway.body import check_json_request, read_body
from dujiang.gateway.idempotency import key_text
from dujiang.gateway.problems import Answer, answer_of_exception, send_answer
from dujiang.kernel.codec import Codec, InvalidBody
from dujiang.kernel.context import CURRENT, Context
from dujiang.kernel.errors import OutsideRuntime
from dujiang.kernel.tasks import current_task
from dujiang.telemetry.tracing import current_traceparent, enabled, parse_traceparent, span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from dujiang.gateway.handler import Handler

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TEMPLATE = re.compile(r"\{(\w+)\}")


@dataclass(slots=True)
class Call:
    """One call of a verb.

    Attributes:
        values: The handler's parameters by name, without what the app provides.
        key: The client's idempotency key, or None.
        target: Method and path, for messages.
        parts: What of the request beside its body belongs to the key's fingerprint: path parameters and query as they
            came. Not the handler's values: those may hold objects that a dependency made.
    """

    values: dict[str, Any]
    key: str | None = None
    target: str = ""
    parts: str = ""


class Bound(Protocol):
    """A verb inside one running copy."""

    async def respond(self, call: Call) -> Answer:
        """Run the verb and make its answer; what it raises is answered by the route."""
        ...


class Runtime(Protocol):
    """What a route needs of the running copy."""

    body_limit: int

    def bound(self, verb: Any) -> Bound:
        """The verb inside this copy."""
        ...

    def request_context(self, trace_id: str, span_id: str, timeout_ms: int | None) -> Context:
        """The context of a new request."""
        ...

    def observe(self, route: str, method: str, status: int, took_s: float) -> None:
        """Count a request."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class RouteSpec:
    """A verb's place in HTTP.

    Attributes:
        verb: The declared verb.
        handler: Its function and signature.
        method: GET, POST, ...
        path: With `{name}` for path parameters.
        provided: Parameters that the app provides; not part of the request.
        key_required: Whether a request needs an Idempotency-Key.
        takes_key: Whether the key means anything here.
        options: FastAPI's route options (status_code, tags, dependencies, ...).
        body_name: The parameter that is the body, or None.
        body_type: Its type as the client sees it (for the batched form the member's type).
    """

    verb: Any
    handler: Handler
    method: str
    path: str
    provided: frozenset[str]
    takes_key: bool
    key_required: bool
    options: Mapping[str, Any]
    body_name: str | None
    body_type: Any
    answer_type: Any


def is_model(hint: Any) -> bool:
    """Whether a type is read from the body: a model, or a list of models."""
    if get_origin(hint) is list:
        return is_model(get_args(hint)[0])
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def runtime_of(scope: Scope) -> Runtime:
    """The running copy that serves a request. Raises OutsideRuntime."""
    runtime = scope.get("dujiang") or (scope.get("state") or {}).get("dujiang")
    if runtime is None:
        raise OutsideRuntime(what=f"{scope.get('method')} {scope.get('path')}")
    return runtime  # type: ignore[no-any-return]


class Head:
    """What a request's headers say to the platform; read in one pass."""

    __slots__ = ("accept", "content_type", "key", "timeout_ms", "traceparent")

    def __init__(self, scope: Scope) -> None:
        self.key: bytes | None = None
        self.content_type = b""
        self.accept = b""
        self.traceparent = ""
        self.timeout_ms: int | None = None
        for name, value in scope["headers"]:
            if name == b"content-type":
                self.content_type = value
            elif name == b"accept":
                self.accept = value
            elif name == b"idempotency-key":
                # Two of them are none that is valid: the comma and the space are refused.
                self.key = value if self.key is None else self.key + b", " + value
            elif name == b"traceparent":
                self.traceparent = value.decode("latin-1")
            elif name == b"x-dj-timeout-ms" and value.isdigit() and len(value) < 10:
                self.timeout_ms = int(value)


class VerbRoute(APIRoute):
    """The FastAPI route of a verb, whose `app` is ours."""

    def __init__(self, spec: RouteSpec) -> None:
        self.spec = spec
        options = dict(spec.options)
        options.setdefault("name", spec.handler.function.__name__)
        options.setdefault("response_model", spec.answer_type)
        if spec.answer_type in (None, type(None)):
            options["response_model"] = None
        super().__init__(spec.path, endpoint_for(spec), methods=[spec.method], **options)
        names = set(TEMPLATE.findall(spec.path))
        rest = [name for name in spec.handler.parameters if name not in spec.provided and name != spec.body_name]
        self._short = not self.dependencies and set(rest) <= names
        self._full = self.app
        self._path_types = {name: TypeAdapter(spec.handler.parameters[name][0]) for name in rest if name in names}
        self._body: Codec[Any] | None = Codec(spec.body_type) if spec.body_name is not None else None
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = runtime_of(scope)
        head = Head(scope)
        context = runtime.request_context(*trace_of(head.traceparent), head.timeout_ms)
        token = CURRENT.set(context)
        clock = context.node.clock
        began = clock.monotonic()
        answer: Answer | None
        try:
            with span("gateway.context", operation=self.spec.verb.name):
                answer = await self._answer(runtime, scope, receive, send, head)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and current_task().cancelling():
                raise  # Somebody cancels this request; a handler that raises it by itself has failed like any other.
            answer = answer_of_exception(error)
        finally:
            CURRENT.reset(token)
        runtime.observe(self.path, self.spec.method, answer.status if answer else 200, clock.monotonic() - began)
        if answer is not None:
            await send_answer(send, answer)

    async def _answer(self, runtime: Runtime, scope: Scope, receive: Receive, send: Send, head: Head) -> Answer | None:
        spec = self.spec
        key = key_text(head.key, required=spec.key_required) if spec.takes_key else None
        raw = b""
        if self._body is not None:
            raw = await read_body(receive, runtime.body_limit)
        # An empty body is named as such below, whatever type it claims.
        check_json_request(head.content_type if raw else None, head.accept)
        if not self._short:
            scope["dujiang.key"] = key
            if self._body is not None:
                self._body.decode(raw)
                receive = replayed(raw)
            return await self._solve(scope, receive)
        values = self._path_values(scope)
        if self._body is not None:
            values[spec.body_name] = self._body.decode(raw)  # type: ignore[index]
        return await runtime.bound(spec.verb).respond(call_of(scope, values, key))

    async def _solve(self, scope: Scope, receive: Receive) -> Answer:
        """Let FastAPI solve the parameters; its response becomes an answer."""
        sent: list[MutableMapping[str, Any]] = []

        async def keep(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        async with AsyncExitStack() as stack:
            # FastAPI's own outer middleware would put it there; what a dependency leaves open is closed with it.
            scope.setdefault("fastapi_middleware_astack", stack)
            await self._full(scope, receive, keep)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        headers = [(name, value) for name, value in sent[0]["headers"] if name != b"content-length"]
        return Answer(sent[0]["status"], headers, body)

    def _path_values(self, scope: Scope) -> dict[str, Any]:
        if not self._path_types:
            return {}
        found, values = scope["path_params"], {}
        for name, adapter in self._path_types.items():
            try:
                values[name] = adapter.validate_strings(found[name])
            except ValidationError as error:
                raise InvalidBody.of(error, at=("path", name)) from None
        return values


def trace_of(traceparent: str) -> tuple[str, str]:
    """Trace id and parent span id of a request: of the span that is open, else of its header; empty without either."""
    if enabled():
        traceparent = current_traceparent() or traceparent
    return (parse_traceparent(traceparent) or ("", "")) if traceparent else ("", "")


def call_of(scope: Scope, values: dict[str, Any], key: str | None) -> Call:
    """The call that a request makes."""
    parts = "" if key is None else f"{sorted(scope.get('path_params', {}).items())} {scope.get('query_string', b'')!r}"
    return Call(values, key, f"{scope['method']} {scope['path']}", parts)


def replayed(raw: bytes) -> Receive:
    """A `receive` that gives a body that was read before."""

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    return receive


def endpoint_for(spec: RouteSpec) -> Callable[..., Awaitable[Response]]:
    """The function that FastAPI sees: the handler's signature without what is ours, plus the request."""

    async def endpoint(dj_request: Request, **values: Any) -> Response:
        scope = dj_request.scope
        call = call_of(scope, values, scope.get("dujiang.key"))
        answer = await runtime_of(scope).bound(spec.verb).respond(call)
        response = Response(answer.body, answer.status)
        response.raw_headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
        return response

    parameters = [inspect.Parameter("dj_request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)]
    for name, (hint, default) in spec.handler.parameters.items():
        if name in spec.provided:
            continue
        annotation = spec.body_type if name == spec.body_name else hint
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        )
    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    endpoint.__name__ = spec.handler.function.__name__
    endpoint.__doc__ = spec.handler.function.__doc__
    return endpoint


class Table:
    """Routes by path and method: a dictionary for fixed paths, a short list by length for paths with parameters."""

    def __init__(self, routes: list[VerbRoute]) -> None:
        self._fixed: dict[str, dict[str, VerbRoute]] = {}
        self._open: dict[int, list[tuple[re.Pattern[str], VerbRoute]]] = {}
        for route in routes:
            if "{" not in route.path:
                self._fixed.setdefault(route.path, {})[route.spec.method] = route
            else:
                pieces = TEMPLATE.split(route.path)  # text, name, text, name, ...
                named = [f"(?P<{piece}>[^/]+)" if place % 2 else re.escape(piece) for place, piece in enumerate(pieces)]
                pattern = re.compile("".join(named))
                self._open.setdefault(route.path.count("/"), []).append((pattern, route))

    def find(self, scope: Scope) -> VerbRoute | None:
        """The route of a request, with its path parameters put into the scope; None = ask the router."""
        path, method = scope["path"], scope["method"]
        by_method = self._fixed.get(path)
        if by_method is not None:
            return by_method.get(method)
        for pattern, route in self._open.get(path.count("/"), ()):
            if route.spec.method == method:
                match = pattern.fullmatch(path)
                if match is not None:
                    scope["path_params"] = match.groupdict()
                    return route
        return None


__all__ = ["Bound", "Call", "RouteSpec", "Table", "VerbRoute", "runtime_of"]
