"""Operations: the outer ASGI application of a running copy.

    /health/live, /health/ready    for orchestrators
    /metrics                       Prometheus
    /_dj/...                       operations; a bearer token with the operator role, without it 401
    the app's routes               by dictionary
    everything else                FastAPI: documentation pages, OpenAPI, mounted applications, 404 and 405

The operator's token lies in DATA/operator.token, readable by its owner only; `dujiang up` writes it. A copy that finds no
file has no operator, and everything under /_dj/ is 401.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from dujiang.gateway.body import read_body
from dujiang.gateway.problems import JSON_HEADERS, Answer, MethodNotAllowed, NotFound, answer_of_exception, send_answer
from dujiang.kernel.context import entered
from dujiang.kernel.errors import DeadlinePassed, DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from pathlib import Path

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PAYLOAD_BYTES_MAX = 5 * 1024 * 1024


@dataclass(eq=False, kw_only=True)
class OperatorOnly(DujiangError):
    """Operations need the operator's token."""

    code = "operator_only"
    move = "fix"
    status = 401
    says = "no valid bearer token came with the request"
    cure = "send `Authorization: Bearer <token>`; the token is in the file operator.token of the data folder"


class Operations:
    """The ASGI application of one running copy.

    Args:
        runtime: The running copy.
        token_file: Where the operator's token lies.
    """

    def __init__(self, runtime: Any, token_file: Path) -> None:
        self._runtime = runtime
        self._token_file = token_file
        self._table = runtime.composition.table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        scope["dujiang"] = self._runtime
        if scope["type"] != "http":
            await self._runtime.composition.fastapi(scope, receive, send)
            return
        path = path_here(scope)
        if path.startswith("/_dj/") and not self._allowed(scope):
            answer = answer_of_exception(OperatorOnly())
            answer.headers.append((b"www-authenticate", b"Bearer"))
            await send_answer(send, answer)
            return
        inside = scope if path == scope["path"] else {**scope, "path": path}
        route = self._table.find(inside)
        if route is not None:
            await route.app(inside, receive, send)
        elif path.startswith(("/health/", "/metrics", "/_dj/")):
            await self._own(inside, path, receive, send)
        else:
            await self._fall_back(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        try:
            token = self._token_file.read_bytes().strip()
        except OSError:
            return False
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return bool(token) and hmac.compare_digest(given, b"Bearer " + token)

    async def _own(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        try:
            context = self._runtime.request_context("", "", None)
            with entered(context), context.node.limits.within(context.remaining_s()):
                answer = await self._answer(scope["method"], path, scope, receive)
        except TimeoutError:
            answer = answer_of_exception(DeadlinePassed(what=path, limit_s=self._runtime.settings.request_timeout_s))
        except Exception as error:  # noqa: BLE001  (the last line: whatever it is becomes a problem document)
            answer = answer_of_exception(error)
        await send_answer(send, answer)

    async def _answer(self, method: str, path: str, scope: Scope, receive: Receive) -> Answer:
        if path.startswith("/_dj/"):
            return await self._operate(method, path, scope, receive)
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(method=method, allow="GET")
        if path == "/metrics":
            body, content_type = self._runtime.metrics.render()
            return Answer(200, [(b"content-type", content_type.encode())], body)
        if path == "/health/live":
            return health_answer(*await self._runtime.health.live())
        if path == "/health/ready":
            return health_answer(*await self._runtime.health.ready())
        raise NotFound(what=path)

    async def _operate(self, method: str, path: str, scope: Scope, receive: Receive) -> Answer:
        letters = self._runtime.deadletters
        match (method, path.strip("/").split("/")[1:]):
            case ("GET", ["deadletters"]):
                query = query_of(scope)
                limit = int(query["limit"]) if query.get("limit", "").isdigit() else 50
                found = await letters.list(query.get("subscription", ""), limit=limit)
                return json_answer([letter.public() for letter in found])
            case ("GET", ["deadletters", dead_id]) if dead_id.isdigit():
                return json_answer((await letters.show(int(dead_id))).public())
            case ("POST", ["deadletters", dead_id, "replay"]) if dead_id.isdigit():
                raw = await read_body(receive, PAYLOAD_BYTES_MAX)
                # A content type says that the body is a payload, even an empty one; without it the letter's own stays.
                given = raw if raw or any(name == b"content-type" for name, _ in scope["headers"]) else None
                await letters.replay(int(dead_id), given, force=query_of(scope).get("force") == "true")
                return Answer(204, [], b"")
            case ("POST", ["deadletters", dead_id, "discard"]) if dead_id.isdigit():
                await letters.discard(int(dead_id))
                return Answer(204, [], b"")
            case ("POST", ["audit"]):
                return json_answer([asdict(violation) for violation in await self._runtime.audit()])
        raise NotFound(what=path)

    async def _fall_back(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI answers; its bare 404, 405 and 500 become problem documents."""
        try:
            await self._runtime.composition.fallback(scope, receive, send)
        except Exception as error:  # noqa: BLE001
            await send_answer(send, answer_of_exception(error))


def path_here(scope: Scope) -> str:
    """The path below the place where this application is mounted.

    A mount leaves its prefix in `path` and names it in `root_path`. What is decided by the path, above all that operations
    need the operator's token, must see the same path that the routes see.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def query_of(scope: Scope) -> dict[str, str]:
    """The query by name, decoded; of a name that stands twice the last value counts."""
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


def health_answer(ok: bool, report: dict[str, Any]) -> Answer:  # noqa: FBT001
    """200 or 503 with the report."""
    return json_answer(report, 200 if ok else 503)


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer of JSON values."""
    return Answer(status, list(JSON_HEADERS), json.dumps(value, default=str, ensure_ascii=False).encode())
