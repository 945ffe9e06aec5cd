"""Desk: the app of a saga case: three steps, one of them outside, and a wait; each does what the case says."""

# No postponed annotations: the types of a step are read from its function when the class is made.
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from dujiang.app import App
from dujiang.data.types import Model
from dujiang.kernel.errors import Refusal
from dujiang.messaging.call import Call
from dujiang.messaging.message import Event, key
from dujiang.messaging.tx import Read, Tx
from dujiang.module import Module
from dujiang.resilience.retry import Retry
from dujiang.saga.definition import Saga, Step, Wait
from dujiang.saga.outcome import Failed, Ok, Unknown
from dujiang.saga.view import SagaView, saga_of
from dujiang.testing.conformance.stage import ADD, StageSuite, fetch, playing, until
from dujiang.testing.harness import World

QUICK = Retry(attempts=3, base="1ms", cap="5ms")

Behave = Callable[[str, int], Awaitable[Any]]


class Asked(Event):
    """Somebody wants it."""

    n: int = key()


class Confirmed(Event):
    """What a saga waits for."""

    n: int = key()
    word: str = ""


class Case(Model, frozen=False):
    """What the saga of these cases knows."""

    n: int
    word: str = ""


class No(Refusal):
    """A refusal of these cases."""

    code = "saga_no"


class Places:
    """An app with one saga, and what it did.

    Args:
        behave: Called with the place (`first`, `second`, `last`, `undo first`, `undo second`) and the saga's number; what it
            returns for `second` and `undo second`, if anything, is their outcome.
        within: The deadline.
        wait: How long it waits.
        name: The class's name.
        options: Of the declaration.

    Attributes:
        runs: The places, in the order in which they were begun.
        keys: The keys that `second` and its undo were called with.
    """

    def __init__(self, behave: Behave | None = None, *, within: str = "1h", wait: str = "10m", **options: Any) -> None:
        self.runs: list[str] = []
        self.keys: dict[str, set[str]] = {}
        self.behave = behave
        module, options = Module("places"), {"retry": QUICK, "stuck_after": 3, **options}
        state = options.pop("state", Case)
        self.saga = saga_class(self, state, wait)
        module.saga(on=Asked, within=within, name="Three", **options)(self.saga)
        self.app = App(modules=[module])

    async def at(self, place: str, n: int, call: Call | None = None) -> Any:
        """Do what the case says."""
        self.runs.append(place)
        if call is not None:
            self.keys.setdefault(place, set()).add(call.key)
        return None if self.behave is None else await self.behave(place, n)


def saga_class(places: Places, state: Any, wait: str) -> type[Saga[Any]]:
    """The saga: its effects are rows, +1 for what was done and another one for what was undone."""

    async def first(tx: Tx, state: state) -> int:
        await tx.fetch(ADD, "first", str(state.n), 1)
        await places.at("first", state.n)
        return int(state.n) + 100

    async def undo_first(tx: Tx, state: state, done: int) -> None:
        assert done == state.n + 100
        await tx.fetch(ADD, "undo first", str(state.n), 1)
        await places.at("undo first", state.n)

    async def second(call: Call, state: state) -> Ok[str] | Failed | Unknown:
        found = await places.at("second", state.n, call)
        return found or Ok(f"second {state.n}")

    async def undo_second(call: Call, state: state, done: str | None) -> Failed | Unknown | None:
        assert call.undoes in places.keys["second"] or done is None
        places.keys.setdefault("undone", set()).add(str(done))
        found: Failed | Unknown | None = await places.at("undo second", state.n, call)
        return found

    async def last(tx: Tx, state: state) -> None:
        await tx.fetch(ADD, "last", str(state.n), 1)
        await places.at("last", state.n)

    class Three(Saga[state]):
        """Three steps and a wait."""

        first_step = Step(first, undo=undo_first)
        second_step = Step(second, undo=undo_second)
        confirmed = Wait(Confirmed, by=lambda event: event.n, within=wait, take=taken)
        last_step = Step(last)

        @staticmethod
        def begin(event: Asked) -> Any:
            return state(n=event.n)

    return Three


def taken(state: Any, event: Confirmed) -> None:
    """What the saga needs of the event."""
    state.word = event.word


class PlacesSuite(StageSuite):
    """Saga cases."""

    @asynccontextmanager
    async def with_saga(self, places: Places, **options: Any) -> AsyncIterator[World]:
        """A running copy of the app on this test's store."""
        options.setdefault("broker", self.broker_url)
        options.setdefault("simulation", self.simulation)
        async with playing(options.pop("app", places.app), self.url, self.folder, **options) as world:
            yield world


async def stands(world: World, places: Places, n: int) -> SagaView | None:
    """How a saga stands."""

    async def look(db: Read) -> SagaView | None:
        return await saga_of(db, places.saga, n)

    found: SagaView | None = await world.runtime.read(look)
    return found


async def until_state(world: World, places: Places, n: int, *states: str) -> SagaView:
    """The saga, once it is in one of some states."""
    found: list[SagaView] = []

    async def there() -> bool:
        view = await stands(world, places, n)
        found[:] = [] if view is None else [view]
        return view is not None and view.state in states

    await until(world, there, f"saga {n} is {' or '.join(states)}: {found}", within_s=60.0)
    return found[0]


async def effects(world: World, n: int) -> dict[str, int]:
    """How often each effect of a saga lies in the database."""
    rows = await fetch(world, "SELECT reaction, count(*) FROM stage_effect WHERE line = $1 GROUP BY reaction", str(n))
    return {row[0]: row[1] for row in rows}
