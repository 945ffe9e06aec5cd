"""Gathered: who comes while a run is under way shares the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dujiang.kernel.gathered import Gathered
from dujiang.kernel.tasks import Tasks, outcomes_of


class Runs:
    """A function on lists that waits until the test lets it go, and remembers its lists."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = []
        self.leave, self.began = asyncio.Event(), asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[int | BaseException]:
        """Ten times each; a 13 is an error, a 99 fails the whole run."""
        self.lists.append(list(items))
        self.began.set()
        await self.leave.wait()
        if 99 in items:
            raise LookupError("99")
        return [ValueError("13") if item == 13 else 10 * item for item in items]


async def test_who_comes_during_a_run_shares_the_next() -> None:
    """The first call runs alone, the others in runs of at most three; each gets its own answer."""
    runs = Runs()
    gathered = Gathered(runs, Tasks("test"), "run", 3)
    callers = Tasks("callers")
    waiting = [callers.spawn(gathered(number), name="call") for number in range(5)]
    await runs.began.wait()
    late = callers.spawn(gathered(5), name="call")
    runs.leave.set()

    assert await asyncio.gather(*waiting, late) == [0, 10, 20, 30, 40, 50]
    assert [number for numbers in runs.lists for number in numbers] == list(range(6))
    assert max(map(len, runs.lists)) == 3


async def test_an_error_is_its_callers_own() -> None:
    """An answer that is an error reaches one caller; an error of the run reaches all of that run; the next run goes on."""
    runs = Runs()
    runs.leave.set()
    gathered = Gathered(runs, Tasks("test"), "run", 10)
    first = await outcomes_of(gathered(1), gathered(13), gathered(2))
    second = await outcomes_of(gathered(99), gathered(1))

    assert (first[0], first[2]) == (10, 20)
    assert isinstance(first[1], ValueError)
    assert [type(outcome) for outcome in second] == [LookupError, LookupError]
    assert await gathered(7) == 70


async def test_a_caller_that_is_cancelled_stops_nobody() -> None:
    """The run goes on for the others, and its answer to the one that left goes nowhere."""
    runs = Runs()
    gathered = Gathered(runs, Tasks("test"), "run", 10)
    callers = Tasks("callers")
    leaves, stays = (callers.spawn(gathered(number), name="call") for number in (1, 2))
    await runs.began.wait()
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    runs.leave.set()

    assert await stays == 20
