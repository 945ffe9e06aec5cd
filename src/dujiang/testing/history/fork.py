"""Fork: two readers who saw two writes in opposite orders.

Parallel snapshot isolation and lagging replicas allow it, snapshot isolation and serializability do not: there, snapshots
form a line. Each key is written once, so a snapshot of a group of keys is the set of those already written, and a line
means that of any two snapshots one holds the other.

    T1 reads x=1 y=-        one of the two has seen the future of one replica and the past of another
    T2 reads x=- y=1

Only reads of the same keys are compared. Sorted by how many keys they saw, a chain of sets is one in which each holds
the one before it, so neighbours are enough: O(n log n) for n reads instead of the n^2 of all pairs.

Limits: one write a key, and whole groups in one read. Real time is not looked at: a replica that lags by an hour and never
forks passes here and fails sessions.py.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from dujiang.testing.history.anomaly import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dujiang.testing.history.record import Operation


def check_long_fork(history: Iterable[Operation]) -> list[Anomaly]:
    """Pairs of reads that saw writes in opposite orders, and reads of what nobody wrote.

    Kinds: `write` (key, value; each key once), `read` (result = mapping of key to value, None where nothing stands yet).
    """
    written: dict[Any, Operation] = {}
    groups: defaultdict[frozenset[str], list[tuple[frozenset[str], Operation]]] = defaultdict(list)
    reads = []
    for operation in history:
        if operation.kind == "write" and operation.possible:
            written[operation.key] = operation
        elif operation.kind == "read" and operation.certain:
            reads.append(operation)
    found = []
    for read in reads:
        seen = frozenset(key for key, value in read.result.items() if value is not None)
        for key in sorted(seen):
            if key not in written or written[key].value != read.result[key]:
                says = f"{key} was read as {read.result[key]!r}, which nobody wrote"
                found.append(Anomaly("unexpected", says, (read,)))
        groups[frozenset(read.result)].append((seen, read))
    for snapshots in groups.values():
        snapshots.sort(key=lambda each: len(each[0]))
        for (fewer, first), (more, second) in itertools.pairwise(snapshots):
            if not fewer <= more:
                mine, theirs = sorted(fewer - more), sorted(more - fewer)
                says = f"one read saw {', '.join(mine)} before {', '.join(theirs)}, another the other way round"
                found.append(Anomaly("long_fork", says, (first, second)))
    return found
