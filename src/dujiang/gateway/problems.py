"""Problems: every error as `application/problem+json` (RFC 9457), and the answer that carries it.

    {"type": "/docs/errors/out_of_stock", "title": ..., "status": 409, "detail": "only 3 of itemA are left",
     "code": "out_of_stock", "move": "choose", "hint": ..., "sku": "itemA", "left": 3}

A client decides by `code`, and whether to try again by `move`; people read `detail` and `hint`. What the caller can
change is told whole. What only the operator can change (`wait`, `report`, and a `fix` of settings or database) shows
the title and nothing else: addresses, statements and versions are in the log, under the same `trace_id`, and the cure
with them. `type` leads to a page (gateway/pages.py), under whatever path the application is mounted.

FastAPI and Starlette are not imported: their exceptions are known by their shape, so that a program without HTTP never
loads them. tests/unit/gateway/test_problems.py holds the members and what stays hidden.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from dujiang.kernel.codec import InvalidBody
from dujiang.kernel.context import ROOT_PATH, current_or_none
from dujiang.kernel.errors import DujiangError, Move, Refusal
from dujiang.kernel.problem import INPUT_CODES, UNKNOWN, Problem, problem_of, shortened
from dujiang.kernel.strict import BadBody, BadJson

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence

    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

__all__ = [
    "JSON_HEADERS",
    "Answer",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotFound",
    "RequestRefused",
    "UnsupportedMediaType",
    "answer_of_exception",
    "http_problem",
    "internal_problem",
    "invalid_request",
    "problem",
    "send_answer",
    "start_of",
]

LOG = logging.getLogger("dujiang.gateway")

JSON_HEADERS = ((b"content-type", b"application/json"),)
PROBLEM_TYPE = (b"content-type", b"application/problem+json")
PAGES = "/docs/errors"
RETRY_AFTER_S = 1.0
NO_BODY_STATUSES = frozenset({204, 304})

# A `fix` that these raise is the operator's to do, not the caller's, unless the class names a status.
OPERATORS = ("dujiang.backends.", "dujiang.data.", "dujiang.messaging.", "dujiang.settings.", "dujiang.kernel.errors")


@dataclass(slots=True)
class Answer:
    """A whole response. Headers have lower-case names and do not hold `content-length`."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class RequestRefused(DujiangError):
    """The request is refused for its form or its address; its values are members of the problem document."""

    code = "request_refused"
    move = "fix"
    status = 400

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the response that tell a program what would be accepted."""
        return []


@dataclass(eq=False, kw_only=True)
class NotFound(RequestRefused):
    """There is nothing at this address."""

    code = "not_found"
    status = 404
    says = "nothing is found for {what}"
    cure = "check the path and the id in it"

    what: str

    def __post_init__(self) -> None:
        self.what = shortened(self.what, 200)


@dataclass(eq=False, kw_only=True)
class MethodNotAllowed(RequestRefused):
    """The address exists, but not for this method."""

    code = "method_not_allowed"
    status = 405
    says = "{method} is not allowed; this address takes {allow}"
    cure = "use one of the methods that `allow` lists"

    method: str
    allow: str

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """`Allow`."""
        return [(b"allow", self.allow.encode())]


@dataclass(eq=False, kw_only=True)
class NotAcceptable(RequestRefused):
    """The client accepts no media type that this address can answer with."""

    code = "not_acceptable"
    status = 406
    says = "the answer is {offers}, which `Accept: {accept}` excludes"
    cure = "send `Accept: application/json`, or no Accept header"

    accept: str
    offers: str = "application/json"


@dataclass(eq=False, kw_only=True)
class UnsupportedMediaType(RequestRefused):
    """The body has a media type that this address does not take."""

    code = "unsupported_media_type"
    status = 415
    says = "the body's type is {given}; this address takes {accepts}"
    cure = "send the body as {accepts} and say so in Content-Type"

    given: str
    accepts: str = "application/json"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """`Accept` (RFC 9110, 15.5.16)."""
        return [(b"accept", self.accepts.encode())]


def problem(error: DujiangError, *, instance: str | None = None, layer: str | None = None) -> Answer:
    """The problem document of an error.

    Args:
        error: Any error of ours.
        instance: URI reference of this occurrence.
        layer: Which layer of the gateway refused, when no handler was reached.
    """
    kind = type(error)
    facing = faces_caller(error)
    move: Move = error.move if facing or error.move != "fix" else "report"
    status = error.http_status() if move == error.move else 500
    # Those that were made for callers show their values, others only their sentence: a value may be an address.
    shown = dict(error.values) if facing and isinstance(error, (Refusal, RequestRefused, BadBody)) else {}
    if isinstance(error, InvalidBody):
        shown = {"errors": [listed(each) for each in error.problems], "error_count": error.count}
    members = {
        "hint": error.hint if facing else "",
        "layer": layer,
        "instance": instance,
        "trace_id": "" if facing else trace_id(),
        **shown,
    }
    return document(
        status,
        error.code,
        move,
        title=kind.title(),
        detail=error.detail if facing else kind.title(),
        members=members,
        headers=error.headers if isinstance(error, RequestRefused) else (),
        retry_after_s=getattr(error, "retry_after_s", RETRY_AFTER_S if move == "wait" else None),
        # A code that a field type of the application invented has no page of its own.
        page=kind.code if isinstance(error, InvalidBody) and error.code not in INPUT_CODES else error.code,
    )


def answer_of_exception(error: BaseException, *, instance: str | None = None) -> Answer:
    """The answer for whatever a handler raised; what nobody foresaw is logged and becomes 500 `internal`."""
    if isinstance(error, DujiangError):
        answer = problem(error, instance=instance)
        if answer.status >= 500:
            # The client reads a title; whoever runs or writes the program reads what to do, and where.
            LOG.error("%s", error.told, exc_info=None if error.move == "wait" else error)
        return answer
    names = {each.__name__ for each in type(error).__mro__}
    if "RequestValidationError" in names:
        return problem(invalid_request(error.errors(), getattr(error, "body", None)), instance=instance)  # type: ignore[attr-defined]
    status = getattr(error, "status_code", None)
    if "HTTPException" in names and isinstance(status, int):
        return http_problem(status, getattr(error, "detail", ""), getattr(error, "headers", None), instance=instance)
    LOG.error("a handler failed: %r", error, exc_info=error)
    return internal_problem(instance=instance)


def internal_problem(*, instance: str | None = None) -> Answer:
    """500 `internal`: our fault or the application's, and nothing about it but the trace id."""
    members = {"instance": instance, "trace_id": trace_id()}
    detail = "the server failed; its log tells why, by trace id"
    return document(500, "internal", "report", title="The server failed", detail=detail, members=members)


def http_problem(
    status: int, detail: Any = "", headers: Mapping[str, str] | None = None, *, instance: str | None = None
) -> Answer:
    """The problem document for an HTTPException; a detail that is no text becomes the member `info`.

    Args:
        status: 400 to 599.
        detail: As the exception holds it.
        headers: Sent along.
        instance: URI reference of this occurrence.
    """
    title, code = code_of_status(status)
    members: dict[str, Any] = {"instance": instance}
    if not isinstance(detail, str):
        members["info"], detail = detail, ""
    pairs = [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in (headers or {}).items()]
    kept = [pair for pair in pairs if pair[0] not in (b"content-type", b"content-length")]
    move = move_of_status(status)
    waits_s = RETRY_AFTER_S if move == "wait" and b"retry-after" not in dict(kept) else None
    return document(
        status, code, move, title=title, detail=detail or title, members=members, headers=kept, retry_after_s=waits_s
    )


def invalid_request(errors: Sequence[Mapping[str, Any]], body: Any = None) -> DujiangError:
    """Our error for the list that a RequestValidationError holds.

    Args:
        errors: Pydantic's errors, each `loc` beginning with the part of the request: body, query, path, header, cookie.
        body: The parsed body, if there is one.
    """
    problems = []
    for error in errors:
        source, *inside = error["loc"] or ("body",)
        if error["type"] == "json_invalid":
            why = (error.get("ctx") or {}).get("error", "it cannot be read")
            return BadJson(why=shortened(str(why)), at=f"character {inside[0] if inside else 0}")
        known = body if source == "body" and isinstance(body, (dict, list)) else UNKNOWN
        problems.append(problem_of({**error, "loc": inside}, known, str(source)))
    return InvalidBody(problems=tuple(problems[:100]), count=len(problems))


def faces_caller(error: DujiangError) -> bool:
    """Whether the caller can do something about an error, and so may read it."""
    if error.move == "choose" or isinstance(error, Refusal):
        return True
    if error.move != "fix":
        return False
    return error.status is not None or not f"{type(error).__module__}.".startswith(OPERATORS)


def code_of_status(status: int) -> tuple[str, str]:
    """The title and the code of a bare HTTP status: its phrase, and the words of it."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = f"HTTP status {status}"
    return title, "_".join(title.lower().replace("-", " ").replace("'", "").split())


def move_of_status(status: int) -> Move:
    """Whose move a bare HTTP status says it is."""
    if status in (429, 503, 504):
        return "wait"
    if status >= 500:
        return "report"
    return "choose" if status == 409 else "fix"


def listed(each: Problem) -> dict[str, str]:
    """One entry of the member `errors`."""
    return {"in": each.source, "path": each.path, "code": each.code, "message": each.message}


def trace_id() -> str:
    """The trace id of this call; empty outside a call."""
    context = current_or_none()
    return context.trace_id if context else ""


def document(
    status: int,
    code: str,
    move: Move,
    *,
    title: str,
    detail: str,
    members: Mapping[str, Any],
    headers: Iterable[tuple[bytes, bytes]] = (),
    retry_after_s: float | None = None,
    page: str = "",
) -> Answer:
    """Put a problem document together; empty members are left out, and none replaces a standard one."""
    standard = {
        "type": f"{ROOT_PATH.get()}{PAGES}/{page or code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "move": move,
    }
    extra = {name: value for name, value in members.items() if name not in standard and value not in (None, "")}
    # `fallback`: a value of a type that JSON does not know must not turn a refusal into a failure.
    body = to_json(standard | extra, inf_nan_mode="null", fallback=str)
    all_headers = [PROBLEM_TYPE, *headers]
    if retry_after_s is not None:
        all_headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after_s))))
    return Answer(status, all_headers, body)


async def send_answer(send: Send, answer: Answer) -> None:
    """Send an answer as two messages, the body in one piece with its length."""
    await send(start_of(answer))
    await send({"type": "http.response.body", "body": answer.body})


def start_of(answer: Answer) -> dict[str, Any]:
    """The first message of an answer."""
    headers = answer.headers
    if answer.status not in NO_BODY_STATUSES:
        headers = [*headers, (b"content-length", b"%d" % len(answer.body))]
    return {"type": "http.response.start", "status": answer.status, "headers": headers}
