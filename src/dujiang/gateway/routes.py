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
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_origin

from fastapi import Request, Response, params
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError

from dujiang.gateway.body import check_json_request, read_body
from dujiang.gateway.handler import bare, is_depends
from dujiang.gateway.idempotency import key_text
from dujiang.gateway.openapi import described
from dujiang.gateway.problems import Answer, answer_of_exception, start_of
from dujiang.gateway.reading import WholeBody
from dujiang.gateway.response import asks_request, beneath
from dujiang.kernel.codec import Codec, InvalidBody
from dujiang.kernel.context import CURRENT, ROOT_PATH, Context, mounted
from dujiang.kernel.errors import OutsideRuntime
from dujiang.kernel.tasks import current_task
from dujiang.telemetry.tracing import current_traceparent, enabled, parse_traceparent, span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from dujiang.gateway.handler import Handler
    from dujiang.kernel.errors import DujiangError

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
        answer_type: The type of a success as the client sees it; None = there is nothing to say.
        absent: Whether the handler may also return None: 404 of a read, 204 of a write.
        refuses: Examples of what this address may refuse with, besides what every address may.
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
    absent: bool = False
    refuses: tuple[DujiangError, ...] = ()


def is_body(hint: Any, default: Any) -> bool:
    """Whether a parameter is the body that our decoder reads: a model or a list of them, and no mark says otherwise."""
    for mark in (default, *getattr(hint, "__metadata__", ())):
        if is_depends(mark) or isinstance(mark, params.Param | params.Form) or getattr(mark, "embed", None):
            return False
    return is_model(bare(hint))


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
        super().__init__(spec.path, endpoint_for(spec), methods=[spec.method], **described(spec))
        names = set(TEMPLATE.findall(spec.path))
        ours = {*spec.provided, *spec.handler.responses, spec.body_name}
        rest = [name for name in spec.handler.parameters if name not in ours]
        self._short = not self.dependencies and set(rest) <= names and not spec.handler.marked.keys() & set(rest)
        # The body is no parameter of ours, and still the handler may see it: then it belongs to the key's fingerprint.
        self._raw = spec.body_name is None and (self.body_field is not None or bool(request_names(spec)))
        self._full = self.app
        self._path_types = {name: TypeAdapter(spec.handler.parameters[name][0]) for name in rest if name in names}
        self._body: Codec[Any] | None = Codec(spec.body_type) if spec.body_name is not None else None
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("root_path") and not ROOT_PATH.get():
            with mounted(scope["root_path"]):  # Attached to an application that is itself mounted.
                await self._serve(scope, receive, send)
            return
        runtime = runtime_of(scope)
        head = Head(scope)
        context = runtime.request_context(*trace_of(head.traceparent), head.timeout_ms)
        token = CURRENT.set(context)
        clock = context.node.clock
        began = clock.monotonic()
        try:
            if enabled():
                answer = await self._traced(runtime, scope, receive, head)
            else:
                answer = await self._answer(runtime, scope, receive, head)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and current_task().cancelling():
                raise  # Somebody cancels this request; a handler that raises it by itself has failed like any other.
            answer = answer_of_exception(error)
        finally:
            CURRENT.reset(token)
        runtime.observe(self.path, self.spec.method, answer.status, clock.monotonic() - began)
        await send(start_of(answer))
        await send({"type": "http.response.body", "body": answer.body})

    async def _traced(self, runtime: Runtime, scope: Scope, receive: Receive, head: Head) -> Answer:
        with span("gateway.context", operation=self.spec.verb.name):
            return await self._answer(runtime, scope, receive, head)

    def _answer(self, runtime: Runtime, scope: Scope, receive: Receive, head: Head) -> Awaitable[Answer]:
        """Begin with what needs no waiting; whoever has to wait gives the answer."""
        if self._body is None:
            return self._run(runtime, scope, receive, head, b"")
        if type(receive) is WholeBody and len(receive.body) <= runtime.body_limit:
            return self._run(runtime, scope, receive, head, receive.body)
        return self._read(runtime, scope, receive, head)

    async def _read(self, runtime: Runtime, scope: Scope, receive: Receive, head: Head) -> Answer:
        raw = await read_body(receive, runtime.body_limit)
        return await self._run(runtime, scope, receive, head, raw)

    def _run(self, runtime: Runtime, scope: Scope, receive: Receive, head: Head, raw: bytes) -> Awaitable[Answer]:
        spec, key = self.spec, None
        if spec.takes_key:
            key = key_text(head.key, required=spec.key_required)
        # An empty body is named as such below, whatever type it claims.
        check_json_request(head.content_type if raw else None, head.accept)
        if not self._short:
            scope["dujiang.key"] = key
            if self._body is not None:
                self._body.decode(raw)
                receive = replayed(raw)
            return self._solve(scope, receive, runtime.body_limit)
        values = self._path_values(scope)
        if self._body is not None:
            values[spec.body_name] = self._body.decode(raw)  # type: ignore[index]
        return runtime.bound(spec.verb).respond(call_of(scope, values, key))

    async def _solve(self, scope: Scope, receive: Receive, body_limit: int) -> Answer:
        """Let FastAPI solve the parameters; its response becomes an answer."""
        if self._raw:
            scope["dujiang.body"] = raw = await read_body(receive, body_limit)
            receive = replayed(raw)
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
    if key is not None and "dujiang.body" in scope:
        parts += sha256(scope["dujiang.body"]).hexdigest()
    return Call(values, key, f"{scope['method']} {scope['path']}", parts)


def replayed(raw: bytes) -> Receive:
    """A `receive` that gives a body that was read before."""

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    return receive


def endpoint_for(spec: RouteSpec) -> Callable[..., Awaitable[Response]]:
    """The function that FastAPI sees: the handler's signature without what is ours, plus the request.

    FastAPI knows one request and one response for each function, so a handler's own are given here: the request as
    it is, the response by the verb, fresh for each run. `dj_response` holds what dependencies set.
    """
    requests = request_names(spec)

    async def endpoint(dj_request: Request, dj_response: Response, **values: Any) -> Response:
        scope = dj_request.scope
        values.update(dict.fromkeys(requests, dj_request))
        call = call_of(scope, values, scope.get("dujiang.key"))
        answer = await runtime_of(scope).bound(spec.verb).respond(call)
        if answer.status < 400:
            answer = beneath(answer, dj_response)
        response = Response(answer.body, answer.status)
        response.raw_headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
        return response

    parameters = [
        inspect.Parameter("dj_request", inspect.Parameter.KEYWORD_ONLY, annotation=Request),
        inspect.Parameter("dj_response", inspect.Parameter.KEYWORD_ONLY, annotation=Response),
    ]
    for name, (hint, default) in spec.handler.parameters.items():
        if name in spec.provided or name in spec.handler.responses or name in requests:
            continue
        annotation = spec.body_type if name == spec.body_name else hint
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        )
    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    endpoint.__name__ = spec.handler.function.__name__
    endpoint.__doc__ = spec.handler.function.__doc__
    return endpoint


def request_names(spec: RouteSpec) -> tuple[str, ...]:
    """The parameters that ask for the request itself."""
    given = spec.handler.parameters.items()
    return tuple(name for name, (hint, _) in given if name not in spec.provided and asks_request(hint))


class Table:
    """Routes by path and method: a dictionary for fixed paths, a short list by length for paths with parameters.

    Attributes:
        fixed: The routes of fixed paths: by path, then by method.
    """

    def __init__(self, routes: list[VerbRoute]) -> None:
        self.fixed: dict[str, dict[str, VerbRoute]] = {}
        self._open: dict[int, list[tuple[re.Pattern[str], VerbRoute]]] = {}
        for route in routes:
            if "{" not in route.path:
                self.fixed.setdefault(route.path, {})[route.spec.method] = route
            else:
                pieces = TEMPLATE.split(route.path)  # text, name, text, name, ...
                named = [f"(?P<{piece}>[^/]+)" if place % 2 else re.escape(piece) for place, piece in enumerate(pieces)]
                pattern = re.compile("".join(named))
                self._open.setdefault(route.path.count("/"), []).append((pattern, route))

    def find(self, scope: Scope) -> VerbRoute | None:
        """The route of a request, with its path parameters put into the scope; None = ask the router."""
        path, method = scope["path"], scope["method"]
        by_method = self.fixed.get(path)
        if by_method is not None:
            return by_method.get(method)
        for pattern, route in self._open.get(path.count("/"), ()):
            if route.spec.method == method:
                match = pattern.fullmatch(path)
                if match is not None:
                    scope["path_params"] = match.groupdict()
                    return route
        return None

    def methods(self, path: str) -> list[str]:
        """The methods that a path takes, in the order of their names; empty = there is no such path."""
        found = set(self.fixed.get(path, ()))
        for pattern, route in self._open.get(path.count("/"), ()):
            if pattern.fullmatch(path) is not None:
                found.add(route.spec.method)
        return sorted(found)


__all__ = ["Bound", "Call", "RouteSpec", "Table", "VerbRoute", "runtime_of"]
