"""Timing: how much was answered, how fast, and how soon again after a fault.

`availability`: the share of good operations among those that began in each window (10 s): an operation belongs to the moment
in which somebody wanted something, not to the one in which he gave up.

`recoveries`: how long after a dependency answers again until the system does. Recovered is the moment when an operation
that began after the healing has ended well and so do the next nine, in the order of their beginnings: one lucky answer is no
recovery. A fault after which that does not happen before the history ends has no recovery, which is worse than any number.

`latencies`: percentiles of good operations by phase (calm, faulted, healed) and kind, by nearest rank: every number shown
was somebody's wait. Failed and unknown operations are counted beside them, because a system that refuses everything at once
is fast.

"Good" is `ok` unless the caller says otherwise. All are O(n log n).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dujiang.testing.history.anomaly import Anomaly, begin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dujiang.testing.history.record import Operation

STREAK = 10


@dataclass(frozen=True)
class Window:
    """A stretch of time and what was asked in it.

    Attributes:
        from_s: Its beginning, monotonic seconds.
        asked: How many operations began in it.
        good: How many of them were good.
    """

    from_s: float
    asked: int
    good: int

    @property
    def share(self) -> float:
        """Good of asked; 1 when nobody asked."""
        return self.good / self.asked if self.asked else 1.0


@dataclass(frozen=True)
class Fault:
    """Something that was broken and healed.

    Attributes:
        name: Its kind: `postgres kill -9`.
        began_at: When it was done, monotonic seconds.
        healed_at: When the dependency answered again.
    """

    name: str
    began_at: float
    healed_at: float


@dataclass(frozen=True)
class Recovery:
    """How long a fault was felt after it had healed.

    Attributes:
        fault: Which.
        seconds: From the healing to the end of the first of ten good operations in a row; infinite if that never came.
    """

    fault: Fault
    seconds: float


@dataclass(frozen=True)
class Phase:
    """A named stretch of a run: `calm`, `faulted`, `healed`.

    Attributes:
        name: Its name.
        from_s: Its beginning, monotonic seconds.
        until_s: Its end, not included.
    """

    name: str
    from_s: float
    until_s: float


@dataclass(frozen=True)
class Latency:
    """How long one kind of operation took in one phase.

    Attributes:
        phase: The phase's name.
        kind: The kind of operation.
        good: How many were good; the percentiles are theirs.
        other: How many were not.
        p50_s: Half of the good ones took at most so long, in seconds.
        p95_s: 95 % did.
        p99_s: 99 % did.
        longest_s: The longest.
    """

    phase: str
    kind: str
    good: int
    other: int
    p50_s: float
    p95_s: float
    p99_s: float
    longest_s: float


def is_ok(operation: Operation) -> bool:
    """Good, unless the caller says otherwise."""
    return operation.certain


def availability(
    history: Iterable[Operation], *, window_s: float = 10.0, good: Callable[[Operation], bool] = is_ok
) -> list[Window]:
    """The windows from the first operation to the last, those without an operation included."""
    operations = sorted(history, key=begin)
    if not operations:
        return []
    start = operations[0].invoked_at
    asked: defaultdict[int, int] = defaultdict(int)
    well: defaultdict[int, int] = defaultdict(int)
    for operation in operations:
        place = int((operation.invoked_at - start) / window_s)
        asked[place] += 1
        well[place] += good(operation)
    return [Window(start + place * window_s, asked[place], well[place]) for place in range(max(asked) + 1)]


def recoveries(
    history: Iterable[Operation], faults: Iterable[Fault], *, good: Callable[[Operation], bool] = is_ok
) -> list[Recovery]:
    """How long each fault was felt, in the order of the faults; operations of other faults' time count as they are."""
    operations = sorted(history, key=begin)
    starts = [begin(operation) for operation in operations]
    # Where, from each operation on, the next row of ten good ones begins.
    row, rows_at = 0, [-1] * (len(operations) + 1)
    for place in range(len(operations) - 1, -1, -1):
        row = row + 1 if good(operations[place]) else 0
        rows_at[place] = place if row >= STREAK else rows_at[place + 1]
    found = []
    for fault in faults:
        place = rows_at[bisect_left(starts, fault.healed_at)]
        seconds = operations[place].ended_at - fault.healed_at if place >= 0 else math.inf
        found.append(Recovery(fault, seconds))
    return found


def check_recovery(
    history: Iterable[Operation], faults: Iterable[Fault], *, most_s: float, good: Callable[[Operation], bool] = is_ok
) -> list[Anomaly]:
    """Faults that were felt longer than `most_s` seconds after they had healed, or for ever."""
    found = []
    for recovery in recoveries(history, faults, good=good):
        if recovery.seconds > most_s:
            took = "never" if recovery.seconds == math.inf else f"after {recovery.seconds:.3f} s"
            says = f"{recovery.fault.name} at {recovery.fault.began_at:.3f} s was recovered from {took}"
            found.append(Anomaly("slow_recovery", says))
    return found


def latencies(
    history: Iterable[Operation], phases: Sequence[Phase], *, good: Callable[[Operation], bool] = is_ok
) -> list[Latency]:
    """The percentiles of each phase and kind, in the order of the phases and of the alphabet; empty ones are left out."""
    waits: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    others: defaultdict[tuple[int, str], int] = defaultdict(int)
    for operation in history:
        for place, phase in enumerate(phases):
            if phase.from_s <= operation.invoked_at < phase.until_s:
                cell = place, operation.kind
                if good(operation):
                    waits[cell].append(operation.ended_at - operation.invoked_at)
                else:
                    others[cell] += 1
    found = []
    for place, kind in sorted({*waits, *others}):
        took = sorted(waits[place, kind])
        ranks = (percentile(took, 0.5), percentile(took, 0.95), percentile(took, 0.99), percentile(took, 1.0))
        found.append(Latency(phases[place].name, kind, len(took), others[place, kind], *ranks))
    return found


def percentile(ranked: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of values that are sorted already; 0 of none."""
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0
