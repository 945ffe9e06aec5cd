"""Guard: the first layer of every request; it refuses what no handler should have to think about.

    server (httptools) ──► guard ──► routes ──► verb
                             │ head: Host, sizes, framing, path, method, coding     before anything is read
                             │ body: size, total time, rate                         while the application reads it
                             └► problem+json with `"layer": "guard"`, and the connection closes

Part of this a good server does itself (httptools refuses bare LF, folded headers, two lengths, a length beside chunks).
It is asked again because the application also runs under other servers, and because two readers that disagree
about where a request ends are how requests are smuggled. What httptools lets through and only this stops: no Host or
two of them, headers of any size and number, `/a%00`, `/%2e%2e/b`.

How the body's limits are kept while somebody else reads it, gateway/reading.py tells.

Cost: 3 us per request with ten headers. tests/unit/gateway/test_guard.py and test_server.py hold each refusal.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.gateway.body import BODY_BYTES_MAX, BodyTooLarge
from dujiang.gateway.problems import MethodNotAllowed, RequestRefused, problem
from dujiang.gateway.reading import GuardedBody, Step, WholeBody, begun
from dujiang.gateway.refusals import (
    BadFraming,
    BadHost,
    BadPath,
    CodingRefused,
    ForeignHost,
    HeadersTooLarge,
    TargetTooLong,
    TransferRefused,
    VersionRefused,
)
from dujiang.kernel.context import ROOT_PATH, mounted
from dujiang.telemetry.tracing import continued, enabled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from dujiang.kernel.node import Node

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["Guard", "Limits"]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
METHODS_REFUSED = frozenset({"TRACE", "TRACK", "CONNECT"})
METHODS_ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
LOOKED_AT = frozenset({b"host", b"content-length", b"transfer-encoding", b"content-encoding", b"expect"})
# What follows a head. A client that expects to be asked sends its body only when the application begins to read.
NOTHING, BODY, BODY_WHEN_ASKED = range(3)

# Marks a request whose first span is open.
TRACED = "dujiang.traced"

# Paths of these characters only need no further look: no escape, no dot, no control character.
PLAIN_PATH = re.compile(rb"/[A-Za-z0-9_~!$&'()*+,;=:@/-]*").fullmatch
BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%2[fF]|%5[cC]|%[01][0-9A-Fa-f]|%7[fF]").search
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]").search
HOST = re.compile(rb"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?").fullmatch
HOSTS_REMEMBERED_MAX = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a request may be.

    Attributes:
        header_count: Headers at most.
        header_bytes: Bytes of all names and values together at most.
        target_bytes: Bytes of path and query at most.
        body_bytes: Bytes of the body at most, unless the address has a limit of its own.
        body_s: Seconds in which the body must be there.
        body_grace_s: Seconds before the rate counts.
        body_bytes_per_s: Slowest rate at which a body may arrive after that.
        linger_s: Seconds for which the rest of a refused body is still taken, so that the client can read why.
        linger_bytes: Bytes of it at most.
    """

    header_count: int = 64
    header_bytes: int = 16 * 1024
    target_bytes: int = 8 * 1024
    body_bytes: int = BODY_BYTES_MAX
    body_s: float = 15.0
    body_grace_s: float = 5.0
    body_bytes_per_s: int = 1024
    linger_s: float = 1.0
    linger_bytes: int = 4 * 1024 * 1024


class Guard:
    """ASGI middleware that refuses malformed, oversized and misdirected requests.

    Args:
        app: The application behind it.
        node: Its clock measures how long a body takes.
        limits: How much a request may be.
        allowed_hosts: Host names that are ours besides the loopback ones, without ports; `*.example.com` takes every
            name below it, `*` any name at all.
        body_limit: Gives the body limit of an address that has one of its own, else None.
        allow: Gives the methods of an address, for the header `Allow`.
        paths: Paths of ours; a request for exactly one of them has a good target.
    """

    def __init__(
        self,
        app: Application,
        node: Node,
        *,
        limits: Limits | None = None,
        allowed_hosts: Iterable[str] = (),
        body_limit: Callable[[Scope], int | None] | None = None,
        allow: Callable[[Scope], str] | None = None,
        paths: Iterable[str] = (),
    ) -> None:
        self.app = app
        self.limits = limits or Limits()
        self.clock = node.clock
        self._body_limit = body_limit
        self._allow = allow
        names = {name.lower() for name in (*LOOPBACK, *allowed_hosts)}
        self._any_host = "*" in names
        self._names = {name for name in names if not name.startswith("*")}
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        encoded = {path.encode() for path in paths}
        self._good_paths = frozenset(path for path in encoded if PLAIN_PATH(path))
        # Values of Host that were found good. Bounded: with a wildcard the client may invent them.
        self._good_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        await self.serve(scope, receive, send)

    def serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """As a call; whoever awaits it at once is spared a coroutine for each request."""
        kind = scope["type"]
        if scope.get("root_path") and not ROOT_PATH.get():
            return self._mounted(scope, receive, send)
        if kind not in ("http", "websocket"):
            return self.app(scope, receive, send)
        if enabled() and kind == "http" and TRACED not in scope:
            return self._traced(scope, receive, send)
        try:
            follows = self.check_head(scope)
        except RequestRefused as error:
            return self._refuse(scope, receive, send, error)
        if follows == NOTHING or kind == "websocket":
            return self.app(scope, receive, send)
        if follows == BODY_WHEN_ASKED:
            return self._watched(scope, receive, send, None)
        # Nearly every body came with its head. It is taken at once, and then there is nothing left to watch.
        first = begun(receive())
        if not isinstance(first, Step) and self._is_whole(scope, first):
            return self.app(scope, WholeBody(first, receive), send)
        return self._watched(scope, receive, send, first)

    async def _mounted(self, scope: Scope, receive: Receive, send: Send) -> None:
        with mounted(scope["root_path"]):
            await self.serve(scope, receive, send)

    async def _traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request inside its first span; all others are below it, so that one request is one trace."""
        scope[TRACED] = True
        with continued(traceparent_of(scope), "gateway.guard"):
            await self.serve(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send, first: Step | Message | None) -> None:
        """Serve a request while its body arrives."""
        body = GuardedBody(self.limits, self.clock, lambda: self.body_limit(scope), receive, send, first)
        try:
            await self.app(scope, body.receive, body.send)
        except Exception:
            # What the application makes of our own refusal is of no interest; anything else is its own affair.
            if body.refusal is None or body.started:
                raise
        finally:
            body.close()
        if body.refusal is not None and not body.started:
            await self._refuse(scope, receive, send, body.refusal)

    def check_head(self, scope: Scope) -> int:
        """Raise a RequestRefused unless the head is acceptable; return what may follow it."""
        limits = self.limits
        headers = scope["headers"]
        if len(headers) > limits.header_count:
            raise HeadersTooLarge(what="headers", size=len(headers), limit=limits.header_count)
        size = 0
        host: bytes | None = None
        length: bytes | None = None
        transfer: bytes | None = None
        follows = BODY
        for name, value in headers:
            size += len(name) + len(value)
            if name in LOOKED_AT:
                if name == b"host":
                    if host is not None:
                        raise BadHost(why="there are two Host headers")
                    host = value
                elif name == b"content-length":
                    if length is not None:
                        raise BadFraming(why="there are two Content-Length headers")
                    length = value
                elif name == b"transfer-encoding":
                    if transfer is not None:
                        raise BadFraming(why="there are two Transfer-Encoding headers")
                    transfer = value
                elif name == b"expect":
                    follows = BODY_WHEN_ASKED
                elif value.strip().lower() != b"identity":
                    raise CodingRefused(coding=value.decode("latin-1")[:100])
        if size > limits.header_bytes:
            raise HeadersTooLarge(what="bytes of headers", size=size, limit=limits.header_bytes)
        if host not in self._good_hosts:
            self._check_host(host)
        if scope.get("raw_path") not in self._good_paths or scope.get("query_string"):
            self._check_target(scope)
        if scope.get("method") in METHODS_REFUSED:
            allow = self._allow(scope) if self._allow is not None else METHODS_ALLOWED
            raise MethodNotAllowed(method=scope["method"], allow=allow)
        version = scope.get("http_version", "1.1")
        if version == "0.9":
            raise VersionRefused(version=version)
        if length is None and transfer is None:
            # In HTTP/1 a request without either has no body; later versions frame it otherwise.
            return NOTHING if version.startswith("1") else follows
        return follows if self._check_framing(scope, length, transfer) else NOTHING

    def body_limit(self, scope: Scope) -> int:
        """The body limit of the address, in bytes."""
        own = self._body_limit(scope) if self._body_limit is not None else None
        return self.limits.body_bytes if own is None else own

    def _is_whole(self, scope: Scope, message: Message) -> bool:
        """Whether a message is a whole body of a size that its address takes."""
        if message["type"] != "http.request" or message.get("more_body"):
            return False
        size = len(message.get("body", b""))
        return size <= (self.limits.body_bytes if self._body_limit is None else self.body_limit(scope))

    def _check_host(self, host: bytes | None) -> None:
        if host is None:
            raise BadHost(why="there is no Host header")
        match = HOST(host)
        if match is None:
            raise BadHost(why="the Host header is not a name with an optional port")
        name = match[1].decode().lower().rstrip(".")
        if not (self._any_host or name in self._names or (self._suffixes and name.endswith(self._suffixes))):
            raise ForeignHost(host=name[:100])
        if len(self._good_hosts) < HOSTS_REMEMBERED_MAX:
            self._good_hosts.add(host)

    def _check_target(self, scope: Scope) -> None:
        query: bytes = scope.get("query_string", b"")
        # A server may leave raw_path out; then what it decoded is all there is to look at.
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        size = len(raw) + 1 + len(query) if query else len(raw)
        if size > self.limits.target_bytes:
            raise TargetTooLong(size=size, limit=self.limits.target_bytes)
        if not PLAIN_PATH(raw):
            check_path(raw, scope["path"])
        if b"%00" in query:
            raise BadPath(why="the query contains the character U+0000 (%00)")

    def _check_framing(self, scope: Scope, length: bytes | None, transfer: bytes | None) -> bool:
        """Whether a body follows, by Content-Length or Transfer-Encoding."""
        if transfer is not None:
            if length is not None:
                raise BadFraming(why="Content-Length and Transfer-Encoding stand together")
            if transfer.strip().lower() != b"chunked":
                raise TransferRefused(coding=transfer.decode("latin-1")[:100])
            if scope.get("http_version") == "1.0":
                raise BadFraming(why="Transfer-Encoding is not defined for HTTP/1.0")
            return True
        assert length is not None
        if not length.isdigit():
            raise BadFraming(why="Content-Length is not a number")
        # Twenty digits are larger than any limit, and are not converted to find that out.
        size = int(length) if len(length) < 20 else 1 << 63
        if size > self.limits.body_bytes or self._body_limit is not None:
            limit = self.body_limit(scope)
            if size > limit:
                raise BodyTooLarge(limit_bytes=limit)
        return size > 0

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: RequestRefused) -> None:
        """Answer with a problem document and let the connection end: what follows on it was not read."""
        answer = problem(error, layer="guard")
        if scope.get("http_version", "1.1").startswith("1"):
            answer.headers.append((b"connection", b"close"))
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            if "websocket.http.response" not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1008, "reason": error.code})
                return
            await send({"type": "websocket.http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": answer.body})
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": True})
        # A connection closed over unread bytes is reset, and a reset may destroy the answer on its way. The client has
        # the whole answer by its length now; what it still sends is thrown away for a moment, then the end is said.
        await self._linger(receive)
        await send({"type": "http.response.body", "body": b""})

    async def _linger(self, receive: Receive) -> None:
        size, more = 0, True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.linger_s):
                while more and size < self.limits.linger_bytes:
                    message = await receive()
                    size += len(message.get("body", b""))
                    more = message.get("more_body", False)


def traceparent_of(scope: Scope) -> str:
    """The caller's header `traceparent`; empty when there is none."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), "")


def check_path(raw: bytes, path: str) -> None:
    """Raise BadPath for what proxies, servers and file systems read in different ways."""
    bad = BAD_ESCAPE(raw)
    if bad is not None:
        raise BadPath(why=f"the path contains {bad[0].decode()}: a control character, an escaped slash, or no escape")
    if CONTROL(path) or "\ufffd" in path:
        raise BadPath(why="the path contains a control character, a backslash, or bytes that are not UTF-8")
    if not raw.startswith(b"/") and raw != b"*":
        raise BadPath(why="the path does not begin with a slash")
    for segment in path.split("/"):
        if segment in (".", ".."):
            raise BadPath(why=f"the path contains the segment {segment!r}")
