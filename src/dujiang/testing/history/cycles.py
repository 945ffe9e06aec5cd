"""Cycles: transactions that no serial order explains, found in lists that are appended to and read.

A list shows its own past. A transaction that reads `[1, 2, 3]` proves that 1 was appended before 2 and 2 before 3, which no
plain register can. From that follow the dependencies between transactions, as Adya defines them, and a cycle of
dependencies is what no order explains. The method is Elle's (Kingsbury and Alvaro, 2020), the names are Adya's:

    T1 ─ww─► T2   T2 appended right after T1              G0         a cycle of ww only
    T1 ─wr─► T2   T2 read what T1 appended last           G1c        ww and wr, at least one wr
    T1 ─rw─► T2   T1 read just before T2 appended         G-single   exactly one rw (read skew, lost update)
                                                          G2         two or more rw (write skew)

    G1a   a read holds what a failed transaction appended
    G1b   a read ends in the middle of what another transaction appended to that key
    internal             a transaction contradicts its own earlier reads and appends
    incompatible_order   two reads of a key, neither of which is the beginning of the other; or one that shows the appends
                         of a transaction in another order than its own
    duplicate_append     an element twice in one list          unexpected   an element that nobody appended

Which of them are wrong depends on the promise (`isolation`); READ COMMITTED may skew and write-skew, by its definition.

What is not seen directly. Elements that no read holds come after all that were read, in an unknown order: dependencies on
them are those that hold in every such order. A transaction of unknown end (`info`) counts as committed once something of it
was read, and as absent otherwise. With that, a history without anomalies is serializable: any topological order of the graph
explains it. The converse holds too, so the checker neither invents nor overlooks (for what it was given to see: read every
list once at the end).

A component may hold many cycles. One of each name is reported for each component, and the name is the strongest that the
cycle proves: for each rw dependency the way back is searched without further rw first. Real time and sessions are not
part of the graph: this judges serializability, not strict serializability.

Cost: O(total length of all reads) for the graph, O(nodes + edges) for the components, and one breadth-first search for each
rw edge inside a component, of which a sound history has none.

Proof: tests/unit/testing/history/test_cycles.py compares with the trial of every serial order.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal, get_args

from dujiang.testing.history.anomaly import Anomaly
from dujiang.testing.history.graph import Graph, components, shortest
from dujiang.testing.history.lists import Lists
from dujiang.testing.history.record import HistoryRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dujiang.testing.history.record import Operation

Isolation = Literal["read committed", "snapshot", "serializable"]
BROKEN = frozenset(("G1a", "G1b", "incompatible_order", "duplicate_append", "unexpected", "G0", "G1c"))
WRONG: dict[Isolation, frozenset[str]] = {
    "read committed": BROKEN,
    "snapshot": BROKEN | {"internal", "G-single"},
    "serializable": BROKEN | {"internal", "G-single", "G2"},
}


def check_list_append(history: Iterable[Operation], *, isolation: Isolation = "serializable") -> list[Anomaly]:
    """What the promised isolation forbids, by Adya's names.

    Kind: `txn`. Its value is the list of what it does, in order: `["append", key, element]` and `["r", key, None]`; each
    element is appended to a key once. The result of an `ok` one is the same list with what was read: `["r", key, [1, 2]]`.

    Args:
        history: The operations.
        isolation: What is promised.

    Raises:
        HistoryRefused: If there is no such isolation.
    """
    if isolation not in WRONG:
        how = f"choose one of {', '.join(get_args(Isolation))}"
        raise HistoryRefused(what=f"there is no isolation {isolation!r}", how=how)
    lists = Lists(history)
    found = [*lists.anomalies(), *Dependencies(lists).anomalies()]
    return [anomaly for anomaly in found if anomaly.name in WRONG[isolation]]


class Dependencies:
    """The graph of who depends on whom.

    Args:
        lists: What was appended and read.
    """

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.ww: Graph = defaultdict(set)
        self.wr: Graph = defaultdict(set)
        self.rw: Graph = defaultdict(set)
        self.why: dict[tuple[str, int, int], str] = {}
        for key, order in lists.orders.items():
            self.link_writes(key, order)
        for txn, key, seen in lists.reads():
            self.link_read(txn, key, seen)

    def link_writes(self, key: Any, order: tuple[Any, ...]) -> None:
        """Who appended after whom."""
        for earlier, later in itertools.pairwise(order):
            self.link("ww", self.lists.writer(key, earlier), self.lists.writer(key, later), key, later)
        for txn, element in self.lists.unseen(key):
            if order:
                self.link("ww", self.lists.writer(key, order[-1]), txn, key, element)

    def link_read(self, txn: int, key: Any, seen: tuple[Any, ...]) -> None:
        """Whose appends a read saw, and whose it did not see yet."""
        order = self.lists.orders.get(key, ())
        if order[: len(seen)] != seen:
            return  # incompatible_order has said so; there is no place of this read in the order.
        if seen:
            self.link("wr", self.lists.writer(key, seen[-1]), txn, key, seen[-1])
        if len(seen) < len(order):
            self.link("rw", txn, self.lists.writer(key, order[len(seen)]), key, order[len(seen)])
        else:
            for writer, element in self.lists.unseen(key):
                self.link("rw", txn, writer, key, element)

    def link(self, kind: str, source: int | None, target: int | None, key: Any, element: Any) -> None:
        """One dependency, unless it is on itself or on nobody."""
        if source is None or target is None or source == target:
            return
        {"ww": self.ww, "wr": self.wr, "rw": self.rw}[kind][source].add(target)
        self.why.setdefault((kind, source, target), f"{kind} on {element!r} of {key!r}")

    def anomalies(self) -> list[Anomaly]:
        """The cycles, one of each name for each component."""
        plain = union(self.ww)
        informed = union(self.ww, self.wr)
        whole = union(self.ww, self.wr, self.rw)
        return [
            *(self.cycle("G0", plain, self.ww, members) for members in components(plain)),
            *(found for members in components(informed) for found in self.through(self.wr, informed, members, "G1c")),
            *(found for members in components(whole) for found in self.skews(informed, whole, members)),
        ]

    def through(self, edges: Graph, back: Graph, members: list[int], name: str) -> list[Anomaly]:
        """The shortest cycle over the first of these edges that closes one, if any does."""
        inside = set(members)
        for source in sorted(members):
            for target in sorted(edges.get(source, set()) & inside):
                if way := shortest(back, target, source, inside):
                    return [self.told(name, way, edges)]
        return []

    def skews(self, informed: Graph, whole: Graph, members: list[int]) -> list[Anomaly]:
        """One G-single and one G2 of a component, where it has them."""
        inside = set(members)
        found: dict[str, Anomaly] = {}
        for source in sorted(members):
            for target in sorted(self.rw.get(source, set()) & inside):
                if way := shortest(informed, target, source, inside):
                    found.setdefault("G-single", self.told("G-single", way, self.rw))
                elif "G2" not in found:
                    found["G2"] = self.told("G2", shortest(whole, target, source, inside), self.rw)
        return list(found.values())

    def cycle(self, name: str, graph: Graph, edges: Graph, members: list[int]) -> Anomaly:
        """The cycle of a component whose edges are all of one kind."""
        return self.through(edges, graph, members, name)[0]

    def told(self, name: str, way: list[int], closing: Graph) -> Anomaly:
        """The cycle that goes along `way` and from its end back to its start by an edge of `closing`, in words."""
        last = "rw" if closing is self.rw else "wr" if closing is self.wr else "ww"
        steps = []
        for place, source in enumerate(way):
            target = way[(place + 1) % len(way)]
            kinds = (last,) if place == len(way) - 1 else ("ww", "wr", "rw")
            why = next(self.why[kind, source, target] for kind in kinds if (kind, source, target) in self.why)
            steps.append(f"{source} -> {target} ({why})")
        operations = tuple(self.lists.operations[op_id] for op_id in way)
        return Anomaly(name, f"operations depend on each other in a circle: {', '.join(steps)}", operations)


def union(*graphs: Graph) -> Graph:
    """All edges together, every node a key."""
    together: Graph = defaultdict(set)
    for graph in graphs:
        for source, targets in graph.items():
            together[source] |= targets
            for target in targets:
                together[target] |= set()
    return together
