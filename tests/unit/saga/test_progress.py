"""What a saga does next: a pure function of its row and its records."""

from __future__ import annotations

from dataclasses import replace

from dujiang.saga.definition import Step, Wait
from dujiang.saga.progress import (
    BACK,
    DONE,
    FAILED,
    HEARD,
    SKIPPED,
    STARTED,
    UNDONE,
    UNKNOWN,
    Progress,
    decided,
    turned,
)
from tests.unit.saga.test_definition import Placed, local, made, outside, unlocal, unoutside

WAIT: Wait[Placed] = Wait(Placed, by=lambda event: event.n, within="1m")
FLOW = made(a=Step(local, undo=unlocal), b=Step(outside, undo=unoutside), c=WAIT, d=Step(local)).flow
FRESH = Progress(
    saga_id=1, key="k", version=1, phase=0, step="a", data=b"{}", rev=0, wish=0, deadline_us=100, until_us=None, why=""
)


def names(progress: Progress, now_us: int = 1) -> tuple[str, str]:
    """What is next."""
    act = decided(FLOW, progress, now_us)
    return act.what, act.part.name if act.part is not None else ""


def test_forward_it_takes_one_part_after_another() -> None:
    """Run, run, wait, run, end."""
    progress, seen = FRESH, []
    while (act := decided(FLOW, progress, 1)).part is not None:
        seen.append((act.what, act.part.name))
        progress = progress.after(DONE, act.part.name, 1, step=FLOW.following(act.part.name))

    assert seen == [("run", "a"), ("run", "b"), ("wait", "c"), ("run", "d")]
    assert names(progress) == ("end", "")


def test_back_it_undoes_what_is_there_or_may_be_the_last_first() -> None:
    """Done, started and unknown are undone; failed, undone and skipped are not."""
    done = FRESH.after(DONE, "a", 1, step="b")
    for kind, expected in ((STARTED, "b"), (UNKNOWN, "b"), (DONE, "b"), (FAILED, "a"), (SKIPPED, "a")):
        progress = turned(done.after(kind, "b", 2), FAILED, "", "why", 3)
        assert names(progress) == ("undo", expected)
    progress = turned(done.after(STARTED, "b", 2), FAILED, "", "why", 3)
    progress = progress.after(UNDONE, "b", 4)
    assert names(progress) == ("undo", "a")
    assert names(progress.after(UNDONE, "a", 5)) == ("end", "")


def test_the_result_of_a_step_is_known_if_it_is_done() -> None:
    """What was only started has none."""
    progress = FRESH.after(STARTED, "b", 1)

    assert progress.result_of("b") is None
    assert progress.after(DONE, "b", 2, result=b"1").result_of("b") == b"1"


def test_before_the_pivot_a_deadline_or_an_operator_turns_it_back() -> None:
    """Behind it neither does; a wait looks for its event first."""
    late = 200
    assert names(FRESH, late) == ("back", "a")
    assert names(replace(FRESH, wish=1)) == ("back", "a")
    waits = replace(FRESH, step="c")
    assert names(waits, late) == ("wait", "c")
    assert names(replace(waits, wish=1)) == ("back", "c")
    behind = FRESH.after(HEARD, "c", 1, step="d")
    assert names(replace(behind, wish=1), late) == ("run", "d")


def test_an_operator_may_turn_it_back_behind_the_pivot_too() -> None:
    """What has no undo stays; the rest is undone."""
    progress = FRESH.after(DONE, "a", 1, step="b").after(DONE, "d", 2, step="")

    assert names(replace(progress, phase=BACK)) == ("undo", "a")
