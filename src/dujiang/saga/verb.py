"""Verb: a declared saga: the subscriptions behind it, and what reads its work.

shop.Checkout            its work: a row for each open saga
shop.Checkout.begin      the reaction to the event that begins one
shop.Checkout.paid       the reaction to an event that it waits for, by the name of the wait
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import Declared
from dujiang.kernel.units import duration_s
from dujiang.messaging.subscription import Subscription
from dujiang.resilience.retry import Retry
from dujiang.saga.beginning import begin, hear
from dujiang.saga.kind import Kind
from dujiang.saga.running import Run
from dujiang.saga.store import TOPIC

if TYPE_CHECKING:
    from dujiang.data.database import Database
    from dujiang.kernel.units import Duration
    from dujiang.messaging.closing import Closing
    from dujiang.messaging.message import Event
    from dujiang.messaging.tx import Tx
    from dujiang.messaging.work import Claim
    from dujiang.saga.definition import Saga, Wait

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

# How often a saga is tried is decided by its runs, for each step; its work itself has no bound.
ENDLESS = {"attempts": 1_000_000_000, "max_age": "36500d"}


@dataclass(frozen=True, eq=False)
class Asks:
    """What all functions of a saga ask of the app, as the signature of one handler.

    Attributes:
        parameters: By name: type and default.
    """

    parameters: Mapping[str, tuple[Any, Any]]
    responses: tuple[str, ...] = ()
    answer: Any = None


class Work:
    """Reads the work of sagas, as the class of an event reads its payloads: there is nothing in it.

    Args:
        name: The saga's stored name.
        version: Of its state.
        form: What of the code decides whether a stored saga can be read.
    """

    def __init__(self, name: str, version: int, form: dict[str, Any]) -> None:
        self.event_name = TOPIC + name
        self.event_version = version
        self.upcasters: dict[int, Any] = {}
        self._form = form

    def model_json_schema(self) -> dict[str, Any]:
        """Its parts, and the form of its state."""
        return self._form

    def from_bytes(self, payload: bytes, version: int | None = None) -> Any:
        """Nothing: the saga's row says what is to be done."""
        return {}


@dataclass(eq=False, kw_only=True)
class Orchestrated:
    """A declared saga.

    Attributes:
        saga: Its class.
        name: The stored name, `module.Class`.
        event: The class of the event that begins one.
        key: The key of the saga that an event begins.
        within_s: How long it has to pass its pivot.
        version: Of its state.
        upgrades: How the JSON object of a state of one version becomes that of the next.
        retry: Tries of each step before the pivot, and the waits between tries.
        stuck_after: Tries of an undo.
        concurrency: Runs at once in one process.
        keep_s: How long an ended saga is known.
        handler: What its functions ask of the app.
        function: For places in messages.
    """

    saga: type[Saga[Any]]
    name: str
    event: type[Event]
    key: Callable[[Any], object]
    within_s: float
    version: int = 1
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)
    retry: Retry = Retry()  # noqa: RUF009  (immutable)
    stuck_after: int = 20
    concurrency: int = 8
    keep_s: float = 7 * 86_400.0
    handler: Asks
    function: Any = None
    route: None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    kind = "saga"

    def kind_of(self, given: Mapping[str, Any]) -> Kind:
        """This saga as its runs see it."""
        return Kind(
            name=self.name,
            flow=self.saga.flow,
            version=self.version,
            upgrades=self.upgrades,
            attempts=self.retry.attempts,
            stuck_after=self.stuck_after,
            keep_us=int(self.keep_s * 1e6),
            given=given,
        )

    def reactions(self) -> dict[str, type[Event]]:
        """The events to which it reacts, by the stored names of its reactions."""
        waits = {f"{self.name}.{wait.name}": wait.event for wait in self.saga.flow.waits}
        return {f"{self.name}.begin": self.event, **waits}

    def work(self) -> Work:
        """What reads its work."""
        parts = [f"{type(part).__name__} {part.name}" for part in self.saga.flow.parts]
        return Work(self.name, self.version, {"parts": parts, "state": self.saga.flow.adapter.json_schema()})

    def subscriptions(self, given: Mapping[str, Any]) -> list[Subscription]:
        """Its work, and its reactions."""
        kind = self.kind_of(given)
        reactions = [self._begins(kind), *(self._hears(kind, wait) for wait in self.saga.flow.waits)]
        return [self._works(kind), *reactions]

    def _works(self, kind: Kind) -> Subscription:
        async def outside(_: Subscription, database: Database, claim: Claim, __: Any) -> Closing:
            return await Run(kind, database, claim).go()

        steps = self.saga.flow.steps
        return Subscription(
            name=self.name,
            event=self.work(),
            handle=_nothing,
            outside=outside,
            routed=False,
            ahead=False,
            on_fail="skip",
            retry=Retry(base=self.retry.base, cap=self.retry.cap, **ENDLESS),  # type: ignore[arg-type]
            concurrency=self.concurrency,
            timeout_s=60.0 + sum(step.timeout_s for step in steps),
        )

    def _begins(self, kind: Kind) -> Subscription:
        within_us = int(self.within_s * 1e6)

        async def handle(tx: Tx, events: Sequence[Event]) -> Sequence[Any]:
            await begin(tx, kind, self.saga, events[0], self.key, within_us)
            return ()

        return Subscription(name=f"{self.name}.begin", event=self.event, handle=handle)

    def _hears(self, kind: Kind, wait: Wait[Event]) -> Subscription:
        async def handle(tx: Tx, events: Sequence[Event]) -> Sequence[Any]:
            await hear(tx, kind, wait, events[0])
            return ()

        return Subscription(name=f"{self.name}.{wait.name}", event=wait.event, handle=handle)


async def _nothing(_: Any, __: Sequence[Any]) -> Sequence[Any]:
    """The work of a saga is run outside any transaction (running.py)."""
    return ()


def declared(
    saga: type[Saga[Any]],
    *,
    name: str,
    on: type[Event],
    key: Callable[[Any], object] | None,
    within: Duration | None,
    version: int,
    upgrades: Mapping[int, Upgrade] | None,
    retry: Retry | None,
    concurrency: int,
    stuck_after: int,
    keep: Duration,
) -> Orchestrated:
    """The declaration of a class as a saga. Raises Declared."""
    where = saga.__qualname__
    if saga.declared is not None:
        raise Declared(
            where=where, what=f"is declared twice, as {saga.declared.name} and {name}", how="keep one of them"
        )
    if within is None:
        how = 'write how long it has to pass its pivot: `within="1h"`; then it is undone'
        raise Declared(where=where, what="has no deadline", how=how)
    if "begin" not in saga.__dict__:
        how = f"write `@staticmethod def begin(event: {on.__name__}) -> ...`, which gives the state"
        raise Declared(where=where, what="does not say how it begins", how=how)
    if key is None and on.key_field is None:
        how = "mark a field of the event with `= key()`, or write `key=lambda event: event.order_id`"
        raise Declared(where=where, what=f"has no key, and {on.__name__} has none", how=how)
    if any(wait.event is on for wait in saga.flow.waits):
        how = "publish an event of its own for it"
        raise Declared(where=where, what=f"waits for {on.__name__}, which begins it", how=how)
    for what, count in (("concurrency", concurrency), ("stuck_after", stuck_after)):
        if count < 1:
            raise Declared(where=where, what=f"{what}={count}", how="give it at least 1")
    if version < 1 or any(not 1 <= each < version for each in upgrades or {}):
        how = "versions begin at 1; upgrades={1: function} brings what version 1 has stored to version 2"
        raise Declared(where=where, what=f"has version {version} and upgrades from {sorted(upgrades or {})}", how=how)
    try:
        within_s, keep_s = duration_s(within), duration_s(keep)
    except ValueError as error:
        raise Declared(where=where, what=str(error), how="correct the duration") from None
    begin_function = saga.__dict__["begin"].__func__
    made = Orchestrated(
        saga=saga,
        name=name,
        event=on,
        key=key or (lambda event: event.order_key()),
        within_s=within_s,
        version=version,
        upgrades=dict(upgrades or {}),
        retry=retry or Retry(),
        stuck_after=stuck_after,
        concurrency=concurrency,
        keep_s=keep_s,
        handler=Asks(saga.flow.asks),
        function=begin_function,
    )
    saga.declared = made
    return made
