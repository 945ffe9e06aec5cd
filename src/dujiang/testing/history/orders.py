"""Orders: events of one key are handled in the order in which they were committed.

    commit a ─► commit b          subscriber s: handle a, handle b     fine
                                  subscriber s: handle b, handle a     out_of_order

The order of two commits of a key is that of their positions, if commits answer with one (an outbox sequence), else that
of real time: what overlapped has no order. The order of two handlings is that of real time too, and of several
handlings of one event only the first counts, because deliveries repeat: an event that was handled again later is
queues.py's business. An `info` handling may have been the first, so it excuses whatever came after its beginning.

    out_of_order   handled before an event that was committed before it
    unexpected     handled, and nobody committed it

Not looked at: events that were never handled (queues.py: lost). Cost: O(n log n): one running maximum for each subscriber
and key.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from dujiang.testing.history.anomaly import Anomaly, begin, by_key, end, named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dujiang.testing.history.record import Operation


def check_key_order(history: Iterable[Operation]) -> list[Anomaly]:
    """Events that a subscriber handled in another order than that of their commits; key by key.

    Kinds: `commit` (key, value = the event, once; result = its position in the key's order, or None), `handle` (process =
    the subscriber, key, value = the event).
    """
    found: list[Anomaly] = []
    for key, operations in by_key(history, ("commit", "handle")):
        commits = {operation.value: operation for operation in operations if operation.kind == "commit"}
        placed = all(operation.result is not None for operation in commits.values() if operation.certain)
        subscribers: defaultdict[Any, list[Operation]] = defaultdict(list)
        for operation in operations:
            if operation.kind == "handle":
                subscribers[operation.process].append(operation)
        for subscriber, handled in subscribers.items():
            found += disordered(subscriber, key, handled, commits, placed=placed)
    return found


def disordered(
    subscriber: Any, key: Any, handled: list[Operation], commits: dict[Any, Operation], *, placed: bool
) -> list[Anomaly]:
    """What one subscriber handled out of order; `handled` in the order of beginnings."""
    found = []
    first: dict[Any, Operation] = {}
    for operation in handled:
        if operation.value in commits:
            first.setdefault(operation.value, operation)
        elif operation.certain:
            says = f"{subscriber} handled {operation.value!r}{named(key)}, which nobody committed"
            found.append(Anomaly("unexpected", says, (operation,)))
    done = sorted((o for o in handled if o.certain and o.value in commits), key=end)
    furthest: Operation | None = None
    place = 0
    for operation in first.values():
        while place < len(done) and done[place].before(operation):
            committed = commits[done[place].value]
            if furthest is None or span(committed, placed=placed)[0] > span(commits[furthest.value], placed=placed)[0]:
                furthest = done[place]
            place += 1
        if furthest is None:
            continue
        mine, later = commits[operation.value], commits[furthest.value]
        if span(mine, placed=placed)[1] < span(later, placed=placed)[0]:
            says = f"{subscriber} handled {later.value!r} before {mine.value!r}{named(key)}, which was committed first"
            found.append(Anomaly("out_of_order", says, (mine, later, furthest, operation)))
    return found


def span(commit: Operation, *, placed: bool) -> tuple[float, float]:
    """Between which points of the key's order a commit lies: its position twice, or its beginning and its end."""
    if not placed:
        return begin(commit), commit.effective_at
    return (commit.result, commit.result) if commit.certain else (-math.inf, math.inf)
