"""Explore: a sound saga passes every short schedule; one whose outside repeats is found, with its schedule."""

# No postponed annotations: the types of steps are read from their functions.
from typing import Any

from sqlalchemy import Column, MetaData, Table, insert, update

from dujiang import App, Call, Event, Failed, Model, Module, Ok, Saga, Step, Tx, Unknown, Wait, columns, key
from dujiang.testing.explore import explore
from dujiang.testing.tape import Tape

metadata = MetaData()
pot = Table(
    "explored_pot", metadata, Column("pot_id", columns.Id, primary_key=True), Column("left", columns.Id, nullable=False)
)
journal: list[str] = []


class Placed(Event):
    """Begins one."""

    n: int = key()


class Paid(Event):
    """It waits for this."""

    n: int = key()


class State(Model, frozen=False):
    """What it knows."""

    n: int


async def seed(tx: Tx) -> None:
    """One pot."""
    await tx.execute(insert(pot).values(pot_id=1, left=10))


async def take_one(tx: Tx, state: State) -> int:
    """A local step."""
    await tx.execute(update(pot).values(left=pot.c.left - 1))
    return 1


async def give_back(tx: Tx, state: State, done: int) -> None:
    """Its undo."""
    await tx.execute(update(pot).values(left=pot.c.left + done))


async def charge_card(call: Call, state: State) -> Ok[None] | Failed | Unknown:
    """A step outside, told by its key."""
    if call.key not in journal and f"-{call.key}" not in journal:
        journal.append(call.key)
    return Ok(None)


async def refund(call: Call, state: State, done: None) -> None:
    """Its undo: however often it comes, the key is let go of once."""
    if call.undoes in journal:
        journal.remove(call.undoes)
    if f"-{call.undoes}" not in journal:
        journal.append(f"-{call.undoes}")


async def refund_again(call: Call, state: State, done: None) -> None:
    """A mistake: it pays back whenever it is asked."""
    journal.append("paid back")


def app_of(undo: Any) -> tuple[App, type[Saga[State]]]:
    """An app with a saga, whose step outside is undone in this way."""
    module = Module("explored", tables=metadata, migrations="tests.unit.testing.explored", seed=seed)

    @module.saga(on=Placed, within="1h")
    class Two(Saga[State]):
        """Take, charge, wait, take again."""

        take = Step(take_one, undo=give_back)
        charge = Step(charge_card, undo=undo)
        paid = Wait(Paid, by=lambda event: event.n, within="1m")
        last = Step(take_one)

        @staticmethod
        def begin(event: Placed) -> State:
            return State(n=event.n)

    return App(modules=[module]), Two


def left() -> list[str]:
    """The journal without its keys, which are others in each schedule."""
    return sorted("let go" if one.startswith("-") else one if " " in one else "charged" for one in journal)


async def test_a_sound_saga_passes_every_schedule() -> None:
    """Every function fails, every answer is lost, every transition dies, the event comes early, late, twice and never."""
    app, two = app_of(refund)
    report = await explore(
        two, app=app, event=Placed(n=1), hears=[Paid(n=1)], journal=left, fresh=journal.clear, faults=1
    )

    assert report.violation is None, report.text()
    assert report.schedules > 20
    assert report.ends.keys() == {"done", "compensated"}


async def test_an_undo_that_happens_twice_in_effect_is_found() -> None:
    """Nobody has written a law: the same steps were undone, and another journal is left."""
    app, two = app_of(refund_again)
    report = await explore(
        two, app=app, event=Placed(n=1), hears=[Paid(n=1)], journal=left, fresh=journal.clear, faults=2
    )

    assert report.violation is not None
    assert "the same steps were done and undone" in report.violation
    assert any("undo of charge" in each or "saga_comp_done" in each for each in report.schedule), report.text()


def test_every_schedule_with_so_many_faults_is_taken_once() -> None:
    """Of three choices with two alternatives, one of none, three of one and three of two faults."""
    taken: list[str] = []
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        tape = Tape(waiting.pop(0))
        words = [tape.choose(str(n), ("no", "yes")) for n in range(3)]
        taken.append("".join(word[0] for word in words))
        waiting.extend(tape.children(2))

    assert sorted(taken) == ["nnn", "nny", "nyn", "nyy", "ynn", "yny", "yyn"]
