"""A clock that is turned by hand, for tests of what looks at one."""

from __future__ import annotations

import asyncio

from dujiang.kernel.clock import Clock
from dujiang.kernel.entropy import SystemEntropy
from dujiang.kernel.node import Node

START_US = 1_800_000_000_000_000


class HandClock:
    """Stands still until a test turns it; unlike the real one it may be turned back."""

    def __init__(self, now_us: int = START_US) -> None:
        self.at_us = now_us
        self.slept_s: list[float] = []

    def now_us(self) -> int:
        """What the test set."""
        return self.at_us

    def monotonic(self) -> float:
        """Seconds that follow the wall time."""
        return self.at_us / 1e6

    async def sleep(self, seconds: float) -> None:
        """Jump over the time, and let others run."""
        self.slept_s.append(seconds)
        self.at_us += int(seconds * 1e6)
        await asyncio.sleep(0)


def node_with(clock: Clock) -> Node:
    """A node with this clock and everything else real."""
    return Node(name="test", clock=clock, entropy=SystemEntropy())
