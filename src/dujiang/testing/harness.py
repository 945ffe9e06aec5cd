"""Harness: a running copy of an app for tests, without a server and without sleeping.

    async with running(app) as world:
        answer = await world.post("/api/v1/orders", {"items": ["itemA"], "user_id": 1}, key="k1")
        await world.settle()
        assert (await world.get(f"/api/v1/orders/{answer.json['order_id']}")).json["status"] == "reserved"

The store is the embedded one in a temporary folder unless a URL is given; requests go through the whole gateway, guard
included. `settle` returns once every committed event has been handled.
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
    """SELECT (SELECT count(*) FROM dj_outbox WHERE seq > (SELECT floor_seq FROM dj_relay WHERE relay_id = 1)),
              (SELECT count(*) FROM dj_ready r WHERE NOT EXISTS (SELECT 1 FROM dj_hold h WHERE h.sub_id = r.sub_id
                AND (h.okey = r.okey OR h.okey < '\x02'))),
              (SELECT count(*) FROM dj_running)""",
    "Counts what is still to be done; what waits behind a dead letter is not.",
)
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
        given = {"host": "localhost", **({"content-type": "application/json"} if raw else {}), **(headers or {})}
        if key is not None:
            given["idempotency-key"] = key
        if raw:
            given["content-length"] = str(len(raw))
        target, _, query = path.partition("?")
        sent: list[Any] = []
        bodies = [raw]

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
        await self.runtime.asgi(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Response(sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]))

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
        """How many events are unrouted, ready and running."""
        row = (await self.runtime.database.read(lambda connection: connection.fetch(OPEN)))[0]
        return row[0], row[1], row[2]

    async def settle(self, *, within_s: float = 30.0) -> None:
        """Return once every committed event has been handled. Raises NotSettled."""
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
