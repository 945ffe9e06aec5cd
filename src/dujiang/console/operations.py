"""Operations: the outer ASGI application of a running copy.

    /health/live, /health/ready    for orchestrators
    /metrics                       Prometheus
    /_dj/...                       operations; a bearer token with the operator role, without it 401
    /docs/errors, /docs/errors/... what each error code means
    the app's routes               by dictionary
    everything else                FastAPI: documentation pages, OpenAPI, mounted applications, 404

A copy without the role `gateway` has the first four lines alone, and answers those of the app's routes that its roles
name; every other route is 421, because another process would answer it.

A method that a path does not take is answered here for all of them: HEAD by what GET would answer, without its body;
OPTIONS by 204 with `Allow`; anything else by 405 with `Allow`, which lists every method of the path.

The operator's token lies in DATA/operator.token, readable by its owner only; `dujiang up` writes it. A copy that finds no
file has no operator, and everything under /_dj/ is 401.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from dujiang.data.backup import BackupTarget
from dujiang.gateway.body import read_body
from dujiang.gateway.guard import METHODS_ALLOWED
from dujiang.gateway.pages import error_page
from dujiang.gateway.problems import (
    JSON_HEADERS,
    PAGES,
    Answer,
    MethodNotAllowed,
    NotFound,
    RequestRefused,
    answer_of_exception,
    send_answer,
)
from dujiang.jobs.schedules import moment_of, shown
from dujiang.kernel.context import entered
from dujiang.kernel.errors import DeadlinePassed, DujiangError
from dujiang.kernel.problem import shortened
from dujiang.messaging.forgotten import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping
    from pathlib import Path

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PAYLOAD_BYTES_MAX = 5 * 1024 * 1024
NAME = r"[A-Za-z0-9_.]+"
# Paths that are answered here, and their methods.
OWN = (
    (re.compile(rf"/health/(live|ready)|/metrics|{PAGES}(/[^/]*)?"), "GET"),
    (re.compile(rf"/_dj/(deadletters|sagas)(/\d+)?|/_dj/invariants|/_dj/schedules(/{NAME})?"), "GET"),
    *((re.compile(r"/_dj/backup"), method) for method in ("GET", "POST", "DELETE")),
    *((re.compile(r"/_dj/cache"), method) for method in ("GET", "DELETE")),
    (re.compile(r"/_dj/deadletters/\d+/(replay|discard)|/_dj/audit"), "POST"),
    (re.compile(r"/_dj/sagas/\d+/(retry|skip|compensate|resume)"), "POST"),
    (re.compile(r"/_dj/jobs(/\d+|/counts)?"), "GET"),
    (re.compile(r"/_dj/jobs/\d+/(cancel|retry)"), "POST"),
    (re.compile(rf"/_dj/schedules/{NAME}/(pause|resume|run|backfill)"), "POST"),
)
PATH_BYTES_MAX = 16 * 1024


@dataclass(eq=False, kw_only=True)
class OperatorOnly(DujiangError):
    """Operations need the operator's token."""

    code = "operator_only"
    move = "fix"
    status = 401
    says = "no valid bearer token came with the request"
    cure = "send `Authorization: Bearer <token>`; the token is in the file operator.token of the data folder"


@dataclass(eq=False, kw_only=True)
class NotServedHere(RequestRefused):
    """The process that got the request has other roles; another one answers it."""

    code = "not_served_here"
    status = 421
    says = "this process is {roles}, and does not answer {what}"
    cure = "send it to a process with the role gateway"

    roles: str
    what: str


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
        self._verbs = runtime.roles.verbs

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one connection: choose who does, without a coroutine of its own between guard and route."""
        scope["dujiang"] = self._runtime
        if scope["type"] != "http":
            return self._runtime.composition.fastapi(scope, receive, send)  # type: ignore[no-any-return]
        if scope["method"] == "HEAD":
            send = without_body(send)
        path = path_here(scope)
        if path.startswith("/_dj/") and not self._allowed(scope):
            answer = answer_of_exception(OperatorOnly())
            answer.headers.append((b"www-authenticate", b"Bearer"))
            return send_answer(send, answer)
        inside = scope if path == scope["path"] else {**scope, "path": path}
        route = self._table.find(inside)
        if route is not None and route.spec.verb.kind in self._verbs:
            return route.app(inside, receive, send)  # type: ignore[no-any-return]
        return self._elsewhere(scope, inside, path, receive, send)

    async def _elsewhere(self, scope: Scope, inside: Scope, path: str, receive: Receive, send: Send) -> None:
        """Serve what is no route of the app."""
        if await self._refused_method(scope, path, receive, send):
            return
        if path.startswith(("/health/", "/metrics", "/_dj/", f"{PAGES}/")) or path == PAGES:
            await self._own(inside, path, receive, send)
        elif "read" in self._verbs:
            await self._fall_back(scope, receive, send)
        else:
            what = shortened(f"{scope['method']} {path}", 200)
            await send_answer(send, answer_of_exception(NotServedHere(roles=str(self._runtime.roles), what=what)))

    def allow(self, scope: Scope) -> str:
        """The methods of a request's path, as the header `Allow` lists them."""
        path = path_here(scope)
        # Whether there is something below /_dj/ is nobody's business before the token has been seen.
        return allowed([] if path.startswith("/_dj/") else self._methods(path)) or METHODS_ALLOWED

    def _methods(self, path: str) -> list[str]:
        """The methods that a path takes; empty when it is not one of the app's or of ours."""
        return [*self._table.methods(path), *(method for pattern, method in OWN if pattern.fullmatch(path))]

    async def _refused_method(self, scope: Scope, path: str, receive: Receive, send: Send) -> bool:
        """Answer a request whose path exists and does not take its method; whether it was one."""
        method, methods = scope["method"], self._methods(path)
        if not methods or method in methods:
            return False
        if method == "HEAD" and "GET" in methods:
            await self({**scope, "method": "GET"}, receive, send)
        elif method == "OPTIONS":
            await send_answer(send, Answer(204, [(b"allow", allowed(methods).encode())], b""))
        else:
            refusal = MethodNotAllowed(method=shortened(method, 20), allow=allowed(methods))
            await send_answer(send, answer_of_exception(refusal))
        return True

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
        if path == PAGES or path.startswith(f"{PAGES}/"):
            return error_page(path[len(PAGES) + 1 :])
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
            case ("POST", ["backup"]):
                backups = self._runtime.backups
                return json_answer(backups.begin(target_of(await read_body(receive, PATH_BYTES_MAX))).to_json(), 202)
            case ("GET", ["backup"]):
                return json_answer(self._runtime.backups.standing.to_json())
            case ("DELETE", ["backup"]):
                self._runtime.backups.cancel()
                return json_answer(self._runtime.backups.standing.to_json(), 202)
            case ("GET", ["cache"]):
                return json_answer(self._runtime.caching.show())
            case ("DELETE", ["cache"]):
                await self._runtime.transact(forget_everything, what="cache drop")
                return Answer(204, [], b"")
            case ("GET", ["sagas"]):
                query = query_of(scope)
                limit = int(query["limit"]) if query.get("limit", "").isdigit() else 50
                marks = {"open_only": query.get("open") == "true", "stuck_only": query.get("stuck") == "true"}
                sagas = await self._runtime.sagas.list(query.get("name", ""), limit=limit, **marks)
                return json_answer([each.model_dump(mode="json") for each in sagas])
            case ("GET", ["sagas", saga_id]) if saga_id.isdigit():
                return json_answer(await self._runtime.sagas.show(int(saga_id)))
            case ("POST", ["sagas", saga_id, "retry" | "skip" | "compensate" | "resume" as verb]) if saga_id.isdigit():
                why = query_of(scope).get("why", "")
                data = await read_body(receive, PAYLOAD_BYTES_MAX)
                await getattr(self._runtime.sagas, verb)(int(saga_id), *([data] if verb == "resume" else []), why)
                return Answer(204, [], b"")
            case (_, ["jobs", *rest]):
                return await worked(self._runtime.job_operations, rest, query_of(scope))
            case (_, ["schedules", *rest]):
                return await scheduled(self._runtime.schedules, rest, query_of(scope))
            case ("GET", ["invariants"]):
                return json_answer([asdict(each) for each in self._runtime.laws.standings.values()])
            case ("POST", ["audit"]):
                return json_answer([asdict(violation) for violation in await self._runtime.audit()])
        raise NotFound(what=path)

    async def _fall_back(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI answers; its bare 404, 405 and 500 become problem documents."""
        try:
            await self._runtime.composition.fallback(scope, receive, send)
        except Exception as error:  # noqa: BLE001
            answer = answer_of_exception(error)
            allow = dict(answer.headers).get(b"allow")
            if answer.status == 405 and allow is not None and scope["method"] == "OPTIONS":
                answer = Answer(204, [(b"allow", allowed(allow.decode().split(", ")).encode())], b"")
            await send_answer(send, answer)


async def scheduled(schedules: Any, rest: list[str], query: dict[str, str]) -> Answer:
    """Answer what is asked below /_dj/schedules; the methods have been compared already."""
    match rest:
        case []:
            return json_answer(await schedules.list())
        case [name]:
            return json_answer(await schedules.show(name))
        case [name, "pause"]:
            await schedules.pause(name)
        case [name, "resume"]:
            await schedules.resume(name)
        case [name, "run"]:
            return json_answer({"name": name, "due": shown(await schedules.run(name))}, 202)
        case [name, "backfill"]:
            first_us, until_us = (moment_of(name, query.get(which, ""), which) for which in ("first", "until"))
            return json_answer({"name": name, "asked": await schedules.backfill(name, first_us, until_us)}, 202)
    return Answer(204, [], b"")


async def worked(jobs: Any, rest: list[str], query: dict[str, str]) -> Answer:
    """Answer what is asked below /_dj/jobs; the methods have been compared already."""
    match rest:
        case ["counts"]:
            return json_answer(await jobs.counts())
        case [job_id]:
            return json_answer(await jobs.show(int(job_id)))
        case [job_id, "cancel" | "retry" as verb]:
            return json_answer(await getattr(jobs, verb)(int(job_id)))
    before, limit = (query.get(name, "") for name in ("before", "limit"))
    numbers = {"before": int(before) if before.isdecimal() else 0, "limit": int(limit) if limit.isdecimal() else 50}
    return json_answer(await jobs.list(query.get("name", ""), query.get("state", ""), **numbers))


async def forget_everything(tx: Any) -> None:
    """Put an end to every cached answer, in every process."""
    tx.forget(EVERYTHING)


def allowed(methods: Iterable[str]) -> str:
    """What `Allow` lists for a path with these methods: HEAD comes with GET, OPTIONS with any."""
    listed = set(methods)
    if listed:
        listed |= {"OPTIONS", *(["HEAD"] if "GET" in listed else [])}
    return ", ".join(sorted(listed))


def without_body(send: Send) -> Send:
    """A `send` that keeps the head of an answer and drops its body."""

    async def headed(message: MutableMapping[str, Any]) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return headed


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


def target_of(raw: bytes) -> str:
    """The target in the body of a request for a backup. Raises BackupTarget."""
    try:
        target = json.loads(raw)["target"]
    except (ValueError, KeyError, TypeError):
        target = None
    if not isinstance(target, str) or "\0" in target:
        raise BackupTarget(target=repr(raw[:100]), why='the body is not {"target": "/absolute/path"}')
    return target


def health_answer(ok: bool, report: dict[str, Any]) -> Answer:  # noqa: FBT001
    """200 or 503 with the report."""
    return json_answer(report, 200 if ok else 503)


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer of JSON values."""
    return Answer(status, list(JSON_HEADERS), json.dumps(value, default=str, ensure_ascii=False).encode())
