"""Simulation: what a simulated machine offers to the models of backends; the drill implements it.

A model (a database, a broker, a cache behind a simulated network) asks for two things only: to let time pass as a
message travels, and to decide whether something bad happens. Both follow from the seed of the run, so a run can be
repeated, and each decision has a label and a number, so it can be taken back while a failure is made smaller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")


class Simulation(Protocol):
    """The machine of one node as models see it."""

    name: str
    dead: bool
    tracing: bool

    def hop(self, what: str) -> Awaitable[None]:
        """Let a message travel one way: a drawn time passes, from this call on."""
        ...

    def draw(self, label: str, high: int = 1) -> int:
        """Whether a fault happens: 0 = nothing bad; otherwise 1 to `high`, which of its forms."""
        ...

    def poisoned(self, what: Any) -> bool:
        """Whether this piece of work fails now although nothing is wrong with it; drawn when it is first seen."""
        ...

    def note(self, kind: str, said: str = "") -> None:
        """Write an event into the history of the run."""
        ...

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """The thing of this name that all nodes of the simulated cluster share; made by the first that asks."""
        ...

    def now_us(self) -> int:
        """The true time of the simulated world, microseconds; a server that all nodes share goes by it."""
        ...

    def soon(self, call: Callable[..., Any], *args: Any) -> None:
        """Call this on the node, in its own context, after a way over the network."""
        ...

    async def external(
        self, name: str, key: str | None, arguments: str, effect: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Call an effect outside over the network; `arguments` is a digest of what it is called with."""
        ...

    def awake_s(self) -> float:
        """Virtual seconds that this machine has lived, without those in which it stood still."""
        ...

    def held(self, seconds: float, after: str, until: str) -> None:
        """Say that a transaction went without a statement for too long, between these two places of the user's code."""
        ...

    def here(self) -> str:
        """Where the user's code is at this moment: file, line and function."""
        ...

    def loop(self) -> Any:
        """The loop of the simulation."""
        ...
