"""Harness: a running copy of an app for tests, without a server and without sleeping.

    async with running(app) as world:
        answer = await world.post("/api/v1/orders", {"items": ["itemA"], "user_id": 1}, key="k1")
        await world.settle()
        assert (await world.get(f"/api/v1/orders/{answer.json['order_id']}")).json["status"] == "reserved"

The store is the embedded one in a temporary folder unless a URL is given; requests go through the whole gateway, guard
included. `settle` returns once every committed event, and every job that is due, has been handled.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dujiang.app.runtime import Runtime
from dujiang.data.sql import Sql
from dujiang.kernel.node import Node
from dujiang.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from dujiang.app import App

OPEN = Sql(
    "harness_open",
    """SELECT (SELECT count(*) FROM dj_outbox WHERE seq > (SELECT floor_seq FROM dj_relay WHERE relay_id = 1))
              + (SELECT count(*) FROM dj_counter c JOIN dj_subscription s
                 ON c.name = 'arrived:' || CAST(s.sub_id AS TEXT)
                 LEFT JOIN dj_outbox o ON o.topic = s.topic AND o.seq > c.value
                 AND o.seq <= (SELECT floor_seq FROM dj_relay WHERE relay_id = 1)
                 LEFT JOIN dj_outcome e ON e.sub_id = s.sub_id AND e.seq = o.seq
                 WHERE s.active = 0 OR (o.seq IS NOT NULL AND e.seq IS NULL
                 AND NOT EXISTS (SELECT 1 FROM dj_ready r WHERE r.sub_id = s.sub_id AND r.seq = o.seq)
                 AND NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = s.sub_id AND u.seq = o.seq))),
              (SELECT count(*) FROM dj_ready r WHERE NOT EXISTS (SELECT 1 FROM dj_hold h WHERE h.sub_id = r.sub_id
                AND (h.okey = r.okey OR h.okey < '\x02'))
                AND NOT (r.attempt = 0 AND coalesce(r.created_us, 0) = r.run_at AND r.run_at > $1)),
              (SELECT count(*) FROM dj_running)""",
    "Counts what is still to be done: not routed or not arrived, ready, running; not what waits behind a dead letter, nor a job "
    "that is due after a time.",
)
# Work that is due within this time counts as due: what is asked with the time of a moment ago would miss what is due now.
SOON_US = 1_000_000
OPERATOR_TOKEN = "harness-operator-token"  # noqa: S105  (of a store that lives for one test)


@dataclass(frozen=True)
class Response:
    """An answer.

    Attributes:
        status: The HTTP status.
        headers: By lower-case name.
        body: The bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def exchanged(asgi: Any, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}) -> Response:
    """Send one request to an ASGI application, without a socket.

    Args:
        asgi: The application.
        method: GET, POST, ...
        path: With a query, if any.
        body: The bytes; JSON unless a header says otherwise.
        headers: Further headers, by lower-case name.
    """
    given = {"host": "localhost", **({"content-type": "application/json"} if body else {}), **headers}
    if body:
        given["content-length"] = str(len(body))
    target, _, query = path.partition("?")
    sent: list[Any] = []
    bodies = [body]

    async def receive() -> dict[str, Any]:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": target,
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await asgi(scope, receive, send)
    answered = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Response(sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]))


class NotSettled(AssertionError):
    """Work was still open when the limit had passed."""


class World:
    """One running copy and its client.

    Args:
        runtime: The running copy.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.app = runtime.app

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request through the gateway.

        Args:
            method: GET, POST, ...
            path: With a query, if any.
            body: JSON value, or bytes as they are.
            key: The Idempotency-Key.
            headers: Further headers.
        """
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = dict(headers or {})
        if key is not None:
            given["idempotency-key"] = key
        return await exchanged(self.runtime.asgi, method, path, raw, given)

    async def get(self, path: str, **options: Any) -> Response:
        """GET."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Response:
        """POST."""
        return await self.request("POST", path, body, **options)

    async def put(self, path: str, body: Any = None, **options: Any) -> Response:
        """PUT."""
        return await self.request("PUT", path, body, **options)

    async def operate(self, method: str, path: str, body: Any = None) -> Response:
        """A request under /_dj/ with the operator's token."""
        return await self.request(method, path, body, headers={"authorization": f"Bearer {OPERATOR_TOKEN}"})

    async def run(self, verb: Any, *args: Any, key: str | None = None, **values: Any) -> Any:
        """Run a write or read, as `App.run`."""
        return await self.runtime.run(verb, args, values, key)

    async def publish(self, *events: Any) -> None:
        """Publish events in a transaction of their own."""

        async def body(tx: Any) -> None:
            tx.publish(*events)

        await self.runtime.transact(body)

    async def open_work(self) -> tuple[int, int, int]:
        """How many events are unrouted, and how many events and due jobs are ready and running."""
        row = (
            await self.runtime.database.read(
                lambda connection: connection.fetch(OPEN, self.runtime.node.clock.now_us() + SOON_US)
            )
        )[0]
        return row[0], row[1], row[2]

    async def settle(self, *, within_s: float = 30.0) -> None:
        """Return once every committed event, and every job that is due, has been handled. Raises NotSettled."""
        clock = self.runtime.node.clock
        until = clock.monotonic() + within_s
        while any(counts := await self.open_work()):
            if clock.monotonic() > until:
                raise NotSettled(
                    f"still open after {within_s} s: {counts[0]} unrouted, {counts[1]} ready, {counts[2]} running"
                )
            await clock.sleep(0.003)

    async def violations(self) -> list[Any]:
        """The declared laws that do not hold."""
        return await self.runtime.audit()


@asynccontextmanager
async def running(app: App, *, database: str = "", data: Path | None = None, **settings: Any) -> AsyncIterator[World]:
    """A running copy of `app` for the block.

    Args:
        app: What runs.
        database: Its URL; empty = an embedded store in a temporary folder.
        data: The data folder; None = a temporary one that is removed at the end.
        settings: Further fields of `Settings`.
    """
    folder = data or Path(tempfile.mkdtemp(prefix="dujiang-"))
    (folder / "operator.token").write_text(OPERATOR_TOKEN)
    url = database or f"sqlite:///{folder}/app.db"
    runtime = Runtime(app, Settings(database=url, data=folder, **settings), Node.system())
    try:
        async with runtime:
            yield World(runtime)
    finally:
        if data is None:
            shutil.rmtree(folder, ignore_errors=True)
