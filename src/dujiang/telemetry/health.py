"""Health: may this process be kept, and may it get requests: two different questions with two answers.

    /health/live    503 = start me anew        only what a restart cures: nothing outside this process
    /health/ready   503 = send nobody to me    starting, stopping, or a check fails

A database that is down must never fail `live`: restarting every process at once is how an outage becomes a longer one.
Checks run at once, each within LIMIT_S. Their outcome is kept for FRESH_S and callers that ask meanwhile wait for the one
run, so a crowd of probes costs the database one question. What a process can do without for a while, as it can without a
broker, is not vital: its failure shows as `degraded` and keeps no request away. A failed check is shown by its error's
code alone: the pages need no login. tests/unit/telemetry/test_health.py holds it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import all_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.kernel.clock import Clock

LIMIT_S = 1.0
FRESH_S = 0.5

State = Literal["starting", "ready", "stopping"]

logger = logging.getLogger("dujiang.health")


@dataclass(slots=True)
class Check:
    """One named check and what it said last.

    Attributes:
        name: Shown on the page.
        ask: Returns when all is well, with words about it or None; raises otherwise.
        live: Whether a restart would cure its failure; then it counts for `live` too.
        vital: Whether requests should stay away while it fails.
        failing: Whether it failed when it was last asked; a change is logged once.
    """

    name: str
    ask: Callable[[], Awaitable[str | None]]
    live: bool = False
    vital: bool = True
    failing: bool = False


class Health:
    """The checks and the state of one running copy.

    Args:
        clock: For how long an outcome is fresh.

    Attributes:
        state: `starting` until the runtime says `ready`; `stopping` from the first signal on.
    """

    def __init__(self, clock: Clock) -> None:
        self.state: State = "starting"
        self._clock = clock
        self._checks: dict[str, Check] = {}
        self._kept: dict[str, tuple[float, dict[str, dict[str, str]]]] = {}
        self._locks = {"live": asyncio.Lock(), "ready": asyncio.Lock()}

    def __repr__(self) -> str:
        return f"<Health {self.state}: {', '.join(self._checks) or 'no checks'}>"

    def add(
        self, name: str, ask: Callable[[], Awaitable[str | None]], *, live: bool = False, vital: bool = True
    ) -> None:
        """Add a check, or replace the one of this name. It has 1 s and must not hold on to what it opens."""
        self._checks[name] = Check(name, ask, live, vital)
        self._kept.clear()

    def remove(self, name: str) -> None:
        """Take a check away; one that is not there is no error."""
        self._checks.pop(name, None)
        self._kept.clear()

    async def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether this process should go on, and the page that says so. Whoever can ask has a loop that turns."""
        return await self._page("live", [check for check in self._checks.values() if check.live], "alive")

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests should come, and the page that says so."""
        return await self._page("ready", list(self._checks.values()), "ready", self.state)

    async def _page(
        self, page: str, checks: list[Check], well: str, state: State = "ready"
    ) -> tuple[bool, dict[str, Any]]:
        outcomes = await self._outcomes(page, checks)
        status = state if state != "ready" else well
        if status == well and any(outcome["status"] == "failed" for outcome in outcomes.values()):
            status = "failed"
        return status == well, {"status": status, "checks": outcomes}

    async def _outcomes(self, page: str, checks: list[Check]) -> dict[str, dict[str, str]]:
        """What the checks of a page said at most FRESH_S ago. Each page waits for its own checks only."""
        async with self._locks[page]:
            kept = self._kept.get(page)
            if kept is not None and self._clock.monotonic() - kept[0] < FRESH_S:
                return kept[1]
            answers = await all_of(*(self._asked(check) for check in checks))
            outcomes = dict(zip((check.name for check in checks), answers, strict=True))
            self._kept[page] = (self._clock.monotonic(), outcomes)
            return outcomes

    async def _asked(self, check: Check) -> dict[str, str]:
        try:
            async with asyncio.timeout(LIMIT_S):
                words = await check.ask()
        except Exception as error:  # noqa: BLE001 - whatever a check raises, it failed
            if not check.failing:
                logger.warning("health check %s fails: %s", check.name, str(error) or type(error).__name__)
            check.failing = True
            return {"status": "failed" if check.vital else "degraded", "code": _code(error)}
        if check.failing:
            logger.warning("health check %s is well again", check.name)
        check.failing = False
        return {"status": "ok", "detail": words} if words else {"status": "ok"}


def _code(error: Exception) -> str:
    """What a stranger may know of a failure."""
    if isinstance(error, DujiangError):
        return error.code
    return "no_answer" if isinstance(error, TimeoutError) else "error"


__all__ = ["Health", "State"]
