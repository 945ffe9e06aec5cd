"""Floors: what one process knows of the changes of all, in the form by which it judges answers that others have loaded.

    name  ──► the transactions that forgot it, as the last look that found any found them
    an answer that another process loaded at the position P may be given if P shows every transaction that forgot one of
    its names

A tick of the guard means nothing to another process; the number of a transaction does. guard.py has the proof. Three
things are not known by number, and each has a rule that costs loads and never truth:

  untold    what was forgotten here, from its commit to the look that finds its row: nothing that others have loaded is
            good for its names. A look that began after the commit ends that.
  horizon   what is no longer in the log, or was more than can be remembered: a position must lie wholly above it.
  origin    numbers of another server, or of this one before a crash, are not compared at all.

Of a name only the transactions of one look are kept, the last that found any. Why those suffice: a position that shows one
of them was taken after the look before, because that look did not show it; so it shows all that the looks before had found.

tests/unit/caching/test_model.py takes each rule away and finds the fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.messaging.forgotten import ALL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dujiang.messaging.forgotten import History, Row
    from dujiang.messaging.position import Position

NAMES_MAX = 100_000


class Floors:
    """What is known of forgotten names, by transaction.

    Args:
        names_max: Names that are remembered.
    """

    def __init__(self, *, names_max: int = NAMES_MAX) -> None:
        self._names_max = names_max
        self._origin: bytes | None = None
        self._horizon = 0
        self._found: dict[int, tuple[int, ...]] = {}
        self._untold: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Floors: {len(self._found)} names above {self._horizon}, {len(self._untold)} untold>"

    def allow(self, position: Position, names: Iterable[int]) -> bool:
        """Whether what was loaded at this position, and depends on `names`, is not known to be outdated."""
        if position.origin != self._origin or position.first <= self._horizon or not self.told(names):
            return False
        found = self._found
        return all(position.shows(number) for name in (*names, ALL) for number in found.get(name, ()))

    def told(self, names: Iterable[int]) -> bool:
        """Whether all that this process did to the names has been found in the log by now."""
        untold = self._untold
        return not untold or not any(name in untold for name in (*names, ALL))

    def touch(self, tick: int, names: Iterable[int]) -> None:
        """A transaction of this process has committed; `tick` is the guard's after it was touched there."""
        for name in names:
            self._untold.pop(name, None)  # The order of the dict is the order of the ticks.
            self._untold[name] = tick

    def begin(self, history: History, asked: int) -> None:
        """Forget everything and begin with what the log holds; `asked` is the guard's tick before the question."""
        self._origin, self._horizon = history.origin, history.horizon
        self._found.clear()
        self.heard(history.rows, asked)

    def heard(self, rows: Sequence[Row], asked: int) -> None:
        """Take in what a look found; `asked` is the guard's tick before the question."""
        latest: dict[int, tuple[int, ...]] = {}
        for _, names, number in rows:
            for name in names:
                latest[name] = (*latest.get(name, ()), number)
        for name, numbers in latest.items():
            self._found.pop(name, None)
            self._found[name] = numbers
        while len(self._found) > self._names_max:
            self._horizon = max(self._horizon, *self._found.pop(next(iter(self._found))))
        while self._untold and next(iter(self._untold.values())) <= asked:
            del self._untold[next(iter(self._untold))]

    def unknown(self) -> None:
        """Another server may stand behind the URL: nothing can be placed until the log was read anew."""
        self._origin = None
