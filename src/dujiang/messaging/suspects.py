"""Suspects: work whose process died while it ran, more than once; it is run alone, where its death kills nobody else.

    crashes < limit      the usual way; with any crash on it, in no group and no batch
    crashes >= limit     a line of its own ──► alone, in a child process ──► it says what became of it: done, retried, dead
                                                   └ it dies too: dead letter `crash_loop`, replayable

A suspect is no culprit: whatever ran when the process was killed from outside is one. So it is run, not buried, and only
a death that nobody else can have caused makes it a dead letter. The letter says what is known: the signal or exit code,
and the last lines that the process wrote, where CPython's fault handler puts the place in the code.

Suspects wait in a line of their own and run one at a time in a process, so that the runners stay free for everybody
else. A run that ends with an error is an ordinary failed attempt and keeps the crashes on its account: that it did not
kill its process this time says little about the next.

Where no process can be started (a simulated machine; an app that no module holds) a suspect is run here, alone. After
HERE_MAX deaths it is a dead letter; not in a simulation, where processes are killed for the sake of it.

Rejected: burying at the second death, which throws away whoever ran beside the killer twice; a second process for every
handler, which costs each message what only one in a million needs. tests/cli/test_poison.py kills real processes.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.messaging.ending import Ending
    from dujiang.messaging.handling import Handling
    from dujiang.messaging.subscription import Subscription
    from dujiang.messaging.work import Claim

logger = logging.getLogger("dujiang.consumer")

REASON = "crash_loop"
HERE_MAX = 5
NOT_BEGUN_MAX = 5
NOT_BEGUN_WAIT_US = 5_000_000


@dataclass(eq=False, kw_only=True)
class CrashLoop(DujiangError):
    """Running a message ended its process, again and again, and the last time it ran alone.

    Look at the last lines of the process in the dead letter, correct the handler (or the native library under it), and
    replay the letter.
    """

    code = "crash_loop"
    move = "report"
    says = "{subscription} ended {crashes} processes before this: {how}"

    subscription: str
    crashes: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What became of a run in a process of its own.

    Attributes:
        outcome: What the process said became of the claim: `done`, `retried`, ...; empty = it died before it could say.
        begun: Whether it had begun to handle it.
        how: How the process ended.
        lines: The last lines that it wrote.
    """

    outcome: str = ""
    begun: bool = True
    how: str = ""
    lines: str = ""


class Quarantine(Protocol):
    """Runs one claim in a process of its own."""

    limit: int

    @property
    def possible(self) -> bool:
        """Whether a process can be started for this app."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether the machine is simulated, so that a death says nothing about what ran."""
        ...

    async def run(self, subscription: Subscription, claim: Claim) -> Alone:
        """Run it, one at a time; what became of it. A cancelled run ends its process."""
        ...


class Suspects:
    """Handles the suspects of one consumer.

    Args:
        subscription: Whose work it is.
        quarantine: Runs a claim in a process of its own.
        handling: Runs a claim here.
        ending: Writes down what became of one whose process could not.
        halted: Called when a dead letter halts the subscription.
        now_us: The present time.
    """

    def __init__(
        self,
        *,
        subscription: Subscription,
        quarantine: Quarantine,
        handling: Handling,
        ending: Ending,
        halted: Callable[[Sequence[Claim]], Awaitable[None]],
        now_us: Callable[[], int],
    ) -> None:
        self._subscription = subscription
        self._quarantine = quarantine
        self._handling = handling
        self._ending = ending
        self._halted = halted
        self._now_us = now_us
        self._not_begun: dict[int, int] = {}

    def suspected(self, claim: Claim) -> bool:
        """Whether a claim is one."""
        return claim.crashes >= self._quarantine.limit

    async def handle(self, claims: list[Claim]) -> None:
        """Handle one suspect."""
        (claim,) = claims
        if self._quarantine.simulated:
            await self._handling.handle([claim])
        elif self._quarantine.possible:
            await self._apart(claim)
        elif claim.crashes < self._quarantine.limit + HERE_MAX:
            await self._handling.handle([claim])
        else:
            await self._bury(claim, "no process can be started for it, because no module holds the app", "")

    async def _apart(self, claim: Claim) -> None:
        name, seq = self._subscription.name, claim.message.seq
        logger.warning(
            "%s runs %s alone, for %d processes died of it", name, claim.message.message_id.hex(), claim.crashes
        )
        try:
            found = await self._quarantine.run(self._subscription, claim)
        except asyncio.CancelledError:
            if self._ending.stopping:
                await self._ending.give_back(claim, self._now_us(), forget_attempt=True)
            raise
        if found.outcome:
            self._not_begun.pop(seq, None)
            self._ending.count(claim, found.outcome)
        elif found.begun:
            await self._bury(claim, found.how, found.lines)
        else:
            # The process died before the message could do anything: not its fault, but nothing may be tried for ever.
            tries = self._not_begun[seq] = self._not_begun.get(seq, 0) + 1
            logger.error("the process for %s ended before its work: %s\n%s", name, found.how, found.lines)
            if tries < NOT_BEGUN_MAX:
                await self._ending.give_back(claim, self._now_us() + NOT_BEGUN_WAIT_US, forget_attempt=True)
            else:
                await self._bury(claim, f"it never began: {found.how}", found.lines)

    async def _bury(self, claim: Claim, how: str, lines: str) -> None:
        self._not_begun.pop(claim.message.seq, None)
        how = f"{how}; its last lines:\n{lines}" if lines else how
        error = CrashLoop(subscription=self._subscription.name, crashes=claim.crashes, how=how)
        await self._ending.bury(claim, REASON, error)
        if self._subscription.on_fail == "halt":
            await self._halted([])
