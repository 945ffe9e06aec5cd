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

    def __init__(self) -> None:
        self._offset_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
        self.stepped_back_us = 0

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC; never less than an earlier answer."""
        mono_us = time.monotonic_ns() // 1000
        offset_us = time.time_ns() // 1000 - mono_us
        if offset_us > self._offset_us:
            self._offset_us = offset_us
        self.stepped_back_us = self._offset_us - offset_us
        return self._offset_us + mono_us

    def monotonic(self) -> float:
        """Seconds since some fixed point."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)
