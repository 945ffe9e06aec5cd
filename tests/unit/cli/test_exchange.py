"""One request and its answer over raw sockets: framing, one write, what an application may do wrong, time."""

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest

from dujiang.cli.connection import Connection
from tests.unit.cli.speaking import GET, LAST, answer_of, piece, saying, serving, start, told

pytestmark = pytest.mark.asyncio


class Noting:
    """An object of which the first argument of each call of one method is noted."""

    def __init__(self, of: Any, method: str, noted: list[Any]) -> None:
        self._of, self._method, self._noted = of, method, noted

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if name != self._method:
            return found

        def noting(first: Any, *rest: Any) -> Any:
            self._noted.append(first)
            return found(first, *rest)

        return noting


class TestFraming:
    async def test_a_length_is_sent_as_it_was_said(self) -> None:
        """With a length the body follows as it is."""
        answer = await answer_of(saying(start((b"content-length", b"3")), piece(b"ab", more=True), piece(b"c")))

        assert answer == (b"HTTP/1.1 200 OK", [b"connection: close", b"content-length: 3"], b"abc")

    async def test_without_a_length_the_body_is_chunked(self) -> None:
        """Without a length each piece is a chunk, and an empty one ends the body; an empty piece before it is none."""
        answer = await answer_of(saying(start(), piece(b"ab", more=True), piece(b"", more=True), piece(b"c")))

        assert answer[1] == [b"connection: close", b"transfer-encoding: chunked"]
        assert answer[2] == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"

    async def test_http_1_0_knows_no_chunks(self) -> None:
        """A client of HTTP/1.0 learns the end of a body without a length from the end of the connection."""
        answer = await answer_of(saying(start(), piece(b"abc")), b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")

        assert answer == (b"HTTP/1.1 200 OK", [b"connection: close"], b"abc")

    async def test_head_gets_no_body(self) -> None:
        """HEAD gets the length of a body that is not sent."""
        said = saying(start((b"content-length", b"3")), piece(b"abc"))
        answer = await answer_of(said, LAST.replace(b"GET", b"HEAD"))

        assert answer == (b"HTTP/1.1 200 OK", [b"connection: close", b"content-length: 3"], b"")

    async def test_204_has_neither_length_nor_chunks(self) -> None:
        """A status without a body needs no framing."""
        answer = await answer_of(saying(start(status=204), piece(b"")))

        assert answer == (b"HTTP/1.1 204 No Content", [b"connection: close"], b"")

    @pytest.mark.parametrize(("status", "told_length"), [(204, []), (304, [b"content-length: 3"])])
    async def test_a_status_without_a_body_gets_none(self, status: int, told_length: list[bytes]) -> None:
        """What is said behind 204 and 304 would be read as the next answer; the length of 304 is that of 200."""
        said = saying(start((b"content-length", b"3"), status=status), piece(b"abc"))
        async with serving(said) as (port, _):
            received = await told(port, GET + LAST)

        first, second, rest = received.split(b"\r\n\r\n")
        assert rest == b""
        assert [line for line in first.split(b"\r\n") if b"length" in line] == told_length
        assert second.startswith(b"HTTP/1.1 %d" % status)

    @pytest.mark.parametrize(
        ("headers", "framing"),
        [
            ([(b"content-length", b"1"), (b"transfer-encoding", b"chunked")], b"transfer-encoding: chunked"),
            ([(b"Transfer-Encoding", b"chunked"), (b"content-length", b"1")], b"transfer-encoding: chunked"),
            ([(b"content-length", b"3"), (b"Content-Length", b"3")], b"content-length: 3"),
            ([(b"Content-Length", b"+3")], b"content-length: 3"),
        ],
    )
    async def test_the_end_of_a_body_is_told_once(self, headers: list[tuple[bytes, bytes]], framing: bytes) -> None:
        """Two words about it are two readings: a proxy before this server might take the other one."""
        _, lines, body = await answer_of(saying(start(*headers), piece(b"abc")))

        assert lines == sorted([b"connection: close", framing])
        assert body == (b"3\r\nabc\r\n0\r\n\r\n" if b"chunked" in framing else b"abc")

    async def test_whether_the_connection_is_kept_the_server_says(self) -> None:
        """An application that says `keep-alive` on a connection that ends does not contradict it."""
        said = saying(start((b"Connection", b"keep-alive"), (b"content-length", b"0")), piece(b""))

        assert (await answer_of(said))[1] == [b"connection: close", b"content-length: 0"]

    async def test_an_application_may_end_the_connection(self) -> None:
        """`Connection: close` of the application ends it, and is said once."""
        said = saying(start((b"connection", b"x, Close"), (b"content-length", b"0")), piece(b""))

        assert (await answer_of(said, GET))[1] == [b"connection: close", b"content-length: 0"]

    async def test_head_and_body_are_one_write(self) -> None:
        """The head waits for the first piece of the body: one system call, and one packet, for a small answer."""
        writes: list[bytes] = []

        class Watched(Connection):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                self.transport = cast("Any", Noting(transport, "write", writes))

        async with serving(saying(start((b"content-length", b"1")), piece(b"a")), Watched) as (port, _):
            await told(port, LAST)

        assert len(writes) == 1


class TestTheApplicationsMistakes:
    @pytest.mark.parametrize(
        "messages",
        [
            [],
            [start()],
            [piece(b"")],
            [start(), start()],
            [start((b"content-length", b"2")), piece(b"a")],
            [start((b"content-length", b"2")), piece(b"abc")],
            [start((b"content-length", b"many")), piece(b"abc")],
            [start((b"content-length", b"-1")), piece(b"")],
            [start(status=100), piece(b"")],
            [start(status=999), piece(b"")],
            [start((b"x", b"a\r\nset-cookie: b"))],
            [start((b"x y", b"a"))],
            [start((b"x\r\nset-cookie", b"a"))],
        ],
    )
    async def test_an_answer_that_is_none_becomes_500(self, messages: list[dict[str, Any]]) -> None:
        """While nothing was sent the client gets a problem document, and nothing of what the application said."""
        status, lines, body = await answer_of(saying(*messages), GET)

        assert status == b"HTTP/1.1 500 Internal Server Error"
        assert b"content-type: application/problem+json" in lines
        assert b'"code":"internal"' in body
        assert not [line for line in lines if b"cookie" in line]

    @pytest.mark.parametrize("said", [[], [piece(b"cd")]])
    async def test_a_broken_body_ends_the_connection(self, said: list[dict[str, Any]]) -> None:
        """After the first bytes the only word left is the end: the body stays shorter than its length."""
        answer = await answer_of(saying(start((b"content-length", b"3")), piece(b"ab", more=True), *said), GET)

        assert answer[2] == b"ab"

    async def test_an_error_is_500(self) -> None:
        """Whatever the application raises, the client gets an answer."""

        async def failing(_scope: Any, _receive: Any, _send: Any) -> None:
            raise ValueError("secret")

        status, _, body = await answer_of(failing, GET)

        assert status.startswith(b"HTTP/1.1 500")
        assert b"secret" not in body

    async def test_a_cancelled_answer_is_500_and_leaves_no_task(self) -> None:
        """The server cancels what outlives its grace: the client hears of it."""
        begun = asyncio.Event()

        async def waiting(_scope: Any, _receive: Any, _send: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        async with serving(waiting) as (port, state):
            heard = asyncio.ensure_future(told(port, GET))
            await begun.wait()
            for task in list(state.tasks):
                task.cancel()
            assert (await heard).startswith(b"HTTP/1.1 500")
            assert not state.tasks


class TestTheRequest:
    async def test_the_scope_tells_the_request(self) -> None:
        """Path, query, headers and addresses as ASGI wants them; the raw path as it came."""
        seen: dict[str, Any] = {}

        async def noting(scope: Any, _receive: Any, send: Any) -> None:
            seen.update(scope)
            await saying(start(status=204), piece(b""))(scope, None, send)

        await answer_of(noting, LAST.replace(b"/ ", b"/a%20b?c=%20d ").replace(b"GET", b"PUT"))

        assert (seen["type"], seen["method"], seen["http_version"], seen["scheme"]) == ("http", "PUT", "1.1", "http")
        assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("/a b", b"/a%20b", b"c=%20d")
        assert seen["headers"] == [(b"host", b"localhost"), (b"connection", b"close")]
        assert (seen["client"][0], seen["server"][0], seen["state"]) == ("127.0.0.1", "127.0.0.1", {})

    async def test_a_body_comes_in_pieces_and_the_departure_after_it(self) -> None:
        """The application hears each piece as it comes, then waits until the client is gone."""
        heard: asyncio.Queue[Any] = asyncio.Queue()

        async def hearing(_scope: Any, receive: Any, _send: Any) -> None:
            while True:
                message = await receive()
                heard.put_nowait(message)
                if message["type"] == "http.disconnect":
                    return

        async with serving(hearing) as (port, _), asyncio.timeout(10):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
            assert await heard.get() == {"type": "http.request", "body": b"ab", "more_body": True}
            writer.write(b"cd")
            assert await heard.get() == {"type": "http.request", "body": b"cd", "more_body": False}
            writer.close()
            assert await heard.get() == {"type": "http.disconnect"}

    async def test_a_client_that_asks_first_is_told_to_go_on(self) -> None:
        """`Expect: 100-continue` is answered when the application begins to read, and once."""

        async def reading(scope: Any, receive: Any, send: Any) -> None:
            message = await receive()
            await saying(start((b"content-length", b"2")), piece(message["body"]))(scope, receive, send)

        async with serving(reading) as (port, _), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"ab")
            assert (await reader.readuntil(b"ab")).count(b"HTTP/1.1") == 1
            writer.close()

    @pytest.mark.parametrize("read_late", [True, False])
    async def test_a_client_that_asks_first_and_is_refused_is_not_told_to_go_on(self, *, read_late: bool) -> None:
        """Whether its body still comes nobody can tell, so the connection ends; nothing stands in or behind the answer."""

        async def refusing(_scope: Any, receive: Any, send: Any) -> None:
            await send(start((b"content-length", b"2"), status=403))
            await send(piece(b"n", more=True))
            if read_late:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await receive()
            await send(piece(b"o"))

        ask = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        status, lines, body = await answer_of(refusing, ask)

        assert (status, body) == (b"HTTP/1.1 403 Forbidden", b"no")
        assert b"connection: close" in lines

    @pytest.mark.parametrize(("version", "early"), [(b"1.1", b"ab"), (b"1.1", b"a"), (b"1.0", b"")])
    async def test_nobody_is_told_to_go_on_who_does_or_cannot_hear_it(self, version: bytes, early: bytes) -> None:
        """A client that sends its body unasked has begun, and one of HTTP/1.0 takes the word for its answer."""
        begun = asyncio.Event()

        async def reading(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message["body"], message["more_body"]
            await saying(start((b"content-length", b"2")), piece(body))(scope, receive, send)

        head = b"POST / HTTP/%s\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n" % version
        async with serving(reading) as (port, _), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + b"Expect: 100-continue\r\n\r\n" + early)
            await begun.wait()
            writer.write(b"ab"[len(early) :])
            received = await reader.read()
            writer.close()

        assert received.startswith(b"HTTP/1.1 200")
        assert received.endswith(b"\r\n\r\nab")

    async def test_what_stands_behind_a_body_is_no_header(self) -> None:
        """A trailer may not pass for a header that somebody before this server has checked or set."""
        seen: list[Any] = []

        async def reading(scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["more_body"]:
                pass
            seen.extend(name for name, _ in scope["headers"])
            await saying(start(), piece(b""))(scope, receive, send)

        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        await answer_of(reading, head + b"1\r\na\r\n0\r\nX-Forwarded-For: me\r\n\r\n")

        assert seen == [b"host", b"connection", b"transfer-encoding"]

    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [
            (b"http://a", "/", b""),
            (b"http://a?b", "/", b"b"),
            (b"http://a/b%20c?d", "/b c", b"d"),
            (b"*", "*", b""),
            (b"/%ff", "/\ufffd", b""),
        ],
    )
    async def test_every_form_of_a_target_has_a_path(self, target: bytes, path: str, query: bytes) -> None:
        """A target with a host and without a path is the root (RFC 9112, 3.2.2)."""
        seen: list[Any] = []

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope["path"], scope["query_string"]))
            await saying(start(), piece(b""))(scope, receive, send)

        await answer_of(noting, LAST.replace(b" / ", b" %s " % target))

        assert seen == [(path, query)]

    async def test_a_root_path_stands_before_every_path(self) -> None:
        """Under a root path both forms of the path begin with it."""
        seen: list[Any] = []

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope["root_path"], scope["path"], scope["raw_path"]))
            await saying(start(), piece(b""))(scope, receive, send)

        async with serving(noting, root_path="/api") as (port, _):
            await told(port, LAST.replace(b" / ", b" /%61 "))

        assert seen == [("/api", "/api/a", b"/api/%61")]

    async def test_a_large_body_is_not_collected(self) -> None:
        """What the application does not read stays with the client: reading pauses, and goes on when it reads."""
        sent, go = 1024 * 1024, asyncio.Event()

        class Paused(Connection):
            def _pause_reading(self) -> None:
                super()._pause_reading()
                go.set()

        async def late(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            size, more = 0, True
            while more:
                message = await receive()
                size, more = size + len(message["body"]), message["more_body"]
            await saying(start(), piece(b"%d" % size))(scope, receive, send)

        async with serving(late, Paused) as (port, _), asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % sent)
            writer.write(b"x" * sent)
            assert b"\r\n%d\r\n" % sent in await reader.readuntil(b"0\r\n\r\n")
            writer.close()

    async def test_a_line_for_each_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        """With `access_log` each answer is a line: who, what, which status."""
        with caplog.at_level("INFO", "uvicorn.access"):
            said = saying(start(status=201), piece(b"a", more=True), piece(b"b"))
            async with serving(said, log_config=None, log_level="info") as (port, _):
                await told(port, LAST.replace(b"/ ", b"/a?b=c "))

        (line,) = [each.getMessage() for each in caplog.records if each.name == "uvicorn.access"]
        assert line.endswith(' - "GET /a?b=c HTTP/1.1" 201')

    async def test_a_failure_between_head_and_body_is_one_line(self, caplog: pytest.LogCaptureFixture) -> None:
        """The line tells the answer that was sent, not the one that the application began."""
        with caplog.at_level("INFO", "uvicorn.access"):
            async with serving(saying(start()), log_config=None, log_level="info") as (port, _):
                await told(port, GET)

        (line,) = [each.getMessage() for each in caplog.records if each.name == "uvicorn.access"]
        assert line.endswith(" 500")


class TestTime:
    async def test_an_idle_connection_ends(self) -> None:
        """After an answer the client has the keep-alive time to ask again, counted from that answer."""
        async with serving(saying(start(status=204), piece(b"")), timeout_keep_alive=1) as (port, _):
            received = await told(port, GET + GET)

        assert received.count(b"204 No Content") == 2
        assert b"connection: close" not in received

    async def test_answers_do_not_add_timers(self) -> None:
        """A connection has one timer, which is not moved by each of its answers."""
        timers: list[float] = []

        class Counted(Connection):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                self.loop = cast("Any", Noting(self.loop, "call_later", timers))

        async with serving(saying(start((b"content-length", b"1")), piece(b"a")), Counted) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(20):
                writer.write(GET)
                await reader.readuntil(b"\r\n\r\na")
            writer.close()

        assert timers == [Counted.head_s, 5]
