"""Gaps: ranges behave like the sets of numbers that they stand for."""

from __future__ import annotations

import random

import pytest

from dujiang.messaging.gaps import Gap, left_of, new_gaps, parsed, stamped, written


@pytest.mark.parametrize("text", ["", "3", "3,7-9", "1-1000000,1000002"])
def test_gaps_come_back_as_they_went(text: str) -> None:
    """What is stored is read again as the same numbers, without stamps."""
    assert written(stamped(parsed(text), 5)) == text
    assert all(gap.stamp is None for gap in parsed(text))


def test_a_jump_is_one_gap() -> None:
    """However far a sequence jumps, one range stands for it."""
    assert list(new_gaps(3, [2, 4, 1_000_004])) == [Gap(5, 1_000_003)]


def test_what_is_seen_splits_a_range_and_both_parts_keep_its_stamp() -> None:
    """Numbers at either end shorten a range, one inside splits it."""
    gaps = [Gap(1, 10, 7), Gap(20, 20, 8)]

    assert left_of(gaps, [1, 5, 10, 20], None, None) == [Gap(2, 4, 7), Gap(6, 9, 7)]


def test_a_stamp_below_the_horizon_closes_what_was_looked_at() -> None:
    """A look that was cut short closes nothing behind its last number; an unstamped gap stays open."""
    gaps = [Gap(1, 10, 7), Gap(11, 20, None), Gap(21, 30, 9)]

    assert left_of(gaps, [3], 8, None) == [Gap(11, 20, None), Gap(21, 30, 9)]
    assert left_of(gaps, [3], 8, 3) == [Gap(4, 10, 7), Gap(11, 20, None), Gap(21, 30, 9)]


@pytest.mark.parametrize("seed", range(30))
def test_ranges_are_the_sets_they_stand_for(seed: int) -> None:
    """Through random looks the ranges hold exactly the numbers that were neither seen nor closed."""
    chance = random.Random(seed)
    gaps: tuple[Gap, ...] = ()
    numbers: dict[int, int | None] = {}
    floor = 0
    for turn in range(1, 40):
        waiting = [*numbers, *range(floor + 1, floor + 12)]
        seen = sorted(chance.sample(waiting, chance.randint(0, min(6, len(waiting)))))
        horizon = turn - chance.randint(0, 6)
        gaps = (*left_of(gaps, seen, horizon, None), *new_gaps(floor, seen))
        numbers = {
            n: stamp for n, stamp in numbers.items() if n not in seen and not (stamp is not None and stamp < horizon)
        }
        above = [n for n in seen if n > floor]
        numbers.update(dict.fromkeys(set(range(floor + 1, max(above, default=floor))) - set(seen)))
        floor = max([floor, *above])
        gaps = stamped(gaps, turn)
        numbers = {n: turn if stamp is None else stamp for n, stamp in numbers.items()}

        assert {n: gap.stamp for gap in gaps for n in range(gap.first, gap.final + 1)} == numbers
