"""Clients that mean harm: requests hidden in bodies, more requests than answers, answers that nobody reads, cut connections."""

import asyncio
import gc
import json
import socket
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest

from dujiang.cli.connection import SLICE_BYTES, Connection
from dujiang.cli.stall import Stall
from dujiang.cli.unheard import say_no_websocket
from tests.unit.cli.speaking import GET, LAST, piece, saying, serving, start, told

pytestmark = pytest.mark.asyncio

OFFER = b"Connection: Upgrade\r\nUpgrade: "
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
NEXT = LAST.replace(b" / ", b" /next ")
SIZE = 32 * 1024 * 1024


class Hasty(Connection):
    """A connection with little patience."""

    head_s = 0.3
    linger_s = 0.05
    stall_s = 0.1


async def until(holds: Callable[[], Any]) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  (nobody tells when a connection has been forgotten)
            await asyncio.sleep(0)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the path and the body."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    said = b"<%s %s>" % (scope["path"].encode(), body)
    await saying(start((b"content-length", b"%d" % len(said))), piece(said))(scope, receive, send)


def answers_in(received: bytes) -> list[bytes]:
    """The bodies of echo's answers."""
    return [b"<" + each.partition(b">")[0] + b">" for each in received.split(b"<")[1:]]


class TestOffers:
    @pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"other"])
    @pytest.mark.parametrize("chunked", [True, False])
    async def test_a_request_in_a_body_stays_one(self, protocol: bytes, *, chunked: bool) -> None:
        """Who offers another protocol has a body as anybody else has; what it holds is not the next request."""
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(HIDDEN)
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN) if chunked else HIDDEN
        head = b"POST / HTTP/1.1\r\nHost: a\r\n%s%s\r\n%s\r\n\r\n" % (OFFER, protocol, framing)
        async with serving(echo) as (port, _):
            whole = await told(port, head + body + NEXT)
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for each in (head[:20], head[20:], body[:5], body[5:], NEXT):
                    writer.write(each)
                    await writer.drain()
                    await asyncio.sleep(0)
                pieces = await reader.read()
                writer.close()

        assert answers_in(whole) == answers_in(pieces) == [b"</ " + HIDDEN + b">", b"</next >"]

    async def test_requests_behind_an_offer_are_answered(self) -> None:
        """In one packet and in order, and the offers as the requests that they are."""
        offer = GET[:-2] + OFFER + b"h2c\r\n\r\n"

        assert answers_in(await self.said(offer * 300 + NEXT)) == [b"</ >"] * 300 + [b"</next >"]

    async def test_a_websocket_is_told_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """A page that wants a websocket gets an answer of HTTP; whoever serves it reads why, once however often it asks."""
        say_no_websocket.cache_clear()
        offer = LAST[:-2].replace(b"Connection: close", b"Connection: close, upgrade") + b"Upgrade: WebSocket\r\n\r\n"
        await self.said(offer)
        await self.said(offer)

        (line,) = [each.getMessage() for each in caplog.records if each.name == "dujiang.server"]
        assert "websocket" in line

    async def test_connect_is_refused(self) -> None:
        """A request to a proxy is none to this server, and the answer says so in its own words."""
        received = await self.said(b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n")

        assert received.startswith(b"HTTP/1.1 400")
        assert "proxies" in json.loads(received.partition(b"\r\n\r\n")[2])["detail"]

    @staticmethod
    async def said(sent: bytes) -> bytes:
        """All that echo's server says to this."""
        async with serving(echo) as (port, _):
            return await told(port, sent)


class TestPipelines:
    async def test_requests_that_wait_are_few(self) -> None:
        """However many requests come in a packet, no more of them are made than fit into a slice; each is answered."""
        number, go, made = 4000, asyncio.Event(), 0

        class Counting(Connection):
            def on_headers_complete(self) -> None:
                nonlocal made
                made += 1
                super().on_headers_complete()

        async def held(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await saying(start((b"content-length", b"1")), piece(b"a"))(scope, receive, send)

        async with serving(held, Counting) as (port, state), asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET * number + LAST)
            await until(lambda: made)
            (connection,) = cast("set[Any]", state.connections)
            await until(lambda: not connection._reads)
            most = made
            go.set()
            size = 0
            while data := await reader.read(65_536):
                size += data.count(b"HTTP/1.1 200")
                assert len(connection._line) <= SLICE_BYTES / len(GET) + 1
            writer.close()

        assert most <= SLICE_BYTES / len(GET) + 1
        assert made == number + 1

    async def test_a_client_that_does_not_read_is_not_heard(self) -> None:
        """Behind an answer that is not taken, requests stay with the client: what the server holds of them is bounded."""
        said = saying(start((b"content-length", b"%d" % SIZE)), piece(b"x" * SIZE))
        async with serving(said) as (port, state):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET * 300_000)
            await until(lambda: state.total_requests)
            (connection,) = cast("set[Any]", state.connections)
            await until(lambda: not connection._reads and connection.full)
            assert len(connection._held) <= 1024 * 1024
            assert connection.transport.get_write_buffer_size() <= 2 * SIZE
            writer.transport.abort()
            await until(lambda: not state.connections and not state.tasks)
            del reader

    async def test_a_body_that_breaks_off_takes_no_other_answer_along(self) -> None:
        """The requests before it are answered; it is not, for nobody could tell to which the refusal belongs."""
        bad = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        async with serving(echo) as (port, _):
            one = await told(port, GET + bad)
            two = await told(port, GET + GET + bad + NEXT)

        assert (answers_in(one), answers_in(two)) == ([b"</ >"], [b"</ >"] * 2)
        assert one.count(b"HTTP/1.1 ") == 1
        assert two.count(b"HTTP/1.1 ") == 2

    async def test_what_stands_behind_the_end_is_not_answered(self) -> None:
        """`Connection: close` means it, whatever comes in the same packet."""
        async with serving(echo) as (port, _):
            assert answers_in(await told(port, LAST + NEXT)) == [b"</ >"]


class TestBodies:
    async def test_trailers_without_end_are_431(self) -> None:
        """What is neither head nor body is not collected for ever."""
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        async with serving(echo, Hasty) as (port, _), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            for _ in range(10):
                writer.write(b"x" * 32_768)
                await asyncio.sleep(0)
            received = await reader.read()
            writer.close()

        assert received.startswith(b"HTTP/1.1 431")

    async def test_many_small_chunks_are_a_body(self) -> None:
        """The bytes between chunks are counted only as long as no body comes with them, and add to nothing."""
        number = 200
        async with serving(echo) as (port, state), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            await until(lambda: state.tasks)
            (connection,) = cast("set[Any]", state.connections)
            for _ in range(number):  # As packets of their own, which a socket does not promise.
                connection.data_received(b"1;" + b"x" * 1000 + b"\r\n")
                connection.data_received(b"a\r\n")
            connection.data_received(b"0\r\n\r\n")
            received = await reader.read()
            writer.close()

        assert answers_in(received) == [b"</ " + b"a" * number + b">"]

    @pytest.mark.parametrize("close", [b"Connection: close\r\n", b""])
    async def test_an_answer_over_an_unread_body_arrives(self, close: bytes) -> None:
        """A connection closed over unread bytes is reset and the answer may be lost: the rest is thrown away first."""
        headers = [(b"content-length", b"2")] if close else [(b"content-length", b"2"), (b"connection", b"close")]
        async with serving(saying(start(*headers, status=403), piece(b"no")), Hasty) as (port, _):
            received = await told(
                port, b"POST / HTTP/1.1\r\nHost: a\r\n%sContent-Length: 4000000\r\n\r\n" % close + b"x" * 4_000_000
            )

        assert received.startswith(b"HTTP/1.1 403")
        assert received.endswith(b"no")

    async def test_the_rest_of_a_body_ends_and_the_connection_is_idle(self) -> None:
        """A body that nobody read ends: from then on the client has the time of an idle connection, not of a head."""
        async with serving(saying(start(status=204), piece(b"")), Hasty, timeout_keep_alive=60) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
            async with asyncio.timeout(10):
                await reader.readuntil(b"\r\n\r\n")
            writer.write(b"b")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(Hasty.head_s * 2):
                    await reader.read(1)
            writer.write(LAST)
            async with asyncio.timeout(10):
                assert (await reader.read()).startswith(b"HTTP/1.1 204")
            writer.close()


class TestClientsThatTakeNothing:
    @pytest.mark.parametrize("pieces", [1, 64])
    async def test_their_connection_ends(self, pieces: int) -> None:
        """Whether the application waits to send or has said all, nothing of the answer is held for ever."""
        each = piece(b"x" * (SIZE // pieces), more=True)
        said = saying(start(), *[each] * pieces, piece(b""))
        async with serving(said, Hasty, timeout_keep_alive=0) as (port, state):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(GET)
                await until(lambda: state.tasks or state.total_requests)
                await until(lambda: not state.connections and not state.tasks)

    async def test_a_slow_one_has_its_time_again_with_each_byte(self) -> None:
        """As long as less waits at each look, the connection stays."""
        sizes, aborted = [9, 8, 7, 7], asyncio.Event()

        class Slow:
            def get_write_buffer_size(self) -> int:
                return sizes.pop(0)

            def abort(self) -> None:
                aborted.set()

        stall = Stall(asyncio.get_running_loop(), cast("Any", Slow()), 0.001)
        stall.watch()
        stall.watch()
        async with asyncio.timeout(10):
            await aborted.wait()

        assert sizes == []


class TestCutConnections:
    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"GET /",
            GET,
            GET * 3,
            GET + b"GET /",
            b"garbage",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 2,
        ],
    )
    async def test_nothing_of_them_stays(self, sent: bytes) -> None:
        """A connection that is cut leaves no task and no cycle: it is gone without the collector, wherever it was."""
        made: list[weakref.ref[Connection]] = []

        class Known(Hasty):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                made.append(weakref.ref(self))

        async def held(scope: Any, receive: Any, send: Any) -> None:
            while scope["path"] == "/held" and (await receive())["type"] != "http.disconnect":
                pass
            await echo(scope, receive, send)

        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        gc.disable()
        try:
            async with serving(held, Known) as (port, state):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                await until(lambda: made)
                await asyncio.sleep(0)
                writer.transport.abort()
                await until(lambda: not state.connections and not state.tasks)
                await until(lambda: made[0]() is None)
        finally:
            gc.enable()

        assert failures == []
