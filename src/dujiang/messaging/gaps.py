"""Gaps: the numbers of the outbox below the relay's floor that nobody has seen yet, as ranges.

    seq      41   42   43   44   45   46          seen 41 42 44 46: gaps 43 and 45
    stored   "43,45"                              a jump of the sequence by a million: "47-1000046"

A range costs the same however long it is. A sequence can jump far: a restored dump, an operator's setval, a bulk import
that was rolled back; with one entry for each number such a jump filled the cursor's row and the relay's memory.

A gap carries the transaction id that was drawn after it was noticed (see outbox.py). What arrives inside a range splits it,
and both parts keep the stamp.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers from `first` to `final`, none of which was seen.

    Attributes:
        first: The lowest.
        final: The highest.
        stamp: A transaction id drawn after the gap was noticed; None = not stamped yet.
    """

    first: int
    final: int
    stamp: int | None = None


def parsed(text: str) -> tuple[Gap, ...]:
    """Gaps from their stored form, without stamps: those of another relay mean nothing to this one."""
    bounds = [each.split("-") for each in text.split(",") if each]
    return tuple(Gap(int(each[0]), int(each[-1])) for each in bounds)


def written(gaps: Sequence[Gap]) -> str:
    """Gaps as they are stored: `3,7-9`."""
    return ",".join(str(gap.first) if gap.first == gap.final else f"{gap.first}-{gap.final}" for gap in gaps)


def stamped(gaps: Sequence[Gap], stamp: int | None) -> tuple[Gap, ...]:
    """Gaps with a stamp where they have none."""
    return tuple(gap if gap.stamp is not None else replace(gap, stamp=stamp) for gap in gaps)


def left_of(gaps: Sequence[Gap], seen: Sequence[int], horizon: int | None, looked_to: int | None) -> list[Gap]:
    """What is left of gaps after a look.

    Args:
        gaps: The gaps before it.
        seen: The numbers that it found, ascending.
        horizon: The oldest transaction that still ran then; a gap with a lower stamp that was not seen was rolled back.
        looked_to: Up to which number it looked; None = through all gaps.
    """
    return [part for gap in gaps for part in parts_of(gap, seen, horizon, looked_to)]


def parts_of(gap: Gap, seen: Sequence[int], horizon: int | None, looked_to: int | None) -> Iterator[Gap]:
    """What is left of one gap."""
    first = gap.first
    if gap.stamp is not None and horizon is not None and gap.stamp < horizon:
        if looked_to is None or gap.final <= looked_to:
            return
        first = max(first, looked_to + 1)
    for number in seen[bisect_left(seen, first) : bisect_right(seen, gap.final)]:
        if first < number:
            yield Gap(first, number - 1, gap.stamp)
        first = number + 1
    if first <= gap.final:
        yield Gap(first, gap.final, gap.stamp)


def new_gaps(floor: int, seen: Sequence[int]) -> Iterator[Gap]:
    """The gaps between the floor and the numbers above it that a look found, ascending."""
    expected = floor + 1
    for number in seen[bisect_right(seen, floor) :]:
        if expected < number:
            yield Gap(expected, number - 1)
        expected = number + 1
