"""Ending: what becomes of a claim that was not simply handled: later again, or dead; and the count of each.

Each of these moves is a small transaction of its own, after the handler's rollback, fenced by the lease like every other
one. While the database is away the claim stays ours, and the move is tried until it is written or the lease is lost:
nothing is dropped because nobody could write down what became of it.

Whose move an error is decides (kernel/errors.py): `fix` and `choose` are dead at once, `wait`, `report` and foreign
exceptions are tried again with full jitter, until the bound on tries or on age is reached. A snooze is no failure: no try is
counted, and the bound on age alone ends it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dujiang.data.database import DatabaseUnreachable
from dujiang.data.transaction import mended
from dujiang.kernel.context import Context, entered
from dujiang.kernel.errors import DujiangError
from dujiang.messaging import deadletter, work
from dujiang.messaging.work import HALT, Claim, LeaseLost, Worked
from dujiang.resilience.retry import Snooze
from dujiang.telemetry.crash import crash_point

if TYPE_CHECKING:
    from collections.abc import Callable

    from dujiang.data.database import Database
    from dujiang.data.process import ProcessLease
    from dujiang.messaging.gate import Gate
    from dujiang.messaging.subscription import Subscription

logger = logging.getLogger("dujiang.consumer")

WAIT_S_FIRST, WAIT_S_MAX = 0.05, 2.0


class Ending:
    """Writes down what became of the claims of one consumer.

    Args:
        context: The consumer's context.
        subscription: Whose work it is.
        database: Where.
        process: This process's lease; makes the ids of dead letters.
        gate: Learns of failures; while it is closed they cost no attempt, and it may keep a claim.
        worked: Called for each claim that ended.
        doubt: Called when a claim had to be left behind; the consumer looks for it later.
    """

    def __init__(
        self,
        context: Context,
        subscription: Subscription,
        database: Database,
        process: ProcessLease,
        *,
        gate: Gate,
        worked: Callable[[Worked], None],
        doubt: Callable[[], None],
    ) -> None:
        self._context = context
        self._node = context.node
        self._subscription = subscription
        self._database = database
        self._process = process
        self._gate = gate
        self._worked = worked
        self._doubt = doubt
        self.stopping = False

    async def failed(self, claim: Claim, error: BaseException) -> bool:
        """Try again later, or bury; whether it was buried."""
        retry, message = self._subscription.retry, claim.message
        now_us = self._node.clock.now_us()
        age_s, name, shown = (now_us - message.created_us) / 1e6, self._subscription.name, message.message_id.hex()
        if isinstance(error, Snooze) and not retry.exhausted(0, age_s):
            logger.info("%s puts %s off: %s", name, shown, error)
            await self.give_back(claim, now_us + int(error.retry_after_s * 1e6), forget_attempt=True)
            self.report(claim, "snoozed", self._node.clock.monotonic())
            return False
        if isinstance(error, DujiangError) and error.move in ("fix", "choose"):
            self._gate.passed([message.seq])
            await self.bury(claim, error.code, error)
            return True
        if not isinstance(error, Snooze):
            self._gate.failed(message.seq)
        # What the outage of a dependency, or of our own database, has cost is not the message's fault.
        uncounted = self._gate.closed or isinstance(error, DatabaseUnreachable)
        runs = 0 if uncounted else claim.attempt
        if isinstance(error, Snooze) or retry.exhausted(runs, age_s):
            reason = "attempts" if runs >= retry.attempts and not isinstance(error, Snooze) else "age"
            await self.bury(claim, reason, error)
            return True
        asked_s = getattr(error, "retry_after_s", 0.0) if isinstance(error, DujiangError) else 0.0
        wait_s = max(retry.wait_s(claim.attempt, self._node.entropy), asked_s)
        logger.warning("%s tries %s again in %.3f s: %r", name, shown, wait_s, error)
        if not self._gate.keep(claim):
            await self.give_back(claim, now_us + int(wait_s * 1e6), forget_attempt=uncounted)
            crash_point("retry_row_written")
        self.report(claim, "retried", self._node.clock.monotonic())
        return False

    async def give_back(self, claim: Claim, run_at_us: int, *, forget_attempt: bool = False) -> None:
        """Put a claim back to ready, due at a time; `forget_attempt` when it has not begun."""
        name = self._subscription.name
        await self._persist(
            lambda: work.give_back(self._database, name, claim, run_at_us, forget_attempt=forget_attempt)
        )

    async def bury(self, claim: Claim, reason: str, error: BaseException | None) -> None:
        """Make a dead letter of a claim; it holds its key, or the whole subscription, as declared."""
        subscription = self._subscription
        holds: str | None = None
        if subscription.on_fail == "halt":
            holds = HALT
        elif subscription.ordered and subscription.on_fail == "park_key":
            holds = claim.message.okey
        shown = claim.message.message_id.hex()
        told = f"{reason}: {error.told}" if isinstance(error, DujiangError) else reason
        logger.error("%s: message %s is dead: %s", subscription.name, shown, told, exc_info=error)
        await self._persist(
            lambda: deadletter.bury(
                self._database,
                claim,
                name=subscription.name,
                dead_id=self._process.ids.new_id(),
                reason=reason,
                error=error,
                holds=holds,
                now_us=self._node.clock.now_us(),
            )
        )
        self.report(claim, "dead", self._node.clock.monotonic())

    async def _persist(self, move: Callable[[], Any]) -> None:
        """Write what became of a claim; while the database is away the claim stays ours."""
        wait_s = WAIT_S_FIRST
        with entered(self._context.but(deadline=None)):
            while True:
                try:
                    await mended(move)
                except LeaseLost as error:
                    logger.warning("%s", error)
                    return
                except DujiangError as error:
                    if error.move != "wait" or self.stopping:
                        logger.warning("%s leaves a claim behind: %s", self._subscription.name, error)
                        self._doubt()
                        return
                    await self._node.clock.sleep(wait_s)
                    wait_s = min(WAIT_S_MAX, wait_s * 2)
                else:
                    return

    def count(self, claim: Claim, outcome: str) -> None:
        """Count a claim that another process ended, or is left to another."""
        self.report(claim, outcome, self._node.clock.monotonic())

    def report(self, claim: Claim, outcome: str, began: float) -> None:
        """Count a claim that ended."""
        clock, name = self._node.clock, self._subscription.name
        delay_s = (clock.now_us() - (claim.message.created_us or clock.now_us())) / 1e6
        took_s = clock.monotonic() - began
        self._worked(Worked(subscription=name, outcome=outcome, took_s=took_s, delay_s=delay_s))
