"""Anomaly: one thing in a history that should not be, in words, with the operations that show it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dujiang.testing.history.record import Operation

UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What a checker found.

    Attributes:
        name: What the literature calls it: `lost`, `G1c`, `read_your_writes`; `undecided` when the history does not say
            or the search was cut short.
        says: One sentence with the values.
        operations: Those that show it, in the order in which they are to be read.
    """

    name: str
    says: str
    operations: tuple[Operation, ...] = ()

    @property
    def undecided(self) -> bool:
        """Whether this is no verdict: nothing was proved, neither way."""
        return self.name == UNDECIDED

    def __str__(self) -> str:
        return "\n".join([f"{self.name}: {self.says}", *(f"  {operation}" for operation in self.operations)])


def by_key(history: Iterable[Operation], kinds: Iterable[str]) -> Iterator[tuple[Any, list[Operation]]]:
    """The operations of these kinds that may have happened, key by key, in the order of their beginnings."""
    wanted = frozenset(kinds)
    of: defaultdict[Any, list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.kind in wanted and operation.possible:
            of[operation.key].append(operation)
    for key, operations in of.items():
        operations.sort(key=begin)
        yield key, operations


def begin(operation: Operation) -> float:
    """When it began; to sort by."""
    return operation.invoked_at


def end(operation: Operation) -> float:
    """When it ended; to sort by."""
    return operation.ended_at


def named(key: Any) -> str:
    """How a sentence names a key: nothing where there is one thing only."""
    return "" if key is None else f" of {key!r}"
