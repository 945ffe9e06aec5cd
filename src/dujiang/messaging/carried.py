"""Carried: the port `broker` over a broker outside the store; one semantics, whatever carries the messages.

    outbox ─relay─► publish, confirmed ─► cursor          two systems, so two steps, in this order
                         │
                      [broker]
                         │
    receive:  delivery ─► dj_running / dj_ready ─commit─► acknowledge ─► handler, as on every broker

A delivery is taken into the work tables first and acknowledged at once; the handler then works on a claim, exactly as it
does on the broker in the database. So leases, fences, retries, parked keys, dead letters and crash accounts are not
written a second time, and a message leaves the broker before its handler runs: a slow, failing or killing handler holds
nothing there, counts no redelivery of an innocent neighbour, and meets no time limit of the broker.

The rejected form runs the handler from the delivery, with the inbox row in its transaction, and acknowledges after its
commit. It saves the intake, which is one statement for a whole batch, in place of the claim that the broker in the
database needs anyway. It pays with a second path for everything that goes wrong, with unacknowledged messages held for
as long as handlers run, and with order: behind a parked key every delivery needs the look into SQL all the same.

What arrives twice. The first batch after the relay was taken (over, or anew after an error) may have been published
before and is marked as such; the broker marks what it brings again. intake.py needs no more than that.

Who gets what. The catalogue in the database says which subscriptions want a topic, read whenever the relay is taken, and
a new subscription takes the relay away from its owner (messaging/subscription.py). Its queues are there before the next
batch is published, and its watermark (messaging/reconcile.py) says where it began. So activation waits for nothing here
either, and a message that the broker cannot route is an error, never a subscription that nobody knew.

The connection is kept by a task; while there is none, publishing fails with BrokerUnreachable, which the relay answers
by waiting, and receiving finds only what waits in SQL. tests/conformance/test_broker.py holds all cases over it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import ended
from dujiang.messaging.broker import BrokerCapabilities, BrokerRefused, BrokerUnreachable, Received
from dujiang.messaging.intake import take_in
from dujiang.messaging.publishing import Publishing
from dujiang.messaging.standing import Standing
from dujiang.messaging.work import claim_free, claim_keyed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.data.database import Database
    from dujiang.kernel.node import Node
    from dujiang.messaging.broker import CursorMove, Feed, Passed
    from dujiang.messaging.carrier import Carrier, Delivery, Link
    from dujiang.messaging.message import Message
    from dujiang.messaging.work import Claim, KeyCursor

logger = logging.getLogger("dujiang.broker")

RETRY_S_MIN, RETRY_S_MAX = 0.02, 2.0
LOOK_S = 0.05


@dataclass(eq=False)
class Attended:
    """A subscription whose messages come to this process.

    Attributes:
        feed: What it wants.
        heard: Wakes its consumer.
        link: The connection that brings them; None while there is none.
        arrived: What was delivered and not taken yet, oldest first.
        more: The last look into SQL found work, so there may be more.
        looked: When that was, by the monotonic clock.
    """

    feed: Feed
    heard: Callable[[], None]
    link: Link | None = None
    arrived: deque[Delivery] = field(default_factory=deque)
    more: bool = True
    looked: float = 0.0


class CarriedBroker:
    """The port `broker` over a carrier.

    Args:
        url: Shown in errors.
        node: The running copy.
        database: Where outbox and work are.
        carrier: Makes connections to the broker.
    """

    capabilities = BrokerCapabilities(durable=True, ordered_by_key=True, in_store=False)

    def __init__(self, url: str, node: Node, database: Database, carrier: Carrier) -> None:
        self.url = url
        self.standing: Standing | None = Standing(url, node)
        self._standing = self.standing
        self._node = node
        self._database = database
        self._carrier = carrier
        self._link: Link | None = None
        self._away = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._attended: dict[int, Attended] = {}
        self._publishing = Publishing(node, database, self._standing)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'connected' if self._link else 'away'}, {len(self._attended)} attended>"

    # The connection ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect; a broker that is away is looked for in the background. Raises BrokerRefused."""
        try:
            await self._connect()
        except BrokerUnreachable as error:
            logger.warning("events wait in the outbox: %s", error)
            self._away.set()
        self._task = self._node.tasks.spawn(self._keep(), name="broker")

    async def stop(self) -> None:
        """Disconnect; what was delivered and not taken goes back."""
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)
        link, self._link = self._link, None
        self._standing.gone()
        if link is not None:
            await link.close()

    async def _connect(self) -> None:
        held: list[Link] = []

        def lost() -> None:
            if held and self._link is held[0]:
                self._gone()
            held.clear()

        link = await self._carrier.connect(lost)
        held.append(link)
        try:
            # Somebody may begin to attend while another one's queues are being made.
            while pending := [one for one in self._attended.values() if one.link is not link]:
                await self._consume(link, pending[0])
            if not held:
                raise BrokerUnreachable(url=self.url, why="the connection ended at once")
        except BaseException:
            held.clear()
            self._forget(link)
            await link.close()
            raise
        self._link = link
        self._standing.connected(link)

    def _gone(self) -> None:
        """The connection has ended: what it brought comes again over the next one."""
        link, self._link = self._link, None
        self._publishing.forget()
        self._standing.gone()
        self._forget(link)
        self._away.set()

    def _forget(self, link: Link | None) -> None:
        for attended in self._attended.values():
            if attended.link is link:
                attended.link = None
                attended.arrived.clear()

    async def _keep(self) -> None:
        """Connect again, whenever the connection has ended."""
        wait_s = RETRY_S_MIN
        while True:
            await self._away.wait()
            try:
                await self._connect()
            except DujiangError as error:
                logger.warning("%s", error)
                wait_s = min(RETRY_S_MAX, wait_s * 2)
            except Exception:  # A loop that ended here would leave the process without its broker for ever.
                logger.exception("cannot connect to the broker")
                wait_s = RETRY_S_MAX
            else:
                logger.info("connected to the broker again")
                self._away.clear()
                wait_s = RETRY_S_MIN
                continue
            await self._node.clock.sleep(wait_s * self._node.entropy.uniform(0.8, 1.2))

    def _linked(self) -> Link:
        if self._link is None:
            raise BrokerUnreachable(url=self.url, why="there is no connection")
        return self._link

    # Publishing -------------------------------------------------------------------------------------------------------

    async def publish(self, batch: Sequence[Message], move: CursorMove) -> Passed:
        """Publish a batch, wait for all confirms, then move the cursor."""
        return await self._publishing.publish(self._linked(), batch, move)

    async def republish(self, feed: Feed, messages: Sequence[Message]) -> None:
        """Publish messages to one subscription again, marked as repeats. Raises BrokerUnreachable, PublishRefused."""
        link = self._linked()
        with self._standing.publishing(len(messages)):
            await link.publish(messages, repeated=True, only=feed)

    async def depths(self, feed: Feed) -> list[int]:
        """How many messages wait in each partition of a subscription. Raises BrokerUnreachable."""
        return await self._linked().depths(feed)

    # Receiving --------------------------------------------------------------------------------------------------------

    async def attend(self, feed: Feed, heard: Callable[[], None]) -> None:
        """Bring a subscription's messages to this process, now or once the broker is back. Raises BrokerRefused."""
        attended = self._attended[feed.sub_id] = Attended(feed, heard)
        if self._link is None:
            return
        try:
            await self._consume(self._link, attended)
        except BrokerRefused:
            del self._attended[feed.sub_id]
            raise
        except BrokerUnreachable as error:
            logger.warning("%s", error)

    async def _consume(self, link: Link, attended: Attended) -> None:
        attended.arrived.clear()
        attended.link = link

        def deliver(delivery: Delivery) -> None:
            attended.arrived.append(delivery)
            attended.heard()

        await link.declare([attended.feed])
        if attended.feed.prefetch:
            await link.consume(attended.feed, deliver)

    async def leave(self, sub_id: int) -> None:
        """Bring no more; what was not taken goes to others."""
        attended = self._attended.pop(sub_id, None)
        if attended is not None and attended.link is not None:
            link, attended.link = attended.link, None
            try:
                await link.cancel(sub_id)
            except DujiangError as error:
                logger.warning("%s", error)

    async def receive(self, sub_id: int, lease: int, limit: int, cursor: KeyCursor | None) -> Received:
        """Claim what waits in SQL, then what has arrived; a broker that is away brings nothing, which is no error."""
        now_us, attended = self._node.clock.now_us(), self._attended.get(sub_id)
        claims: list[Claim] = []
        due_us: int | None = None
        if attended is None or cursor is not None or self._looks(attended):
            claims, due_us = await self._waiting(sub_id, lease, now_us, limit, cursor)
        if attended is None:
            return Received(tuple(claims), due_us)
        attended.more = bool(claims)
        room = min(limit - len(claims), len(attended.arrived))
        if room > 0:
            taken = await self._take(attended, lease, now_us, room)
            claims += taken
            if attended.arrived or len(taken) < room:  # There is more to take, or something was put behind others.
                due_us = now_us
        return Received(tuple(claims), due_us)

    def _looks(self, attended: Attended) -> bool:
        """Whether waiting work is worth a look: nothing else came, the last look found some, or it was long ago."""
        now = self._node.clock.monotonic()
        if attended.arrived and not attended.more and now < attended.looked + LOOK_S:
            return False
        attended.looked = now
        return True

    async def _waiting(
        self, sub_id: int, lease: int, now_us: int, limit: int, cursor: KeyCursor | None
    ) -> tuple[list[Claim], int | None]:
        claims = await claim_free(self._database, sub_id, lease, now_us, limit)
        if cursor is None or len(claims) >= limit:
            return claims, None
        keyed, due_us = await claim_keyed(self._database, sub_id, lease, now_us, limit - len(claims), cursor)
        return [*claims, *keyed], due_us

    async def _take(self, attended: Attended, lease: int, now_us: int, room: int) -> list[Claim]:
        """Take deliveries into the work tables, and acknowledge them once that is committed."""
        arrived, link = attended.arrived, attended.link
        deliveries = [arrived.popleft() for _ in range(room)]
        try:
            claims = await take_in(self._database, attended.feed, lease, now_us, deliveries)
        except BaseException:
            if attended.link is link:  # Otherwise they come again by themselves.
                arrived.extendleft(reversed(deliveries))
            raise
        if link is not None and attended.link is link:
            try:
                await link.acknowledge(deliveries)
            except BrokerUnreachable as error:
                logger.warning("%s; what was taken may come again", error)
        return claims
