"""OpenAPI: what the document says of a verb beside what FastAPI reads from its signature.

Every answer that is no success is one component, `Problem`, as `application/problem+json`. Documented with an example
each are what the handler declares in its answer (`-> OrderView | OutOfStock`) and what the platform itself says at this
kind of address; whatever else may happen is the response `default`, of the same form. The examples are made by the code
that makes the answers (gateway/problems.py), so they cannot disagree with it.

FastAPI's own `HTTPValidationError` is never sent and therefore not documented.
tests/unit/gateway/test_openapi.py validates the document and compares its examples with real answers.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from dujiang.gateway.body import BodyTooLarge
from dujiang.gateway.idempotency import InFlight, KeyMalformed, KeyRequired, KeyReused
from dujiang.gateway.problems import NotAcceptable, NotFound, UnsupportedMediaType, problem
from dujiang.kernel.codec import InvalidBody
from dujiang.kernel.errors import DeadlinePassed, DujiangError, Overloaded
from dujiang.kernel.problem import Problem
from dujiang.kernel.strict import BadJson
from dujiang.messaging.broker import BrokerBlocked, BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, MutableMapping

    from fastapi import FastAPI

    from dujiang.gateway.routes import RouteSpec

__all__ = ["complete_openapi", "described"]

OPERATOR = "operator"
OPERATIONS = "/_dj/"
MEDIA_TYPE = "application/problem+json"
REFERENCE = {"$ref": "#/components/schemas/Problem"}
OF_FASTAPI = ("HTTPValidationError", "ValidationError")

TEXT = {"type": "string"}
PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "Every refusal and failure (RFC 9457). Decide by `code`; whether to try again, by `move`.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "move"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "The page that explains this code."},
        "title": {**TEXT, "description": "What this kind of problem is."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {**TEXT, "description": "What happened, with the values."},
        "code": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$", "description": "Never changes its meaning."},
        "move": {
            "type": "string",
            "enum": ["fix", "choose", "wait", "report"],
            "description": "Whose turn it is: change the request, decide, try again later, or tell the operator.",
        },
        "hint": {**TEXT, "description": "How to cure it."},
        "layer": {**TEXT, "description": "Which layer refused, when no handler was reached."},
        "instance": {"type": "string", "format": "uri-reference"},
        "trace_id": {**TEXT, "description": "Under which the server's log tells the rest."},
        "errors": {
            "type": "array",
            "description": "What is wrong with the request, one entry for each place.",
            "items": {
                "type": "object",
                "required": ["in", "path", "code", "message"],
                "properties": {
                    "in": {"type": "string", "enum": ["body", "path", "query", "header", "cookie"]},
                    "path": {**TEXT, "description": "JSON pointer (RFC 6901)."},
                    "code": TEXT,
                    "message": TEXT,
                },
            },
        },
        "error_count": {"type": "integer"},
    },
    "additionalProperties": True,
}

KEY_PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A fresh unique key for each new request, the same key for each retry of it: a retry gets the first "
    "answer again, byte for byte, and the work is done once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
REPLAYED: dict[str, Any] = {
    "Idempotent-Replayed": {
        "description": "Present when this answer was given before, under the same Idempotency-Key.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
RETRY_AFTER: dict[str, Any] = {
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer", "minimum": 1}}
}


def described(spec: RouteSpec) -> dict[str, Any]:
    """The options of a verb's FastAPI route; what its author gave stands above ours."""
    options = dict(spec.options)
    options.setdefault("name", spec.handler.function.__name__)
    options.setdefault("response_model", spec.answer_type)
    success = options.get("status_code") or 200
    if spec.answer_type is None and spec.verb.kind == "write" and success in (200, 201):
        success = options["status_code"] = 204
    responses: dict[int | str, dict[str, Any]] = {}
    if spec.takes_key:
        responses[success] = {"headers": REPLAYED}
    if spec.absent and spec.verb.kind == "write" and success != 204:
        responses[204] = {"description": "There is nothing to say"}
    responses |= refusals_of([*refused_here(spec), *spec.refuses], replayed=spec.takes_key)
    responses["default"] = {
        "description": "Any other refusal or failure",
        "content": {MEDIA_TYPE: {"schema": REFERENCE}},
    }
    options["responses"] = merged(responses, options.get("responses") or {})
    extra = dict(options.get("openapi_extra") or {})
    if spec.takes_key:
        key = {**KEY_PARAMETER, "required": spec.key_required}
        extra["parameters"] = [*extra.get("parameters", ()), key]
    if spec.path.startswith(OPERATIONS):
        extra.setdefault("security", [{OPERATOR: []}])
    options["openapi_extra"] = extra
    return options


def refused_here(spec: RouteSpec) -> Iterator[DujiangError]:
    """Examples of what the platform says at this kind of address."""
    if spec.absent and spec.verb.kind == "read":
        yield NotFound(what=f"{spec.method} {spec.path}")
    if spec.takes_key:
        yield KeyRequired() if spec.key_required else KeyMalformed(why="is empty")
        yield KeyReused(operation=spec.verb.name)
        yield InFlight()
    yield NotAcceptable(accept="image/png")
    if spec.body_name is not None:
        yield BadJson(why="expected value", at="line 1 column 2")
        yield BodyTooLarge(limit_bytes=1024 * 1024)
        yield UnsupportedMediaType(given="text/plain")
        yield InvalidBody(problems=(Problem("/name", "missing", "the field 'name' is required; add it"),), count=1)
    elif set(spec.handler.parameters) - spec.provided:
        wrong = Problem("/name", "bad_format", "the value cannot be read", "path")
        yield InvalidBody(problems=(wrong,), count=1)
    yield Overloaded(what="the line", size=1, limit=1)
    if "broker" in getattr(spec.verb, "requires", ()):
        yield BrokerUnreachable(url="amqp://broker", why="there is no connection")
        yield BrokerBlocked(url="amqp://broker")
    yield DeadlinePassed(what=spec.verb.name, limit_s=1.0)


def refusals_of(errors: Iterable[DujiangError], *, replayed: bool) -> dict[int | str, dict[str, Any]]:
    """A response for each status, with an example for each code."""
    found: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        answer = problem(error)
        example = json.loads(answer.body)
        entry = found.setdefault(answer.status, {"content": {MEDIA_TYPE: {"schema": REFERENCE, "examples": {}}}})
        examples = entry["content"][MEDIA_TYPE]["examples"]
        examples.setdefault(example["code"], {"summary": example["title"], "value": example})
        if any(name == b"retry-after" for name, _ in answer.headers):
            entry["headers"] = {**entry.get("headers", {}), **RETRY_AFTER}
        elif replayed and error.move == "choose":
            entry["headers"] = {**entry.get("headers", {}), **REPLAYED}
    for status, entry in found.items():
        titles = dict.fromkeys(each["summary"] for each in entry["content"][MEDIA_TYPE]["examples"].values())
        entry["description"] = f"{HTTPStatus(int(status)).phrase}: {'; '.join(titles)}"
    return dict(sorted(found.items()))


def merged(ours: dict[int | str, dict[str, Any]], given: MutableMapping[Any, Any]) -> dict[int | str, dict[str, Any]]:
    """Our responses with those of the author; for one status the author's members stand above ours."""
    result = {str(status): entry for status, entry in ours.items()}
    for status, entry in given.items():
        result[str(status)] = {**result.get(str(status), {}), **entry}
    return {int(status) if status.isdigit() else status: entry for status, entry in result.items()}


def complete_openapi(application: FastAPI) -> None:
    """Let the document of an application hold the components that our routes refer to."""
    plain = application.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        text = json.dumps(document.get("paths", {}))
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas.setdefault("Problem", PROBLEM_SCHEMA)
        if f'"{OPERATOR}"' in text:
            scheme = {"type": "http", "scheme": "bearer", "description": "The operator's token."}
            components.setdefault("securitySchemes", {}).setdefault(OPERATOR, scheme)
        if OF_FASTAPI[0] not in text:
            for name in OF_FASTAPI:
                schemas.pop(name, None)
        return document

    application.openapi = openapi  # type: ignore[method-assign]
