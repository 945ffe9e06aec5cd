"""Workers: the role `worker` of a running copy: a consumer for each reaction and each job."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dujiang.app.quarantine import Quarantine
from dujiang.kernel.context import Context
from dujiang.kernel.tasks import outcomes_of
from dujiang.messaging.catalogue import Activated, activate
from dujiang.messaging.consumer import Consumer
from dujiang.messaging.direct import Waiting
from dujiang.messaging.newer import bring_forward
from dujiang.saga.store import retire

if TYPE_CHECKING:
    from dujiang.app.runtime import Runtime
    from dujiang.messaging.subscription import Subscription

logger = logging.getLogger("dujiang.app.workers")

FOREIGN = (
    "the reaction %s is not in this version of the code; its work (%d waiting) is left to processes of the version that has it; "
    "if it is gone for good, say App(renamed={'%s': None})"
)


class Workers:
    """The service; it claims nothing before `start` and nothing after `stop` has begun.

    Args:
        runtime: The running copy.

    Attributes:
        consumers: Those that run, in the order in which their reactions are declared.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.consumers: list[Consumer] = []
        self._foreign = 0

    async def activate(self) -> tuple[list[Subscription], Activated]:
        """Make the catalogue equal to the code; the subscriptions, and what it is now. Raises NamesStranded, EventStranded."""
        runtime = self._runtime
        subscriptions = runtime.composition.subscriptions()
        now_us = runtime.node.clock.now_us()
        activated = await activate(runtime.database, subscriptions, runtime.app.renamed, now_us)
        if any(new is None for new in runtime.app.renamed.values()):
            await runtime.jobs.retire()
            await retire(runtime.database, now_us)
            await runtime.schedules.retire()
        return subscriptions, activated

    async def start(self) -> None:
        """Start a consumer for each reaction and each job."""
        runtime = self._runtime
        subscriptions, activated = await self.activate()
        self._foreign = len(activated.foreign)
        for name, waiting in activated.foreign.items():
            logger.warning(FOREIGN, name, waiting, name)
        await bring_forward(runtime.database, subscriptions, activated.numbers, runtime.node.clock.now_us())
        context = Context(runtime.node, runtime)
        one_writer = not runtime.database.capabilities.many_writers
        quarantine = Quarantine(runtime.app, runtime.settings, runtime.node, one_writer=one_writer)
        database, clock = runtime.database, runtime.node.clock
        for subscription in subscriptions:
            consumer = Consumer(
                context=context,
                subscription=subscription,
                sub_id=activated.numbers[subscription.name],
                database=runtime.database,
                source=runtime.broker if subscription.routed else Waiting(database, clock.now_us, subscription.limit),
                bells=runtime.bells,
                process=runtime.process,
                make_tx=runtime.make_tx,
                marks=runtime.marks,
                quarantine=quarantine,
                worked=runtime.counting.worked,
                gated=runtime.counting.gated,
            )
            self.consumers.append(consumer)
            await consumer.start()
        if runtime.composition.jobs():
            await runtime.jobs.start()
        runtime.health.add("reactions", self._paused, vital=False)

    async def _paused(self) -> str | None:
        """Tells of closed gates and of what is left to other versions; neither is a reason to send no requests."""
        paused = sum(consumer.gate.closed for consumer in self.consumers)
        newer = sum(consumer.newer.count() for consumer in self.consumers)
        told = (
            (paused, f"{paused} of {len(self.consumers)} paused"),
            (newer, f"events of a newer version: {newer}"),
            (self._foreign, f"left to another version: {self._foreign}"),
        )
        return "; ".join(words for count, words in told if count) or None

    async def stop(self) -> None:
        """Claim no more; what runs ends within what is left of the grace, the rest goes back. All consumers at once."""
        await self._runtime.jobs.stop()
        stopping = list(self.consumers)
        grace_s = self._runtime.grace_left_s()
        for outcome in await outcomes_of(*(consumer.stop(grace_s) for consumer in stopping)):
            if isinstance(outcome, BaseException):
                raise outcome
        for consumer in stopping:
            # What went back is run by another process now, and not at its next look.
            self._runtime.bells.ring_far(f"sub{consumer.sub_id}")
        # Only now: while they end, a lost lease must still reach them.
        self.consumers = [consumer for consumer in self.consumers if consumer not in stopping]

    def cancel_running(self) -> None:
        """The lease is lost: what runs under it is cancelled, others do it."""
        for consumer in self.consumers:
            consumer.cancel_running()
