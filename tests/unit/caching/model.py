"""A small world of two processes that cache, one database and its log, walked at random.

Every step is one of the moments between which real processes interleave: a commit, the touch after it, the beginning of a
load, its reading of the data, its landing, the question of a look, the answer of it. The decisions are those of the real
Guard, Entry and Flight; the world around them is played. A rule is a word in `rules`; a mutant is the world without one.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dujiang.caching.cache import Entry
from dujiang.caching.guard import Guard
from dujiang.caching.through import Flight

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = 3
TRUST_S = 3.0
NEVER = float("inf")
RULES = frozenset(
    {
        "touch at once",
        "touch after the commit",
        "tick before the data",
        "trust ends",
        "trust from the beginning of a look",
        "a gap begins anew",
        "beginning anew reaches loads",
        "little memory raises the base",
        "join what is new enough",
        "judge when it is given",
        "position out of the same snapshot",
        "fail-safe is judged too",
        "skip only what was touched",
    }
)


class Broken(AssertionError):
    """A promise was broken; says which and after how many steps."""


class ShortMemory(Guard):
    """A guard that forgets names without raising its base."""

    def touch(self, names: Any) -> None:
        """Touch, and lose the oldest."""
        super().touch(names)
        self._base = self._anew
        self._anew = self._base

    _anew = 0

    def begin_anew(self) -> None:
        """As ever."""
        super().begin_anew()
        self._anew = self._base


class LaterLoads(Guard):
    """A guard whose new beginning spares what is being loaded."""

    def begin_anew(self) -> None:
        """Begin anew one tick too early."""
        super().begin_anew()
        self._base -= 1


class Blind(Guard):
    """A guard that trusts for ever."""

    def trusted(self, now_s: float) -> bool:
        """Always."""
        return True


@dataclass
class Load:
    """A load under way: who waits, and the least version that each of them may get."""

    flight: Flight
    version: int | None = None
    began_s: float = 0.0
    least: list[int] = field(default_factory=list)


@dataclass
class Look:
    """A look under way; `answer` is (position, names, missed) once the database has answered."""

    began_s: float
    answer: tuple[int, list[tuple[int, int]], bool] | None = None


class Process:
    """One process that caches."""

    def __init__(self, rules: frozenset[str], position: int, names_max: int) -> None:
        self.names_max = names_max
        kind: type[Guard] = Guard
        if "little memory raises the base" not in rules:
            kind = ShortMemory
        elif "beginning anew reaches loads" not in rules:
            kind = LaterLoads
        elif "trust ends" not in rules:
            kind = Blind
        self.guard = kind(trust_s=TRUST_S, names_max=names_max)
        self.kept: dict[int, Entry] = {}
        self.loads: dict[int, Load] = {}
        self.orphans: list[tuple[int, Load]] = []
        self.look: Look | None = None
        self.position = position
        self.answered = [0] * KEYS
        self.untold: list[tuple[int, int, int]] = []
        self.acted: set[int] = set()
        self.paused = False


class World:
    """The walk.

    Args:
        seed: Of the chance.
        rules: Those that are kept.
    """

    def __init__(self, seed: int, rules: frozenset[str] = RULES) -> None:
        self.random = random.Random(seed)
        self.rules = rules
        self.now_s = 0.0
        self.version = [0] * KEYS
        self.history: list[list[float]] = [[0.0] for _ in range(KEYS)]  # When each version was committed.
        self.log: list[tuple[int, int]] = []
        self.cut = 0
        self.steps = 0
        self.given = 0
        # The first remembers two of three names: it is short of memory at every third write.
        self.processes = [Process(rules, 0, 2), Process(rules, 0, 1_000)]

    def walk(self, steps: int) -> None:
        """Take so many steps at random. Raises Broken."""
        chance = self.random
        acts: list[Callable[[Process], None]]
        acts = [*[self.read] * 8, *[self.begin, self.fetch, self.land] * 3, self.ask, *[self.answer, self.hear] * 2]
        acts += [self.write, *[self.tell, self.pass_time] * 2]
        for _ in range(steps):
            self.steps += 1
            process = self.processes[chance.random() < 0.5]
            dice = chance.random()
            if dice < 0.004:
                process.paused = not process.paused
            elif dice < 0.005:
                self.kill(process)
            elif dice < 0.01:
                self.cut = max(self.cut, len(self.log) - chance.randrange(4))
            elif not process.paused:
                acts[chance.randrange(len(acts))](process)
            else:
                self.pass_time(process)
        self.heal()

    def pass_time(self, _: Process) -> None:
        """Time goes on, now and then by much."""
        self.now_s += self.random.choice((0.01, 0.05, 0.1, 0.5))

    def kill(self, process: Process) -> None:
        """The process dies, with what it was about to tell; another takes its place and looks before it serves."""
        fresh = Process(self.rules, len(self.log), process.names_max)
        fresh.guard.heard(self.now_s, (), missed=True)
        self.processes[self.processes.index(process)] = fresh

    # Writing ----------------------------------------------------------------------------------------------------------

    def write(self, process: Process) -> None:
        """A transaction commits: the data and its row in the log at one moment."""
        key = self.random.randrange(KEYS)
        if "touch after the commit" not in self.rules:
            process.guard.touch([key])
            process.untold.append((key, -1, -1))
            return
        mark = self.commit(key)
        if "skip only what was touched" not in self.rules:
            process.acted.add(mark)
        # The task is cancelled, or the reply to COMMIT is lost, now and then: nobody tells, and nobody is answered.
        if self.random.random() < 0.9:
            process.untold.append((key, self.version[key], mark))

    def commit(self, key: int) -> int:
        """Data and log; the mark of the row."""
        self.version[key] += 1
        self.history[key].append(self.now_s)
        self.log.append((key, len(self.log)))
        return len(self.log) - 1

    def tell(self, process: Process) -> None:
        """After the commit: the names are touched here, then the client is answered."""
        if not process.untold:
            return
        key, version, mark = process.untold.pop(0)
        if version < 0:  # The mutant that touched first commits now.
            self.commit(key)
            version = self.version[key]
        elif "touch at once" in self.rules:
            process.guard.touch([key])
            process.acted.add(mark)
        process.answered[key] = max(process.answered[key], version)

    # Reading ----------------------------------------------------------------------------------------------------------

    def read(self, process: Process) -> None:
        """A reader comes: what is kept is given if it may be, else the reader waits for a load."""
        key = self.random.randrange(KEYS)
        kept = process.kept.get(key)
        if kept is not None:
            standing = kept.standing(process.guard, self.now_s)
            if "judge when it is given" not in self.rules:
                standing = "fresh" if process.guard.trusted(self.now_s) else "stale"
            if standing == "dead" and "fail-safe is judged too" not in self.rules:
                standing = "stale"
            if standing == "fresh":
                self.check(process, key, int(kept.body or b"0"), process.answered[key], bounded=True)
                return
            if standing == "stale" and self.random.random() < 0.3:  # Loading failed.
                self.check(process, key, int(kept.body or b"0"), process.answered[key], bounded=False)
                return
        load = process.loads.get(key)
        joins = "join what is new enough" not in self.rules
        if load is None or not (joins or load.flight.may_be_joined(process.guard)):
            if load is not None:
                process.orphans.append((key, load))
            load = process.loads[key] = Load(Flight((key,)))
        load.least.append(process.answered[key])

    def begin(self, process: Process) -> None:
        """A load begins: its tick is taken."""
        for load in process.loads.values():
            if load.flight.tick is None:
                load.flight.tick, load.began_s = process.guard.tick, self.now_s
                return

    def fetch(self, process: Process) -> None:
        """A load reads the data."""
        flying = [*process.loads.items(), *process.orphans]
        for key, load in flying:
            if load.flight.tick is not None and load.version is None:
                load.version = self.version[key]
                return

    def land(self, process: Process) -> None:
        """A load lands: all who wait get it, and it is kept."""
        for key, load in [*process.loads.items(), *process.orphans]:
            if load.version is None:
                continue
            if process.loads.get(key) is load:
                del process.loads[key]
            else:
                process.orphans.remove((key, load))
            for least in load.least:
                if load.version < least:
                    raise Broken(
                        f"step {self.steps}: a load brought {load.version}, and {least} had been answered here"
                    )
            late = "tick before the data" not in self.rules
            tick = process.guard.tick if late else load.flight.tick
            assert tick is not None
            body, times = b"%d" % load.version, {"loaded_s": self.now_s, "refresh_s": NEVER, "fresh_s": NEVER}
            process.kept[key] = Entry(body, (key,), tick=tick, stale_s=NEVER, **times)
            return

    def check(self, process: Process, key: int, version: int, least: int, *, bounded: bool) -> None:
        """What is given is as new as promised."""
        self.given += 1
        if version < least:
            raise Broken(f"step {self.steps}: {version} was given where {least} had been answered")
        owed = bisect_right(self.history[key], self.now_s - TRUST_S) - 1
        if bounded and version < owed:
            raise Broken(f"step {self.steps}: {version} was given; {owed} was committed {TRUST_S} s ago")

    # Looking ----------------------------------------------------------------------------------------------------------

    def ask(self, process: Process) -> None:
        """A look begins; one that was under way is lost."""
        process.look = Look(self.now_s)

    def answer(self, process: Process) -> None:
        """The database answers a look."""
        look = process.look
        if look is None or look.answer is not None:
            return
        missed = process.position < self.cut and "a gap begins anew" in self.rules
        look.answer = (len(self.log), self.log[max(process.position, self.cut) :], missed)

    def hear(self, process: Process) -> None:
        """The answer of a look arrives."""
        look = process.look
        if look is None or look.answer is None:
            return
        process.look = None
        position, rows, missed = look.answer
        names = [key for key, mark in rows if mark not in process.acted]
        if "position out of the same snapshot" not in self.rules:
            position = len(self.log)
        process.position = position
        began_s = look.began_s if "trust from the beginning of a look" in self.rules else self.now_s
        process.guard.heard(began_s, names, missed=missed)

    def heal(self) -> None:
        """Everybody looks once more; then nothing that is fresh may be old."""
        for process in self.processes:
            process.paused = False
            while process.untold:
                self.tell(process)
            self.ask(process)
            self.answer(process)
            self.hear(process)
        for process in self.processes:
            self.ask(process)
            self.answer(process)
            self.hear(process)
            for key, kept in process.kept.items():
                stands = kept.standing(process.guard, self.now_s)
                if stands == "fresh" and int(kept.body or b"0") != self.version[key]:
                    raise Broken(f"step {self.steps}: {kept} of {key} would be given for ever")
