"""Queues: everything that was put in comes out, once, and nothing else does.

What is promised: each acknowledged `enqueue` is matched by a `dequeue`, each dequeue by an enqueue that had begun, and no
enqueue by two. Order is not looked at (orders.py does). Elements may repeat; unique ones make sharper sentences.

    lost         acknowledged, and in no dequeue          duplicated   dequeued more often than it was enqueued
    unexpected   dequeued, and never enqueued, or its     early        dequeued before any enqueue that can explain it
                 enqueue had certainly failed                          had begun

An `info` enqueue may have happened or not, so it excuses one dequeue and demands none. An `info` dequeue may have taken
any one element away: as many losses are excused as there are such dequeues, and an `info` drain excuses all
(`undecided`). Drain the queue at the end, and let the drain answer: without it everything in flight counts as lost.

Per element, each dequeue in order of its end takes an enqueue that had begun by then, an acknowledged one if there is one.
That is exact, because whatever an earlier dequeue may take a later one may take as well. Cost: O(n log n).
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from dujiang.testing.history.anomaly import UNDECIDED, Anomaly, by_key, end, named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dujiang.testing.history.record import Operation


def check_total_queue(history: Iterable[Operation]) -> list[Anomaly]:
    """What was lost, duplicated, or came from nowhere; one anomaly for each element, queue by queue (the key).

    Kinds: `enqueue` (value = the element), `dequeue` (result = the element, or None when the queue was empty), `drain`
    (result = the list of all that was left).
    """
    history = list(history)
    failed: defaultdict[Any, list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.kind == "enqueue" and not operation.possible:
            failed[operation.key, operation.value].append(operation)
    found: list[Anomaly] = []
    for key, operations in by_key(history, ("enqueue", "dequeue", "drain")):
        found += anomalies_of(key, operations, failed)
    return found


def anomalies_of(key: Any, operations: list[Operation], failed: dict[Any, list[Operation]]) -> list[Anomaly]:
    """The anomalies of one queue."""
    puts: defaultdict[Any, list[Operation]] = defaultdict(list)
    takes: defaultdict[Any, list[Operation]] = defaultdict(list)
    unknown: list[Operation] = []
    for operation in operations:
        if operation.kind == "enqueue":
            puts[operation.value].append(operation)
        elif not operation.certain:
            unknown.append(operation)
        else:
            for element in operation.result if operation.kind == "drain" else (operation.result,):
                if element is not None:
                    takes[element].append(operation)
    found: list[Anomaly] = []
    lost: dict[Any, int] = {}
    for element in {**puts, **takes}:
        put, taken = puts.get(element, []), sorted(takes.get(element, ()), key=end)
        if surplus := surplus_of(key, element, put, taken, failed.get((key, element), [])):
            found.append(surplus)
        elif missing := left_over(put, taken):
            lost[element] = missing
    return found + losses(key, puts, lost, unknown)


def surplus_of(
    key: Any, element: Any, puts: list[Operation], taken: list[Operation], failed: list[Operation]
) -> Anomaly | None:
    """What is wrong with the dequeues of one element, if anything: from nowhere, too many, or too early."""
    what = f"{element!r}{named(key)}"
    if taken and not puts:
        why = "its enqueue had failed" if failed else "nobody enqueued it"
        return Anomaly("unexpected", f"{what} was dequeued, and {why}", (*failed, *taken))
    if len(taken) > len(puts):
        says = f"{what} was enqueued {times(len(puts))} at most and dequeued {times(len(taken))}"
        return Anomaly("duplicated", says, (*puts, *taken))
    for put, take in zip(puts, taken, strict=False):
        if take.before(put):
            return Anomaly("early", f"{what} was dequeued before the enqueue that explains it began", (take, put))
    return None


def left_over(puts: list[Operation], taken: list[Operation]) -> int:
    """How many acknowledged enqueues of one element no dequeue can have taken; both in order of time."""
    place = acknowledged = 0
    for take in taken:
        while place < len(puts) and not take.before(puts[place]):
            acknowledged += puts[place].certain
            place += 1
        acknowledged -= acknowledged > 0
    return acknowledged + sum(put.certain for put in puts[place:])


def losses(key: Any, puts: dict[Any, list[Operation]], lost: dict[Any, int], unknown: list[Operation]) -> list[Anomaly]:
    """The anomalies of elements that are left over, unless unknown dequeues may have taken them."""
    drains = [operation for operation in unknown if operation.kind == "drain"]
    count = sum(lost.values())
    if not lost or (not drains and count <= len(unknown)):
        return []
    shown = {element: [put for put in puts[element] if put.certain] for element in lost}
    if drains:
        says = f"{count} elements{named(key)} were not dequeued, and a drain whose end is unknown may have taken them"
        return [Anomaly(UNDECIDED, says, (*drains, *(put for each in shown.values() for put in each)))]
    excuse = f" ({count} are missing, and {len(unknown)} dequeues ended unknown)" if unknown else ""
    return [
        Anomaly("lost", f"{element!r}{named(key)} was acknowledged and never dequeued{excuse}", tuple(each))
        for element, each in shown.items()
    ]


def times(count: int) -> str:
    """`once`, `twice`, `3 times`."""
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
