"""The guard before any ASGI application: what it refuses by itself, whatever the server lets through."""

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI, Request

from dujiang.gateway.body import ClientGone, read_body
from dujiang.gateway.guard import Guard, Limits
from dujiang.kernel.node import Node

HOST = (b"host", b"localhost:8000")
CHUNKED = [HOST, (b"transfer-encoding", b"chunked")]


class Caller:
    """Calls an application with one scope and keeps what it sends.

    Args:
        messages: What `receive` gives, one after the other; after the last it waits for ever.
    """

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)

    async def send(self, message: Any) -> None:
        """Keep a message."""
        self.sent.append(message)

    async def call(self, app: Any, *, headers: list[tuple[bytes, bytes]] | None = None, **scope: Any) -> int:
        """The status of the answer; 0 without one."""
        path = scope.pop("path", "/a")
        whole = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [HOST] if headers is None else headers,
            **scope,
        }
        await app(whole, self.receive, self.send)
        return self.sent[0].get("status", 0) if self.sent else 0

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document that was sent."""
        found: dict[str, Any] = json.loads(b"".join(message.get("body", b"") for message in self.sent))
        return found


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    """A piece of a request body."""
    return {"type": "http.request", "body": body, "more_body": more}


async def reads(scope: Any, receive: Any, send: Any) -> None:
    """Read the body and answer 200."""
    await read_body(receive, 1 << 30)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def guard(app: Any = reads, **options: Any) -> Guard:
    """A guard with short times."""
    options.setdefault("limits", Limits(body_s=0.05, body_grace_s=0.03, linger_s=0.01))
    return Guard(app, Node.system("test"), **options)


EMPTY = part(b"", more=False)


class TestHead:
    @pytest.mark.parametrize(
        ("headers", "status", "code"),
        [
            ([], 400, "bad_host"),
            ([HOST, HOST], 400, "bad_host"),
            ([(b"host", b"local host")], 400, "bad_host"),
            ([(b"host", b"a@b")], 400, "bad_host"),
            ([(b"host", b"localhost.evil.example")], 421, "foreign_host"),
            ([HOST, (b"content-length", b"1"), (b"content-length", b"1")], 400, "bad_framing"),
            ([HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")], 400, "bad_framing"),
            ([HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")], 400, "bad_framing"),
            ([HOST, (b"transfer-encoding", b"xchunked")], 501, "transfer_coding"),
            ([HOST, (b"content-length", b"+1")], 400, "bad_framing"),
            ([HOST, (b"content-length", b"1" * 5000)], 413, "body_too_large"),
            ([HOST, (b"x", b"y" * 16_400)], 431, "headers_too_large"),
            ([HOST, *[(b"x", b"y")] * 64], 431, "headers_too_large"),
        ],
    )
    async def test_bad_heads_are_refused(self, headers: list[tuple[bytes, bytes]], status: int, code: str) -> None:
        """Each bad head is refused before the application sees it, and the connection closes."""
        caller = Caller(EMPTY)

        assert await caller.call(guard(), headers=headers) == status
        assert (caller.problem["code"], caller.problem["layer"]) == (code, "guard")
        assert (b"connection", b"close") in caller.sent[0]["headers"]

    @pytest.mark.parametrize("path", ["/a\0b", "/a\x1fb", "/a\x7fb", "/./a", "/a/..", "/a\\b", "/a\ufffd"])
    async def test_decoded_paths_are_looked_at(self, path: str) -> None:
        """A server that decodes by itself and gives no raw path does not open a way around."""
        caller = Caller(EMPTY)

        assert await caller.call(guard(), path=path, raw_path=None) == 400
        assert caller.problem["code"] == "bad_path"

    @pytest.mark.parametrize("raw", [b"/a%2Fb", b"/a%5cb", b"/a%zz", b"/a%1", b"/a%0ab", b"/%7f"])
    async def test_escapes_are_looked_at(self, raw: bytes) -> None:
        """Escaped slashes, escaped control characters and broken escapes are refused."""
        caller = Caller(EMPTY)

        assert await caller.call(guard(), path="/ab", raw_path=raw) == 400

    async def test_nul_in_the_query_is_refused(self) -> None:
        """A query that holds U+0000 would only fail deeper down."""
        assert await Caller(EMPTY).call(guard(), query_string=b"q=a%00") == 400

    async def test_a_path_of_ours_is_not_looked_at_but_what_surrounds_it_is(self) -> None:
        """A declared path passes; its query is checked, and a path that only begins like it."""
        ours = guard(paths=["/orders", "/bad%00"])
        assert await Caller(EMPTY).call(ours, path="/orders", raw_path=b"/orders") == 200
        assert await Caller(EMPTY).call(ours, path="/orders", raw_path=b"/orders", query_string=b"q=a%00") == 400
        assert await Caller(EMPTY).call(ours, path="/orders/\0", raw_path=b"/orders/%00") == 400
        assert await Caller(EMPTY).call(ours, path="/bad\0", raw_path=b"/bad%00") == 400

    @pytest.mark.parametrize(
        "path", ["/", "/a.b/c", "/a/...", "/.well-known/x", "/a/b:c@d,e;f=g", "/caf\u00e9", "/a b"]
    )
    async def test_honest_paths_pass(self, path: str) -> None:
        """Dots inside a segment, spaces and other scripts are nobody's trick."""
        raw = "".join(
            sign if sign.isascii() and sign != " " else "".join(f"%{byte:02X}" for byte in sign.encode())
            for sign in path
        )

        assert await Caller(EMPTY).call(guard(), path=path, raw_path=raw.encode()) == 200

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            (b"127.0.0.1", 200),
            (b"[::1]:80", 200),
            (b"LOCALHOST", 200),
            (b"api.example", 200),
            (b"api.example.", 200),
            (b"x.shops.example:443", 200),
            (b"shops.example", 421),
            (b"evilshops.example", 421),
        ],
    )
    async def test_names_and_wildcards_are_ours(self, host: bytes, status: int) -> None:
        """Loopback names, configured names and names below a wildcard are served, with any port."""
        app = guard(allowed_hosts=["api.example", "*.shops.example"])

        assert await Caller(EMPTY).call(app, headers=[(b"host", host)]) == status

    async def test_a_star_takes_every_well_formed_name(self) -> None:
        """`*` turns the list off, not the form."""
        app = guard(allowed_hosts=["*"])

        assert await Caller(EMPTY).call(app, headers=[(b"host", b"any.example")]) == 200
        assert await Caller(EMPTY).call(app, headers=[(b"host", b"any/example")]) == 400

    @pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT"])
    async def test_methods_that_echo_or_tunnel_are_refused(self, method: str) -> None:
        """405 with Allow."""
        caller = Caller(EMPTY)

        assert await caller.call(guard(), method=method) == 405
        assert b"GET" in dict(caller.sent[0]["headers"])[b"allow"]


class TestWebsocket:
    async def test_a_handshake_is_held_to_the_same_head(self) -> None:
        """A foreign Host is refused with a response where the server can, with a close code where it cannot."""
        connect = {"type": "websocket.connect"}
        foreign = [(b"host", b"evil.example")]
        able, unable = Caller(connect), Caller(connect)

        status = await able.call(guard(), type="websocket", headers=foreign, extensions={"websocket.http.response": {}})
        await unable.call(guard(), type="websocket", headers=foreign)

        assert (status, able.sent[0]["type"]) == (421, "websocket.http.response.start")
        assert unable.sent == [{"type": "websocket.close", "code": 1008, "reason": "foreign_host"}]

    async def test_a_lifespan_passes(self) -> None:
        """What is no request is not looked at."""
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])

        await Caller().call(guard(app), type="lifespan")

        assert seen == ["lifespan"]


class TestBody:
    async def test_a_framework_cannot_change_the_refusal(self) -> None:
        """FastAPI turns an exception while reading into 400; the client still gets our 413."""
        app = FastAPI()

        @app.post("/a")
        async def take(request: Request, body: dict[str, Any]) -> None: ...

        caller = Caller(part(b"x" * 600_000, more=True), part(b"x" * 600_000, more=True), EMPTY)

        status = await caller.call(
            guard(app), method="POST", headers=[*CHUNKED, (b"content-type", b"application/json")]
        )

        assert (status, caller.problem["code"]) == (413, "body_too_large")

    async def test_a_route_may_take_more_or_less(self) -> None:
        """An address with a limit of its own is held to that."""
        app = guard(body_limit=lambda scope: {"/large": 2_000_000, "/small": 10}.get(scope["path"]))
        big, small = part(b"x" * 1_500_000, more=False), part(b"x" * 11, more=False)

        async def status(path: str, message: dict[str, Any], length: int) -> int:
            return await Caller(message).call(app, path=path, headers=[HOST, (b"content-length", b"%d" % length)])

        assert await status("/large", big, 1_500_000) == 200
        assert await status("/a", big, 1_500_000) == 413
        assert await status("/small", small, 11) == 413

    async def test_a_body_that_stops_is_given_up(self) -> None:
        """A client that sends no more is answered 408 after the grace, with what arrived."""
        caller = Caller(part(b"12345", more=True))

        assert await caller.call(guard(), headers=CHUNKED) == 408
        assert "5 bytes" in caller.problem["detail"]

    async def test_an_answer_that_has_begun_is_not_replaced(self) -> None:
        """An application that answers while it reads gets the error itself; two answers are never mixed."""

        async def echo(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await read_body(receive, 1 << 30)

        caller = Caller(part(b"x" * 2_000_000, more=True))

        with pytest.raises(Exception, match="body_too_large"):
            await caller.call(guard(echo), headers=CHUNKED)
        assert [message["type"] for message in caller.sent] == ["http.response.start"]

    async def test_the_applications_own_failure_passes_through(self) -> None:
        """The guard answers for itself only."""

        async def fails(scope: Any, receive: Any, send: Any) -> None:
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            await Caller(EMPTY).call(guard(fails), headers=CHUNKED)

    async def test_waiting_for_the_disconnect_has_no_limit(self) -> None:
        """After the last piece the next message is the disconnect, and no timer runs for it."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await receive()
            await send({"type": "http.response.start", "status": 204, "headers": []})

        assert await Caller(part(b"x", more=False)).call(guard(app), headers=CHUNKED) == 204

    async def test_a_body_that_is_there_is_handed_over_whole(self) -> None:
        """The application may take the bytes without a call; a second read waits for the client to leave."""
        taken: list[Any] = []

        async def app(_scope: Any, receive: Any, send: Any) -> None:
            taken.extend([receive.body, await receive(), await receive()])
            await send({"type": "http.response.start", "status": 204, "headers": []})

        caller = Caller(part(b"xy", more=False), {"type": "http.disconnect"})

        assert await caller.call(guard(app), headers=CHUNKED) == 204
        assert taken == [b"xy", part(b"xy", more=False), {"type": "http.disconnect"}]

    async def test_a_client_that_expects_leave_is_not_asked_before_the_application(self) -> None:
        """With `Expect: 100-continue` the guard reads nothing by itself: reading is what asks the client to send."""
        asked: list[str] = []

        async def app(_scope: Any, receive: Any, send: Any) -> None:
            asked.append("application")
            await receive()
            await send({"type": "http.response.start", "status": 204, "headers": []})

        class Careful(Caller):
            async def receive(self) -> dict[str, Any]:
                asked.append("client")
                return part(b"x", more=False)

        assert await Careful().call(guard(app), headers=[*CHUNKED, (b"expect", b"100-continue")]) == 204
        assert asked == ["application", "client"]

    async def test_a_read_that_nobody_takes_ends_with_the_request(self) -> None:
        """An application that answers without the body leaves no read behind."""
        ended: list[str] = []

        async def receive() -> dict[str, Any]:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("receive")
            return EMPTY

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 204, "headers": []})

        caller = Caller()
        caller.receive = receive  # type: ignore[method-assign]

        assert await caller.call(guard(app), headers=CHUNKED) == 204
        assert ended == ["receive"]

    async def test_a_cancelled_request_cancels_the_read(self) -> None:
        """A cancellation reaches the server's `receive` through the guard, and comes back as itself."""
        waiting, ended = asyncio.Event(), []

        async def receive() -> dict[str, Any]:
            waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("receive")
            return EMPTY

        caller = Caller()
        caller.receive = receive  # type: ignore[method-assign]
        task = asyncio.ensure_future(caller.call(guard(limits=Limits()), headers=CHUNKED))
        await waiting.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["receive"]

    async def test_a_client_that_leaves_is_named(self) -> None:
        """A disconnect in the middle of a body ends the reading with its own error."""
        caller = Caller(part(b"12", more=True), {"type": "http.disconnect"})

        with pytest.raises(ClientGone, match="after 2 bytes"):
            await caller.call(guard(), headers=CHUNKED)
