"""Definition: the class of a saga: its steps in order, and what undoes each.

    class Checkout(Saga[CheckoutState]):
        reserve = Step(reserve_stock, undo=release_stock)      ┐ a failure here undoes, in reverse order,
        charge  = Step(charge_card, undo=refund_card)          ┘ what has been done
        paid    = Wait(PaymentCaptured, by=..., within="15m")  ─ its timeout does the same
        ship    = Step(book_shipment)                          ─ the pivot: from here there is no way back, only tries

The pivot is the first step without an undo. Before it each step has one, so that at any moment everything that was done can
be undone; behind it no step has one, so that nothing which is done there need be. A class that mixes the two could end half
done, and is refused when it is made. A wait has no effect, so it may stand on either side: before the pivot its timeout
turns the saga back, behind it an operator is asked.

Refused: undos that are computed when they are needed. What an undo gets is what its step had given, stored with it; the
data that it would be computed from may have changed meanwhile.
tests/unit/saga/test_definition.py holds each refusal.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, TypeVar, overload

from pydantic import TypeAdapter

from dujiang.kernel.errors import Declared
from dujiang.kernel.units import Duration, duration_s
from dujiang.messaging.message import Event
from dujiang.saga.signature import Signature, shown, signature_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from dujiang.messaging.call import Call
    from dujiang.messaging.tx import Tx
    from dujiang.saga.outcome import Failed, Ok, Unknown

S = TypeVar("S")
R = TypeVar("R")
E = TypeVar("E", bound=Event)

NAME_MAX = 100


class Step(Generic[S, R]):
    """One step of a saga, and what undoes it.

        reserve = Step(reserve_stock, undo=release_stock)

    Args:
        function: `(tx: Tx, state)`: its effect, its result and the state are one transaction. `(call: Call, state)`: an effect
            outside, at least once, with a stable key; it returns `Ok`, `Failed` or `Unknown`.
        undo: `(tx or call, state, done)`, where `done` is what the step had given; None means that it began outside and
            nobody can say whether it happened: the undo must see to it that it has no effect, then or later.
        attempts: Tries of the step before the pivot; default: the saga's. Behind it a step is tried until it is done.
        timeout: How long one try may take.
    """

    name = ""
    forward: Signature
    back: Signature | None = None
    adapter: TypeAdapter[Any]

    @overload
    def __init__(
        self,
        function: Callable[Concatenate[Tx, S, ...], Awaitable[R]],
        undo: Callable[Concatenate[Tx, S, R, ...], Awaitable[Any]]
        | Callable[Concatenate[Call, S, R, ...], Awaitable[Any]]
        | None = None,
        *,
        attempts: int | None = None,
        timeout: Duration = "60s",
    ) -> None: ...

    @overload
    def __init__(
        self,
        function: Callable[Concatenate[Call, S, ...], Awaitable[Ok[R] | Failed | Unknown]],
        undo: Callable[Concatenate[Tx, S, R | None, ...], Awaitable[Any]]
        | Callable[Concatenate[Call, S, R | None, ...], Awaitable[Any]]
        | None = None,
        *,
        attempts: int | None = None,
        timeout: Duration = "60s",
    ) -> None: ...

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        undo: Callable[..., Awaitable[Any]] | None = None,
        *,
        attempts: int | None = None,
        timeout: Duration = "60s",
    ) -> None:
        self.function = function
        self.undo = undo
        self.attempts = attempts
        self.timeout = timeout
        self.timeout_s = 0.0

    def __repr__(self) -> str:
        return f"<Step {self.name}>"

    def bind(self, where: str, state: Any) -> None:
        """Read its functions. Raises Declared."""
        place = f"{where}.{self.name}"
        for function in (self.function, self.undo):
            if isinstance(function, Step):
                how = "give the function another name than the step: inside the class that name means the step"
                raise Declared(where=place, what=f"is made of the step {function.name}", how=how)
        self.timeout_s = seconds_of(self.timeout, place)
        if self.attempts is not None and self.attempts < 1:
            raise Declared(where=place, what=f"attempts={self.attempts}", how="give it at least 1")
        self.forward = signature_of(self.function, state)
        self.adapter = TypeAdapter(self.forward.result)
        if self.undo is not None:
            self.back = signature_of(self.undo, state, undoes=self.forward)

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Those of its functions."""
        return (self.forward,) if self.back is None else (self.forward, self.back)


class Wait(Generic[E]):
    """A step that waits for an event.

        paid = Wait(PaymentCaptured, by=lambda event: event.order_id, within="15m")

    An event that comes before its time is kept; one that comes late, or twice, is ignored. If event and timeout meet, one of
    them counts.

    Args:
        event: The class of the event.
        by: The key of the saga that an event is for; None = for none.
        within: How long; then, before the pivot, the saga is undone.
        take: `take(state, event)` puts into the state what is needed of it; a plain function without any effect.
    """

    name = ""

    def __init__(
        self,
        event: type[E],
        *,
        by: Callable[[E], object],
        within: Duration | None = None,
        take: Callable[[Any, E], None] | None = None,
    ) -> None:
        self.event = event
        self.by = by
        self.within = within
        self.take = take
        self.within_s = 0.0

    def __repr__(self) -> str:
        return f"<Wait {self.name}: {self.event.event_name}>"

    def bind(self, where: str) -> None:
        """Check what was declared. Raises Declared."""
        place = f"{where}.{self.name}"
        if not is_event(self.event):
            raise Declared(where=place, what=f"waits for {self.event!r}", how="name the class of an event")
        if self.within is None:
            how = 'write how long: `within="15m"`; a saga that waits for ever holds what it has reserved for ever'
            raise Declared(where=place, what="waits without a limit", how=how)
        self.within_s = seconds_of(self.within, place)


def is_event(kind: Any) -> bool:
    """Whether something is the class of an event."""
    return isinstance(kind, type) and issubclass(kind, Event)


Part = Step[Any, Any] | Wait[Event]


@dataclass(frozen=True, eq=False)
class Flow:
    """The parts of a saga in order.

    Attributes:
        parts: Steps and waits.
        pivot: The place of the first step without an undo; the number of parts when each has one.
        adapter: Reads and writes its state.
        asks: What the app must provide, by parameter.
    """

    parts: tuple[Part, ...]
    pivot: int
    adapter: TypeAdapter[Any]
    asks: Mapping[str, tuple[Any, Any]]

    def place_of(self, name: str) -> int:
        """The place of a part; the number of parts for the end. Raises KeyError for a name that is none."""
        if not name:
            return len(self.parts)
        for place, part in enumerate(self.parts):
            if part.name == name:
                return place
        raise KeyError(name)

    def following(self, name: str) -> str:
        """The name of the part behind one; empty at the end."""
        place = self.place_of(name) + 1
        return self.parts[place].name if place < len(self.parts) else ""

    @property
    def steps(self) -> list[Step[Any, Any]]:
        """Its steps."""
        return [part for part in self.parts if isinstance(part, Step)]

    @property
    def waits(self) -> list[Wait[Event]]:
        """Its waits."""
        return [part for part in self.parts if isinstance(part, Wait)]


class Saga(Generic[S]):
    """The base of sagas; a subclass names its steps, and says how it begins.

    @shop.saga(on=OrderPlaced, within="1h")
    class Checkout(Saga[CheckoutState]):
        reserve = Step(reserve_stock, undo=release_stock)
        charge = Step(charge_card, undo=refund_card)
        ship = Step(book_shipment)

        @staticmethod
        def begin(event: OrderPlaced) -> CheckoutState:
            return CheckoutState(order_id=event.order_id, total=event.total)
    """

    flow: ClassVar[Flow]
    # What @module.saga has made of it; of one that was not declared, nothing.
    declared: ClassVar[Any] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the steps against the state, and against each other."""
        super().__init_subclass__(**kwargs)
        cls.declared = None
        cls.flow = flow_of(cls)

    @staticmethod
    def begin(event: Any) -> Any:
        """The state with which a saga of this event begins; a plain function without any effect."""
        raise NotImplementedError


def flow_of(kind: type[Saga[Any]]) -> Flow:
    """Read the parts of a class. Raises Declared."""
    where, state = kind.__qualname__, state_of(kind)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(state)
        adapter.json_schema()
    except Exception:  # noqa: BLE001  (Pydantic has many ways to say that a type is none of its own)
        how = "let it be a model: `class CheckoutState(Model, frozen=False)`"
        raise Declared(where=where, what=f"has the state {shown(state)}, which cannot be stored", how=how) from None
    if not isinstance(kind.__dict__.get("begin"), (staticmethod, classmethod)) and "begin" in kind.__dict__:
        raise Declared(where=where, what="has a begin that wants an instance", how="put @staticmethod above it")
    parts: list[Part] = []
    for name, value in kind.__dict__.items():
        if not isinstance(value, (Step, Wait)):
            continue
        if value.name:
            what = f"has one step under two names: {value.name} and {name}"
            raise Declared(where=where, what=what, how="make a Step for each name")
        if len(name) > NAME_MAX or name == "begin":
            raise Declared(where=where, what=f"has a step {name!r}", how=f"give it another name, of 1 to {NAME_MAX}")
        value.name = name
        parts.append(value)
    for part in parts:
        part.bind(where, state) if isinstance(part, Step) else part.bind(where)
    if not any(isinstance(part, Step) for part in parts):
        raise Declared(where=where, what="has no step", how="write `reserve = Step(reserve_stock, undo=release_stock)`")
    refuse_twin_waits(where, parts)
    return Flow(tuple(parts), pivot_of(where, parts), adapter, asks_of(where, parts))


def state_of(kind: type[Saga[Any]]) -> Any:
    """S of `Saga[S]`. Raises Declared."""
    for base in getattr(kind, "__orig_bases__", ()):
        if typing.get_origin(base) is Saga and not isinstance(typing.get_args(base)[0], TypeVar):
            return typing.get_args(base)[0]
    how = f"write `class {kind.__name__}(Saga[{kind.__name__}State])`"
    raise Declared(where=kind.__qualname__, what="does not say what its state is", how=how)


def pivot_of(where: str, parts: list[Part]) -> int:
    """The place of the first step without an undo. Raises Declared when a later one has an undo."""
    pivot = len(parts)
    for place, part in enumerate(parts):
        if not isinstance(part, Step):
            continue
        if part.undo is None:
            pivot = min(pivot, place)
        elif pivot < place:
            what = f"has the step {parts[pivot].name} without undo before {part.name}, which has one"
            how = (
                f"give {parts[pivot].name} an undo, one that does nothing if there is nothing to undo, or move it behind "
                f"{part.name}: when {part.name} fails, what was done before must be undone"
            )
            raise Declared(where=where, what=what, how=how)
    return pivot


def refuse_twin_waits(where: str, parts: list[Part]) -> None:
    """Raise Declared when two parts wait for one event: nobody could say for which of them it came."""
    events = [part.event.event_name for part in parts if isinstance(part, Wait)]
    for event in events:
        if events.count(event) > 1:
            how = "publish an event of its own for each"
            raise Declared(where=where, what=f"waits twice for {event}", how=how)


def asks_of(where: str, parts: list[Part]) -> dict[str, tuple[Any, Any]]:
    """What all functions ask of the app, by parameter. Raises Declared when one name has two types."""
    found: dict[str, tuple[Any, Any]] = {}
    for part in parts:
        for signature in part.signatures if isinstance(part, Step) else ():
            for name, (hint, default) in signature.asks.items():
                if found.setdefault(name, (hint, default))[0] != hint:
                    what = f"asks for {name} as {shown(found[name][0])} and as {shown(hint)}"
                    raise Declared(where=where, what=what, how="use two names")
    return found


def seconds_of(text: Duration, where: str) -> float:
    """A declared duration in seconds. Raises Declared."""
    try:
        found = duration_s(text)
    except ValueError as error:
        raise Declared(where=where, what=str(error), how="correct the duration") from None
    if found <= 0:
        raise Declared(where=where, what=f"has the duration {text!r}", how="give it more than nothing")
    return found
