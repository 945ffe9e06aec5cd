"""Story: what a failing schedule did, in sentences, with the line, the cause and the cure.

    ✗ stock is conserved: 1 row: ...
      smallest schedule (2 of 177 faults kept, 24 runs):
        t=0.457 s  kill -9 worker1, waiting at shop/orders.py:57 reserve_stock
      why: ... read at orders.py:57, changed by another transaction, written at orders.py:60
      cure: ...

The cause is looked for in the history of the smallest run: what a transaction read and others changed before it wrote, rows
that came in no promised order, statements that failed inside a transaction that went on, calls to others without a stable
key, and where a machine died. What the history does not show is not guessed: then the story ends with what happened.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dujiang.drill.brokers import RABBITMQ, broker_of
from dujiang.drill.nemesis import OUTAGES_S, PAUSES_S, SKEWS_S, SUSPENDED_S
from dujiang.drill.timeline import timeline_of
from dujiang.drill.world import RESTART_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.drill.run import Outcome
    from dujiang.drill.seedfile import SeedFile
    from dujiang.drill.shrink import Smallest
    from dujiang.drill.timeline import Timeline
    from dujiang.drill.violation import Violation
    from dujiang.drill.world import Fault


RABBIT = {
    "refused": "the broker refuses {value} connections, the first from {machine}",
    "confirm_lost": "the broker stores what {machine} published, and the connection ends before the confirm",
    "lost_after_confirm": "the broker loses up to {value} messages that it confirmed to {machine}",
    "ack_lost": "the connection of {machine} ends before an acknowledgement arrives: the messages come again",
    "reorder": "a message of another key overtakes up to {value} others in a queue on its way to {machine}",
    "slow": "a message needs {value} ways more through the network to {machine}",
    "restart": "the broker is killed and starts again",
}


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why it failed, as far as the history shows.

    Attributes:
        why: One sentence.
        cure: What to change.
        place: `folder/file.py:57 function`, or empty.
    """

    why: str
    cure: str
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class Story:
    """One failure, told.

    Attributes:
        invariant: What did not hold.
        said: How.
        schedule: What was done, a sentence each, in order.
        cause: Why, or None.
        kept: Faults kept.
        before: Faults of the run in which it was found.
        runs: Runs that the shrinking took.
        took_s: Real seconds that it took.
        seed: Of the run.
        notes: Remarks.
        timeline: When what happened in the smallest run, or None.
        file: What replays it; None in a replay.
    """

    invariant: str
    said: str
    schedule: tuple[str, ...]
    cause: Cause | None
    kept: int
    before: int
    runs: int
    took_s: float
    seed: str
    notes: tuple[str, ...] = field(default=())
    timeline: Timeline | None = field(default=None, repr=False)
    file: SeedFile | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return asdict(replace(self, file=None))

    def save(self, path: str | Path) -> None:
        """Write the replay file, for `dujiang replay`. Raises OSError."""
        assert self.file is not None, "this story comes from a replay; its file is the one that was replayed"
        self.file.save(Path(path))

    def lines(self) -> list[str]:
        """For a terminal."""
        found = [f"✗ {self.invariant}: {self.said}"]
        if self.schedule:
            found.append(f"  smallest schedule ({self.kept} of {self.before} faults kept, {self.runs} runs):")
            found.extend(f"    {line}" for line in self.schedule)
        else:
            found.append(
                "  no fault is needed: the order of ordinary events is enough"
                if self.before
                else "  no fault is needed"
            )
        found.extend(f"  note: {note}" for note in self.notes)
        if self.cause is not None:
            found.append(f"  why:  {self.cause.why}")
            found.append(f"  cure: {self.cause.cure}")
        return found


def told(violation: Violation, small: Smallest, outcome: Outcome) -> Story:
    """The story of a violation.

    Args:
        violation: As it shows in the smallest run.
        small: The smallest schedule.
        outcome: Of the smallest run, with its trace.
    """
    schedule = tuple(sentence(fault) for fault in outcome.faults)
    notes = ["the events went over a model of RabbitMQ"] if broker_of(small.scenario, small.seed) == RABBITMQ else []
    notes += [] if small.certain else ["it did not show again when the schedule was repeated; the first run is told"]
    if not small.runs:
        notes.append("the drill was ended before the schedule was made smaller")
    return Story(
        invariant=violation.invariant,
        said=violation.said,
        schedule=schedule,
        cause=cause_of(violation, outcome),
        kept=len(small.keep),
        before=small.before,
        runs=small.runs,
        took_s=round(small.took_s, 3),
        seed=small.seed,
        notes=tuple(notes),
        timeline=timeline_of(outcome.trace, outcome.faults, schedule),
    )


def sentence(fault: Fault) -> str:
    """One fault, for people."""
    family, _, rest = fault.label.partition(".")
    at = f"t={fault.at_s:.3f} s  "
    here = f" at {fault.site}" if fault.site else ""
    form = fault.value - 1
    said: dict[str, Callable[[], str]] = {
        "kill": lambda: f"kill -9 {fault.machine}, waiting{here}; it starts again after {RESTART_AFTER_S[form]} s",
        "pause": lambda: f"{fault.machine} stands still for {PAUSES_S[form]} s",
        "term": lambda: f"{fault.machine} is stopped gracefully and starts again",
        "upgrade": lambda: (
            f"{fault.machine} is stopped gracefully and starts again in the "
            + ("first version: a rollback" if fault.value == 2 else "other version: an upgrade")
        ),
        "clock": lambda: f"the clock of {fault.machine} goes wrong by {SKEWS_S[form]:+g} s",
        "outage": lambda: f"the database is away for {OUTAGES_S[form]} s",
        "suspend": lambda: f"all machines are suspended, and go on {SUSPENDED_S[form]:.0f} s later",
        "twice": lambda: "a request arrives twice",
        "unordered": lambda: "rows of SELECTs without ORDER BY come in the opposite order, in the whole run",
        "poison": lambda: (
            "the handling of an event fails " + ("twice" if form == 0 else "in every try") + f" on {fault.machine}"
        ),
        "db": lambda: f"the database ends a transaction of {fault.machine} by a deadlock{here}",
    }
    if family in said:
        return at + said[family]()
    if family == "lost":
        return (
            at + {"request": "a request", "reply": "the reply to a request", "notify": "a wake-up"}[rest] + " is lost"
        )
    if family == "cut":
        moment = {
            "db.request": "before a statement arrives",
            "db.reply": "after a statement ran, before its rows arrive",
            "db.commit.sent": "before COMMIT arrives",
            "db.commit.reply": "after COMMIT, before its reply arrives",
        }.get(rest, rest)
        return at + f"the connection of {fault.machine} to the database breaks {moment}{here}"
    if family == "rabbit":
        return at + RABBIT.get(rest, "{label} ({value})").format(
            label=fault.label, value=fault.value, machine=fault.machine
        )
    if family == "external":
        what = {1: "never arrives", 2: "is done, and its answer is lost", 3: "is done twice", 4: "is refused for now"}
        return at + f"the call to {rest} {what.get(fault.value, 'fails')}{here}"
    return at + f"{fault.label} ({fault.value}){here}"


def cause_of(violation: Violation, outcome: Outcome) -> Cause | None:
    """Why it failed, as far as the history of the smallest run shows; the likeliest first."""
    notes = [(kind.split(" ", 1)[-1], said) for _, kind, said in outcome.trace]
    own = {"external-keyed": unkeyed, "held-transaction": held}.get(violation.kind, lambda _: None)(notes)
    return (
        own
        or unordered(outcome.faults, notes)
        or stale(notes)
        or failed_inside(notes)
        or unkeyed(notes)
        or by_kind(violation, outcome.faults)
    )


def places(said: str) -> list[str]:
    """The parts of a note."""
    return [*said.split("|"), "", ""][:3]


def stale(notes: Sequence[tuple[str, str]]) -> Cause | None:
    """A transaction wrote after what it had read was changed by others."""
    for kind, said in notes:
        if kind == "stale read":
            read_at, written_at, sql = places(said)
            where = f" and wrote at {written_at}" if written_at else " and wrote"
            return Cause(
                why=f"a transaction read rows at {read_at}, another one changed them, and the first went on{where}: {sql}",
                cure="lock what the decision rests on (`.with_for_update()`), put the condition into the UPDATE itself and "
                'check its rowcount, add a unique index, or declare the handler with isolation="serializable"',
                place=read_at,
            )
    return None


def unordered(faults: Sequence[Fault], notes: Sequence[tuple[str, str]]) -> Cause | None:
    """The run failed because unordered rows came the other way round."""
    if not any(fault.label == "unordered" for fault in faults):
        return None
    for kind, said in notes:
        if kind == "unordered rows":
            at, _, sql = places(said)
            return Cause(why=f"the order of rows is nobody's promise at {at}: {sql}", cure="add ORDER BY", place=at)
    return None


def failed_inside(notes: Sequence[tuple[str, str]]) -> Cause | None:
    """A statement failed, and the handler went on inside the same transaction."""
    for kind, said in notes:
        if kind == "statement failed":
            at, _, why = places(said)
            if at:
                return Cause(
                    why=f"a statement failed inside a transaction at {at}: {why}",
                    cure="let the error out, or put the statement that may fail inside `async with tx.savepoint():`",
                    place=at,
                )
    return None


def unkeyed(notes: Sequence[tuple[str, str]]) -> Cause | None:
    """An external call was repeated under another key, or without any."""
    for kind, said in notes:
        if kind == "external keyless":
            at, _, what = places(said)
            return Cause(
                why=f"{what} was done again at {at}, and nothing tells it from the first time",
                cure="pass `call.key` on and name its parameter `key`; if a repeat is harmless because the arguments name the "
                "same thing, say so: `@app.external(key=lambda thing: thing.id)`",
                place=at,
            )
        if kind == "external unkeyed":
            at, _, what = places(said)
            return Cause(
                why=f"{what} was called again with another key at {at}",
                cure="pass `call.key` on: it is the same in every run of the same message",
                place=at,
            )
    return None


def held(notes: Sequence[tuple[str, str]]) -> Cause | None:
    """A transaction waited for something that is no statement."""
    for kind, said in notes:
        if kind == "held":
            after, until, seconds = places(said)
            where = " and ".join(filter(None, (after, until))) or "its last statement and its end"
            return Cause(
                why=f"a transaction went {float(seconds):.1f} s without a statement, between {where}: whatever it had locked "
                "was locked for everybody, and it took a connection from the others",
                cure="do slow work before the transaction, or publish an event and do it in a reaction that takes "
                "`call: Call`; the embedded store takes the writer from such a transaction",
                place=after or until,
            )
    return None


WHY = {
    "acked-not-lost": (
        "the answer left before what it promises was committed, or in another transaction than its idempotency key",
        "do everything that the answer promises through `tx`, before the handler returns",
    ),
    "replay-stable": (
        "the answer depends on more than what was stored with it",
        "return only what the transaction wrote, with `tx.now` and `tx.new_id()` for time and ids",
    ),
    "effect-once": (
        "the work was done in another transaction than the one that says it is done",
        "do the effect through the `tx` that the reaction was given",
    ),
    "nothing-lost": (
        "an event was taken for delivered before it was",
        "publish through `tx.publish`; acknowledge inside the transaction that holds the effect",
    ),
    "nothing-dead": (
        "a handler failed in every try",
        "read the error above; refuse with a Refusal what can never succeed",
    ),
}


def by_kind(violation: Violation, faults: Sequence[Fault]) -> Cause | None:
    """What usually stands behind a violation of this kind, with the place where it was provoked."""
    found = WHY.get(violation.kind)
    place = next((fault.site for fault in faults if fault.site), violation.place)
    if found is None:
        return None
    return Cause(why=found[0], cure=found[1], place=place)
