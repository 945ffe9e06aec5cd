"""Response: what a handler says of its answer beside its value, as FastAPI's users say it.

    async def place_order(tx: Tx, body: NewOrder, response: Response) -> OrderView:
        response.headers["location"] = ...       part of the answer: stored with it, replayed with it
        response.set_cookie("basket", "")
        response.status_code = 202

    async def render(db: Read, order_id: Id) -> Response:
        return Response(svg, media_type="image/svg+xml")

A handler may run again from its start, so each run gets a fresh `Response`: a header of a run that was rolled back
reaches nobody. What a dependency sets belongs to the request and not to the transaction: it is added after the answer
was made or replayed, and a header that the handler set itself stands above it.

A returned `Response` is taken as bytes, because the answer exists before the commit. A stream has no bytes yet, and a
background task would be lost with the process, so both are refused.
tests/unit/gateway/test_response.py holds all of it, over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import Response

from dujiang.gateway.handler import bare
from dujiang.gateway.problems import NO_BODY_STATUSES, Answer
from dujiang.kernel.errors import DujiangError

__all__ = [
    "ResponseRefused",
    "answer_of_response",
    "asks_request",
    "beneath",
    "fresh",
    "value_of_answer",
    "with_response",
]

# How the body is framed is the server's to say.
FRAMING = frozenset({b"content-length", b"transfer-encoding"})
REPEATED = frozenset({b"set-cookie"})


@dataclass(eq=False, kw_only=True)
class ResponseRefused(DujiangError):
    """A handler's Response is no answer that can be given before the commit."""

    code = "response_refused"
    move = "report"
    says = "the handler's {kind} {why}"
    cure = (
        "return a Response whose body is bytes and whose status is 200 to 599; publish an event for what shall follow"
    )

    kind: str
    why: str


def asks_request(hint: Any) -> bool:
    """Whether a parameter asks for the request."""
    kind = bare(hint)
    return isinstance(kind, type) and issubclass(kind, HTTPConnection)


def fresh() -> Response:
    """A Response to be filled in by one run of a handler: no status, no headers."""
    response = Response()
    del response.headers["content-length"]
    vars(response)["status_code"] = None  # FastAPI's way to say "not set".
    return response


def with_response(answer: Answer, response: Response) -> Answer:
    """The answer with the status and the headers that were set; these replace headers of the same name.

    Raises ResponseRefused for a status that is none.
    """
    status = response.status_code or answer.status
    if not 200 <= status <= 599:
        raise ResponseRefused(kind="Response", why=f"has the status {status}")
    return framed(status, [*kept(answer.headers, response.raw_headers), *response.raw_headers], answer.body)


def beneath(answer: Answer, response: Response) -> Answer:
    """The answer with what a dependency set, where the handler did not say otherwise."""
    if not response.raw_headers:
        return answer
    return framed(answer.status, [*answer.headers, *kept(response.raw_headers, answer.headers)], answer.body)


def answer_of_response(value: Response) -> Answer:
    """A returned Response as an answer. Raises ResponseRefused for a stream, a file, or a background task."""
    kind = type(value).__name__
    body = getattr(value, "body", None)
    if not isinstance(body, bytes | memoryview):
        raise ResponseRefused(kind=kind, why="has no bytes yet: it is a stream or a file")
    if value.background is not None:
        raise ResponseRefused(kind=kind, why="carries a background task, which a crash would lose")
    if not 200 <= value.status_code <= 599:
        raise ResponseRefused(kind=kind, why=f"has the status {value.status_code}")
    return framed(value.status_code, value.raw_headers, bytes(body))


def value_of_answer(answer: Answer) -> Response | None:
    """What a caller in Python gets for an answer that holds no JSON: None for an empty one, else a Response again."""
    if not answer.body and not answer.headers:
        return None
    response = Response(answer.body, answer.status)
    response.raw_headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return response


def framed(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Answer:
    """An answer without framing headers, and without a body where the status has none."""
    pairs = [pair for pair in headers if pair[0] not in FRAMING]
    if status in NO_BODY_STATUSES:
        return Answer(status, [pair for pair in pairs if pair[0] != b"content-type"], b"")
    return Answer(status, pairs, body)


def kept(below: list[tuple[bytes, bytes]], above: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of `below` that stay beside those of `above`."""
    names = {name for name, _ in above} - REPEATED
    return [pair for pair in below if pair[0] not in names]
