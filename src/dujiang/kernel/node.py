"""Node: what one running copy of an app uses for time, chance and tasks."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dujiang.kernel.clock import Clock, SystemClock
from dujiang.kernel.deadline import Limits
from dujiang.kernel.entropy import PROCESS_MARK, Entropy, SystemEntropy
from dujiang.kernel.tasks import Tasks

if TYPE_CHECKING:
    from dujiang.kernel.simulation import Simulation


@dataclass(slots=True)
class Node:
    """One running copy's clock, entropy and tasks.

    Attributes:
        name: Unique among living copies: instance name plus a number drawn at start.
        clock: Time.
        entropy: Chance.
        tasks: The owner of this copy's background tasks.
        simulation: The simulated machine on which this copy runs; None = a real one.
        mark: The same for all nodes of one process, simulated or real, and for no other process.
        limits: Limits on waiting, by the clock.
    """

    name: str
    clock: Clock
    entropy: Entropy
    tasks: Tasks = field(default_factory=lambda: Tasks("node"))
    simulation: Simulation | None = None
    mark: str = PROCESS_MARK
    limits: Limits = field(init=False)

    def __post_init__(self) -> None:
        """Make what follows from the clock."""
        self.limits = Limits(self.clock)

    @classmethod
    def system(cls, instance: str | None = None) -> Node:
        """A node on the real machine. `instance` defaults to host name and process id."""
        entropy = SystemEntropy()
        instance = instance or f"{socket.gethostname()}-{os.getpid()}"
        return cls(name=f"{instance}-{entropy.secret(4).hex()}", clock=SystemClock(), entropy=entropy)
