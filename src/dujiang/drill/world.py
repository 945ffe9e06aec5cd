"""World: a simulated cluster of one app: machines, a database they share, clients, and what happened.

    warm-up ──► faults on ──► clients work, machines die ──► heal ──► drain ──► checks
                   └ from here on everything follows from the seed

The store is the template's image: migrated, seeded and activated once per drill. `kill` freezes a machine where it
stands; its connections break, its callers get no answer, and after a while another incarnation starts.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.app.runtime import Runtime
from dujiang.backends.table import load
from dujiang.drill.loop import MACHINE, SimulatedLoop
from dujiang.drill.machine import EPOCH_US, Machine
from dujiang.drill.memories import Memories, Place, restore, restore_provided
from dujiang.drill.network import Network
from dujiang.drill.outside import Outside
from dujiang.drill.reads import Reads
from dujiang.drill.sites import running_site, site_of
from dujiang.drill.tape import Plan, Tape
from dujiang.kernel.errors import Refusal
from dujiang.kernel.tasks import Tasks
from dujiang.settings import Settings
from dujiang.testing.harness import OPEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dujiang.app.declaration import App
    from dujiang.drill.state import Calm
    from dujiang.telemetry.crash import Reached

T = TypeVar("T")

DEADLY = 1 << 30
SOON_US = 120_000_000  # A job that is due later than that is not waited for.
ENDED: list[Any] = []  # What is left of worlds that were closed.
TERM_GRACE_S = 10.0
HISTORY = ("dj_inbox", "dj_forgotten")  # Who handled what, in which order: checks.py; what ended in caches: reads.py.
# What a call in a thread takes beside its own sleep: nobody is blamed for a wait that the drill has drawn.
THREAD_S_MAX = 0.4
RESTART_AFTER_S = (0.2, 2.0, 25.0)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What stands in the world.

    Attributes:
        app: The declaration.
        image: The store's bytes.
        folder: The data folder of every machine.
        machines: Roles by name.
        remembered: Whether a machine that starts again is recognised as the one that died; otherwise the others wait
            for its lease to end.
        places: Globals of the user's modules of which every machine has its own.
        calm: What a calm run ends with; runs of the sweep are compared with it.
        journals: Globals that belong to the other side of its externals; see outside.py.
        other: Another version of the app, which half of the machines run; None = there is one version.
        broker: The setting `broker` of every machine; `simulated:` is the model of RabbitMQ.
    """

    app: App
    image: bytes = field(repr=False)
    folder: Path
    machines: dict[str, tuple[str, ...]]
    remembered: bool = True
    places: tuple[Place, ...] = ()
    calm: Calm | None = None
    journals: tuple[Place, ...] = ()
    broker: str = "database:"
    other: App | None = None


@dataclass(frozen=True)
class Fault:
    """Something bad that happened.

    Attributes:
        at_s: Virtual seconds.
        label: The draw.
        number: The how manieth of its label.
        value: Its form.
        machine: Where, or empty.
        site: The await site that it hit, `file:line function`.
    """

    at_s: float
    label: str
    number: int
    value: int
    machine: str
    site: str


class World:
    """One simulated cluster; make it, then run `main` on its loop.

    Args:
        cluster: What stands in it.
        tracing: Whether to keep every event with its site, for a story; costs time.
    """

    def __init__(self, cluster: Cluster, *, tracing: bool = False) -> None:
        self.cluster = cluster
        self.tracing = tracing
        self.tape = Tape("", Plan())
        self.loop = SimulatedLoop(self._delay)
        self.loop.failed = self._unhandled
        self.outside = Outside(self)
        self.reaches: Reached | None = None
        restore(cluster.journals)
        restore_provided(cluster.app.provide.values())
        if cluster.places:
            self.loop.memories = Memories()
            self.loop.memories.separate(cluster.places)
        self.tasks = Tasks("world", on_crash=self._own_crash)
        self.machines: dict[str, Machine] = {}
        self.upgraded: set[str] = set()  # Machines that run the other version; see versions.py.
        self.refusals: dict[str, Exception] = {}  # Why a machine did not start when it last tried.
        self.network = Network(self)
        self.faults: list[Fault] = []
        self.at_fault: Callable[[int], None] | None = None
        self.trace: list[tuple[float, str, str]] = []
        self.crashes: list[str] = []
        self.commits: list[tuple[int, bytes]] = []
        self.reads = Reads(self)
        self.kills = self.kills_in_flight = 0
        # Codes with which a handler may refuse: what is dead or refused for such a reason is somebody's decision.
        self.expected_deaths = refusal_codes()
        self._digest = hashlib.blake2b(digest_size=16)
        self._shared: dict[str, Any] = {}
        self.healing = False
        # Work that fails: what is left of its failures; DEADLY = in every try until it is replayed.
        self.poison: dict[Any, int] = {}
        self.jumped_us = 0
        # Transactions that went without a statement for too long: seconds, and the user's places before and after.
        self.held: list[tuple[float, str, str]] = []

    def __repr__(self) -> str:
        return f"<World at {self.loop.now:.3f} s: {', '.join(map(repr, self.machines.values()))}>"

    def _delay(self, what: str) -> float:
        return min(self.tape.delay(what), THREAD_S_MAX)  # The tape of the moment: a run begins with its own.

    def close(self) -> None:
        """Forget the world. Its tasks are kept as they stand: collected ones would run their `finally` in real time."""
        ENDED.append((self.loop.grave, asyncio.all_tasks(self.loop)))
        if self.loop.memories is not None:
            self.loop.memories.leave()
        self.loop.close()

    # Time and history -------------------------------------------------------------------------------------------------

    def now_us(self) -> int:
        """The true time, microseconds since the Unix epoch."""
        return EPOCH_US + int(self.loop.now * 1e6) + self.jumped_us

    @property
    def store(self) -> Any:
        """The simulated database server."""
        return self._shared["database"]

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """A thing that all machines share."""
        if name not in self._shared:
            self._shared[name] = make()
        found: T = self._shared[name]
        return found

    def note(self, kind: str, said: str = "") -> None:
        """Write an event into the history; its digest says whether two runs were the same."""
        self._digest.update(f"{self.loop.now:.6f} {kind} {said}\n".encode())
        if self.tracing:
            self.trace.append((self.loop.now, kind, said))

    def mark(self, kind: str, said: str = "") -> None:
        """Keep an event for the picture of a traced run; it is no part of the history that digests compare."""
        if self.tracing:
            self.trace.append((self.loop.now, kind, said))

    @property
    def digest(self) -> str:
        """Of everything noted so far."""
        return self._digest.hexdigest()

    def fault(self, machine: Machine | None, label: str, value: int, site: str | None = None) -> None:
        """Note a fault that was drawn."""
        number = self.tape.drawn.get(label, 0)
        where = machine.name if machine is not None else ""
        if site is None:
            site = running_site() if self.tracing else ""
        self.faults.append(Fault(self.loop.now, label, number, value, where, site))
        self.note(f"fault {label}", f"{number} {value}")
        if self.at_fault is not None:
            self.at_fault(len(self.faults))

    def poisoned(self, machine: Machine, what: Any) -> bool:
        """Whether a piece of work fails now."""
        if what not in self.poison:
            form = self.tape.draw("poison", 2)
            self.poison[what] = (0, 2, DEADLY)[form]
            if form:
                self.fault(machine, "poison", form)
        left = self.poison[what]
        self.poison[what] = left - 1 if 0 < left < DEADLY else left
        return left > 0

    def crashed(self, machine: Machine, task: str, error: BaseException) -> None:
        """A background task of a machine ended with an error."""
        self.crashes.append(f"{machine.name}: {task}: {error!r}")
        self.note("crashed", f"{machine.name} {task} {type(error).__name__}")

    def _own_crash(self, task: str, error: BaseException) -> None:
        raise RuntimeError(f"the drill itself failed in {task}") from error

    def _unhandled(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        machine = MACHINE.get()
        if machine is None or not machine.dead:
            self.crashes.append(f"{context.get('message')}: {error!r}")
            self.note("unhandled", type(error).__name__)

    # Machines ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Set up the server and start every machine."""
        simulation = Machine(self, "server", 0)
        store = load("database", "simulated:").serve(self.cluster.image, simulation, HISTORY)
        store.on_commit = self._committed
        self._shared["database"] = store
        for name in self.cluster.machines:
            self.start_machine(name)

    def _committed(self, number: int, _cause: str, changes: bytes) -> None:
        self.commits.append((number, changes))
        self.reads.committed(MACHINE.get(), changes)

    def start_machine(self, name: str) -> None:
        """Start the next incarnation of a machine."""
        before = self.machines.get(name)
        machine = self.machines[name] = Machine(self, name, before.incarnation + 1 if before is not None else 0)
        self.note("start", machine.node.name)
        settings = Settings(
            database="simulated:",
            broker=self.cluster.broker,
            cache="simulated:",
            data=self.cluster.folder,
            instance=name if self.cluster.remembered else "",
        )
        self.tasks.spawn(self._live(machine, settings), name=name, context=machine.context.copy())

    async def _live(self, machine: Machine, settings: Settings) -> None:
        other = self.cluster.other if machine.name in self.upgraded else None
        while not machine.dead:
            runtime = Runtime(
                other or self.cluster.app,
                settings,
                machine.node,
                roles=self.cluster.machines[machine.name],
            )
            try:
                await runtime.start()
            except Exception as error:  # noqa: BLE001  (a supervisor starts it again)
                self.note("start failed", f"{machine.name} {type(error).__name__}")
                self.refusals[machine.name] = error
                await self.loop.pause(1.0)
            else:
                machine.runtime, machine.ready = runtime, True
                self.note("ready", machine.node.name)
                return

    def kill(self, machine: Machine, *, again_s: float, site: str = "") -> None:
        """End a machine where it stands, and start it again after a while."""
        in_flight = bool(machine.requests) or bool(self.store.owned_by(machine))
        self.kills += 1
        self.kills_in_flight += in_flight
        machine.dead, machine.ready = True, False
        self.note("kill", f"{machine.node.name} {site}")
        self.loop.bury(machine)
        for shared in self._shared.values():
            shared.disconnect(machine)
        for waiting in machine.requests:
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the connection was reset"))
        self.loop.call_later(again_s, self.start_machine, machine.name)

    async def terminate(self, machine: Machine) -> None:
        """Stop a machine gracefully, as a deploy does, and start it again."""
        if machine.runtime is None or not machine.ready:
            return
        self.note("term", machine.node.name)
        machine.ready = False
        until = self.loop.now + TERM_GRACE_S
        while machine.requests and not machine.dead and self.loop.now < until:
            await self.loop.pause(0.05)  # The server in front of the app lets requests end first.
        if machine.dead:
            return
        stop = self.tasks.spawn(machine.runtime.stop(), name="stop", context=machine.context.copy())
        while not stop.done() and not machine.dead:
            await self.loop.pause(0.05)
        if not machine.dead:
            machine.dead = True
            for shared in self._shared.values():
                shared.disconnect(machine)
            self.start_machine(machine.name)

    def pause(self, machine: Machine, seconds: float) -> None:
        """Let a machine stand still, as a long collection of garbage or a stopped virtual machine does."""
        self.note("pause", f"{machine.node.name} {seconds}")
        if not machine.paused_until:
            machine.stands_since = self.loop.now
        machine.paused_until = self.loop.now + seconds
        self.loop.call_later(seconds, self._go_on, machine)

    def _go_on(self, machine: Machine) -> None:
        if machine.paused_until:
            machine.stood_s += self.loop.now - machine.stands_since
        machine.paused_until = 0.0
        handles, machine.backlog = machine.backlog, []
        self.loop.resume(handles)

    def heal(self) -> None:
        """No more faults; what stands still goes on."""
        self.tape.on = False
        self.healing = True
        self.note("heal")
        self.store.down_until_us = 0
        for machine in self.machines.values():
            if machine.paused_until:
                self._go_on(machine)

    # State ------------------------------------------------------------------------------------------------------------

    def open_work(self) -> tuple[int, int, int]:
        """How many events are unrouted, and how many events and jobs that are due soon are ready and running."""
        row = self.store.rows(OPEN.numbered, (self.now_us() + SOON_US,))[0]
        return row[0], row[1], row[2]

    async def settled(self, within_s: float) -> bool:
        """Wait until nothing is left to do; False when the time has passed."""
        until = self.loop.now + within_s
        while any(self.open_work()) or not all(machine.ready for machine in self.machines.values()):
            if self.loop.now >= until:
                return False
            await self.loop.pause(0.1)
        return True

    async def on_any(self, work: Callable[[Runtime], Any], name: str) -> Any:
        """Do something inside one of the machines, as its operator would."""
        machine = next(machine for machine in self.machines.values() if machine.ready)
        assert machine.runtime is not None
        return await self.tasks.spawn(work(machine.runtime), name=name, context=machine.context.copy())

    async def replay(self, dead_id: int) -> None:
        """Replay a dead letter, as an operator does."""
        await self.on_any(lambda runtime: runtime.deadletters.replay(dead_id), "replay")

    async def audit(self) -> list[Any]:
        """The declared laws that do not hold, as a machine finds them."""
        found: list[Any] = await self.on_any(lambda runtime: runtime.audit(), "audit")
        return found

    def lost_keys(self) -> set[tuple[int, str]]:
        """Subscriptions and keys of which a broker has lost a message that it had confirmed."""
        return {key for thing in self._shared.values() for key in getattr(thing, "lost_keys", ())}

    def reached(self) -> dict[str, int]:
        """How often each `sometimes` was reached."""
        return {} if self.reaches is None else dict(self.reaches.counts)

    def site(self, task: asyncio.Task[Any]) -> str:
        """Where a task waits."""
        return site_of(task)


def refusal_codes() -> frozenset[str]:
    """The codes of all refusals that the program declares."""

    def below(kind: type[Any]) -> Iterator[type[Any]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    return frozenset(str(getattr(each, "code", "")) for each in below(Refusal))


def python_version() -> str:
    """Named in reports and replay files."""
    return ".".join(map(str, sys.version_info[:3]))
