"""Standing: how a broker outside the store is, as seen from this process; for health, for metrics, and for verbs that need it.

    since when there is a connection | publishes that failed | messages sent and not confirmed | stopped by an alarm
    whose queues are full, and what waits for them

A connection that is open proves little: a network that drops packets leaves it open for as long as heartbeats are
patient, and under an alarm RabbitMQ reads nothing from who publishes, without a word to the others. So the proof is a
message that no queue wants, confirmed: the very way that an event would go. One proof holds for FRESH_S and for everybody
who asks meanwhile, so a crowd of requests costs the broker one message a second. Its answer has LIMIT_S; who asks while
it is late waits no longer than that since it was sent, and a proof under way is never abandoned for another.

tests/conformance/test_broker_model.py asks while the broker is there, away and silent; test_broker_rabbit.py under an alarm.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dujiang.kernel.errors import DujiangError
from dujiang.messaging.broker import BrokerBlocked, BrokerUnreachable, QueuesFull

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dujiang.kernel.node import Node
    from dujiang.messaging.carrier import Link

FRESH_S, LIMIT_S = 1.0, 0.8  # Below the limit of a health check, so that its page tells this error.


class Standing:
    """What is known of a broker.

    Args:
        url: Shown in errors.
        node: The running copy.

    Attributes:
        since_us: When the connection was made, microseconds; 0 = there is none.
        failures: How many publishes were refused or got no confirm.
        unconfirmed: Messages that were sent and are not confirmed yet.
        behind: Subscriptions whose queue is full, or was: how many events wait in the outbox for each. Known to the
            process that relays.
    """

    def __init__(self, url: str, node: Node) -> None:
        self.since_us = 0
        self.failures = 0
        self.unconfirmed = 0
        self.behind: dict[str, int] = {}
        self._url = url
        self._node = node
        self._link: Link | None = None
        self._sent_at = self._proven_at = float("-inf")
        self._proof: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Standing since {self.since_us}, {self.failures} failures, {self.unconfirmed} unconfirmed>"

    @property
    def blocked(self) -> bool:
        """Whether an alarm of the broker is known to stop what is published from here."""
        return self._link is not None and self._link.blocked

    def connected(self, link: Link) -> None:
        """There is a connection."""
        self._link, self._proof, self._proven_at = link, None, float("-inf")
        self.since_us = self._node.clock.now_us()

    def gone(self) -> None:
        """There is none any more."""
        self._link, self.since_us = None, 0

    @contextmanager
    def publishing(self, count: int) -> Iterator[None]:
        """Count a publish of so many messages."""
        self.unconfirmed += count
        try:
            yield
        except DujiangError:
            self.failures += 1
            raise
        finally:
            self.unconfirmed -= count

    async def room(self) -> None:
        """Return if no queue is known to be full. Raises QueuesFull."""
        full = {name: count for name, count in self.behind.items() if count}
        if full:
            raise QueuesFull(names=", ".join(sorted(full)), waiting=sum(full.values()))

    async def prove(self) -> None:
        """Return if the broker would take a message now. Raises BrokerUnreachable, BrokerBlocked, within LIMIT_S."""
        link, clock = self._link, self._node.clock
        if link is None:
            raise BrokerUnreachable(url=self._url, why="there is no connection")
        if clock.monotonic() < self._proven_at + FRESH_S:
            return
        if self._proof is None or self._proof.done():
            self._sent_at = clock.monotonic()
            self._proof = self._node.tasks.spawn(self._prove(link, self._sent_at), name="broker.proof")
        proof, sent_at = self._proof, self._sent_at
        await asyncio.wait({proof}, timeout=max(0.0, sent_at + LIMIT_S - clock.monotonic()))
        if self._link is link and self._proven_at >= sent_at:
            return
        if link.blocked:
            raise BrokerBlocked(url=self._url)
        raise BrokerUnreachable(url=self._url, why=f"it confirmed nothing within {LIMIT_S:g} s")

    async def _prove(self, link: Link, sent_at: float) -> None:
        try:
            await link.ping()
        except DujiangError:
            return  # Whoever waits sees that nothing was proved.
        if self._link is link:
            self._proven_at = sent_at
