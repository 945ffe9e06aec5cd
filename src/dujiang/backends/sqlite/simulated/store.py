"""Simulated store: one SQLite database in memory that many simulated nodes share like a database server.

    session of a node          W  the primary: one transaction at a time, begun at a session's first write
      reads ─────────► R       R  the committed state: what a plain SELECT sees
      first write ───► W       a commit of W is done again on R, statement by statement (redo.py)

This is READ COMMITTED, as a server gives it: until its first write or FOR UPDATE a transaction takes no lock, and each of
its plain SELECTs sees what others have committed meanwhile. From then on it holds the one writer, so it sees the present
state and nobody changes it. A server would let others write other rows at that time; every schedule drawn here is
one that a server allows, though not the other way round.

Both sides live in the process's memory, with no file and no lock of the operating system, so that a running cluster can
be copied whole by a fork: that is how the sweep tries every crash point without playing the time before it again.
R is a second database because SQLite in memory lets nobody read beside an open writer.

The server's clock and chance are the simulation's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import apsw

from dujiang.backends.sqlite.file import harden
from dujiang.backends.sqlite.simulated.redo import Redo
from dujiang.kernel.entropy import SeededEntropy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from dujiang.kernel.simulation import Simulation

JULIAN_EPOCH_MS = 210_866_760_000_000
STATEMENTS_CACHED = 1024


class VirtualTime(apsw.VFS):
    """SQLite's view of the machine, with the simulation's time: `datetime('now')` and CURRENT_TIMESTAMP."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.now_us = now_us
        super().__init__("dujiang-simulated", base="")

    def xCurrentTimeInt64(self) -> int:  # noqa: N802  (the driver's name)
        """Milliseconds since the Julian epoch."""
        return JULIAN_EPOCH_MS + self.now_us() // 1000

    def xCurrentTime(self) -> float:  # noqa: N802  (the driver's name)
        """Days since the Julian epoch."""
        return self.xCurrentTimeInt64() / 86_400_000


@dataclass(eq=False)
class Held:
    """What one transaction holds.

    Attributes:
        owner: The node whose transaction it is.
        writer: Whether it holds the writer.
        keys: The keys that it holds.
        undo: Called when the node dies: forget the transaction.
    """

    owner: Simulation
    writer: bool = False
    keys: list[Any] = field(default_factory=list)
    undo: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Change:
    """One changed row of a commit.

    Attributes:
        table: Its table.
        op: INSERT, UPDATE or DELETE.
        old: The values before, by place; None for an insert. Values that did not change are left out as None.
        new: The values after.
    """

    table: str
    op: str
    old: tuple[Any, ...] | None
    new: tuple[Any, ...] | None


class SimulatedStore:
    """The server.

    Args:
        image: A database file's bytes, migrated and seeded.
        simulation: Gives time.
        history: Tables whose changed rows `on_commit` is told of.
        seed: Of SQL's own random functions.
    """

    def __init__(self, image: bytes, simulation: Simulation, history: tuple[str, ...] = (), seed: str = "sql") -> None:
        self._loop = simulation.loop()
        self._history = history
        self._redo = Redo(simulation.now_us)
        self._time = VirtualTime(self._redo.now_us)  # Registered with SQLite for as long as it is referenced.
        self._entropy = SeededEntropy(seed)
        self.primary, self.committed = self._opened(image), self._opened(image)
        self.commits = 0
        self.on_commit: Callable[[int, str, bytes], None] | None = None
        self.down_until_us = 0
        self._holder: Held | None = None
        self._line: deque[tuple[Held, asyncio.Future[None]]] = deque()
        self._keys: dict[Any, Held] = {}
        self._key_lines: dict[Any, deque[tuple[Held, asyncio.Future[None]]]] = {}
        self._open: dict[Held, None] = {}  # In the order of their beginning.
        self._changes: apsw.Session | None = None
        self._ears: dict[str, tuple[Simulation, list[Callable[[str], None]]]] = {}
        self._asking: Held | None = None
        functions: dict[str, tuple[Any, int]] = {
            "pg_try_advisory_xact_lock": (self._try_lock, 1),
            "pg_advisory_xact_lock": (lambda _: 1, 1),  # Who asks for it has the writer, which is more.
            "random": (self._random, 0),
            "randomblob": (self._entropy.secret, 1),
            "server_now_us": (self._redo.now_us, 0),
        }
        for name, (function, count) in functions.items():
            self.primary.create_scalar_function(name, self._redo.told(function), count)
            self.committed.create_scalar_function(name, self._redo.retold(function), count)

    def __repr__(self) -> str:
        return f"<SimulatedStore {self.commits} commits, {len(self._open)} open>"

    def _random(self) -> int:
        return self._entropy.bits(64) - (1 << 63)

    def _opened(self, image: bytes) -> apsw.Connection:
        driver = apsw.Connection(":memory:", vfs="dujiang-simulated", statementcachesize=STATEMENTS_CACHED)
        driver.deserialize("main", image)
        driver.pragma("foreign_keys", "on")
        driver.pragma("journal_mode", "memory")
        harden(driver)
        return driver

    def reverse_unordered(self, on: bool) -> None:  # noqa: FBT001  (a switch)
        """Turn the order of SELECTs without ORDER BY round; it is nobody's promise."""
        for driver in (self.primary, self.committed):
            driver.pragma("reverse_unordered_selects", "on" if on else "off")

    # Transactions -----------------------------------------------------------------------------------------------------

    def begin(self, owner: Simulation) -> Held:
        """A new transaction; it holds nothing yet."""
        held = Held(owner)
        self._open[held] = None
        return held

    async def lock_writer(self, held: Held) -> None:
        """Wait for the writer, first come first served, and begin on the primary."""
        if self._holder is not None:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._line.append((held, turn))
            await turn  # Who is sent away while it waits, or dies, gives back what it was given: `roll_back`.
        else:
            self._holder = held
        held.writer = True
        self.primary.execute("BEGIN IMMEDIATE")
        self._redo.begin(self.primary)
        if self._history:
            self._changes = apsw.Session(self.primary, "main")
            for table in self._history:
                self._changes.attach(table)

    def done(self, held: Held, text: str, args: Sequence[Any]) -> None:
        """A transaction has run this statement."""
        if held.writer:
            self._redo.note(text, args)

    async def lock_key(self, held: Held, key: Any) -> bool:
        """Wait for a key; False when waiting would never end, because its holder waits for us."""
        holder = self._keys.get(key)
        if holder is held:
            return True
        if holder is not None:
            if held.writer:
                return False
            turn: asyncio.Future[None] = self._loop.create_future()
            self._key_lines.setdefault(key, deque()).append((held, turn))
            await turn
        else:
            self._keys[key] = held
            held.keys.append(key)
        return True

    def asking(self, held: Held | None) -> None:
        """Say whose statement runs now; its try-locks are that transaction's."""
        self._asking = held
        self._redo.next_statement()

    def _try_lock(self, number: int) -> int:
        key, held = ("advisory", number), self._asking
        if held is None:
            return 1
        holder = self._keys.setdefault(key, held)
        if holder is held and key not in held.keys:
            held.keys.append(key)
        return int(holder is held)

    def commit(self, held: Held, cause: str) -> int:
        """Make what a transaction wrote the committed state; its number, 0 when it wrote nothing."""
        number = 0
        if held.writer:
            changeset = b"" if self._changes is None or self._changes.is_empty else self._changes.changeset()
            self.primary.execute("COMMIT")
            if self._redo.again(self.primary, self.committed):
                self.commits += 1
                number = self.commits
                if changeset and self.on_commit is not None:
                    self.on_commit(number, cause, changeset)
        self._release(held)
        return number

    def roll_back(self, held: Held) -> None:
        """Forget a transaction. May be called twice."""
        if held not in self._open:
            return
        if held.writer and self.primary.in_transaction:
            self.primary.execute("ROLLBACK")
        self._release(held)

    def _release(self, held: Held) -> None:
        del self._open[held]
        keys, held.keys = held.keys, []
        for key in keys:
            self._pass_key(key)
        if held.writer and self._changes is not None:
            self._changes.close()
            self._changes = None
        held.writer = False
        if self._holder is held:
            self._pass_writer()

    def _pass_writer(self) -> None:
        self._holder = None
        while self._line:
            held, turn = self._line.popleft()
            if not turn.done() and held in self._open:
                self._holder = held
                turn.set_result(None)
                return

    def _pass_key(self, key: Any) -> None:
        self._keys.pop(key, None)
        line = self._key_lines.get(key, deque())
        while line:
            held, turn = line.popleft()
            if not turn.done() and held in self._open:
                self._keys[key] = held
                held.keys.append(key)
                turn.set_result(None)
                return
        self._key_lines.pop(key, None)

    def owned_by(self, owner: Simulation) -> list[Held]:
        """What a node has open, in the order of its beginning."""
        return [held for held in self._open if held.owner is owner]

    def disconnect(self, owner: Simulation) -> None:
        """End what a dead node has open, as a server does when the connection breaks."""
        for held in self.owned_by(owner):
            held.undo()
            self.roll_back(held)
        self._ears = {name: ear for name, ear in self._ears.items() if ear[0] is not owner}

    # Bells ------------------------------------------------------------------------------------------------------------

    def listen(self, owner: Simulation, hear: list[Callable[[str], None]]) -> None:
        """Remember who wants to be woken."""
        self._ears[owner.name] = (owner, hear)

    def ears(self, but: Simulation) -> list[tuple[Simulation, list[Callable[[str], None]]]]:
        """Everybody else who listens."""
        return [ear for ear in self._ears.values() if ear[0] is not but and not ear[0].dead]

    # Looking ----------------------------------------------------------------------------------------------------------

    def rows(self, text: str, args: Sequence[Any] = ()) -> list[Any]:
        """The committed state, for checks that no node makes."""
        return self.committed.execute(text, args).fetchall()

    def deliver_again(self, text: str) -> int:
        """Run a statement on both sides outside any transaction; rows that it changed. For faults that no node causes."""
        for driver in (self.committed, self.primary):
            driver.execute(text)
        return self.primary.changes()

    def tables(self) -> list[str]:
        """The names of all tables."""
        return [row[0] for row in self.rows("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]


def changes_of(changeset: bytes) -> list[Change]:
    """The changed rows of a commit, in no particular order."""
    found = []
    for change in apsw.Changeset.iter(changeset):
        old, new = (
            None if side is None else tuple(None if value is apsw.no_change else value for value in side)
            for side in (change.old, change.new)
        )
        found.append(Change(change.name, change.op, old, new))
    return found
