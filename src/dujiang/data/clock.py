"""Store clock: one clock for everybody who works on one store, whatever the machines' own clocks say.

    store    ────────●───────────────────●────────►     asked at start and before each heartbeat
                    │                   │
    ours     ──asked───replied────asked───replied──►     monotonic; the store was asked somewhere in between

Leases, due times, retries and the times in rows are compared by processes on many machines. A machine whose clock is a
minute ahead would end the leases of the living and begin work a minute early. So a process never compares with its own
wall clock: `now` is the store's time, carried on by our monotonic clock, which no time service moves.

A sample is an interval: the store was asked after `asked` and before `replied`, so the offset is known to half a round
trip, whatever delayed it. Of the last samples the narrowest counts; one that does not meet it, allowing for drift, says
that one of the clocks was moved, and then only what was sampled since counts.

Time never runs backwards here: after a correction backwards it runs at half speed until the store's time has caught up.
Rejected: standing still until then, because a lease that is counted by a clock that stands never ends; asking the server in
each statement (now()), because then no simulation could hold the whole system by one clock.

A store with one process at a time has the clock of that process, and nothing is sampled.
tests/unit/data/test_clock.py holds the filter, testing/conformance/broker_clocks.py two processes two minutes apart.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dujiang.data.sql import Sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.data.database import Database
    from dujiang.kernel.clock import Clock

logger = logging.getLogger("dujiang.clock")

STORE_CLOCK = Sql(
    "store_clock",
    "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
    "Samples the server's clock; no other statement may ask it.",
)

SAMPLES_AT_START, SAMPLES_KEPT = 5, 8
DRIFT = 0.0002  # By how much two honest clocks may part: 0.2 ms in a second.
ALARM_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the store's clock.

    Attributes:
        anchor_us: The store's time minus our monotonic time, microseconds.
        error_us: By how much that may be wrong, either way: half the round trip.
        taken_us: When, by our monotonic clock.
    """

    anchor_us: int
    error_us: int
    taken_us: int

    def error_at(self, mono_us: int) -> float:
        """By how much the anchor may be wrong at a later monotonic time."""
        return self.error_us + (mono_us - self.taken_us) * DRIFT


async def server_now_us(database: Database) -> int:
    """The time by the server's clock, microseconds; asked on the primary."""
    now_us: int = (await database.statement(STORE_CLOCK))[0][0]
    return now_us


async def sampled(clock: Clock, look: Callable[[], Awaitable[int]]) -> Sample:
    """One sample of the clock that `look` reads."""
    asked_us = monotonic_us(clock)
    theirs_us = await look()
    replied_us = monotonic_us(clock)
    return Sample(theirs_us - (asked_us + replied_us) // 2, (replied_us - asked_us + 1) // 2, replied_us)


def monotonic_us(clock: Clock) -> int:
    """A clock's monotonic time, microseconds."""
    return int(clock.monotonic() * 1e6)


class StoreClock:
    """The clock of one running copy: the store's wall time, the machine's monotonic time.

    Until the first sample it is the machine's own clock.

    Args:
        clock: The machine's.

    Attributes:
        monotonic: Seconds since some fixed point, by the machine.
        look: Reads the server's clock.
        stepped: When one of the clocks was last found to have been moved, by `monotonic`; None = never.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # The machine's own function: every request asks it several times.
        self.monotonic: Callable[[], float] = clock.monotonic
        self._database: Database | None = None
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self._anchor_us: int | None = None
        self._lead_us = self._lead_from_us = 0
        self._said_us = 0
        self.look: Callable[[Database], Awaitable[int]] = server_now_us
        self.stepped: float | None = None

    def __repr__(self) -> str:
        return f"<StoreClock {self.skew_us / 1e6:+.3f} s from the machine's>"

    @property
    def skew_us(self) -> int:
        """By how much the machine's clock is ahead of the store's, microseconds."""
        return self._clock.now_us() - self.now_us()

    def now_us(self) -> int:
        """Microseconds since the Unix epoch by the store's clock; never less than an earlier answer."""
        if self._anchor_us is None:
            return self._clock.now_us()
        mono_us = monotonic_us(self._clock)
        if not self._lead_us:
            return self._anchor_us + mono_us
        left_us = self._lead_us - (mono_us - self._lead_from_us) // 2
        if left_us <= 0:
            left_us = self._lead_us = 0
        return self._anchor_us + mono_us + left_us

    async def sleep(self, seconds: float) -> None:
        """Give other tasks the loop for at least this long."""
        await self._clock.sleep(seconds)

    async def follow(self, database: Database) -> None:
        """Take this store's clock, if others share the store; a few samples at once."""
        if not database.capabilities.many_writers:
            return
        self._database = database
        for _ in range(SAMPLES_AT_START):
            await self.sample()

    async def sample(self) -> None:
        """Look at the store's clock once more. Raises what the database raises."""
        database = self._database
        if database is not None:
            self._take(await sampled(self._clock, lambda: self.look(database)))

    def _take(self, sample: Sample) -> None:
        if self._samples:
            best = self._best(sample.taken_us)
            apart_us = sample.anchor_us - best.anchor_us
            if abs(apart_us) > sample.error_us + best.error_at(sample.taken_us):
                self._samples.clear()
                if abs(apart_us) > ALARM_US:
                    self.stepped = self._clock.monotonic()
                    logger.error("the store's clock, or ours, was moved by %.3f s", apart_us / 1e6)
        self._samples.append(sample)
        self._turn_to(self._best(sample.taken_us).anchor_us)
        if abs(self.skew_us - self._said_us) > ALARM_US:
            self._said_us = self.skew_us
            logger.warning(
                "this machine's clock is %+.3f s from the store's, which is the one that counts; check the time service",
                self._said_us / 1e6,
            )

    def _best(self, mono_us: int) -> Sample:
        return min(self._samples, key=lambda sample: sample.error_at(mono_us))

    def _turn_to(self, anchor_us: int) -> None:
        """Take another anchor; what was said stays said."""
        if self._anchor_us is not None:
            before_us, mono_us = self.now_us(), monotonic_us(self._clock)
            self._lead_us, self._lead_from_us = max(0, before_us - anchor_us - mono_us), mono_us
        self._anchor_us = anchor_us
