"""Unheard: how bytes are read, what is said to a client whose bytes never became a request, and what an offer becomes."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools

from dujiang.gateway.problems import RequestRefused, problem

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["HeadTooSlow", "MethodUnknown", "Unreadable", "head_without_offer", "parser_for", "refusal", "unreadable"]

LOG = logging.getLogger("dujiang.server")

METHOD = re.compile(rb"[A-Z][A-Z-]{0,31} /").match


@dataclass(eq=False, kw_only=True)
class HeadTooSlow(RequestRefused):
    """The head of the request did not arrive in time."""

    code = "head_too_slow"
    status = 408
    says = "request line and headers were not complete after {after_s:g} s"
    cure = "send request line and headers at once"

    after_s: float


@dataclass(eq=False, kw_only=True)
class Unreadable(RequestRefused):
    """What was sent is no HTTP request."""

    code = "unreadable"
    says = "what was sent is no HTTP/1.1 request: {why}"
    cure = "send a request as RFC 9112 describes it"

    why: str


@dataclass(eq=False, kw_only=True)
class MethodUnknown(RequestRefused):
    """The method is none of HTTP's."""

    code = "method_unknown"
    status = 501
    says = "the method of the request is not known"
    cure = "use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"


def parser_for(connection: object) -> Any:
    """The parser of a connection's requests."""
    parser = httptools.HttpRequestParser(connection)
    # A request behind one that ends the connection shall not take that one's answer away.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def unreadable(cause: Exception, packet: bytes) -> RequestRefused:
    """What to say to a client whose bytes the parser refused.

    Args:
        cause: The parser's error; if one of its callbacks failed, that one's is behind it.
        packet: The bytes.
    """
    if isinstance(cause, httptools.HttpParserInvalidMethodError) and METHOD(packet):
        return MethodUnknown()
    behind = cause.__context__ if isinstance(cause, httptools.HttpParserCallbackError) else None
    return Unreadable(why=str(behind or cause)[:200] or "it cannot be parsed")


def refusal(error: RequestRefused) -> bytes:
    """The whole answer to a client that is refused, after which its connection ends."""
    answer = problem(error, layer="server")
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body)), (b"connection", b"close")]
    head = b"".join(b"%s: %s\r\n" % pair for pair in headers)
    status = HTTPStatus(answer.status)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, status.phrase.encode(), head, answer.body)


def head_without_offer(parser: Any, url: bytes, headers: Collection[tuple[bytes, bytes]]) -> bytes:
    """The head of a request that offered another protocol, without the offer, to be read once more.

    The parser ends such a request with its head, and its body would be taken for the next request. So a new parser reads
    it: the old one may not listen any more, if the request ends the connection.
    """
    if b"websocket" in [value.lower() for name, value in headers if name == b"upgrade"]:
        say_no_websocket()
    lines = b"".join(b"%s: %s\r\n" % pair for pair in headers if pair[0] != b"upgrade")
    return b"%s %s HTTP/%s\r\n%s\r\n" % (parser.get_method(), url, parser.get_http_version().encode(), lines)


@cache  # Once in a process: clients may not fill the log.
def say_no_websocket() -> None:
    """Tell the operator that somebody wanted a websocket."""
    LOG.warning("an offer to speak websocket was not taken: this server speaks HTTP/1.1 only")
