"""React: verb 4, an effectively-once consumer of events.

The handler's transaction holds the inbox row, its effects, its own events and the acknowledgement; messaging/consumer.py
runs it. With `call: Call` instead of `tx: Tx` it runs outside any transaction, at least once, for an effect that lies
outside (messaging/call.py). A refusal in a reaction is dead at once, with its code.

In the batched form (`batch=n`, a list in the signature) up to n events share one transaction; if it fails, each runs by
itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from dujiang.gateway.handler import inspected, where_of
from dujiang.kernel.errors import Declared
from dujiang.kernel.units import duration_s
from dujiang.messaging.call import Call, called
from dujiang.messaging.subscription import OnFail, Start, Subscription
from dujiang.messaging.tx import Tx
from dujiang.resilience.retry import Retry
from dujiang.telemetry.tracing import span

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from dujiang.gateway.handler import Handler
    from dujiang.kernel.units import Duration
    from dujiang.messaging.message import Event

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False, kw_only=True)
class Reaction(Generic[P, T]):
    """A declared reaction. Calling it calls the function.

    Attributes:
        function: The function.
        handler: Its signature.
        name: The stored name, `module.function` by default.
        event: The class of its events.
        event_name: The parameter that takes the event (or the list of events).
        ordered: One after another for each key, in commit order.
        on_fail: What a dead event does to its key.
        retry: The bound on tries.
        batch: Events at most in one transaction; 0 = one by one.
        calls: Whether it takes a Call and runs outside any transaction.
        concurrency: Transactions at once in one process.
        timeout_s: How long one run may take.
        start: What a new subscription begins with.
    """

    function: Callable[P, Coroutine[Any, Any, T]]
    handler: Handler
    name: str
    event: type[Event]
    event_name: str
    ordered: bool = False
    on_fail: OnFail = "park_key"
    retry: Retry = Retry()  # noqa: RUF009  (immutable)
    batch: int = 0
    calls: bool = False
    concurrency: int = 8
    timeout_s: float = 60.0
    start: Start = "now"
    route: None = None
    kind = "react"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run the function in the caller's transaction, or for the caller's Call."""
        return self.function(*args, **kwargs)

    def subscription(self, provided: Mapping[str, Any]) -> Subscription:
        """This reaction as messaging sees it, with what the app provides filled in."""
        injected, function = dict(provided), cast("Callable[..., Coroutine[Any, Any, Any]]", self.function)

        async def handle(tx: Tx | Call, events: Sequence[Event]) -> Sequence[Any]:
            with span("handler", operation=self.name):
                if self.batch:
                    answers: Sequence[Any] | None = await function(tx, **{self.event_name: list(events)}, **injected)
                    return answers or ()
                await function(tx, **{self.event_name: events[0]}, **injected)
            return ()

        return Subscription(
            name=self.name,
            event=self.event,
            handle=handle,
            ordered=self.ordered,
            on_fail=self.on_fail,
            retry=self.retry,
            batch=max(1, self.batch),
            lists=self.batch > 0,
            outside=called if self.calls else None,
            concurrency=self.concurrency,
            timeout_s=self.timeout_s,
            start=self.start,
        )


def declared(
    function: Callable[P, Coroutine[Any, Any, T]],
    event: type[Event],
    *,
    name: str,
    ordered: bool,
    on_fail: OnFail,
    retry: Retry | None,
    batch: int,
    concurrency: int,
    timeout: Duration,
    start: Start,
) -> Reaction[P, T]:
    """The declaration of a function as a reaction. Raises Declared."""
    handler = inspected(function, worlds=(Tx, Call))
    where, calls = where_of(function), issubclass(handler.first, Call)
    if calls and batch:
        how = "take one event: every call has a key of its own; or take `tx: Tx`"
        raise Declared(where=where, what="batch with Call", how=how)
    wanted = list[event] if batch else event  # type: ignore[valid-type]
    takes = [parameter for parameter, (hint, _) in handler.parameters.items() if hint == wanted]
    if len(takes) != 1:
        shown = f"list[{event.__name__}]" if batch else event.__name__
        raise Declared(where=where, what="does not take the event", how=f"add a parameter `event: {shown}`")
    if ordered and event.key_field is None:
        raise Declared(
            where=where, what=f"is ordered, and {event.__name__} has no key", how="mark a field with `= key()`"
        )
    if isinstance(start, datetime) and start.tzinfo is None:
        raise Declared(where=where, what="starts at a time without a zone", how="give it one: tzinfo=UTC")
    return Reaction(
        function=function,
        handler=handler,
        name=name,
        event=event,
        event_name=takes[0],
        ordered=ordered,
        on_fail=on_fail,
        retry=retry or Retry(),
        batch=batch,
        calls=calls,
        concurrency=concurrency,
        timeout_s=duration_s(timeout),
        start=start,
    )
