"""The connection over raw sockets: heads that do not come to an end, garbage behind a request, pipelining, keep-alive.

The limits are low and no test waits for more than them. Everything that dujiang.cli.connection uses of uvicorn's protocol
is met here, so a version of uvicorn that names something otherwise fails here first.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from uvicorn.server import ServerState

from dujiang.cli.connection import HEAD_S, Connection
from dujiang.cli.server import server_config
from dujiang.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"GET /a HTTP/1.1\r\nHost: localhost\r\n"
GOOD = HEAD + b"\r\n"


class Hasty(Connection):
    """A connection with little patience."""

    head_s = 0.4
    linger_s = 0.05


class Held:
    """An application that answers with the path; /held waits until it is released, a body is read first.

    Attributes:
        release: Lets a held request go.
        holds: Is set when one is held.
    """

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.holds = asyncio.Event()
        self.messages: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["path"] == "/body":
            message = {"more_body": True}
            while message.get("more_body"):
                message = await receive()
                self.messages.append(message["type"])
        if scope["path"] == "/held":
            self.holds.set()
            await self.release.wait()
        body = scope["path"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@pytest_asyncio.fixture(loop_scope="module")
async def served() -> AsyncIterator[tuple[Held, int]]:
    """The application and its port."""
    app = Held()
    config = uvicorn.Config(app, http=Hasty, ws="none", lifespan="off", log_level="critical", proxy_headers=False)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Hasty(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    yield app, server.sockets[0].getsockname()[1]
    server.close()
    for connection in list(state.connections):
        connection.shutdown()
    await server.wait_closed()


async def opened(port: int, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which something was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    await writer.drain()
    return reader, writer


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server ends the connection; a server that does not is an error."""
    async with asyncio.timeout(10):
        return await reader.read()


async def one_of(reader: asyncio.StreamReader) -> bytes:
    """One answer of the application: its body."""
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        return await reader.readexactly(int(length.partition(b":")[2]))


def problem_in(received: bytes) -> dict[str, Any]:
    """The only answer that came, as a problem document."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head
    document: dict[str, Any] = json.loads(body)
    assert head.split()[1] == str(document["status"]).encode()
    return document


class TestSlowHeads:
    @pytest.mark.parametrize("begun", [b"G", b"GET /a HT", HEAD, HEAD + b"X: half"])
    async def test_38_a_head_that_does_not_end_is_408(self, served: tuple[Held, int], begun: bytes) -> None:
        """A head that stops anywhere is answered with 408 after the limit, and the connection ends."""
        reader, writer = await opened(served[1], begun)

        found = problem_in(await all_of(reader))

        writer.close()
        assert (found["status"], found["code"], found["layer"]) == (408, "head_too_slow", "server")
        assert "0.4 s" in found["detail"]

    async def test_38_bytes_that_trickle_buy_no_time(self, served: tuple[Held, int]) -> None:
        """A header at a time, for ever, ends at the same limit: each write but the last comes well within it."""
        reader, writer = await opened(served[1], HEAD)

        received = b""
        for number in range(1000):
            writer.write(b"X-%d: 1\r\n" % number)
            try:
                async with asyncio.timeout(0.03):
                    received = await reader.read(1)
                received += await all_of(reader)
                break
            except TimeoutError:
                continue

        writer.close()
        assert problem_in(received)["code"] == "head_too_slow"

    async def test_38_the_limit_holds_behind_an_answer_too(self, served: tuple[Held, int]) -> None:
        """On a kept connection the next head has the same limit: uvicorn's own timer ends with its first byte."""
        reader, writer = await opened(served[1], GOOD)
        assert await one_of(reader) == b"/a"
        writer.write(b"GET /b HTTP/1.1\r\n")

        found = problem_in(await all_of(reader))

        writer.close()
        assert found["code"] == "head_too_slow"

    @pytest.mark.parametrize("sent", [b"", b"\r\n"])
    async def test_a_connection_that_says_nothing_is_ended(self, served: tuple[Held, int], sent: bytes) -> None:
        """Without a byte of a head there is nobody to answer: the connection ends, without a word."""
        reader, writer = await opened(served[1], sent)

        assert await all_of(reader) == b""
        writer.close()

    async def test_empty_lines_do_not_keep_a_connection(self, served: tuple[Held, int]) -> None:
        """A line end on an idle connection stops uvicorn's keep-alive timer, and ours ends the connection."""
        reader, writer = await opened(served[1], GOOD)
        assert await one_of(reader) == b"/a"
        writer.write(b"\r\n")

        assert await all_of(reader) == b""
        writer.close()

    async def test_a_head_without_end_is_431(self, served: tuple[Held, int]) -> None:
        """A head is not collected for ever: above the limit it is refused, however fast it comes."""
        reader, writer = await opened(served[1], HEAD + b"X: ")
        for _ in range(10):
            writer.write(b"x" * 32_768)
            await asyncio.sleep(0)

        found = problem_in(await all_of(reader))

        writer.close()
        assert (found["status"], found["code"]) == (431, "headers_too_large")

    async def test_a_handler_may_take_longer_than_a_head(self, served: tuple[Held, int]) -> None:
        """The limit is the head's: a request in flight is not touched by it, nor a half head that waits behind it."""
        app, port = served
        reader, writer = await opened(port, b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n" + HEAD)
        await app.holds.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(Hasty.head_s * 2):
                await reader.read(1)
        app.release.set()

        assert await one_of(reader) == b"/held"
        writer.write(b"\r\n")
        assert await one_of(reader) == b"/a"
        writer.close()

    async def test_38_half_a_head_behind_an_answer_gets_its_time_then(self, served: tuple[Held, int]) -> None:
        """A head that began behind a request in flight is 408 when it does not go on after that request's answer."""
        app, port = served
        reader, writer = await opened(port, b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n" + HEAD)
        await app.holds.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(Hasty.head_s * 2):
                await reader.read(1)
        app.release.set()
        assert await one_of(reader) == b"/held"

        found = problem_in(await all_of(reader))

        writer.close()
        assert found["code"] == "head_too_slow"

    async def test_a_body_may_take_longer_than_a_head(self, served: tuple[Held, int]) -> None:
        """A body has limits of its own (the guard's); the head's is over."""
        reader, writer = await opened(
            served[1], b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\na"
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(Hasty.head_s * 2):
                await reader.read(1)
        writer.write(b"b")

        assert await one_of(reader) == b"/body"
        writer.close()


class TestOrder:
    async def test_pipelined_requests_are_answered_in_order(self, served: tuple[Held, int]) -> None:
        """Three requests in one packet, and a fourth in two, give four answers on one connection."""
        app, port = served
        app.release.set()
        reader, writer = await opened(
            port, b"".join(GOOD.replace(b"/a", path) for path in (b"/1", b"/held", b"/3")) + b"GET /4"
        )
        bodies = [await one_of(reader) for _ in range(3)]
        writer.write(b" HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert [*bodies, await one_of(reader)] == [b"/1", b"/held", b"/3", b"/4"]
        writer.close()

    async def test_a_connection_is_kept(self, served: tuple[Held, int]) -> None:
        """One connection takes many requests, one after the other."""
        reader, writer = await opened(served[1], b"")
        for _ in range(20):
            writer.write(GOOD)
            assert await one_of(reader) == b"/a"

        writer.close()

    async def test_garbage_does_not_overtake_an_answer(self, served: tuple[Held, int]) -> None:
        """What cannot be read behind a request in flight waits: its answer comes whole and alone, then the end."""
        app, port = served
        reader, writer = await opened(port, GOOD.replace(b"/a", b"/held") + b"\x00garbage\r\n\r\n")
        await app.holds.wait()
        app.release.set()

        received = await all_of(reader)

        writer.close()
        assert received.startswith(b"HTTP/1.1 200")
        assert received.count(b"HTTP/1.1") == 1
        assert received.endswith(b"/held")

    async def test_a_body_that_breaks_off_is_400_and_the_handler_hears_of_it(self, served: tuple[Held, int]) -> None:
        """A bad chunk is answered once; the application gets a disconnect, and what it says is not sent."""
        app, port = served
        reader, writer = await opened(
            port, b"POST /body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
        )
        writer.write(b"zz\r\n")

        received = await all_of(reader)

        writer.close()
        assert problem_in(received)["code"] == "unreadable"
        assert app.messages[-1] == "http.disconnect"


class TestTheServer:
    async def test_it_is_what_dujiang_up_serves_with(self) -> None:
        """`dujiang up` gives every connection this class, with a limit of seconds."""
        config = server_config(None, Settings(), grace_s=10.0)

        assert config.http is Connection
        assert Connection.head_s == HEAD_S == 10.0
