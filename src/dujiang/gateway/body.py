"""Body: reads a request's body, and decides by two headers whether JSON may go in and out.

Almost every request brings its body in one message, and almost every client sends the same two or three values of
Content-Type and Accept. So the first message returns at once, and a header value that was once found good is
remembered; the memory is bounded, because header values are the client's to invent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.gateway.problems import NotAcceptable, RequestRefused, UnsupportedMediaType
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.problem import shortened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

__all__ = ["BodyTooLarge", "ClientGone", "check_accept", "check_content_type", "check_json_request", "read_body"]

BODY_BYTES_MAX = 1024 * 1024
REMEMBERED_MAX = 256
REMEMBERED_BYTES_MAX = 200
GOOD_TYPES = {b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"}
GOOD_ACCEPTS = {b"", b"*/*", b"application/json", b"application/json, text/plain, */*"}
# From the most to the least specific: the most specific range that matches decides (RFC 9110, 12.5.1).
JSON_RANGES = ("application/json", "application/*", "*/*")


@dataclass(eq=False, kw_only=True)
class BodyTooLarge(RequestRefused):
    """The body is larger than this address takes."""

    code = "body_too_large"
    status = 413
    says = "the body is larger than {limit_bytes} bytes"
    cure = "send at most {limit_bytes} bytes"

    limit_bytes: int


@dataclass(eq=False, kw_only=True)
class ClientGone(DujiangError):
    """The client closed the connection before its body was complete."""

    code = "client_gone"
    move = "fix"
    status = 400
    says = "the connection was closed after {received_bytes} bytes of the body"

    received_bytes: int


async def read_body(receive: Receive, limit: int = BODY_BYTES_MAX) -> bytes:
    """The whole body, at most `limit` bytes. Raises BodyTooLarge or ClientGone."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(limit_bytes=limit)
        return body
    pieces: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise ClientGone(received_bytes=size)
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(limit_bytes=limit)
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()


def check_json_request(content_type: bytes | None, accept: bytes) -> None:
    """Raise unless the body is JSON and the client takes JSON.

    Args:
        content_type: Value of the header, empty when it is missing; None = this address takes no body.
        accept: Value of the header, empty when it is missing.
    """
    if content_type is not None and content_type not in GOOD_TYPES:
        check_content_type(content_type)
    if accept not in GOOD_ACCEPTS:
        check_accept(accept)


def check_content_type(value: bytes) -> None:
    """Raise UnsupportedMediaType unless the value is `application/json` or `+json`, in UTF-8.

    A missing value is refused too: a page of another site can make a browser send a body without a type, but not
    a body of this one.
    """
    media, *parameters = value.decode("latin-1").lower().split(";")
    kind, _, subtype = media.strip().partition("/")
    charset = "utf-8"
    for parameter in parameters:
        name, _, text = parameter.strip().partition("=")
        if name == "charset":
            charset = text.strip('"')
    json = kind == "application" and (subtype == "json" or (subtype.endswith("+json") and len(subtype) > 5))
    if not json or charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(given=shortened(value.decode("latin-1")) or "not named")
    remember(GOOD_TYPES, value)


def check_accept(value: bytes) -> None:
    """Raise NotAcceptable if the client excludes JSON. What cannot be read excludes nothing."""
    quality: dict[str, float] = {}
    for piece in value.decode("latin-1").lower().split(","):
        media, *parameters = (part.strip() for part in piece.split(";"))
        if media:
            quality[media] = max(quality_of(parameters), quality.get(media, 0.0))
    matching = [quality[media] for media in JSON_RANGES if media in quality]
    if quality and (not matching or matching[0] == 0.0):
        raise NotAcceptable(accept=shortened(value.decode("latin-1")))
    remember(GOOD_ACCEPTS, value)


def quality_of(parameters: list[str]) -> float:
    """The `q` among the parameters of a media range; 1 without one."""
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 1.0
    return 1.0


def remember(good: set[bytes], value: bytes) -> None:
    """Add a value that was found good, unless there are many already, or it is long."""
    if len(good) < REMEMBERED_MAX and len(value) <= REMEMBERED_BYTES_MAX:
        good.add(value)
