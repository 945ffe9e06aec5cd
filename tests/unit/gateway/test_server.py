"""The HTTP cases of the bad-input corpus that need a real parser: raw bytes to uvicorn with httptools, guard behind it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from uvicorn.server import ServerState

from dujiang.cli.connection import Connection
from dujiang.gateway.body import read_body
from dujiang.gateway.guard import Guard, Limits
from dujiang.gateway.problems import JSON_HEADERS, Answer, answer_of_exception, send_answer
from dujiang.kernel.node import Node

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOST = b"Host: localhost\r\n"
LIMITS = Limits(body_s=0.2, body_grace_s=0.1, linger_s=0.1)


@dataclass
class Reply:
    """What came back on a raw connection."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool

    @property
    def problem(self) -> dict[str, object]:
        """The problem document."""
        found: dict[str, object] = json.loads(self.body)
        return found


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the size of the body and the path as it was understood."""
    try:
        body = await read_body(receive)
        answer = Answer(200, list(JSON_HEADERS), json.dumps({"size": len(body), "path": scope["path"]}).encode())
    except Exception as error:  # noqa: BLE001
        answer = answer_of_exception(error)
    await send_answer(send, answer)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def port() -> AsyncIterator[int]:
    """The port of a server on loopback: our connection over uvicorn and httptools, our guard, an echo."""
    app = Guard(echo, Node.system("test"), limits=LIMITS)
    config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_level="critical", proxy_headers=False)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    yield server.sockets[0].getsockname()[1]
    server.close()
    for connection in list(state.connections):
        connection.shutdown()
    await server.wait_closed()


async def exchange(port: int, sent: bytes) -> Reply:
    """Send bytes as they are; read one response and look whether the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        writer.write(sent)
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): text.strip() for name, _, text in (line.partition(":") for line in head[1:] if line)
            }
            body = await reader.readexactly(int(headers["content-length"])) if "content-length" in headers else b""
            try:
                async with asyncio.timeout(0.5 if "close" in headers.get("connection", "") else 0.02):
                    closed = not await reader.read(1)
            except TimeoutError:
                closed = False
        return Reply(int(head[0].split()[1]), headers, body, closed)
    finally:
        writer.close()


def post(headers: bytes, body: bytes = b"") -> bytes:
    """A POST with these header lines."""
    return b"POST /a HTTP/1.1\r\n" + headers + b"\r\n" + body


BY_GUARD = {
    "24 NUL in the id": (b"GET /a/x%00y HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_path", "%00"),
    "36 body of 1 MiB + 1": (
        post(HOST + b"Content-Length: 1048577\r\n", b"x" * 1_048_577),
        413,
        "body_too_large",
        "1048576",
    ),
    "36 the same in chunks": (
        post(HOST + b"Transfer-Encoding: chunked\r\n", b"100001\r\n" + b"x" * 1_048_577 + b"\r\n0\r\n\r\n"),
        413,
        "body_too_large",
        "1048576",
    ),
    "37 fewer bytes than promised": (post(HOST + b"Content-Length: 10\r\n", b"12345"), 408, "body_too_slow", "5 bytes"),
    "37 chunks that do not end": (
        post(HOST + b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n"),
        408,
        "body_too_slow",
        "2 bytes",
    ),
    "41 two Hosts": (b"GET /a HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400, "bad_host", "two Host"),
    "42 no Host": (b"GET /a HTTP/1.1\r\n\r\n", 400, "bad_host", "no Host"),
    "43 foreign Host": (b"GET /a HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, "foreign_host", "evil.example"),
    "44 header of 100 KB": (
        b"GET /a HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        431,
        "headers_too_large",
        "16384",
    ),
    "45 5,000 headers": (
        b"GET /a HTTP/1.1\r\n" + HOST + b"X: x\r\n" * 5000 + b"\r\n",
        431,
        "headers_too_large",
        "64",
    ),
    "49 escaped dot segments": (b"GET /a/%2e%2e/b HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_path", "'..'"),
    "49 plain dot segments": (b"GET /a/../b HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_path", "'..'"),
    "49 escaped slash": (b"GET /a/..%2fb HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_path", "%2f"),
    "50 URL of 10 KB": (b"GET /" + b"a" * 10_240 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "target_too_long", "8192"),
    "52 TRACE": (b"TRACE /a HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method_not_allowed", "TRACE"),
    "54 gzip": (post(HOST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n", b"{}"), 415, "content_coding", "gzip"),
    "80 no version": (b"GET /a\r\n" + HOST + b"\r\n", 505, "http_version", "0.9"),
    "55 unknown coding": (
        post(HOST + b"Content-Encoding: zip9\r\nContent-Length: 2\r\n", b"{}"),
        415,
        "content_coding",
        "zip9",
    ),
}

BY_PARSER = {
    "39 bad chunk size": (post(HOST + b"Transfer-Encoding: chunked\r\n", b"zz\r\nab\r\n0\r\n\r\n"), 400, "unreadable"),
    "40 length beside chunks": (
        post(HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
        400,
        "unreadable",
    ),
    "40 two lengths": (post(HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n", b"12345"), 400, "unreadable"),
    "46 bare LF": (b"GET /a HTTP/1.1\nHost: localhost\n\n", 400, "unreadable"),
    "47 folded header": (b"GET /a HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", 400, "unreadable"),
    "48 unknown transfer coding": (
        post(HOST + b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
        400,
        "unreadable",
    ),
    "51 unknown method": (b"FOO /a HTTP/1.1\r\n" + HOST + b"\r\n", 501, "method_unknown"),
    "80 unknown version": (b"GET /a HTTP/3.7\r\n" + HOST + b"\r\n", 400, "unreadable"),
    "NUL in a header": (b"GET /a HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n", 400, "unreadable"),
    "the start of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "unreadable"),
}


class TestTheGuardBehindARealServer:
    @pytest.mark.parametrize("case", BY_GUARD)
    async def test_it_refuses_with_a_problem_document_and_closes(self, port: int, case: str) -> None:
        """What httptools lets through is refused by name, with what to change, and the connection ends."""
        sent, status, code, said = BY_GUARD[case]

        reply = await exchange(port, sent)

        assert (reply.status, reply.problem["code"]) == (status, code)
        assert reply.headers["content-type"] == "application/problem+json"
        assert said in str(reply.problem["detail"])
        assert reply.problem["hint"]
        assert reply.problem["layer"] == "guard"
        assert reply.closed

    @pytest.mark.parametrize("case", BY_PARSER)
    async def test_the_parser_refuses_what_cannot_be_framed(self, port: int, case: str) -> None:
        """What leaves open where the request ends never reaches a handler: a problem document, and the connection ends."""
        sent, status, code = BY_PARSER[case]

        reply = await exchange(port, sent)

        assert (reply.status, reply.problem["code"]) == (status, code)
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.problem["hint"]
        assert reply.closed

    async def test_a_good_request_keeps_the_connection(self, port: int) -> None:
        """A body at the limit passes, and the connection lives on."""
        reply = await exchange(port, post(HOST + b"Content-Length: 1048576\r\n", b"x" * 1_048_576))

        assert reply.status == 200
        assert json.loads(reply.body)["size"] == 1_048_576
        assert not reply.closed

    async def test_a_body_in_pieces_is_read_whole(self, port: int) -> None:
        """Chunks that arrive one after the other are one body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(HOST + b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n"))
        await writer.drain()
        writer.write(b"3\r\ncde\r\n")
        await writer.drain()
        writer.write(b"0\r\n\r\n")

        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(len(b'{"size": 5, "path": "/a"}'))

        writer.close()
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(body)["size"] == 5

    async def test_the_answer_survives_a_client_that_sends_on(self, port: int) -> None:
        """A client that sends its whole body before it reads still gets the 413, not a reset connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(HOST + b"Content-Length: 3000000\r\n", b""))
        for _ in range(30):
            writer.write(b"x" * 100_000)
            await writer.drain()

        received = await reader.read()

        writer.close()
        assert received.startswith(b"HTTP/1.1 413")
        assert b"body_too_large" in received
