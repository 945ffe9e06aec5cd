"""Machine: one simulated computer with one running copy of the app: its clock, its chance, its network.

A machine dies once and for all; what starts again under its name is another incarnation, with nothing of the first but
the name. Its clock may be wrong against the others'; its monotonic time is the world's.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.drill.loop import MACHINE
from dujiang.drill.sites import running_site
from dujiang.kernel.context import CURRENT, Context
from dujiang.kernel.entropy import SeededEntropy
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from anyio import CapacityLimiter

    from dujiang.app.runtime import Runtime
    from dujiang.drill.world import World

T = TypeVar("T")

EPOCH_US = 1_767_225_600_000_000  # 2026-01-01; a drill begins there, whenever it runs.


class MachineClock:
    """Time as a machine sees it.

    Args:
        machine: Whose.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._seen_us = 0

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, with the machine's error; never less than an earlier answer."""
        self._seen_us = max(self._seen_us, self._machine.now_us() + self._machine.skew_us)
        return self._seen_us

    def monotonic(self) -> float:
        """Seconds since the world began."""
        return self._machine.world.loop.now

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        await self._machine.world.loop.pause(max(0.0, seconds))


class Machine:
    """One incarnation of a machine.

    Args:
        world: Where it stands.
        name: `api1`, `worker2`, ...
        incarnation: 0, 1, ...
    """

    def __init__(self, world: World, name: str, incarnation: int) -> None:
        self.world = world
        self.name = name
        self.incarnation = incarnation
        self.kill_label = f"kill.{name}"
        self.dead = False
        self.mortal = True  # What lies outside the cluster is no part of it that could be killed.
        self.tracing = world.tracing
        self.paused_until = 0.0
        self.stands_since = self.stood_s = 0.0
        self.backlog: list[Any] = []
        self.skew_us = 0
        self.memory: dict[Any, Any] = {}  # Of the user's module globals; see memories.py.
        self.runtime: Runtime | None = None
        self.ready = False
        self.threads: CapacityLimiter | None = None  # How many calls may be in threads at once; see threads.py.
        self.requests: dict[Any, None] = {}  # Futures of callers that wait for an answer of ours.
        own = SeededEntropy(f"{world.tape.seed if world.tape.on else ''}/{name}/{incarnation}")
        self.node = Node(
            name=f"{name}.{incarnation}",
            clock=MachineClock(self),
            entropy=own,
            tasks=Tasks(name, on_crash=self._crashed),
            simulation=self,
            mark=f"{name}.{incarnation}",
        )
        self.context = contextvars.copy_context()
        self.context.run(MACHINE.set, self)
        self.context.run(CURRENT.set, Context(self.node))

    def __repr__(self) -> str:
        state = "dead" if self.dead else "ready" if self.ready else "starting"
        return f"<Machine {self.name}.{self.incarnation} {state}>"

    def _crashed(self, task: str, error: BaseException) -> None:
        if not self.dead:
            self.world.crashed(self, task, error)

    # kernel/simulation.py ---------------------------------------------------------------------------------------------

    def hop(self, what: str) -> Awaitable[None]:
        """Let a message travel one way."""
        return self.world.loop.pause(self.world.tape.delay(what))

    def draw(self, label: str, high: int = 1) -> int:
        """Whether a fault happens."""
        value = self.world.tape.draw(label, high)
        if value:
            self.world.fault(self, label, value)
        return value

    def poisoned(self, what: Any) -> bool:
        """Whether this piece of work fails now."""
        return self.world.poisoned(self, what)

    def note(self, kind: str, said: str = "") -> None:
        """Write an event into the history."""
        self.world.note(f"{self.name} {kind}", said)

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """A thing that all machines share."""
        found: T = self.world.shared(name, make)
        return found

    def now_us(self) -> int:
        """The world's true time."""
        return self.world.now_us()

    def soon(self, call: Callable[..., Any], *args: Any) -> None:
        """Call this on the machine after a way over the network."""
        self.world.loop.call_later(self.world.tape.delay("push"), call, *args, context=self.context)

    async def external(
        self, name: str, key: str | None, arguments: str, effect: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Call an effect outside over the network."""
        return await self.world.outside.call(self, name, key, arguments, effect)

    def awake_s(self) -> float:
        """Virtual seconds that this machine has lived, without those in which it stood still."""
        return self.world.loop.now - self.stood_s

    def held(self, seconds: float, after: str, until: str) -> None:
        """Say that a transaction went without a statement for too long."""
        self.world.held.append((seconds, after, until))
        self.note("held", f"{after}|{until}|{seconds:.3f}")

    def here(self) -> str:
        """Where the user's code is at this moment; empty in the platform's own."""
        return running_site(user_only=True)

    def loop(self) -> Any:
        """The loop of the world."""
        return self.world.loop
