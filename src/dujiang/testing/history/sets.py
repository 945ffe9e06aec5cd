"""Sets: an acknowledged element is in every later read.

What is promised: from the moment an element is known (its `add` was acknowledged, or a read that held it ended), every
read that begins later holds it; `within_s` allows a promised staleness. A read shows the whole set, so nothing is removed.

       add ok          read A        read B              read B, begun after `add ok`, lacks the element
    ─────┤known ──────┤   │has├─────┤   │lacks├──►       no later read has it: lost.  One has: stale.

    lost         known, and gone: a read that began after the last read that held it had ended lacks it
    stale        known, missing in a read, and back later
    unexpected   in a read, and nobody added it, its add had failed, or the add began after the read had ended
    duplicated   twice in one read
    undecided    acknowledged, and no read began late enough to say (never read)

An element whose `add` is `info` is known once a read holds it, and never missed before that. Read once more after
everything has healed: without a final read the verdict about the last elements is `undecided`. Cost: O(total length of
all reads + missing elements), because the reads that lack an element are counted, not visited, until one is found.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from dujiang.testing.history.anomaly import UNDECIDED, Anomaly, begin, by_key, end, named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dujiang.testing.history.record import Operation


def check_set_full(history: Iterable[Operation], *, within_s: float = 0.0) -> list[Anomaly]:
    """Acknowledged elements that vanish or are seen late, and elements from nowhere; set by set (the key).

    Kinds: `add` (value = the element, added once), `read` (result = the list of all elements).

    Args:
        history: The operations.
        within_s: How many seconds after it is known an element may still be missing.
    """
    found: list[Anomaly] = []
    for key, operations in by_key(history, ("add", "read")):
        adds: defaultdict[Any, list[Operation]] = defaultdict(list)
        for operation in operations:
            if operation.kind == "add":
                adds[operation.value].append(operation)
        reads = [operation for operation in operations if operation.kind == "read" and operation.certain]
        holders: defaultdict[Any, list[int]] = defaultdict(list)
        for place, read in enumerate(reads):
            for element, count in Counter(read.result).items():
                holders[element].append(place)
                if count > 1:
                    says = f"{element!r}{named(key)} stands {count} times in one read"
                    found.append(Anomaly("duplicated", says, (read,)))
        found += strangers(key, adds, holders, reads)
        starts = [begin(read) for read in reads]
        for element, tries in adds.items():
            found += missing(key, tries, holders.get(element, []), (reads, starts), within_s)
    return found


def strangers(
    key: Any, adds: dict[Any, list[Operation]], holders: dict[Any, list[int]], reads: list[Operation]
) -> list[Anomaly]:
    """Elements that a read holds and no add explains."""
    found = []
    for element, places in holders.items():
        first = min((reads[place] for place in places), key=end)
        if element not in adds:
            says = f"{element!r}{named(key)} was read, and nobody added it, or its add had failed"
            found.append(Anomaly("unexpected", says, (first,)))
        elif first.before(adds[element][0]):
            says = f"{element!r}{named(key)} was read before its add began"
            found.append(Anomaly("unexpected", says, (first, adds[element][0])))
    return found


def missing(
    key: Any,
    tries: list[Operation],
    places: list[int],
    reads_and_starts: tuple[list[Operation], list[float]],
    within_s: float,
) -> list[Anomaly]:
    """What is wrong with the reads of one element, if anything."""
    reads, starts = reads_and_starts
    add = min(tries, key=lambda each: each.effective_at)
    known_at = min([add.effective_at, *(end(reads[place]) for place in places)])
    late = bisect_right(starts, known_at + within_s)
    what = f"{add.value!r}{named(key)}"
    if late == len(reads):
        never = add.certain and not places
        return [Anomaly(UNDECIDED, f"{what} was acknowledged, and no later read tells of it", (add,))] if never else []
    if len(reads) - late == sum(place >= late for place in places):
        return []
    holding = set(places)
    lacking = [place for place in range(late, len(reads)) if place not in holding]
    gone, final = reads[lacking[0]], reads[lacking[-1]]
    last_seen = max((reads[place] for place in places), key=end, default=None)
    if last_seen is None:
        return [Anomaly("lost", f"{what} was acknowledged, and no read ever held it", (add, gone))]
    if last_seen.before(final):
        return [Anomaly("lost", f"{what} was known and is gone", (add, last_seen, final))]
    return [Anomaly("stale", f"{what} was known, missing in a read, and is back", (add, gone, last_seen))]
