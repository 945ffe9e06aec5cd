"""A small world of two processes that cache, what they share, one database and its log, walked at random.

Every step is one of the moments between which real processes interleave: a transaction draws its number, a commit, the touch
after it, the beginning of a load, its reading of the data, its landing, bytes on their way to the shared cache and from it,
the question of a look, the answer of it. Transactions commit in another order than they draw; a crash of the server ends
those that run and gives their numbers out again. The shared cache loses, delays and repeats what is put. There are no leases
in it: whoever likes loads, so nothing rests on them. The decisions are those of the real Guard, Floors, Entry and Flight; the
world around them is played. A rule is a word in `rules`; a mutant is the world without one.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dujiang.caching.cache import Entry
from dujiang.caching.floors import Floors
from dujiang.caching.guard import Guard
from dujiang.caching.through import Flight
from dujiang.messaging.forgotten import History, Row
from dujiang.messaging.position import Position

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
        "a cut minds what was running",
    }
)
SHARED_RULES = frozenset(
    {
        "position before the data",
        "what others loaded is judged",
        "that there is nothing is judged too",
        "judge when it arrives",
        "what was done here counts at once",
        "only a later look tells what was done here",
        "begin with the history",
        "nothing below the horizon",
        "little memory raises the horizon",
        "all transactions of a look",
        "the newest look counts",
        "positions of another life are refused",
    }
)
RULES |= SHARED_RULES
HISTORY_MAX = 6


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


class ShortFloors(Floors):
    """Floors that forget names without raising the horizon."""

    def heard(self, rows: Any, asked: int) -> None:
        """Hear, and lose the oldest."""
        before = self._horizon
        super().heard(rows, asked)
        self._horizon = before


class LargestOnly(Floors):
    """Floors that take the largest number of a look for the last one."""

    def heard(self, rows: Any, asked: int) -> None:
        """Keep one number for each name."""
        super().heard(rows, asked)
        self._found = {name: (max(numbers),) for name, numbers in self._found.items()}


class FirstOnly(Floors):
    """Floors that go on with what a name had first."""

    def heard(self, rows: Any, asked: int) -> None:
        """Put what was known back."""
        known = dict(self._found)
        super().heard(rows, asked)
        self._found |= known


class Hasty(Floors):
    """Floors that take any look for one that began after what was done here."""

    def heard(self, rows: Any, asked: int) -> None:
        """Forget all that is untold."""
        super().heard(rows, asked)
        self._untold.clear()


FLOORS: dict[str, type[Floors]] = {
    "little memory raises the horizon": ShortFloors,
    "all transactions of a look": LargestOnly,
    "the newest look counts": FirstOnly,
    "only a later look tells what was done here": Hasty,
}


@dataclass(frozen=True)
class Bytes:
    """What lies in the shared cache: a version (None: there is nothing), and where the log was before it was read."""

    version: int
    position: Position

    @property
    def nothing(self) -> bool:
        """Whether it says that there is nothing."""
        return self.version % 3 == 0


@dataclass
class Load:
    """A load under way: who waits, and the least version that each of them may get."""

    flight: Flight
    version: int | None = None
    position: Position | None = None
    began_s: float = 0.0
    least: list[int] = field(default_factory=list)
    looked: bool = False  # At the shared cache.
    arriving: Bytes | None = None
    allowed_early: bool = False


@dataclass
class Look:
    """A look under way; `answer` is (position, rows, history) once the database has answered."""

    began_s: float
    asked: int
    life: int = 0
    answer: tuple[Position, list[Row], History | None] | None = None


class Process:
    """One process that caches."""

    def __init__(self, rules: frozenset[str], names_max: int) -> None:
        self.names_max = names_max
        kind: type[Guard] = Guard
        if "little memory raises the base" not in rules:
            kind = ShortMemory
        elif "beginning anew reaches loads" not in rules:
            kind = LaterLoads
        elif "trust ends" not in rules:
            kind = Blind
        self.guard = kind(trust_s=TRUST_S, names_max=names_max)
        missing = [made for rule, made in FLOORS.items() if rule not in rules]
        self.floors = (missing[0] if missing else Floors)(names_max=names_max)
        self.kept: dict[int, Entry] = {}
        self.loads: dict[int, Load] = {}
        self.orphans: list[tuple[int, Load]] = []
        self.look: Look | None = None
        self.position: Position | None = None
        self.life = 0
        self.open: list[tuple[int, int]] = []
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
        self.log: list[Row] = []
        self.marks = 0
        self.cut = 0
        self.next = 1  # The number that the next transaction draws.
        self.running: set[int] = set()
        self.life = 0
        self.shared: dict[int, Bytes] = {}
        self.puts: list[tuple[int, Bytes]] = []
        self.steps = 0
        self.given = self.taken = 0
        # The first remembers two of three names: it is short of memory at every third write.
        self.processes = [Process(rules, 2), Process(rules, 1_000)]
        for process in self.processes:
            self.catch_up(process)

    def here(self) -> Position:
        """Where the log is."""
        life = self.life if "positions of another life are refused" in self.rules else 0
        first = min(self.running, default=self.next)
        return Position(b"%08d" % life, first, self.next, frozenset(self.running))

    def catch_up(self, process: Process) -> None:
        """One undisturbed look."""
        self.ask(process)
        self.answer(process)
        self.hear(process)

    def walk(self, steps: int) -> None:
        """Take so many steps at random. Raises Broken."""
        chance = self.random
        acts: list[Callable[[Process], None]]
        acts = [*[self.read] * 8, *[self.begin, self.fetch, self.land] * 3, self.ask, *[self.answer, self.hear] * 2]
        acts += [self.write, self.commit, *[self.tell, self.pass_time] * 2]
        acts += [*[self.look_there, self.arrive, self.deliver] * 2]
        for _ in range(steps):
            self.steps += 1
            process = self.processes[chance.random() < 0.5]
            dice = chance.random()
            if dice < 0.004:
                process.paused = not process.paused
            elif dice < 0.005:
                self.kill(process)
            elif dice < 0.01:
                self.cut_off(max(0, len(self.log) - chance.randrange(4)))
            elif dice < 0.0112:
                self.crash()
            elif dice < 0.012:
                self.shared.clear()
            elif dice < 0.03:
                process.kept.clear()
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
        for _, number in process.open:
            self.running.discard(number)
        fresh = Process(self.rules, process.names_max)
        self.processes[self.processes.index(process)] = fresh
        self.catch_up(fresh)

    def crash(self) -> None:
        """The server dies and comes back: what ran is rolled back, and numbers that left no trace are given out again."""
        self.running.clear()
        for process in self.processes:
            process.open.clear()
            if process.look is not None and process.look.answer is None:
                process.look = None
        self.next = max((row.number for row in self.log), default=self.cut) + 1
        self.life += 1

    def cut_off(self, count: int) -> None:
        """The oldest rows go."""
        gone, self.log = self.log[:count], self.log[count:]
        self.cut = max([self.cut, *(row.number for row in gone)])

    # Writing ----------------------------------------------------------------------------------------------------------

    def write(self, process: Process) -> None:
        """A transaction begins: it draws its number."""
        if len(process.open) < 3:
            process.open.append((self.random.randrange(KEYS), self.next))
            self.running.add(self.next)
            self.next += 1

    def commit(self, process: Process) -> None:
        """A transaction commits: the data and its row in the log at one moment; or it is rolled back."""
        if not process.open:
            return
        key, number = process.open.pop(self.random.randrange(len(process.open)))
        if self.random.random() < 0.15:
            self.running.discard(number)
            return
        if "touch after the commit" not in self.rules:
            process.guard.touch([key])
            process.floors.touch(process.guard.tick, [key])
            process.untold.append((key, -1, number))
            return
        mark = self.committed(key, number)
        if "skip only what was touched" not in self.rules:
            process.acted.add(mark)
        # The task is cancelled, or the reply to COMMIT is lost, now and then: nobody tells, and nobody is answered.
        if self.random.random() < 0.9:
            process.untold.append((key, self.version[key], mark))

    def committed(self, key: int, number: int) -> int:
        """Data and log; the mark of the row."""
        self.version[key] += 1
        self.history[key].append(self.now_s)
        self.marks += 1
        self.log.append(Row(self.marks, (key,), number))
        self.running.discard(number)
        return self.marks

    def tell(self, process: Process) -> None:
        """After the commit: the names are touched here, then the client is answered."""
        if not process.untold:
            return
        key, version, mark = process.untold.pop(0)
        if version < 0:  # The mutant that touched first commits now, unless a crash came first.
            if mark not in self.running:
                return
            self.committed(key, mark)
            version = self.version[key]
        elif "touch at once" in self.rules:
            process.guard.touch([key])
            process.acted.add(mark)
            if "what was done here counts at once" in self.rules:
                process.floors.touch(process.guard.tick, [key])
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
            # Now and then the shared cache is away.
            load = process.loads[key] = Load(Flight((key,)), looked=self.random.random() < 0.2)
        load.least.append(process.answered[key])

    def look_there(self, process: Process) -> None:
        """A load asks the shared cache first; what lies there sets out."""
        for key, load in process.loads.items():
            if load.flight.tick is None and not load.looked:
                load.looked, load.arriving = True, self.shared.get(key)
                if load.arriving is not None:
                    load.allowed_early = process.floors.allow(load.arriving.position, (key,))
                return

    def arrive(self, process: Process) -> None:
        """Bytes arrive: they are judged, and given to all who wait if they may be."""
        for key, load in process.loads.items():
            found = load.arriving
            if found is None:
                continue
            load.arriving = None
            allowed = process.floors.allow(found.position, (key,))
            if "judge when it arrives" not in self.rules:
                allowed = load.allowed_early
            if "what others loaded is judged" not in self.rules:
                allowed = True
            if found.nothing and "that there is nothing is judged too" not in self.rules:
                allowed = True
            entry = self.entry(key, found.version, process.guard.tick)
            if allowed and entry.standing(process.guard, self.now_s) == "fresh":
                self.taken += 1
                del process.loads[key]
                for least in load.least:
                    self.check(process, key, found.version, least, bounded=True)
                process.kept[key] = entry
            return

    def deliver(self, _: Process) -> None:
        """Bytes reach the shared cache: late, in any order, twice, or never."""
        if self.puts:
            place = self.random.randrange(len(self.puts))
            key, found = self.puts[place]
            dice = self.random.random()
            if dice < 0.9:
                self.shared[key] = found
            if dice > 0.2:
                del self.puts[place]

    def begin(self, process: Process) -> None:
        """A load begins: its position and its tick are taken."""
        for key, load in process.loads.items():
            if load.flight.tick is None and load.looked and load.arriving is None:
                load.position = process.position
                if not process.floors.told((key,)):
                    load.position = self.here()
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
            process.kept[key] = self.entry(key, load.version, tick)
            position = load.position if "position before the data" in self.rules else self.here()
            if position is not None:
                self.puts.append((key, Bytes(load.version, position)))
            return

    def entry(self, key: int, version: int, tick: int) -> Entry:
        """An answer that time alone does not end."""
        times = {"loaded_s": self.now_s, "refresh_s": NEVER, "fresh_s": NEVER}
        return Entry(b"%d" % version, (key,), tick=tick, stale_s=NEVER, **times)

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
        process.look = Look(self.now_s, process.guard.tick)

    def answer(self, process: Process) -> None:
        """The database answers a look."""
        look, before = process.look, process.position
        if look is None or look.answer is not None:
            return
        now = self.here()
        anew = before is None or process.life != self.life
        if before is not None and not anew and "a gap begins anew" in self.rules:
            ran = [number for number in before.running if number <= self.cut and now.shows(number)]
            anew = not before.shows(self.cut) or (bool(ran) and "a cut minds what was running" in self.rules)
        rows = [] if before is None or anew else [row for row in self.log if not before.shows(row.number)]
        look.life = self.life
        look.answer = (now, rows, self.past(now) if anew else None)

    def past(self, now: Position) -> History:
        """What the log holds."""
        rows = sorted(self.log, key=lambda row: -row.number)
        horizon = self.cut
        if len(rows) > HISTORY_MAX:
            horizon = max(horizon, rows[HISTORY_MAX].number)
        if "nothing below the horizon" not in self.rules:
            horizon = 0
        rows = rows[:HISTORY_MAX] if "begin with the history" in self.rules else []
        return History(now, now.origin, horizon, tuple(rows))

    def hear(self, process: Process) -> None:
        """The answer of a look arrives."""
        look = process.look
        if look is None or look.answer is None:
            return
        process.look = None
        position, rows, history = look.answer
        names = [name for row in rows if row.mark not in process.acted for name in row.names]
        if "position out of the same snapshot" not in self.rules:
            position = self.here()
        process.position, process.life = position, look.life
        began_s = look.began_s if "trust from the beginning of a look" in self.rules else self.now_s
        process.guard.heard(began_s, names, missed=history is not None)
        if history is not None:
            process.floors.begin(history, look.asked)
        else:
            process.floors.heard(rows, look.asked)

    def heal(self) -> None:
        """Everybody looks once more; then nothing that is fresh may be old."""
        for process in self.processes:
            process.paused = False
            while process.untold:
                self.tell(process)
            self.catch_up(process)
        for process in self.processes:
            self.catch_up(process)
            for key, found in self.shared.items():
                if process.floors.allow(found.position, (key,)) and found.version != self.version[key]:
                    raise Broken(f"step {self.steps}: {found} of {key} would be taken for ever")
            for key, kept in process.kept.items():
                stands = kept.standing(process.guard, self.now_s)
                if stands == "fresh" and int(kept.body or b"0") != self.version[key]:
                    raise Broken(f"step {self.steps}: {kept} of {key} would be given for ever")
