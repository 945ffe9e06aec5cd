"""Desk: dead letters, jobs, sagas, schedules and audits, in the store itself or through the process that owns it.

    many writers (a server)    the command opens the database and works in it
    one writer, free           the same
    one writer, `up` runs      the command asks that process over HTTP, with the operator's token

The embedded store has one owner, so there is no second way in; that the answer comes from the owner also means that its
wake-ups work: a replayed letter is handled at once. `up` leaves its address in DATA/up.json and the token in
DATA/operator.token; both are readable by their owner only.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from urllib.parse import quote, urlencode

from dujiang.cli.exits import CONFIG, DATA, INTERNAL, UNAVAILABLE
from dujiang.cli.marks import read_address, read_token
from dujiang.data.database import StoreInUse
from dujiang.kernel.errors import DujiangError
from dujiang.settings import file_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dujiang.app import App, Runtime
    from dujiang.settings import Settings

Letter: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[Letter]

ANSWER_LIMIT_S = 60.0
ANSWER_LIMIT_BYTES = 64 * 1024 * 1024


class Desk(Protocol):
    """What the commands `deadletter`, `jobs`, `sagas`, `schedules`, `audit` and `cache` need.

    Letters and sagas are JSON objects, letters as `DeadLetter.public` makes them.
    """

    async def list(self, subscription: str, limit: int) -> Rows:
        """Dead letters, oldest first."""
        ...

    async def show(self, dead_id: int) -> Letter:
        """One dead letter."""
        ...

    async def replay(self, dead_id: int, payload: bytes | None, *, force: bool) -> None:
        """Back to work."""
        ...

    async def discard(self, dead_id: int) -> None:
        """Give it up."""
        ...

    async def schedules(self) -> Rows:
        """Every schedule."""
        ...

    async def schedule(self, name: str) -> Letter:
        """One schedule with its next times and last firings."""
        ...

    async def turn(self, name: str, what: str, given: dict[str, str]) -> Letter:
        """Pause, resume, run or backfill a schedule; what is said of it."""
        ...

    async def jobs(self, *rest: str, **given: str) -> Any:
        """What is answered below /_dj/jobs: a list, the counts, one job, what was done with one."""
        ...

    async def audit(self) -> Rows:
        """The violated invariants with their rows."""
        ...

    async def sagas(self, name: str, limit: int, *, stuck: bool, ended: bool) -> Rows:
        """Sagas, oldest first; those that have ended only if asked for."""
        ...

    async def saga(self, saga_id: int) -> Letter:
        """One saga with its timeline and its state."""
        ...

    async def decide(self, saga_id: int, what: str, why: str, data: bytes | None = None) -> None:
        """Retry, skip, compensate or resume a saga."""
        ...

    async def cached(self) -> Letter:
        """What lies in the cache of the process that owns the store, or what the server of a shared one says."""
        ...

    async def drop(self) -> None:
        """Put an end to every cached answer, in every process."""
        ...


@dataclass(eq=False, kw_only=True)
class OwnerSilent(DujiangError):
    """The process that owns the store does not answer."""

    code = "owner_silent"
    move = "wait"
    says = "process {pid} owns {path}, and {url} does not answer: {why}"
    cure = "wait until it is ready, or stop it and run the command again"

    pid: int
    path: str
    url: str
    why: str


@dataclass(eq=False, kw_only=True)
class OwnerRefused(DujiangError):
    """The process that owns the store refuses the request."""

    code = "owner_refused"
    move = "fix"
    says = "{what} ({answered} {reason} from {url})"
    cure = "{how}"

    what: str
    how: str = ""
    answered: int
    reason: str
    url: str

    def __post_init__(self) -> None:
        """What the status means for a command."""
        if self.answered in (401, 403, 421):
            self.exit_code = CONFIG
        elif self.answered in (429, 503, 504):
            self.exit_code = UNAVAILABLE
        else:
            self.exit_code = DATA if self.answered < 500 else INTERNAL


@dataclass(eq=False, kw_only=True)
class StoreMissing(DujiangError):
    """There is no store where the settings say."""

    code = "store_missing"
    move = "fix"
    says = "there is no store at {path}"
    cure = "run the command in the application's folder, or name the folder of the store with --data"

    path: str


@dataclass(eq=False, kw_only=True)
class CacheElsewhere(DujiangError):
    """The cache lies in the memory of the processes that serve, and none of them owns the store."""

    code = "cache_elsewhere"
    move = "fix"
    exit_code = CONFIG
    says = "no process owns {url}; each that serves it keeps answers of its own"
    cure = "ask one of them: GET /_dj/cache with the operator's token, or read dujiang_cache_* under /metrics"

    url: str


class LocalDesk:
    """Works in the store."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def list(self, subscription: str, limit: int) -> Rows:
        """Dead letters, oldest first."""
        return [letter.public() for letter in await self._runtime.deadletters.list(subscription, limit=limit)]

    async def show(self, dead_id: int) -> Letter:
        """One dead letter."""
        return dict((await self._runtime.deadletters.show(dead_id)).public())

    async def replay(self, dead_id: int, payload: bytes | None, *, force: bool) -> None:
        """Back to work."""
        await self._runtime.deadletters.replay(dead_id, payload, force=force)

    async def discard(self, dead_id: int) -> None:
        """Give it up."""
        await self._runtime.deadletters.discard(dead_id)

    async def schedules(self) -> Rows:
        """Every schedule."""
        return await self._runtime.schedules.list()

    async def schedule(self, name: str) -> Letter:
        """One schedule with its next times and last firings."""
        return await self._runtime.schedules.show(name)

    async def turn(self, name: str, what: str, given: dict[str, str]) -> Letter:
        """Pause, resume, run or backfill a schedule; what is said of it."""
        from dujiang.console.operations import scheduled  # noqa: PLC0415

        return parsed((await scheduled(self._runtime.schedules, [name, what], given)).body) or {}

    async def jobs(self, *rest: str, **given: str) -> Any:
        """What is answered below /_dj/jobs."""
        from dujiang.console.operations import worked  # noqa: PLC0415

        return parsed((await worked(self._runtime.job_operations, list(rest), given)).body)

    async def audit(self) -> Rows:
        """The violated invariants with their rows."""
        found = await self._runtime.audit()
        return [dataclasses.asdict(violation) for violation in found]

    async def sagas(self, name: str, limit: int, *, stuck: bool, ended: bool) -> Rows:
        """Sagas, oldest first; those that have ended only if asked for."""
        found = await self._runtime.sagas.list(name, limit=limit, stuck_only=stuck, open_only=not ended)
        return [each.model_dump(mode="json") for each in found]

    async def saga(self, saga_id: int) -> Letter:
        """One saga with its timeline and its state."""
        return await self._runtime.sagas.show(saga_id)

    async def decide(self, saga_id: int, what: str, why: str, data: bytes | None = None) -> None:
        """Retry, skip, compensate or resume a saga."""
        given = (why,) if data is None else (data, why)
        await getattr(self._runtime.sagas, what)(saga_id, *given)

    async def cached(self) -> Letter:
        """What the shared cache says of itself: a store that this command could open belongs to no process, or to many."""
        if self._runtime.caching.second is None:
            raise CacheElsewhere(url=self._runtime.database.url)
        return {"server": dict(await self._runtime.caching.second.cache.look())}

    async def drop(self) -> None:
        """Write it into the log; every process finds it there."""
        from dujiang.console.operations import forget_everything  # noqa: PLC0415

        await self._runtime.transact(forget_everything, what="cache drop")


class RemoteDesk:
    """Works through the process that owns the store.

    Args:
        owner: The refusal that named the owner.
        settings: Where its address and token lie.
    """

    def __init__(self, owner: StoreInUse, settings: Settings) -> None:
        self._owner = owner
        self._host, self._port = read_address(settings.data) or (settings.host, settings.port)
        self._token = read_token(settings.data)

    async def list(self, subscription: str, limit: int) -> Rows:
        """Dead letters, oldest first."""
        answer = self.ask("GET", f"/_dj/deadletters?subscription={quote(subscription, safe='')}&limit={limit}")
        return self._rows(answer, "a list of letters")

    async def show(self, dead_id: int) -> Letter:
        """One dead letter."""
        letter = self.ask("GET", f"/_dj/deadletters/{dead_id}")
        if not isinstance(letter, dict) or "id" not in letter:
            raise self._strange("a letter")
        return letter

    async def replay(self, dead_id: int, payload: bytes | None, *, force: bool) -> None:
        """Back to work."""
        self.ask("POST", f"/_dj/deadletters/{dead_id}/replay{'?force=true' if force else ''}", payload)

    async def discard(self, dead_id: int) -> None:
        """Give it up."""
        self.ask("POST", f"/_dj/deadletters/{dead_id}/discard")

    async def schedules(self) -> Rows:
        """Every schedule."""
        return self._rows(self.ask("GET", "/_dj/schedules"), "a list of schedules")

    async def schedule(self, name: str) -> Letter:
        """One schedule with its next times and last firings."""
        found = self.ask("GET", f"/_dj/schedules/{quote(name, safe='')}")
        if not isinstance(found, dict) or "upcoming" not in found:
            raise self._strange("a schedule")
        return found

    async def turn(self, name: str, what: str, given: dict[str, str]) -> Letter:
        """Pause, resume, run or backfill a schedule; what is said of it."""
        query = f"?{urlencode(given)}" if given else ""
        return self.ask("POST", f"/_dj/schedules/{quote(name, safe='')}/{what}{query}") or {}

    async def jobs(self, *rest: str, **given: str) -> Any:
        """What is answered below /_dj/jobs."""
        query = f"?{urlencode(given)}" if given else ""
        answer = self.ask("POST" if len(rest) > 1 else "GET", "/".join(("/_dj/jobs", *rest)) + query)
        if not isinstance(answer, list if rest == ("counts",) else dict):
            raise self._strange("jobs")
        return answer

    async def audit(self) -> Rows:
        """The violated invariants with their rows."""
        return self._rows(self.ask("POST", "/_dj/audit"), "a list of violations")

    async def sagas(self, name: str, limit: int, *, stuck: bool, ended: bool) -> Rows:
        """Sagas, oldest first; those that have ended only if asked for."""
        marks = f"&stuck={str(stuck).lower()}&open={str(not ended).lower()}"
        answer = self.ask("GET", f"/_dj/sagas?name={quote(name, safe='')}&limit={limit}{marks}")
        return self._rows(answer, "a list of sagas")

    async def saga(self, saga_id: int) -> Letter:
        """One saga with its timeline and its state."""
        return self.ask_object("GET", f"/_dj/sagas/{saga_id}", None, "a saga")

    async def decide(self, saga_id: int, what: str, why: str, data: bytes | None = None) -> None:
        """Retry, skip, compensate or resume a saga."""
        self.ask("POST", f"/_dj/sagas/{saga_id}/{what}?why={quote(why, safe='')}", data)

    async def cached(self) -> Letter:
        """What lies in its cache."""
        found = self.ask("GET", "/_dj/cache")
        if not isinstance(found, dict) or "entries" not in found:
            raise self._strange("state of a cache")
        return found

    async def drop(self) -> None:
        """Put an end to every cached answer."""
        self.ask("DELETE", "/_dj/cache")

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """One request. A plain blocking one: a command has nothing else to do meanwhile."""
        url = f"http://{self._host}:{self._port}"
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
        connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_LIMIT_S)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            raw = response.read(ANSWER_LIMIT_BYTES)
        except (OSError, http.client.HTTPException) as cause:
            why = str(cause) or type(cause).__name__
            raise OwnerSilent(pid=self._owner.pid, path=self._owner.path, url=url, why=why) from cause
        finally:
            connection.close()
        answer = parsed(raw)
        if response.status >= 300:
            problem = answer if isinstance(answer, dict) else {}
            what = str(problem.get("detail") or problem.get("title") or "the request was refused")
            how = str(problem.get("hint") or "")
            raise OwnerRefused(what=what, how=how, answered=response.status, reason=response.reason, url=url)
        return answer

    def ask_object(self, method: str, path: str, body: bytes | None, wanted: str) -> Letter:
        """One request whose answer must be an object with a state."""
        answer = self.ask(method, path, body)
        if not isinstance(answer, dict) or "state" not in answer:
            raise self._strange(wanted)
        return answer

    def _strange(self, wanted: str) -> OwnerSilent:
        """The error of an answer that our own server would not give."""
        url = f"http://{self._host}:{self._port}"
        why = f"what listens there did not answer as that process does (no {wanted})"
        return OwnerSilent(pid=self._owner.pid, path=self._owner.path, url=url, why=why)

    def _rows(self, answer: Any, wanted: str) -> Rows:
        """An answer that must be a list of objects."""
        if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
            raise self._strange(wanted)
        return answer


def parsed(raw: bytes) -> Any:
    """The JSON value of a body; None for everything else."""
    try:
        return json.loads(raw)
    except ValueError:
        return None


@asynccontextmanager
async def desk(app: App, settings: Settings) -> AsyncIterator[Desk]:
    """A desk for the block: the store's own, or its owner's when it is in use."""
    from dujiang.app import Runtime  # noqa: PLC0415  (loaded by the commands that need it)

    path = file_of("database", settings.database)
    if path is not None and not path.exists():
        # Opening would make an empty store, in which every law holds: the wrong folder would look like good news.
        raise StoreMissing(path=str(path))
    runtime = Runtime(app, settings)
    try:
        await runtime.database.start()
    except StoreInUse as owner:
        yield RemoteDesk(owner, settings)
        return
    try:
        yield LocalDesk(runtime)
    finally:
        await runtime.database.stop()
