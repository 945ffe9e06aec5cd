"""Contract: the flows of an app, each with the schema of a whole request, read from the same declarations as OpenAPI.

    a write with a path        a flow; its aliases lead to the same operation and are left out
    an operation, no path      a flow, run by `Runtime.run`, if each of its parameters has a schema and no other code of
                               the app drives it (driven.py)
    a read with a path         a reader: it follows up on what was written
    a reaction                 driven by its events

A route's parameters are those of its dependencies too, so they are taken from FastAPI's OpenAPI of that one route, the
hidden ones (`include_in_schema=False`) included. A whole request is one object, so that one strategy makes it and one
pointer finds a place in it:

    {"path": {"sku": "itemA"}, "query": {}, "header": {}, "cookie": {}, "body": {"on_hand": 5}}
    {"arguments": {"body": {...}}}                                         for an operation
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from dujiang.app.composition import Composition
from dujiang.drill.workload.driven import driven
from dujiang.drill.workload.names import resource, singular, snake, stem
from dujiang.drill.workload.schema import (
    Pointer,
    Schema,
    Slot,
    examples_by_name,
    examples_of,
    lent,
    prepared,
    reachable,
    slots_in,
)
from dujiang.gateway.routes import TEMPLATE, RouteSpec, VerbRoute
from dujiang.kernel.codec import Codec, InvalidBody
from dujiang.kernel.strict import BadBody

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dujiang.app.declaration import App

__all__ = ["OPERATOR", "RUN", "Flow", "flows_of", "readers_of"]

# The method of a flow that is not called over HTTP.
RUN = "RUN"
OPERATOR = "/_dj/"
PLACES = ("path", "query", "header", "cookie")
# What the gateway itself reads from the headers.
OURS = ("idempotency-key", "x-dj-timeout-ms", "traceparent", "content-type", "accept")
NO_SCHEMA = (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUndefinedAnnotation)

Check = Callable[[Any], object]


@dataclass(frozen=True, eq=False, kw_only=True)
class Flow:
    """One thing that a client can do to an app.

    Attributes:
        name: The stored name of its verb, `module.function`.
        verb: The verb, as `Runtime.run` takes it.
        method: GET, POST, ...; `RUN` for an operation without a path.
        path: With `{name}` for parameters; for an operation its name.
        writes: Whether it may change something.
        takes_key: Whether an Idempotency-Key means anything to it.
        key_required: Whether it is refused without one.
        operator: Whether it needs the operator's token.
        schema: Of a whole request.
        refs: The schemas that it refers to.
        examples: Bodies that its author gave, as they are.
        about: What its path is about, in the singular.
        keys: Stems of what answers are searched for, of the whole app.
        checks: Read one part of a request, `("body",)` or `("path", "sku")`, as the gateway does; ValidationError,
            InvalidBody or BadBody when it would be refused.
        obstacle: Why no request can be made; empty when one can.
    """

    name: str
    verb: Any = field(repr=False)
    method: str
    path: str
    writes: bool
    takes_key: bool = False
    key_required: bool = False
    operator: bool = False
    schema: Schema = field(repr=False, default_factory=dict)
    refs: Mapping[str, Schema] = field(repr=False, default_factory=dict)
    examples: tuple[Any, ...] = field(repr=False, default=())
    about: str = ""
    keys: frozenset[str] = field(repr=False, default=frozenset())
    checks: Mapping[tuple[str, ...], Check] = field(repr=False, default_factory=dict)
    obstacle: str = ""

    @property
    def title(self) -> str:
        """Method, path and name, for people."""
        return f"the operation {self.name}" if self.method == RUN else f"{self.method} {self.path} ({self.name})"

    @property
    def kept(self) -> bool:
        """Whether its answers are kept in caches."""
        return self.method == "GET" and bool(getattr(self.verb, "cached", False))

    def why_not(self, parts: Mapping[str, Any]) -> str:
        """Why the gateway would refuse these parts of a request for their form; empty when it would not."""
        for part in self.schema.get("required", ()):
            # A place whose parameters are all optional may be left out with them.
            if part not in parts and self.schema["properties"][part].get("required", True):
                return f"it has no {part}"
        for at, check in self.checks.items():
            found: Any = parts
            for step in at:
                found = found.get(step) if isinstance(found, dict) else None
            if found is None and at[-1] not in (parts if len(at) == 1 else parts.get(at[0], {})):
                continue
            try:
                check(found)
            except ValidationError as error:
                return f"{'.'.join(at)}: {error.errors()[0]['msg']}"
            except (InvalidBody, BadBody) as error:
                return error.detail
        return ""

    def slots(self, parts: Mapping[str, Any]) -> tuple[Slot, ...]:
        """The places in a request that earlier answers may fill."""
        found = slots_in(parts, self.schema, self.refs, self._holder)
        creates = self.writes and self.method == "POST" and "{" not in self.path
        return tuple(replace(each, own=creates and self._own(each)) for each in found)

    def _own(self, slot: Slot) -> bool:
        return len(slot.at) == 2 and slot.at[0] == "body" and slot.stem in (self.about, *self.own_keys)

    @property
    def own_keys(self) -> frozenset[str]:
        """Stems by which the app's paths name what this flow makes: `sku` of POST /products beside /products/{sku}."""
        marked = f"{self.about}>"
        return frozenset(each.removeprefix(marked) for each in self.keys if each.startswith(marked))

    def _holder(self, at: Pointer) -> str:
        if at[0] == "path":
            return resource(self.path, str(at[1]))
        inside = [part for part in at[:-1] if isinstance(part, str)]
        return singular(inside[-1]) if len(inside) > 1 and inside[0] != "arguments" else self.about


def flows_of(app: App) -> list[Flow]:
    """What a drill can do to an app: its writes, in the order of their declaration."""
    return [flow for flow in contract_of(app) if flow.writes]


def readers_of(app: App) -> list[Flow]:
    """How a drill can look at an app: its reads that have a path."""
    return [flow for flow in contract_of(app) if not flow.writes]


def contract_of(app: App) -> list[Flow]:
    """Writes and reads of an app, with examples lent from field to field of one name."""
    composition = Composition(app)
    found: list[Flow] = []
    seen: set[Any] = set()
    for route in composition.routes:
        if route.spec.verb not in seen:
            seen.add(route.spec.verb)
            found.append(over_http(route.spec))
    left_out = driven(app)
    for verb in app.verbs():
        clockwork = getattr(verb, "schedule", None) is not None  # Its times are timetable.py's.
        if verb.kind not in ("react", "read", "saga") and verb.route is None and verb not in left_out and not clockwork:
            found += operation(verb, composition)
    order = {verb: place for place, verb in enumerate(app.verbs())}
    found.sort(key=lambda flow: order[flow.verb])
    everything = {f"{flow.name} {ref}": each for flow in found for ref, each in {"": flow.schema, **flow.refs}.items()}
    parameters = frozenset(name for flow in found if flow.method != RUN for name in TEMPLATE.findall(flow.path))
    lend(everything, parameters)
    keys = frozenset(each for flow in found for each in path_stems(flow))
    return [replace(flow, keys=keys) for flow in found]


def lend(schemas: Mapping[str, Schema], parameters: frozenset[str]) -> None:
    """Give keys without examples those of the same name anywhere in the app."""
    examples = examples_by_name(schemas)
    for schema in schemas.values():
        lent(schema, examples, parameters)


def path_stems(flow: Flow) -> Iterator[str]:
    """The stems of a flow's path parameters, and each with what it names: `sku` and `product>sku`."""
    for name in TEMPLATE.findall(flow.path) if flow.method != RUN else ():
        holder = resource(flow.path, name)
        yield from (stem(name, holder), f"{holder}>{stem(name, holder)}")


# Over HTTP ------------------------------------------------------------------------------------------------------------


def over_http(spec: RouteSpec) -> Flow:
    """The flow of a route."""
    route = VerbRoute(replace(spec, options={**spec.options, "include_in_schema": True}))
    flow = Flow(
        name=spec.verb.name,
        verb=spec.verb,
        method=spec.method,
        path=route.path_format,
        writes=spec.verb.kind != "read",
        takes_key=spec.takes_key,
        key_required=spec.key_required,
        operator=spec.path.startswith(OPERATOR),
        about=resource(route.path_format),
    )
    try:
        document = get_openapi(title="", version="", routes=[route])
    except NO_SCHEMA as error:
        return replace(flow, obstacle=f"one of its types has no JSON schema: {str(error).splitlines()[0]}")
    said = document["paths"][route.path_format][spec.method.lower()]
    schema, examples, obstacle = whole(said)
    known = {
        f"#/components/schemas/{n}": prepared(s) for n, s in document.get("components", {}).get("schemas", {}).items()
    }
    refs = reachable(schema, known)
    body = schema["properties"].get("body", {})
    if not examples and "$ref" in body:
        examples = refs.get(body["$ref"], {}).get("examples", [])
    return replace(
        flow, schema=schema, refs=refs, examples=tuple(examples), obstacle=obstacle, checks=checks_of(spec, route)
    )


def whole(said: Mapping[str, Any]) -> tuple[Schema, list[Any], str]:
    """The schema of a whole request, the examples of its body, and what stands in the way."""
    places: dict[str, dict[str, Schema]] = {}
    required: dict[str, list[str]] = {}
    for parameter in said.get("parameters", ()):
        place, name = parameter["in"], parameter["name"]
        if place not in PLACES or name.lower() in OURS:
            continue
        # Examples stand at the parameter or in its schema.
        places.setdefault(place, {})[name] = prepared(
            {**parameter.get("schema", {}), **({"examples": e} if (e := examples_of(parameter)) else {})}
        )
        if parameter.get("required"):
            required.setdefault(place, []).append(name)
    properties: dict[str, Schema] = {
        place: {"type": "object", "properties": each, "required": required.get(place, [])}
        for place, each in places.items()
    }
    examples: list[Any] = []
    body = said.get("requestBody", {})
    content = body.get("content", {})
    if content and "application/json" not in content:
        return {"type": "object", "properties": properties}, [], f"its body is {', '.join(content)}, and not JSON"
    if content:
        media = content["application/json"]
        properties["body"] = prepared(media.get("schema", {}))
        examples = examples_of(media) or examples_of(media.get("schema", {}))
    wanted = [*places, *(["body"] if content and body.get("required") else [])]
    return {"type": "object", "properties": properties, "required": wanted}, examples, ""


def checks_of(spec: RouteSpec, route: VerbRoute) -> dict[tuple[str, ...], Check]:
    """How the gateway reads the parts that the handler itself asks for."""
    checks: dict[tuple[str, ...], Check] = {}
    if spec.body_name is not None:
        checks["body",] = reading(Codec(spec.body_type))
    in_path = set(TEMPLATE.findall(route.path_format))
    for name, (hint, _) in spec.handler.parameters.items():
        if name in in_path:
            checks["path", name] = TypeAdapter(hint).validate_strings
    return checks


def reading(codec: Codec[Any]) -> Check:
    """Reads a JSON value with a codec."""

    def check(value: Any) -> object:
        return codec.decode(json.dumps(value).encode())

    return check


# Without a path -------------------------------------------------------------------------------------------------------


def operation(verb: Any, composition: Composition) -> list[Flow]:
    """The flow of an operation; none when a parameter has no schema: then only its author knows what to give it."""
    given = composition.provided(verb)
    hints = {name: each for name, each in verb.handler.parameters.items() if name not in given}
    adapters: dict[str, TypeAdapter[Any]] = {}
    for name, (hint, _) in hints.items():
        wanted = composition.body_type(verb) if name == composition.body_name(verb) else hint
        try:
            adapters[name] = TypeAdapter(wanted)
            adapters[name].json_schema()
        except NO_SCHEMA:
            return []
    inputs: list[tuple[str, Any, TypeAdapter[Any]]] = [(name, "validation", each) for name, each in adapters.items()]
    schemas, document = TypeAdapter.json_schemas(inputs, ref_template="#/$defs/{model}")
    properties = {name: prepared(schemas[name, "validation"]) for name in adapters}
    required = [name for name, (_, default) in hints.items() if default is Parameter.empty]
    arguments = {"type": "object", "properties": properties, "required": required}
    schema: Schema = {"type": "object", "properties": {"arguments": arguments}, "required": ["arguments"]}
    known = {f"#/$defs/{name}": prepared(each) for name, each in document.get("$defs", {}).items()}
    return [
        Flow(
            name=verb.name,
            verb=verb,
            method=RUN,
            path=verb.name,
            writes=True,
            takes_key=True,
            schema=schema,
            refs=reachable(schema, known),
            about=singular(snake(verb.name.rpartition(".")[2]).rpartition("_")[2]),
            checks={("arguments", name): reading(Codec(each)) for name, each in adapters.items()},
        )
    ]
