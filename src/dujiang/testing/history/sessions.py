"""Sessions: what one user may rely on, and how far behind reads are.

Every write of a key has a version, a number that rises in the order in which writes took effect (a row's version, a
sequence, a commit position); every read shows one. Then each guarantee is one comparison with what the same process
(= user) had seen or done before. "Before" is: had ended when this one began; a user with two requests under way at once
has no order between them.

    read_your_writes        a read shows an older version than the user's own last write of the key
    monotonic_reads         a read shows an older version than the user's last read of the key
    monotonic_writes        a write got a lower version than the user's write before it
    writes_follow_reads     a write got a lower version than the user had read

Only `ok` operations have a version, so an `info` write promises nothing. A read of nothing (None) is version minus
infinity. Keys are apart: that a user saw a later version of another key is causality, which fork.py and cycles.py look
at. Cost: O(n log n).

`staleness` measures instead: a read that shows version v is as old as the earliest acknowledgement of a version above v,
seen from the read's beginning. A read is not stale while a newer write is only under way.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.testing.history.anomaly import Anomaly, begin, by_key, end, named
from dujiang.testing.history.timing import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dujiang.testing.history.record import Operation

NAMES = {
    ("read", "write"): ("read_your_writes", "read {0}{2} after writing {1}"),
    ("read", "read"): ("monotonic_reads", "read {0}{2} after reading {1}"),
    ("write", "write"): ("monotonic_writes", "wrote version {0}{2} after writing {1}"),
    ("write", "read"): ("writes_follow_reads", "wrote version {0}{2} after reading {1}"),
}
BUCKETS_S = (0.0, 0.001, 0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Staleness:
    """How old what was read was.

    Attributes:
        reads: How many reads were judged.
        stale: How many of them missed an acknowledged write.
        p50_s: Half of all reads were at most so old, in seconds.
        p99_s: 99 % were.
        longest_s: The oldest.
        buckets: Upper bound in seconds -> how many reads were at most so old and older than the bound before; the last
            bound is infinite.
    """

    reads: int
    stale: int
    p50_s: float
    p99_s: float
    longest_s: float
    buckets: dict[float, int]


def check_sessions(history: Iterable[Operation]) -> list[Anomaly]:
    """Operations that break a guarantee of their user's session; user by user, key by key.

    Kinds: `write` (result = the version that it made), `read` (result = the version that it showed, None for nothing).
    """
    found = []
    for key, operations in by_key(history, ("read", "write")):
        users: defaultdict[Any, list[Operation]] = defaultdict(list)
        for operation in operations:
            if operation.certain:
                users[operation.process].append(operation)
        for user, own in users.items():
            found += broken(user, key, own)
    return found


def broken(user: Any, key: Any, own: list[Operation]) -> list[Anomaly]:
    """The broken guarantees of one user and key; `own` in the order of beginnings."""
    found = []
    ended = sorted(own, key=end)
    highest: dict[str, Operation] = {}
    place = 0
    for operation in own:
        while ended[place].before(operation):
            past = ended[place]
            if past.kind not in highest or version(past) >= version(highest[past.kind]):
                highest[past.kind] = past
            place += 1
        for kind, past in highest.items():
            if version(operation) < version(past):
                name, words = NAMES[operation.kind, kind]
                says = words.format(operation.result, past.result, named(key))
                found.append(Anomaly(name, f"{user} {says}", (past, operation)))
    return found


def version(operation: Operation) -> float:
    """The version that it made or showed."""
    return -math.inf if operation.result is None else operation.result


def staleness(history: Iterable[Operation]) -> Staleness:
    """How old the reads of a history were. Kinds as for `check_sessions`."""
    ages = [age for _, age in aged(history)]
    ages.sort()
    counts = dict.fromkeys((*BUCKETS_S, math.inf), 0)
    for age in ages:
        counts[next(bound for bound in counts if age <= bound)] += 1
    longest = ages[-1] if ages else 0.0
    return Staleness(
        len(ages), sum(age > 0 for age in ages), percentile(ages, 0.5), percentile(ages, 0.99), longest, counts
    )


def check_staleness(history: Iterable[Operation], *, most_s: float) -> list[Anomaly]:
    """Reads that are older than promised. Kinds as for `check_sessions`.

    Args:
        history: The operations.
        most_s: How many seconds after its acknowledgement a write may still be unseen.
    """
    return [
        Anomaly("too_stale", f"a read{named(read.key)} is {age:.3f} s old, more than {most_s} s", (read,))
        for read, age in aged(history)
        if age > most_s
    ]


def aged(history: Iterable[Operation]) -> Iterator[tuple[Operation, float]]:
    """Every read with its age in seconds; 0 for one that shows the newest acknowledged version."""
    for _, operations in by_key(history, ("read", "write")):
        writes = sorted((o for o in operations if o.kind == "write" and o.certain), key=version)
        versions = [version(write) for write in writes]
        earliest = [math.inf] * (len(writes) + 1)
        for place in range(len(writes) - 1, -1, -1):
            earliest[place] = min(earliest[place + 1], end(writes[place]))
        for read in operations:
            if read.kind == "read" and read.certain:
                newer_at = earliest[bisect_right(versions, version(read))]
                yield read, max(0.0, begin(read) - newer_at)
