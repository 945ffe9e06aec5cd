"""Progress: how far a saga is, and what it does next; a pure function of what is stored.

    phase     forward ──► done
                 │ a refusal, a failure, a timeout, an operator
                 ▼
              back ──► compensated

    records   append-only: what was begun, done, failed, undone, heard, and when; the undo list is read from them

Nothing of the code is replayed: a run reads the row and its records, and `decided` says what is next. Whatever two runs have
seen of each other, the same rows give the same answer. tests/unit/saga/test_progress.py holds the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dujiang.saga.definition import Step, Wait

if TYPE_CHECKING:
    from dujiang.saga.definition import Flow, Part

FORWARD, BACK, FINISHED, COMPENSATED, ABANDONED = 0, 1, 2, 3, 4
OPEN = (FORWARD, BACK)

STARTED, DONE, FAILED, UNKNOWN, UNDONE, SKIPPED, HEARD, TIMED_OUT, TURNED, EDITED, GIVEN_UP = range(1, 12)
WORDS = {
    STARTED: "started",
    DONE: "done",
    FAILED: "failed",
    UNKNOWN: "unknown",
    UNDONE: "undone",
    SKIPPED: "skipped",
    HEARD: "heard",
    TIMED_OUT: "timed out",
    TURNED: "turned back",
    EDITED: "edited",
    GIVEN_UP: "given up",
}
# What a record of a step says about its effect: it is there, it may be there, it is not.
THERE, MAYBE, NOT_THERE = "there", "maybe", "not there"
EFFECT = {DONE: THERE, STARTED: MAYBE, UNKNOWN: MAYBE, FAILED: NOT_THERE, UNDONE: NOT_THERE, SKIPPED: NOT_THERE}


@dataclass(frozen=True, slots=True)
class Record:
    """One line of what has happened to a saga.

    Attributes:
        n: Its place.
        name: The part; empty when it is about the whole.
        kind: Of WORDS.
        result: What a step gave, as JSON.
        note: For people: why.
        at_us: When.
    """

    n: int
    name: str
    kind: int
    result: bytes | None
    note: str
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a saga is.

    Attributes:
        saga_id: Its id.
        key: Its key.
        version: Of the code that wrote its state.
        phase: Forward, back, or an end.
        step: The part that is next on the way forward; empty at its end.
        data: Its state, as JSON.
        rev: How many records it has.
        wish: 1 when an operator wants it undone.
        deadline_us: When it must have passed the pivot.
        until_us: When its wait ends; None when it has not begun to wait.
        why: Why it turned back.
        records: What has happened.
    """

    saga_id: int
    key: str
    version: int
    phase: int
    step: str
    data: bytes
    rev: int
    wish: int
    deadline_us: int
    until_us: int | None
    why: str
    records: tuple[Record, ...] = ()

    def after(
        self, kind: int, name: str, now_us: int, *, result: bytes | None = None, note: str = "", **changes: Any
    ) -> Progress:
        """This progress with one record more, and some fields replaced."""
        record = Record(self.rev + 1, name, kind, result, note, now_us)
        return replace(self, rev=self.rev + 1, records=(*self.records, record), until_us=None, **changes)

    def effect_of(self, name: str) -> str:
        """What is known of the effect of a step."""
        return next(
            (EFFECT[one.kind] for one in reversed(self.records) if one.name == name and one.kind in EFFECT), NOT_THERE
        )

    def effects(self) -> set[str]:
        """The steps whose effect is there, or may be."""
        return {one.name for one in self.records if one.name and self.effect_of(one.name) != NOT_THERE}

    def result_of(self, name: str) -> bytes | None:
        """What a step gave; None when it is not known."""
        found = next((one for one in reversed(self.records) if one.name == name and one.kind in EFFECT), None)
        return found.result if found is not None and found.kind == DONE else None


class Act(NamedTuple):
    """What is next.

    Attributes:
        what: `run` a step, `wait`, turn `back`, `undo` a step, or `end`.
        part: The step or wait.
        why: Why it turns back; of an end, whether it was undone.
    """

    what: Literal["run", "wait", "back", "undo", "end"]
    part: Part | None = None
    why: str = ""


END = Act("end")


def decided(flow: Flow, progress: Progress, now_us: int) -> Act:
    """What a saga does next."""
    if progress.phase == BACK:
        # Behind the pivot nothing has an undo; a saga comes back from there only when an operator says so.
        there = [step for step in flow.steps if step.undo is not None and progress.effect_of(step.name) != NOT_THERE]
        step = there[-1] if there else None
        return END if step is None else Act("undo", step)
    place = flow.place_of(progress.step)
    if place == len(flow.parts):
        return END
    part = flow.parts[place]
    if before_pivot(flow, progress):
        if progress.wish:
            return Act("back", part, "an operator wants it undone")
        if now_us >= progress.deadline_us and not isinstance(part, Wait):
            return Act("back", part, "its time is over")
    return Act("run" if isinstance(part, Step) else "wait", part)


def before_pivot(flow: Flow, progress: Progress) -> bool:
    """Whether everything that was done can still be undone; the pivot itself is tried until it is done."""
    return flow.place_of(progress.step) < flow.pivot


def turned(progress: Progress, kind: int, name: str, why: str, now_us: int) -> Progress:
    """A saga that turns back, with the record of what made it do so."""
    return progress.after(kind, name, now_us, note=why, phase=BACK, why=why, wish=0)
