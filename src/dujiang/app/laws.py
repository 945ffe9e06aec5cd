"""Laws: one definition of what must hold, checked in the drill, in tests, by `dujiang audit`, and while the app works.

    @shop.invariant("stock is conserved", every="10s")
    async def stock_is_conserved(db: Read) -> list[Row]: ...      rows = violations

With `every` one process, the one that relays, checks it again and again. A violation is logged when it appears and when it
is gone, stands in the gauge `dujiang_invariant_violations`, and is read under `GET /_dj/invariants`. A check that fails, or
takes longer than a minute, is logged too and counts as "not known": -1.

The platform's own laws (messaging/laws.py, jobs/laws.py) are checked by every audit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dujiang.jobs.laws import NOT_LATE, ONE_JOB, not_late_args, one_job_args
from dujiang.kernel.tasks import ended
from dujiang.messaging.laws import HELD_BY_NOTHING, STUCK, STUCK_US
from dujiang.messaging.work import HALT
from dujiang.saga.store import LOST

if TYPE_CHECKING:
    import asyncio

    from dujiang.app.runtime import Runtime
    from dujiang.messaging.laws import Invariant
    from dujiang.messaging.tx import Read

logger = logging.getLogger("dujiang.app.laws")

LOOK_S = 0.5
LIMIT_S = 60.0
ROWS_MAX = 100


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A law that does not hold.

    Attributes:
        invariant: What it says.
        name: Its stored name.
        rows: The violating rows, at most 100, as JSON values.
    """

    invariant: str
    name: str
    rows: list[Any]


@dataclass
class Standing:
    """What the last check of a law found.

    Attributes:
        says: What must hold.
        name: Its stored name.
        every_s: How often it is checked while the app works.
        checked_us: When it was checked, microseconds; 0 = not yet.
        rows: The violating rows, at most 100.
        error: Why it could not be checked, or empty.
    """

    says: str
    name: str
    every_s: float
    checked_us: int = 0
    rows: list[Any] = field(default_factory=list)
    error: str = ""


class Laws:
    """The laws of one running copy, and the service that checks those with `every`.

    Args:
        runtime: The running copy.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._task: asyncio.Task[None] | None = None
        self._timed = [law for law in runtime.app.invariants() if law.every_s]
        self.standings = {law.name: Standing(law.says, law.name, law.every_s) for law in self._timed}

    async def start(self) -> None:
        """Begin to check, if there is anything to check."""
        if self._timed:
            self._task = self._runtime.node.tasks.spawn(self._run(), name="laws")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)

    async def _run(self) -> None:
        clock = self._runtime.node.clock
        due = {law.name: clock.monotonic() + law.every_s for law in self._timed}
        while True:
            await clock.sleep(LOOK_S)
            if not self._runtime.relay.owns:  # One process checks; the others would only find the same.
                continue
            for law in self._timed:
                if clock.monotonic() >= due[law.name]:
                    await self._check(law)
                    due[law.name] = clock.monotonic() + law.every_s

    async def _check(self, law: Invariant) -> None:
        runtime, standing = self._runtime, self.standings[law.name]
        before = bool(standing.rows)
        try:
            with runtime.node.limits.within(LIMIT_S):
                standing.rows, standing.error = shown(await runtime.read(law.check)), ""
        except Exception as error:  # noqa: BLE001  (a check is the user's code; it must not end the others)
            standing.error = str(error) or type(error).__name__
            logger.warning("the law %s could not be checked: %s", law.name, standing.error)
        standing.checked_us = runtime.node.clock.now_us()
        if standing.rows and not before:
            logger.error(
                "violated: %s (%s): %d rows, such as %s", law.says, law.name, len(standing.rows), standing.rows[0]
            )
        elif before and not standing.rows and not standing.error:
            logger.warning("holds again: %s (%s)", law.says, law.name)
        gauge = runtime.metrics.gauge("dujiang_invariant_violations", invariant=law.name)
        gauge.set(-1 if standing.error else len(standing.rows))

    async def audit(self) -> list[Violation]:
        """Check every law, the app's and the platform's; those that do not hold."""
        found = []
        for law in self._runtime.app.invariants():
            rows = await self._runtime.read(law.check)
            if rows:
                found.append(Violation(invariant=law.says, name=law.name, rows=shown(rows)))
        return [*found, *await self._platform()]

    async def _platform(self) -> list[Violation]:
        now_us = self._runtime.node.clock.now_us()
        checks = (
            (
                "nothing that is due waits for a quarter of an hour",
                "dujiang.nothing_stuck",
                STUCK,
                (now_us - STUCK_US, HALT),
            ),
            ("a key is held by a dead letter", "dujiang.holds", HELD_BY_NOTHING, ()),
            ("a saga that has not ended goes on, waits, or is stuck", "dujiang.sagas", LOST, ()),
            ("a schedule fires within a quarter of an hour", "dujiang.schedules_fire", NOT_LATE, not_late_args(now_us)),
            ("a time of a schedule makes one job", "dujiang.fired_once", ONE_JOB, one_job_args(now_us)),
        )
        found = []
        for says, name, sql, args in checks:

            async def look(db: Read, sql: Any = sql, args: tuple[Any, ...] = args) -> list[Any]:
                return await db.fetch(sql, *args)

            rows = await self._runtime.read(look)
            if rows:
                found.append(Violation(invariant=says, name=name, rows=[list(row) for row in rows]))
        return found


def shown(rows: Any) -> list[Any]:
    """Rows as JSON values, at most 100."""
    return [dict(row._mapping) if hasattr(row, "_mapping") else row for row in list(rows)[:ROWS_MAX]]  # noqa: SLF001
