"""Clock: wall time, monotonic time and sleeping, the only ones that the code above may use.

Wall time here never runs backwards: it is an anchor plus monotonic time, re-anchored forward only. A machine whose clock
is set back keeps issuing later instants until real time has caught up; `stepped_back_us` shows by how much it is ahead.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(now_us: int) -> datetime:
    """The UTC datetime of an integer microsecond time."""
    return EPOCH + timedelta(microseconds=now_us)


def microseconds(moment: datetime) -> int:
    """The integer microsecond time of an aware datetime."""
    return (moment - EPOCH) // timedelta(microseconds=1)


class Clock(Protocol):
    """Time as one node sees it."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC; never less than an earlier answer."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; for durations and deadlines."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Give other tasks the loop for at least this long."""
        ...


class SystemClock:
    """The machine's clock, made monotonic."""

    # Asked five times per request, so without a call of ours around it.
    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._offset_us = offset_us(time.time_ns(), time.monotonic_ns())
        self.stepped_back_us = 0

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC; never less than an earlier answer."""
        # Wall time is read first. A process that is stopped between the two readings then sees an anchor that lies
        # too early, which the next call corrects; the other way round it would stay ahead by the pause for ever.
        wall_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        seen_us = offset_us(wall_ns, mono_ns)
        self._offset_us = max(self._offset_us, seen_us)
        self.stepped_back_us = self._offset_us - seen_us
        return self._offset_us + mono_ns // 1000

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)


def offset_us(wall_ns: int, mono_ns: int) -> int:
    """Microseconds from monotonic time to wall time."""
    return wall_ns // 1000 - mono_ns // 1000
