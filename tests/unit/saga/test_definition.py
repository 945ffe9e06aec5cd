"""The class of a saga: what cannot hold is refused when it is made, with the cure."""

# No postponed annotations: the types of steps are read from their functions.
from collections.abc import Callable
from typing import Any

import pytest

from dujiang import App, Call, Event, Failed, Model, Module, Ok, Read, Saga, Step, Tx, Unknown, Wait, key
from dujiang.app.composition import composed
from dujiang.kernel.errors import Declared


class Placed(Event):
    """Something was placed."""

    n: int = key()


class Keyless(Event):
    """Something without a key."""

    n: int


class State(Model, frozen=False):
    """What the sagas here know."""

    n: int


class Mailer:
    """What an app may provide."""


async def local(tx: Tx, state: State) -> int:
    """A step."""
    return state.n


async def unlocal(tx: Tx, state: State, done: int) -> None:
    """Its undo."""


async def outside(call: Call, state: State) -> Ok[str] | Failed | Unknown:
    """A step outside."""
    return Ok("")


async def unoutside(call: Call, state: State, done: str | None) -> None:
    """Its undo."""


def made(**parts: Any) -> type[Saga[State]]:
    """A class with these parts."""
    return type("Made", (Saga,), {"__orig_bases__": (Saga[State],), **parts})


def refused(make: Callable[[], Any]) -> str:
    """What a refusal says, with its cure."""
    with pytest.raises(Declared) as caught:
        make()
    assert caught.value.hint
    return caught.value.told


class TestSteps:
    def test_the_order_of_the_parts_is_that_of_the_class(self) -> None:
        """Steps and waits have the names under which they stand, and the pivot is the first step without an undo."""
        wait: Wait[Placed] = Wait(Placed, by=lambda event: event.n, within="1m")
        flow = made(a=Step(local, undo=unlocal), b=Step(outside, undo=unoutside), c=wait, d=Step(local)).flow

        assert [part.name for part in flow.parts] == ["a", "b", "c", "d"]
        assert flow.pivot == 3
        assert [flow.following(name) for name in "abcd"] == ["b", "c", "d", ""]

    def test_a_step_without_undo_before_the_pivot_is_refused(self) -> None:
        """A failure of the later one could leave the earlier one done."""
        said = refused(lambda: made(a=Step(local), b=Step(local, undo=unlocal)))

        assert "the step a without undo before b" in said

    def test_a_step_of_another_state_is_refused(self) -> None:
        """Its type is that of the saga."""

        async def other(tx: Tx, state: Placed) -> None: ...

        assert "takes Placed, and the state of its saga is State" in refused(lambda: made(a=Step(other)))

    def test_a_step_outside_says_all_three_outcomes_it_may_have(self) -> None:
        """A plain value does not say whether it happened."""

        async def plain(call: Call, state: State) -> str:
            return ""

        assert "Ok[R] | Failed | Unknown" in refused(lambda: made(a=Step(plain)))  # type: ignore[arg-type]

    def test_an_undo_takes_what_its_step_gives(self) -> None:
        """And None, if the step is outside, because nobody may know."""

        async def another(call: Call, state: State, done: int | None) -> None: ...

        async def sure(call: Call, state: State, done: str) -> None: ...

        assert "gives str" in refused(lambda: made(a=Step(outside, undo=another)))
        assert "done: str | None" in refused(lambda: made(a=Step(outside, undo=sure)))  # type: ignore[arg-type]
        made(a=Step(local, undo=unlocal))

    def test_what_no_step_may_be_is_refused(self) -> None:
        """No type, no world, no async, no JSON form, no step at all, one step twice, no time, no tries."""

        async def untyped(tx: Tx, state) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

        async def reads(db: Read, state: State) -> None: ...

        def plain(tx: Tx, state: State) -> None: ...

        async def unstorable(tx: Tx, state: State) -> Callable[[], int]: ...  # type: ignore[empty-body]

        twice = Step(local)
        again: Any = Step(local)
        for parts, expected in (
            ({"a": Step(untyped)}, "has no type for: state"),
            ({"a": Step(reads)}, "does not begin as a step does"),  # type: ignore[arg-type]
            ({"a": Step(plain)}, "is not an async function"),  # type: ignore[arg-type]
            ({"a": Step(unstorable)}, "cannot be kept"),
            ({}, "has no step"),
            ({"a": twice, "b": twice}, "one step under two names"),
            ({"a": Step(local, timeout="soon")}, "is not a duration"),
            ({"a": Step(local, attempts=0)}, "attempts=0"),
            ({"a": Step(local), "c": Step(again)}, "is made of the step"),
        ):
            assert expected in refused(lambda parts=parts: made(**parts))  # type: ignore[misc]


class TestWaits:
    def test_a_wait_says_how_long(self) -> None:
        """What waits for ever holds for ever what it has reserved."""
        endless: Wait[Placed] = Wait(Placed, by=lambda event: event.n)

        assert "waits without a limit" in refused(lambda: made(a=Step(local), b=endless))

    def test_two_waits_for_one_event_are_refused(self) -> None:
        """Nobody could say for which of them it came."""
        waits: list[Wait[Placed]] = [Wait(Placed, by=lambda event: event.n, within="1m") for _ in range(2)]

        assert "waits twice for Placed" in refused(lambda: made(a=Step(local), b=waits[0], c=waits[1]))


class TestDeclarations:
    def test_a_saga_says_what_it_knows_and_how_it_begins(self) -> None:
        """No state, an instance's begin, no begin, no key."""
        module = Module("shop")

        def stateless() -> None:
            class Stateless(Saga):  # type: ignore[type-arg]
                a = Step(local)

        def instance() -> None:
            class Instance(Saga[State]):
                a = Step(local)

                def begin(self, event: Placed) -> State:  # type: ignore[override]
                    raise NotImplementedError

        assert "does not say what its state is" in refused(stateless)
        assert "@staticmethod" in refused(instance)
        assert "does not say how it begins" in refused(lambda: module.saga(on=Placed, within="1h")(made(a=Step(local))))
        begins = {"begin": staticmethod(lambda event: State(n=event.n))}
        assert "has no key" in refused(lambda: module.saga(on=Keyless, within="1h")(made(a=Step(local), **begins)))
        assert "upgrades from [3]" in refused(
            lambda: module.saga(on=Placed, within="1h", version=2, upgrades={3: dict})(made(a=Step(local), **begins))
        )
        once = module.saga(on=Placed, within="1h")(made(a=Step(local), **begins))
        assert "is declared twice" in refused(lambda: module.saga(on=Placed, within="1h", name="Other")(once))

    def test_what_a_step_asks_for_is_provided_or_refused(self) -> None:
        """By type, as in every verb."""

        async def mails(tx: Tx, state: State, mailer: Mailer) -> None: ...

        begins = {"begin": staticmethod(lambda event: State(n=event.n))}
        module = Module("shop")
        module.saga(on=Placed, within="1h")(made(a=Step(mails), **begins))

        assert "asks for mailer: Mailer" in refused(lambda: composed(App(modules=[module])))
        found = composed(App(modules=[module], provide={Mailer: Mailer()}))
        names = [each.name for each in found.subscriptions()]
        assert names == ["shop.Made", "shop.Made.begin"]
