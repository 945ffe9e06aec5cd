"""Guard: decides whether a kept answer may still be given. Pure: no clock, no I/O, no task.

    tick    1      2           3        4              5
            |      |           |        |              |
            load of order 7 ───────────► kept: (tick 1, names {order:7})
                               |
                               order:7 forgotten ► touched[order:7] = 3      so the answer of tick 1 is dead, wherever it is

The whole protocol is one comparison: an answer may be given if none of its names was touched after its load *began*. A
name is touched at two moments: in the process that changes the data, before its client is answered (so whoever got the
answer of a write reads that write here), and in every process when its look at the log finds the change.

Why that suffices. Data is loaded from the primary. Let a change commit at C and a load begin at B.
  C before B    the load sees the change. Nothing must happen.
  B before C    the look that finds the change comes after C, hence after B: it touches the name with a higher tick.
So the tick must be taken before the data is read, and the log must lose nothing; what is between C and the look is the
staleness that is promised. Three more rules keep the second line true:

  trust     If the last look that succeeded *began* longer ago than `trust_s`, nothing is fresh: a process that was paused or
            cut off does not know what it missed. It reads the database, which it then cannot reach either, or can.
  gap       A look that may have missed something starts a new life: nothing loaded before is ever given again, what is
            being loaded at the moment included.
  memory    Touched names are remembered up to a number. To forget the oldest raises `base`, and what was loaded before
            is dead with it: lack of memory costs loads, never truth.

A second level, which processes share, holds nothing but bytes and the position of the log, P, at which their load began:
taken before the data is read, as the tick is. Ticks mean nothing to others, transactions do, so each process also remembers
which transaction forgot a name (floors.py), and gives such bytes only if P shows every one that it knows of for its names.
The proof is the same two lines, for any process that asks. Let it have looked last at the position L, and a change of one
of the names commit with the transaction X.
  L shows X         it knows X. If P shows X, the load began after the commit and saw the change; if not, the bytes are
                    refused. What of X it may not know (cut from the log before its first look, forgotten for lack of
                    memory, done here and not found in the log yet) it refuses by other rules, all on the safe side.
  L does not show X the change came after the last look; that is the staleness that is promised, whatever was loaded where.
What is taken from the second level gets the tick of the moment at which it was judged, and is from then on an answer as any
other. Nothing rests on what the shared cache does: an old value that comes back, one that comes twice, a flush, a fail-over
to a replica that lags, two that load where a lease should allow one: P comes with the bytes, and they are judged.

Rejected: a lease on each key with a floor of its own in the store of the cache (as the two-level caches of others have it).
Floors live as long as that store keeps them, so an eviction, a flush or a fail-over loses them, and time limits must be
proved against each other. Here each process holds all floors itself, and holds them against every level. A lease remains
useful to load once for many processes; it proves nothing. And rejected: wall-clock times, which jump.

tests/unit/caching/test_model.py walks two processes at random through 10^5 steps with pauses, kills, cut logs and lost
answers; each rule above, taken away, is found out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TRUST_S = 3.0
NAMES_MAX = 100_000


class Guard:
    """What one process knows of forgotten names.

    Args:
        trust_s: Seconds for which a look at the log is good, counted from its beginning.
        names_max: Touched names that are remembered.

    Attributes:
        tick: Counts what happened here; taken before a load, it says what the load cannot have seen.
    """

    def __init__(self, *, trust_s: float = TRUST_S, names_max: int = NAMES_MAX) -> None:
        self._trust_s = trust_s
        self._names_max = names_max
        self.tick = 0
        self._base = 0
        self._touched: dict[int, int] = {}
        self._good_until_s = float("-inf")

    def __repr__(self) -> str:
        return f"<Guard at {self.tick}: {len(self._touched)} names, everything from {self._base}>"

    def __len__(self) -> int:
        return len(self._touched)

    @property
    def looked_s(self) -> float:
        """When the last look at the log that succeeded began, monotonic seconds."""
        return self._good_until_s - self._trust_s

    def trusted(self, now_s: float) -> bool:
        """Whether the log was looked at recently enough to call anything fresh."""
        return now_s < self._good_until_s

    def valid(self, tick: int, names: Iterable[int]) -> bool:
        """Whether what was loaded from `tick` on, and depends on `names`, is not known to be outdated."""
        if tick < self._base:
            return False
        touched = self._touched
        return all(touched.get(name, 0) <= tick for name in names)

    def touch(self, names: Iterable[int]) -> None:
        """Put an end to whatever depends on these names and was loaded, or began to be, before now."""
        self.tick += 1
        touched = self._touched
        for name in names:
            touched.pop(name, None)  # The order of the dict is the order of the ticks.
            touched[name] = self.tick
        while len(touched) > self._names_max:
            self._base = max(self._base, touched.pop(next(iter(touched))))

    def heard(self, began_s: float, names: Iterable[int], *, missed: bool) -> None:
        """Take in a look at the log.

        Args:
            began_s: When the look began, monotonic seconds.
            names: What was forgotten since the look before.
            missed: Whether something may have escaped.
        """
        if missed:
            self.begin_anew()
        else:
            self.touch(names)
        self._good_until_s = began_s + self._trust_s

    def begin_anew(self) -> None:
        """Put an end to everything that was loaded, or began to be, before now."""
        self.tick += 1
        self._base = self.tick
        self._touched.clear()
