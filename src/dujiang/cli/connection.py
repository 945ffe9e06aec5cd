"""Connection: uvicorn's connection with a bounded head, and with an answer that says why when it cannot be read.

    first byte of a head ──► head complete          within HEAD_S, else 408 and the end
                 └──► HEAD_BYTES_MAX                431 and the end
    new connection, or bytes that are no head       within HEAD_S, else the end, without a word
    what httptools cannot read                      400, an unknown method 501, and the end

Without a limit a few hundred sockets that send a header every minute hold as many descriptors as there are. The guard sees a
request only when its head is whole, so the time and the size of a head can be bounded nowhere but here. A request that
comes in one packet costs two flags.

A refusal is never written into an answer that is under way: what cannot be read behind a request in flight ends the
connection after that request's answer.

uvicorn owns the sockets, the signals' end of life and the date; this class, and the exchange that it makes for each request,
stand in the place of its own protocol. They do what that does with half the work for each request: head and body of an
answer in one write, one timer for a connection instead of one for each answer, no event and no callback for what has come
already. Rejected: to inherit from it and override; of what a request passes, nothing was left.

tests/unit/cli/test_connection.py, test_exchange.py and test_hostile_clients.py speak to a real server over raw sockets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote

import httptools

from dujiang.cli.exchange import ACCESS, Exchange, scope_of
from dujiang.cli.stall import Stall
from dujiang.cli.unheard import HeadTooSlow, head_without_offer, parser_for, refusal, unreadable
from dujiang.gateway.refusals import HeadersTooLarge
from dujiang.kernel.tasks import started

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from dujiang.gateway.problems import RequestRefused

__all__ = ["Connection"]

HEAD_S = 10.0
HEAD_BYTES_MAX = 64 * 1024
LINGER_S = 1.0
FIRST_S = 1.0
STALL_S = 60.0
UNREAD_BYTES_MAX = 64 * 1024
SLICE_BYTES = 16 * 1024


class Connection(asyncio.Protocol):
    """One connection of a client, as uvicorn's server makes them.

    Args:
        config: The server's settings.
        server_state: What the connections of a server share: themselves, the tasks that answer, the headers of every answer.
        app_state: What the application put there when it started.

    Attributes:
        head_s: Seconds in which a head must be complete.
        head_bytes: Bytes of a head at most; the guard's own limit on headers is lower and more exact.
        linger_s: Seconds for which what a refused client still sends is thrown away, so that it can read why.
        first_s: Seconds that a connection which has said nothing yet has to say it, when the server ends.
        stall_s: Seconds in which a client must take something of what waits for it.
        full: Whether the client reads more slowly than it is answered.
        access_log: Whether somebody wants a line about each answer.
    """

    head_s: ClassVar[float] = HEAD_S
    head_bytes: ClassVar[int] = HEAD_BYTES_MAX
    linger_s: ClassVar[float] = LINGER_S
    first_s: ClassVar[float] = FIRST_S
    stall_s: ClassVar[float] = STALL_S

    transport: asyncio.Transport
    _stall: Stall

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.loop = _loop or asyncio.get_running_loop()
        self.config = config
        self.server_state = server_state
        self.full = False
        self._application = config.loaded_app
        self._app_state = app_state
        self._parser = parser_for(self)
        self.access_log = ACCESS.hasHandlers()
        self._scope: dict[str, Any] = {}
        self._drained: asyncio.Event | None = None
        self._reads = True
        self._held = b""  # What came behind requests that wait, as it came.
        # Requests: the one that is answered, those that wait for it, and the one that came last.
        self._active: Exchange | None = None
        self._line: deque[Exchange] = deque()
        self._last: Exchange | None = None
        # The head that arrives.
        self._in_head = self._moved = False
        self._size = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._asked_first = False
        # Time.
        self._timer: asyncio.TimerHandle | None = None
        self._rings = 0.0
        self._until: float | None = None
        self._idle = False
        self._deaf = False

    # What the loop calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here; it shall say something."""
        self.transport = transport
        self._stall = Stall(self.loop, transport, self.stall_s)
        self.server_state.connections.add(self)  # type: ignore[arg-type]  # Of uvicorn's own kinds, by its annotation.
        self._scope = scope_of(transport, self.config)
        self._allow(self.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.server_state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._line.clear()
        self._held = b""
        self._deaf = True
        if self._active is not None:
            self._active.leave()
        self.resume_writing()
        if exc is None:
            self.transport.close()
        self._parser = self._active = self._last = None  # They hold this object, and this object them.

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._deaf:
            return
        if self._idle:
            self._idle, self._until = False, None
        self._moved = False
        if len(data) <= SLICE_BYTES and not self._line:
            self._feed(data)
        else:
            self._feed_slices(data)
        # Only what adds to a head, or is neither head nor body, is counted; and not the packet in which a head begins, which
        # may hold the end of what came before it.
        if not self._moved:
            self._size += len(data)
            if self._size > self.head_bytes:
                self._refuse(HeadersTooLarge(what="bytes of headers", size=self._size, limit=self.head_bytes))
        if self._active is None and self._until is None and not self._deaf:
            self._allow(self.head_s)

    def _feed_slices(self, data: bytes) -> None:
        """Let the parser read until requests wait, and keep the rest as it came: a request is a hundred times its bytes."""
        for at in range(0, len(data), SLICE_BYTES):
            if self._line:
                self._held += data[at:]
                self._moved = True
                self._pause_reading()
                return
            self._feed(data[at : at + SLICE_BYTES])

    def _feed(self, data: bytes) -> None:
        while data and not self._deaf:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = head_without_offer(self._parser, self._url, self._headers) + data[offer.args[0] :]
                self._parser = parser_for(self)
            except httptools.HttpParserError as cause:
                self._refuse(unreadable(cause, data))
            else:
                return

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.full = True
        self._stall.watch()

    def resume_writing(self) -> None:
        """The client has read what there was, or is gone."""
        self.full = False
        self._stall.rest()
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    # What the server calls --------------------------------------------------------------------------------------------

    def say_goodbye(self) -> None:
        """End the connection with the answer that is under way; those to come see to it themselves."""
        if self._last is not None and not self._last.complete:
            self._last.keep_alive = False

    def shutdown(self) -> None:
        """The server ends: so does an idle connection, and a busy one after its answer; a young one may still ask."""
        if self._in_head or self._last is None:
            self._allow(self.first_s)
        elif self._active is None:
            self.end()
        else:
            self._last.keep_alive = False

    # What the parser calls --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self._in_head = self._moved = True
        self._size = 0
        self._url = b""
        self._headers = []
        self._asked_first = False

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what stands behind a body is none, and may not pass for one."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._asked_first = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The last byte of a head: here is a request."""
        parser = self._parser
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise ValueError("CONNECT is for proxies, and this is none")
            return
        self._in_head, self._until, self._size = False, None, 0
        version = parser.get_http_version()
        url = httptools.parse_url(self._url)
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")
        root_path = self._scope["root_path"]
        scope = {
            **self._scope,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "path": root_path + (unquote(path) if "%" in path else path),
            "raw_path": root_path.encode("ascii") + raw_path if root_path else raw_path,
            "query_string": url.query or b"",
            "headers": self._headers,
            "state": self._app_state.copy(),
        }
        keep_alive = version != "1.0" and parser.should_keep_alive()
        self._last = Exchange(self, scope, keep_alive=keep_alive, asked_first=self._asked_first and version != "1.0")
        if self._active is None:
            self._answer(self._last)
        else:
            self._line.append(self._last)
            self._pause_reading()
        if getattr(self.config, "goodbye", False):
            self._last.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._moved, self._size = True, 0
        last = self._last
        if last is not None and not last.complete and last.take(body) > UNREAD_BYTES_MAX:
            self._pause_reading()

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        last = self._last
        if last is None or self._in_head:
            return  # The request in whose head the parser saw an offer has yet to be read.
        last.end_body()
        if self._active is None:
            self._idle = True
            self._allow(self.config.timeout_keep_alive)

    # What an answer calls ---------------------------------------------------------------------------------------------

    def answered(self) -> None:
        """The last byte of an answer: the next one, or time for the client to ask again."""
        self.server_state.total_requests += 1
        active, self._active = self._active, None
        if active is None or self.transport.is_closing():
            return
        if not active.keep_alive:
            if active.more_body:
                self.linger()
            else:
                self.end()
            return
        if self._line:
            self._answer(self._line.popleft())
            if not self._line:
                held, self._held = self._held, b""
                self.resume_reading()
                self.data_received(held)
            return
        self.resume_reading()
        # A head that began behind the request has its time from now on.
        self._idle = not self._in_head
        self._allow(self.head_s if self._in_head else self.config.timeout_keep_alive)

    def resume_reading(self) -> None:
        """Hear the client again, if only that it leaves; unless more of it than a packet would be kept."""
        if not self._reads and not self._held:
            self._reads = True
            self.transport.resume_reading()

    async def drained(self) -> None:
        """Return when the client has read what there was, or is gone."""
        if self.full:
            self._drained = self._drained or asyncio.Event()
            await self._drained.wait()

    def _answer(self, exchange: Exchange) -> None:
        self._active = exchange
        exchange.task = started(self.loop, exchange.run(self._application), self.server_state.tasks)

    def _pause_reading(self) -> None:
        if self._reads:
            self._reads = False
            self.transport.pause_reading()

    # Time and refusal -------------------------------------------------------------------------------------------------

    def _allow(self, seconds: float) -> None:
        """Give the client so long. The timer is moved only when it would ring too late: most often it need not be."""
        self._until = until = self.loop.time() + seconds
        if self._timer is None or self._rings > until:
            if self._timer is not None:
                self._timer.cancel()
            self._rings = until
            self._timer = self.loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._until is None or self.transport.is_closing():
            return
        left_s = self._until - self.loop.time()
        if left_s > 0:
            self._allow(left_s)
            return
        self._until = None
        if self._in_head:
            self._refuse(HeadTooSlow(after_s=self.head_s))
        else:
            self.end()

    def _refuse(self, error: RequestRefused) -> None:
        """Answer and end the connection; behind a request in flight, end it after that request's answer."""
        if self._deaf or self.transport.is_closing():
            return
        self._ignore()
        last = self._last
        if last is not None and not last.complete:
            if self._line and last.more_body and not self._in_head:
                self._line.pop()  # Its own body broke off; those before it are answered.
                last = self._line[-1] if self._line else self._active
                assert last is not None
            if self._in_head or not last.more_body:
                last.keep_alive = False
                return
            if last.written:
                self.transport.close()  # Its own body broke off, and this is not the place for another answer.
                return
            last.leave()  # Whatever the application still says to it is dropped.
        self.transport.write(refusal(error))
        self.linger()

    def _ignore(self) -> None:
        """Throw away what the client still says."""
        self._deaf, self._until, self._held = True, None, b""
        self.resume_reading()

    def linger(self) -> None:
        """End the connection, but first throw away what still comes: closed over unread bytes it is reset, its answer lost."""
        self._ignore()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(self.linger_s, self.end)

    def end(self) -> None:
        """End the connection when the client has taken what there is for it, or takes nothing of it any more."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._stall.watch()
