"""Accept: verb 2, a request that is answered at once and done later, durably.

    request ──► transaction: key claimed, job and its work row, 202 stored ──► commit ──► 202, Location: /api/v1/jobs/{id}
                                              │
    worker ──► claim ──► function(job, ...) ──► transaction: acknowledgement, outcome, result ──► GET shows it

To the caller it is a write like any other (write.py; app/binding.py puts the two together): one transaction, the same rules
for keys, replays and refusals. What that write does is to enqueue the job, so a 202 means that the job exists. What the job
refuses is seen at its address, not in the answer. Without a path transactions enqueue it: `await tx.enqueue(render, order)`.

The function runs outside any transaction, at least once (jobs/job.py). Its parameters are stored as JSON, so it may ask for
what a route may ask for as long as that has a JSON form: no Request, no Response, no dependency.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, cast

from dujiang.gateway.handler import inspected, is_depends, is_response, where_of
from dujiang.gateway.response import asks_request
from dujiang.jobs.arguments import Arguments
from dujiang.jobs.cron import NotCron
from dujiang.jobs.enqueue import JobRef, enqueue
from dujiang.jobs.job import Job
from dujiang.jobs.schedule import Schedule
from dujiang.jobs.view import JobView, url_of
from dujiang.kernel.codec import Codec
from dujiang.kernel.context import current
from dujiang.kernel.errors import Declared
from dujiang.kernel.units import duration_s
from dujiang.messaging.subscription import Subscription
from dujiang.messaging.tx import Terms, Tx
from dujiang.resilience.retry import Retry
from dujiang.telemetry.tracing import span

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from dujiang.gateway.handler import Handler
    from dujiang.kernel.units import Duration
    from dujiang.messaging.closing import Closing

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

STATUS = 202


@dataclass(eq=False, kw_only=True)
class Accept(Generic[*Ts, T]):
    """A declared job, with a route or without. Calling it calls the function.

    Attributes:
        function: The function.
        handler: What a request gives it; its answer is the view of the job.
        result: The type of what the function returns.
        name: The stored name, `module.function`.
        route: "POST /path", or None.
        retry: The bound on runs.
        concurrency: Runs at once in one process.
        limit: Runs at once over all processes; 0 = no limit.
        timeout_s: How long one run may take.
        keep_s: How long the result is kept.
        key_required: Whether a request needs an Idempotency-Key.
        requires: What must be there, beside the database, for it to be accepted.
        schedule: When the clock makes one of it; None = it does not.
        aliases: Further routes to it.
        options: FastAPI's route options.
        status: Of a request that was accepted.
    """

    function: Callable[[Job, *Ts], Coroutine[Any, Any, T]]
    handler: Handler
    result: Any
    name: str
    route: str | None
    retry: Retry = Retry()  # noqa: RUF009  (immutable)
    concurrency: int = 8
    limit: int = 0
    timeout_s: float = 3600.0
    keep_s: float = 86_400.0
    key_required: bool = False
    requires: tuple[str, ...] = ()
    schedule: Schedule | None = None
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    status: int = STATUS
    kind = "accept"

    def __call__(self, job: Job, *args: *Ts) -> Coroutine[Any, Any, T]:
        """Run the function for the caller's Job."""
        return self.function(job, *args)

    async def enqueued(self, tx: Tx, many: Sequence[Sequence[Any]], terms: Terms) -> list[JobRef[T]]:
        """Make jobs in a transaction; see `Tx.enqueue`."""
        arguments = arguments_of(self, current().runtime.composition.provided(self))
        values = [arguments.values_of(args, {}) for args in many]
        return await enqueue(tx, self.name, arguments, values, terms)

    def takes(self, *args: *Ts) -> None:
        """For type checkers: what `Tx.enqueue` takes beside the job."""

    def subscription(self, injected: Mapping[str, Any]) -> Subscription:
        """This job as messaging sees it, with what the app provides filled in."""
        codec: Codec[Any] = Codec(self.result)
        keep_us, function = int(self.keep_s * 1e6), cast("Callable[..., Coroutine[Any, Any, T]]", self.function)

        async def handle(job: Any, events: Sequence[Any]) -> Sequence[Any]:
            with span("handler", operation=self.name):
                return (await function(job, **events[0], **injected),)

        async def outside(subscription: Subscription, _: Any, claim: Any, values: Any) -> Closing:
            closing: Closing = await current().runtime.jobs.run(
                subscription, claim, values, codec=codec, keep_us=keep_us
            )
            return closing

        return Subscription(
            name=self.name,
            event=arguments_of(self, injected),
            handle=handle,
            outside=outside,
            routed=False,
            ahead=False,
            limit=self.limit,
            on_fail="skip",
            retry=self.retry,
            concurrency=self.concurrency,
            timeout_s=self.timeout_s,
        )


def arguments_of(verb: Accept[*Ts, T], injected: Mapping[str, Any]) -> Arguments:
    """What is stored of a job: its parameters without those that the app provides. Raises Declared. Made once."""
    known: dict[Any, Arguments] = verb.__dict__.setdefault("dujiang_arguments", {})
    names = frozenset(injected)
    if names not in known:
        stored = {name: each for name, each in verb.handler.parameters.items() if name not in injected}
        known[names] = Arguments(verb.name, stored, where_of(verb.function))
    return known[names]


def declared(
    function: Callable[[Job, *Ts], Coroutine[Any, Any, T]],
    *,
    name: str,
    route: str | None,
    retry: Retry | None,
    concurrency: int,
    limit: int | None,
    timeout: Duration,
    keep: Duration,
    key_required: bool,
    requires: Sequence[str],
    aliases: Sequence[str],
    options: Mapping[str, Any],
) -> Accept[*Ts, T]:
    """The declaration of a function as a job. Raises Declared."""
    handler, where = inspected(function, worlds=(Job,)), where_of(function)
    for parameter, (hint, default) in handler.parameters.items():
        if (
            is_depends(default)
            or is_response(hint)
            or asks_request(hint)
            or any(is_depends(mark) for mark in getattr(hint, "__metadata__", ()))
        ):
            how = "take the value that it needs as a parameter; when the job runs there is no request any more"
            raise Declared(where=where, what=f"asks for the request by {parameter}", how=how)
    for what, count in (("concurrency", concurrency), ("limit", 1 if limit is None else limit)):
        if count < 1:
            raise Declared(where=where, what=f"{what}={count}", how="give it at least 1")
    try:
        timeout_s, keep_s = duration_s(timeout), duration_s(keep)
    except ValueError as error:
        raise Declared(where=where, what=str(error), how="correct the duration") from None
    return Accept(
        function=function,
        handler=replace(handler, answer=JobView),
        result=handler.answer,
        name=name,
        route=route,
        retry=retry or Retry(),
        concurrency=concurrency,
        limit=limit or 0,
        timeout_s=timeout_s,
        keep_s=keep_s,
        key_required=key_required,
        requires=tuple(requires),
        aliases=tuple(aliases),
        options=options,
    )


def scheduled(
    function: Callable[[Job], Coroutine[Any, Any, T]],
    when: Duration,
    rules: Mapping[str, Any],
    *,
    name: str,
    retry: Retry | None,
    timeout: Duration,
    keep: Duration,
) -> Accept[*tuple[()], T]:
    """The declaration of a function as a job of the clock. Raises Declared."""
    try:
        schedule = Schedule.of(when, **rules)
    except NotCron as error:
        raise Declared(where=where_of(function), what=str(error), how=error.how) from None
    # Runs that must not meet: one at a time, wherever.
    alone = schedule.overlap in ("queue", "cancel_running")
    verb: Accept[*tuple[()], T] = declared(
        function,
        name=name,
        route=None,
        retry=retry,
        concurrency=8,
        limit=1 if alone else None,
        timeout=timeout,
        keep=keep,
        key_required=False,
        requires=(),
        aliases=(),
        options={},
    )
    return replace(verb, schedule=schedule)


def refuse_arguments(verb: Accept[*Ts, T], injected: Mapping[str, Any]) -> None:
    """Raise Declared when a job of the clock has parameters that nobody gives to it."""
    empty = inspect.Parameter.empty
    lacking = [
        name for name, (_, default) in verb.handler.parameters.items() if name not in injected and default is empty
    ]
    if verb.schedule is not None and lacking:
        what = f"is made by the clock, which gives no {', '.join(lacking)}"
        raise Declared(where=where_of(verb.function), what=what, how="take `job: Job` and what the app provides")


def accepting(verb: Accept[*Ts, T], injected: Mapping[str, Any]) -> Callable[..., Coroutine[Any, Any, JobView]]:
    """The function of the write that accepts a job: `(tx, **values)`; `injected` is given to the run and not stored."""
    arguments = arguments_of(verb, injected)

    async def accept(tx: Tx, **values: Any) -> JobView:
        (ref,) = await enqueue(tx, verb.name, arguments, [values], Terms())
        return JobView(job_id=ref.id, kind=verb.name, state="ready", created_at=tx.now, url=url_of(ref.id))

    return accept


__all__ = ["Accept", "accepting", "declared", "refuse_arguments", "scheduled"]
