"""Exchange: one request and its answer, between the bytes of a connection and an ASGI application.

    connection ──pieces of the body──► receive() ──► application ──► send(start), send(body)... ──► one write and more
                                                                          └─ the head waits for the first piece of the body

ASGI says that nothing need be sent before the first piece of the body is there, and so head and body leave together. A write
to a socket is a system call that wakes the client, and a tenth of the time of a small request. It also means that an
application which fails between head and body gets an answer that says so.

What an application says of its headers is checked once for each header, and remembered (`LINES`, bounded).

Held by tests/unit/cli/test_exchange.py.
"""

from __future__ import annotations

import asyncio
import logging
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.utils import get_client_addr, get_local_addr, get_path_with_query_string, get_remote_addr, is_ssl

from dujiang.gateway.problems import NO_BODY_STATUSES, internal_problem, start_of

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from uvicorn.config import Config

    from dujiang.cli.connection import Connection

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]

__all__ = ["ACCESS", "Exchange", "scope_of"]

LOG = logging.getLogger("dujiang.server")
ACCESS = logging.getLogger("uvicorn.access")

NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
LINES_MAX = 256
LINE_BYTES_MAX = 200
# The lines of headers that were found good, by name and value. Bounded, because values may be made for each answer.
LINES: dict[tuple[bytes, bytes], bytes] = {}
CLOSE = b"connection: close\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"
NO_CONTENT = 204

PHRASES = {each.value: each.phrase for each in HTTPStatus}
STATUS_LINES = {status: f"HTTP/1.1 {status} {PHRASES.get(status, '')}\r\n".encode() for status in range(200, 600)}


class Exchange:
    """One request and its answer.

    Args:
        connection: Where its bytes come from and go to.
        scope: ASGI's description of the request.
        keep_alive: Whether the connection goes on after the answer.
        asked_first: Whether the client waits to be asked for its body.

    Attributes:
        more_body: Whether more of the request's body will come.
        gone: Nobody waits for the answer any more; what is still said is dropped.
        written: Whether the answer's first bytes were sent.
        complete: Whether its last were.
        keep_alive: Whether the connection goes on after the answer.
        task: In which the application answers.
    """

    task: asyncio.Task[None]

    __slots__ = (
        "_asked_first",
        "_chunked",
        "_connection",
        "_event",
        "_head",
        "_left",
        "_mute",
        "_news",
        "_pieces",
        "_scope",
        "_started",
        "_status",
        "_untaken",
        "complete",
        "gone",
        "keep_alive",
        "more_body",
        "task",
        "written",
    )

    def __init__(self, connection: Connection, scope: Scope, *, keep_alive: bool, asked_first: bool) -> None:
        self._connection = connection
        self._scope = scope
        self._asked_first = asked_first
        self._pieces: list[bytes] = []
        self._untaken = 0  # Their bytes.
        self._news = False  # The application has not seen all that came.
        self._event: asyncio.Event | None = None
        self._head = b""
        self._started = self._chunked = self._mute = False
        self._left: int | None = None  # Bytes of the answer's body that are still to come, if that was said.
        self.keep_alive = keep_alive
        self.more_body = True
        self.gone = self.written = self.complete = False

    # What the connection says -----------------------------------------------------------------------------------------

    def take(self, piece: bytes) -> int:
        """Keep a piece of the body for the application; how many bytes it has not taken yet."""
        self._pieces.append(piece)
        self._untaken += len(piece)
        self.wake()
        return self._untaken

    def end_body(self) -> None:
        """The body is whole."""
        self.more_body = False
        self.wake()

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        self.gone = True
        self.wake()

    def wake(self) -> None:
        """There is something to hear for the application."""
        self._news = True
        if self._event is not None:
            self._event.set()

    # What the application does ----------------------------------------------------------------------------------------

    async def run(self, application: Any) -> None:
        """Let the application answer; whatever it does, the client gets an answer or the end."""
        try:
            await application(self._scope, self.receive, self.send)
            if not (self.complete or self.gone):
                LOG.error("the application returned without a whole answer to %s", self._scope["path"])
                await self._fail()
        except BaseException:  # Cancelled when the grace is over, too: the client hears of it.
            LOG.exception("the application failed")
            await self._fail()
        finally:
            self._connection.server_state.tasks.discard(self.task)

    async def _fail(self) -> None:
        """Say that the server failed, or end the connection in the middle of an answer."""
        if self.complete or self.gone:
            return
        if self.written:
            self._connection.end()
            return
        answer = internal_problem()
        self.keep_alive = self._started = False
        await self.send(start_of(answer))
        await self.send({"type": "http.response.body", "body": answer.body})

    async def receive(self) -> Message:
        """ASGI's: the next piece of the body, then the client's departure."""
        connection = self._connection
        if self._asked_first:
            self._asked_first = False
            # Too late in the middle of an answer; to a client that sends already, too late as well.
            if self.more_body and not (self._news or self.written or connection.transport.is_closing()):
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._news or self.gone or self.complete):
            connection.resume_reading()
            self._event = self._event or asyncio.Event()
            self._event.clear()
            await self._event.wait()
        if self.gone or self.complete:
            return {"type": "http.disconnect"}
        self._news = False
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._untaken = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """ASGI's: the head, then the pieces of the body."""
        if self._connection.full and not self.gone:
            await self._connection.drained()
        if self.gone:
            return
        kind = message["type"]
        if not self._started:
            if kind != "http.response.start":
                raise RuntimeError(f"an answer begins with http.response.start, and {kind!r} came")
            self._begin(message["status"], message.get("headers", ()))
        elif self.complete or kind != "http.response.body":
            raise RuntimeError(f"{kind!r} came after {'the end' if self.complete else 'the head'} of the answer")
        else:
            self._write(message.get("body", b""), more=message.get("more_body", False))

    # The answer -------------------------------------------------------------------------------------------------------

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Make the head; it is sent with the first piece of the body."""
        head = STATUS_LINES[status]
        for pair in self._connection.server_state.default_headers:
            head += b"%s: %s\r\n" % pair
        self._left, self._chunked = None, False
        for name, value in headers:
            if name == b"content-length":
                self._left = length_in(value)
            else:
                head += LINES.get((name, value)) or self._line(name.lower(), value)
        self._mute = self._scope["method"] == "HEAD" or status in NO_BODY_STATUSES
        if self._chunked:
            self._left = None  # It would be told twice where the body ends.
        if self._left is not None and status != NO_CONTENT:
            head += b"content-length: %d\r\n" % self._left
        elif not self._mute:
            head += self._framing()
        if self._asked_first and self.more_body:
            self.keep_alive = False  # Nobody can tell whether the client, which was not asked, still sends its body.
        if not self.keep_alive:
            head += CLOSE
        self._head, self._status, self._started = head + b"\r\n", status, True

    def _line(self, name: bytes, value: bytes) -> bytes:
        """The line of a header; empty for one that is written for itself. Raises ValueError for one that is none."""
        if NAME(name) is None or CONTROL(value):
            raise ValueError(f"{name!r}: {value!r} is no header")
        line = b"%s: %s\r\n" % (name, value)
        if name == b"content-length":
            self._left = length_in(value)
            return b""
        if name == b"transfer-encoding":
            self._chunked = value.strip().lower() == b"chunked"
            return b"" if self._chunked else line
        if name == b"connection":
            if b"close" in [token.strip().lower() for token in value.split(b",")]:
                self.keep_alive = False
            return b""  # Whether it is kept, this server says.
        if len(LINES) < LINES_MAX and len(line) <= LINE_BYTES_MAX:
            LINES[name, value] = line
        return line

    def _framing(self) -> bytes:
        """How the end of a body is told whose length nobody said."""
        if self._scope["http_version"] == "1.0":
            self._chunked = self.keep_alive = False  # By the end of the connection.
            return b""
        self._chunked = True
        return CHUNKED

    def _write(self, body: bytes, *, more: bool) -> None:
        """Send a piece of the body, and the head if it still waits."""
        head, left = self._head, self._left
        if head and self._connection.access_log:
            log_access(self._scope, self._status)
        if self._mute:
            data = head
        elif self._chunked:
            piece = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            data = head + piece + (b"" if more else LAST_CHUNK)
        else:
            if left is not None:
                self._left = left = left - len(body)
                if left < 0 or (left and not more):
                    raise RuntimeError(f"the body is {'longer' if left < 0 else 'shorter'} than its content-length")
            data = head + body
        self._head, self.written = b"", True
        connection = self._connection
        connection.transport.write(data)
        if not more:
            self.complete = True
            if self._event is not None:
                self._event.set()
            connection.answered()


def scope_of(transport: asyncio.Transport, config: Config) -> dict[str, Any]:
    """What ASGI's description says of every request of a connection."""
    return {
        "type": "http",
        "asgi": {"version": config.asgi_version, "spec_version": "2.3"},
        "server": get_local_addr(transport),
        "client": get_remote_addr(transport),
        "scheme": "https" if is_ssl(transport) else "http",
        "root_path": config.root_path,
    }


def length_in(value: bytes) -> int:
    """The length that an application says. Raises ValueError for what is none."""
    length = int(value)
    if length < 0:
        raise ValueError(f"a body of {length} bytes")
    return length


def log_access(scope: Any, status: int) -> None:
    """Write the line about an answer."""
    asked = (get_client_addr(scope), scope["method"], get_path_with_query_string(scope), scope["http_version"])
    ACCESS.info('%s - "%s %s HTTP/%s" %d', *asked, status)
