"""Job: what the function of a job holds: short transactions of its own, memoised steps, progress, a stable key.

    async def render(job: Job, body: Order) -> Receipt:
        plan = await job.step("plan", make_plan, body)          runs once, also over kill -9
        await job.progress(0.5, note="rendering")               GET shows it
        await job.transact(save, plan)                          commits only while this run has the claim

The function runs outside any transaction and at least once: after a crash it runs again from its start. What it writes to
the database through `transact` (or `app.run`) is fenced: every such transaction ends with a look at the row of its claim,
so a run that was taken for dead, or cancelled, commits nothing more. What it does outside the database may happen again;
`job.key` is the same in every run and lets the other side tell.

A step's result is written in a transaction of its own when the step has ended, so a crash in between runs that one step
again. Steps are found by name: names must not depend on chance, and what lies between two steps runs every time. With
`tx: Tx` as its first parameter a step is a transaction, and its result is kept by that same one: it happens once.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, get_type_hints, overload

from pydantic import TypeAdapter
from pydantic_core import to_json

from dujiang.data.transaction import transact
from dujiang.jobs import store
from dujiang.kernel.clock import instant
from dujiang.kernel.context import current
from dujiang.kernel.errors import DujiangError
from dujiang.messaging.call import stable_key
from dujiang.messaging.direct import fence_piece
from dujiang.messaging.tx import Read, Tx

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from dujiang.data.transaction import Piece
    from dujiang.messaging.message import Message
    from dujiang.messaging.work import Claim

P = ParamSpec("P")
T = TypeVar("T")

NOTE_MAX = 500
STEP_NAME_MAX = 255
FLUSH_S = 0.5


@dataclass(eq=False, kw_only=True)
class StepRefused(DujiangError):
    """A step of a job cannot be told from another one, or cannot be read."""

    code = "step_refused"
    move = "fix"
    status = 500
    says = "{job} cannot take the step {step!r}: {why}"
    cure = "give each step a name of its own, the same in every run, and a function whose annotations are imported"

    job: str
    step: str
    why: str


class Job:
    """One run of a job.

    Args:
        key: The stable key, for a test that makes its own Job; a real run has its own.
        name: The job's stored name.
        claim: The claim of the run; None in a test: progress is only remembered, and nothing is fenced.
        due: For a test, the time for which it is made.

    Attributes:
        id: The job's id.
        key: 32 hexadecimal digits, the same in every run: the idempotency key to hand on to the outside.
        attempt: Which run this is, from 1; one that raised Snooze is not counted.
        now_us: When this run began, microseconds since the Unix epoch.
        message: What was enqueued; None in a test.
        done: The last progress that was said, 0 to 1.
        note: The last note.
    """

    def __init__(
        self, key: str = "", *, name: str = "", claim: Claim | None = None, due: datetime | None = None
    ) -> None:
        self._due = due
        self.name = name
        self.claim = claim
        self.id = 0 if claim is None else claim.message.seq
        self.key = key if claim is None else stable_key(claim.sub_id, claim.message.message_id)
        self.attempt = 1 if claim is None else claim.attempt
        self.message: Message | None = None if claim is None else claim.message
        self.now_us = 0 if claim is None else current().node.clock.now_us()
        self.done = 0.0
        self.note = ""
        self._said = ("", -1.0)
        self._flushed_at = float("-inf")
        self._steps: dict[str, bytes] | None = None
        self._taken: set[str] = set()

    def __repr__(self) -> str:
        return f"<Job {self.name} {self.id}, run {self.attempt}>"

    @property
    def subscription(self) -> str:
        """The job's stored name, as a Call has it."""
        return self.name

    @property
    def now(self) -> datetime:
        """The instant at which this run began, UTC; another one in every run."""
        return instant(self.now_us)

    @property
    def due(self) -> datetime:
        """The time for which this job was made, UTC, the same in every run: that of its schedule, else when it was to begin."""
        if self._due is not None:
            return self._due
        if self.message is None:
            return self.now
        return self._header("due_us") or instant(self.message.created_us)

    @property
    def due_before(self) -> datetime | None:
        """The time of its schedule that fired before this one; None for the first, and for one that was asked for."""
        return self._header("before_us")

    def _header(self, name: str) -> datetime | None:
        value = None if self.message is None else self.message.headers.get(name)
        return instant(value) if isinstance(value, int) else None

    @property
    def fence(self) -> Piece | None:
        """What ends every transaction of this run: it commits only while the run has its claim."""
        return None if self.claim is None else fence_piece(self.name, self.claim)

    async def progress(self, done: float, *, note: str | None = None) -> None:
        """Say how far the run is.

        It is written at most twice a second; what lies between is forgotten. It never goes back within a run.

        Args:
            done: 0 to 1; what lies outside counts as the nearer end.
            note: For people, at most 500 characters; None = as before.
        """
        self.done = max(self.done, min(1.0, max(0.0, done)))
        if note is not None:
            self.note = note.replace("\x00", "")[:NOTE_MAX].encode("utf-8", "replace").decode()
        if self.claim is None or self._said == (self.note, self.done):
            return
        clock = current().node.clock
        if self.done < 1.0 and clock.monotonic() < self._flushed_at + FLUSH_S:
            return
        self._flushed_at, self._said = clock.monotonic(), (self.note, self.done)
        claim = self.claim
        args = (self.id, int(self.done * 1_000_000), self.note, claim.sub_id, claim.attempt, claim.lease)
        await current().runtime.database.write(lambda connection: connection.execute(store.PROGRESS, *args))

    async def transact(
        self, function: Callable[Concatenate[Tx, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(tx, ...)` in a transaction of its own; it may run again from its start.

        Raises:
            LeaseLost: The claim is no longer this run's; nothing was written.
        """
        runtime = current().runtime
        return await transact(
            runtime.database,
            lambda connection, now_us: runtime.make_tx(connection, now_us, self.message),
            lambda tx: function(tx, *args, **kwargs),
            what=self.name,
        )

    async def read(
        self, function: Callable[Concatenate[Read, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(db, ...)` in a read-only session."""
        context = current()
        database = context.runtime.database

        async def body(connection: Any) -> T:
            return await function(Read(connection, database, context), *args, **kwargs)

        found: T = await database.read(body)
        return found

    @overload
    async def step(
        self, name: str, function: Callable[Concatenate[Tx, P], Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    @overload
    async def step(self, name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def step(self, name: str, function: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
        """The result of a step: of an earlier run, or of `function(...)` now.

        Args:
            name: Of the step; another one for each, the same in every run.
            function: Its result must have a JSON form, which its annotation names. With `tx: Tx` as its first parameter it
                is a transaction that also keeps the result.
            args: Its parameters, without `tx`.
            kwargs: The same by name.

        Raises:
            StepRefused: Two steps of this run have the name, or the annotations of the function cannot be read.
        """
        if not name or len(name) > STEP_NAME_MAX or "\x00" in name:
            raise StepRefused(job=self.name, step=name, why=f"a name has 1 to {STEP_NAME_MAX} characters")
        if name in self._taken:
            raise StepRefused(job=self.name, step=name, why="a step of this run has that name")
        self._taken.add(name)
        try:
            hints = hints_of(function)
        except NameError as error:
            why = f"an annotation of its function cannot be read: {error}"
            raise StepRefused(job=self.name, step=name, why=why) from None
        adapter: TypeAdapter[Any] = TypeAdapter(hints.get("return", Any))
        known = await self._known()
        if name in known:
            return adapter.validate_json(known[name])

        def raw(value: Any) -> bytes:
            return to_json(value) if "return" not in hints else adapter.dump_json(value)

        async def keep(tx: Tx, value: Any) -> None:
            if self.claim is not None:
                await tx.fetch(store.STEP_WRITE, self.id, name, raw(value))

        if takes_tx(function, hints):

            async def both(tx: Tx) -> Any:
                value = await function(tx, *args, **kwargs)
                await keep(tx, value)
                return value

            return await self.transact(both)
        value = await function(*args, **kwargs)
        raw(value)  # What cannot be kept fails here, before it is written.
        if self.claim is not None:
            await self.transact(keep, value)
        return value

    async def _known(self) -> dict[str, bytes]:
        if self._steps is None:
            self._steps = {}
            # Asked for in the first run too: one that was put off, or met an outage of the database, counts as none.
            if self.claim is not None:
                database = current().runtime.database
                rows = await database.read(lambda connection: connection.fetch(store.STEP_READ, self.id))
                self._steps = {name: bytes(result) for name, result in rows}
        return self._steps


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function; empty when it has none. Raises NameError when one names what is not imported."""
    target = function if inspect.isroutine(function) else getattr(function, "function", function)
    try:
        return get_type_hints(target, include_extras=True)
    except TypeError:
        return {}


def takes_tx(function: Callable[..., Any], hints: dict[str, Any]) -> bool:
    """Whether the first parameter of a function is a transaction."""
    target = function if inspect.isroutine(function) else getattr(function, "function", function)
    names = list(inspect.signature(target).parameters)
    first = hints.get(names[0]) if names else None
    return isinstance(first, type) and issubclass(first, Tx)
