"""Lists: what transactions appended to lists and read of them, and what is wrong without looking for a cycle.

The half of cycles.py that knows about elements: who appended which, in which order they stand, what each read saw of
others, and what a read may not hold at all.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from dujiang.testing.history.anomaly import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dujiang.testing.history.record import Operation


class Lists:
    """Every append and read of a history.

    Args:
        history: Operations; those of kind `txn` are taken.

    Attributes:
        operations: By number.
        orders: The longest read of each key: its elements in the order in which they were appended.
    """

    def __init__(self, history: Iterable[Operation]) -> None:
        self.operations = {operation.op_id: operation for operation in history if operation.kind == "txn"}
        self.appended: dict[tuple[Any, Any], Operation] = {}
        self.appends: defaultdict[tuple[int, Any], list[Any]] = defaultdict(list)
        self.orders: dict[Any, tuple[Any, ...]] = {}
        self.read_elements: set[tuple[Any, Any]] = set()
        for operation in self.operations.values():
            for does, key, element in operation.value:
                if does == "append":
                    self.appended[key, element] = operation
                    self.appends[operation.op_id, key].append(element)
        for _, key, seen in self.all_reads():
            self.read_elements |= {(key, element) for element in seen}
            if len(seen) > len(self.orders.get(key, ())):
                self.orders[key] = seen
        shown = {self.appended[each].op_id for each in self.read_elements if each in self.appended}
        # Committed, as far as anybody can know: acknowledged, or of unknown end and seen.
        self.committed = {o.op_id for o in self.operations.values() if o.certain or (o.possible and o.op_id in shown)}
        self.behind: defaultdict[Any, list[tuple[int, Any]]] = defaultdict(list)
        for (key, element), operation in self.appended.items():
            if operation.op_id in self.committed and (key, element) not in self.read_elements:
                self.behind[key].append((operation.op_id, element))

    def writer(self, key: Any, element: Any) -> int | None:
        """Who appended the element; None for nobody, and for a transaction that failed."""
        operation = self.appended.get((key, element))
        return operation.op_id if operation is not None and operation.op_id in self.committed else None

    def unseen(self, key: Any) -> list[tuple[int, Any]]:
        """Committed appends to a key that no read holds, with their writers."""
        return self.behind.get(key, [])

    def all_reads(self) -> Iterator[tuple[int, Any, tuple[Any, ...]]]:
        """Every read of an acknowledged transaction as it was."""
        for operation in self.operations.values():
            if operation.certain:
                for does, key, seen in operation.result:
                    if does == "r":
                        yield operation.op_id, key, seen or ()

    def reads(self) -> Iterator[tuple[int, Any, tuple[Any, ...]]]:
        """Every read without what its own transaction had appended to its end before it."""
        for operation in self.operations.values():
            if not operation.certain:
                continue
            own: defaultdict[Any, list[Any]] = defaultdict(list)
            for does, key, what in operation.result:
                if does == "append":
                    own[key].append(what)
                else:
                    yield operation.op_id, key, without_end(what or (), own.get(key, []))

    def anomalies(self) -> list[Anomaly]:
        """What is wrong with single reads, and with pairs of them."""
        return [*self.impossible(), *self.internal(), *self.incompatible(), *self.rearranged()]

    def impossible(self) -> Iterator[Anomaly]:
        """Elements that nobody appended, or somebody who failed, or twice; and reads that end in the middle."""
        for txn, key, seen in self.all_reads():
            read = self.operations[txn]
            if len(set(seen)) < len(seen):
                twice = next(element for element in seen if seen.count(element) > 1)
                yield Anomaly("duplicate_append", f"{twice!r} stands twice in {key!r}", (read,))
            for element in seen:
                operation = self.appended.get((key, element))
                if operation is None:
                    yield Anomaly("unexpected", f"{key!r} holds {element!r}, which nobody appended", (read,))
                elif not operation.possible:
                    says = f"{key!r} holds {element!r}, whose transaction had failed"
                    yield Anomaly("G1a", says, (operation, read))
        for txn, key, seen in self.reads():
            if not seen or (writer := self.writer(key, seen[-1])) is None or writer == txn:
                continue
            if (last := self.appends[writer, key][-1]) != seen[-1]:
                says = f"{key!r} was read up to {seen[-1]!r}, and its transaction appended up to {last!r}"
                yield Anomaly("G1b", says, (self.operations[writer], self.operations[txn]))

    def internal(self) -> Iterator[Anomaly]:
        """Transactions that contradict themselves: a read differs from the read before it and the appends since."""
        for operation in self.operations.values():
            if not operation.certain:
                continue
            known: dict[Any, tuple[Any, ...]] = {}
            own: defaultdict[Any, tuple[Any, ...]] = defaultdict(tuple)
            for does, key, what in operation.result:
                if does == "append":
                    own[key] += (what,)
                    if key in known:
                        known[key] += (what,)
                    continue
                seen = what or ()
                if (key in known and known[key] != seen) or (own[key] and seen[-len(own[key]) :] != own[key]):
                    due = known.get(key, ("...", *own[key]))
                    says = f"{key!r} was read as {list(seen)}, and this transaction knew it as {list(due)}"
                    yield Anomaly("internal", says, (operation,))
                known[key] = seen

    def incompatible(self) -> Iterator[Anomaly]:
        """Reads that are no beginning of the longest read of their key."""
        longest: dict[Any, int] = {}
        for txn, key, seen in self.all_reads():
            if seen == self.orders.get(key):
                longest.setdefault(key, txn)
        for txn, key, seen in self.all_reads():
            order = self.orders.get(key, ())
            if order[: len(seen)] != seen:
                says = f"{key!r} was read as {list(seen)} and as {list(order)}"
                yield Anomaly("incompatible_order", says, (self.operations[longest[key]], self.operations[txn]))

    def rearranged(self) -> Iterator[Anomaly]:
        """Transactions whose appends to one key stand in another order than theirs, or with one left out."""
        shown: defaultdict[tuple[int, Any], list[Any]] = defaultdict(list)
        for key, order in self.orders.items():
            for element in dict.fromkeys(order):
                if (writer := self.writer(key, element)) is not None:
                    shown[writer, key].append(element)
        for (txn, key), elements in shown.items():
            own = self.appends[txn, key]
            if own[: len(elements)] != elements:
                says = f"{own} were appended to {key!r} by one transaction and stand there as {elements}"
                yield Anomaly("incompatible_order", says, (self.operations[txn],))


def without_end(seen: tuple[Any, ...], own: list[Any]) -> tuple[Any, ...]:
    """What was read without one's own elements at its end."""
    length = len(seen)
    while own and length and seen[length - 1] in own:
        length -= 1
    return seen[:length]
