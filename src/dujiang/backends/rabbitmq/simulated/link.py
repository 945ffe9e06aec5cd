"""A node's connection to the model of RabbitMQ: what happens between them, hop by hop; see model.py."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import TYPE_CHECKING

from dujiang.messaging.broker import BrokerUnreachable, PublishRefused
from dujiang.messaging.carrier import Delivery, partitions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.backends.rabbitmq.simulated.model import ModelQueue, RabbitModel, Stored
    from dujiang.kernel.node import Node
    from dujiang.kernel.simulation import Simulation
    from dujiang.messaging.broker import Feed
    from dujiang.messaging.message import Message

URL = "simulated:"
LOST_MAX, SLOW_MAX, REORDER_MAX = 5, 3, 3


class ModelLink:
    """One connection of a node to the model.

    Attributes:
        lost: Called when it ends by itself.
        look: Set when there may be something to deliver.
        simulation: The machine whose connection it is.
    """

    def __init__(self, model: RabbitModel, node: Node, simulation: Simulation, lost: Callable[[], None]) -> None:
        self._model = model
        self._node = node
        self.simulation = simulation
        self._deliver: dict[int, tuple[Feed, Callable[[Delivery], None]]] = {}
        self._tag = 0
        self._pump: asyncio.Task[None] | None = None
        self._acks: deque[tuple[int, list[int]]] = deque()
        self._acker: asyncio.Task[None] | None = None
        self.lost = lost
        self.look = asyncio.Event()
        self._acked = asyncio.Event()
        self._ended = False

    def ended(self) -> bool:
        """Whether this connection has ended."""
        return self._ended

    def end(self) -> None:
        """End; for the model, which puts back what the connection had."""
        self._ended = True
        self.look.set()
        self._acked.set()

    @property
    def blocked(self) -> bool:
        """The model has no alarms."""
        return False

    async def ping(self) -> None:
        """Ask whether the model is there."""
        await self._hop("rabbit.ping")
        await self._hop("rabbit.pong")

    async def declare(self, feeds: Sequence[Feed]) -> None:
        """Make the queues of these feeds."""
        await self._hop("rabbit.declare")
        for feed in feeds:
            self._model.declare(feed)
        await self._hop("rabbit.declared")

    async def publish(self, messages: Sequence[Message], *, repeated: bool = False, only: Feed | None = None) -> None:
        """Store messages and confirm them, or one of the things that can happen instead."""
        await self._hop("rabbit.publish")
        one_feed = None if only is None else only.sub_id
        full = self._model.full(messages, only=one_feed)
        stored = [
            placed for message in messages for placed in self._model.store(message, repeated=repeated, only=one_feed)
        ]
        if self.simulation.draw("rabbit.restart"):
            self._model.restart()
        elif self.simulation.draw("rabbit.confirm_lost"):
            self._model.end(self)
        else:
            lost = self.simulation.draw("rabbit.lost_after_confirm", LOST_MAX)
            self._model.lose(stored[len(stored) - min(lost, len(stored)) :])
        self._model.wake()
        await self._hop("rabbit.confirm")
        if full:
            topics = tuple(dict.fromkeys(message.topic for message in full))
            why = "a queue is full"
            raise PublishRefused(url=URL, refused_count=len(full), batch_count=len(messages), why=why, topics=topics)

    async def share(self, messages: Sequence[Message], *, repeated: bool = False) -> None:
        """Nobody but our feeds listens to a model."""

    async def rooms(self, feed: Feed) -> list[int]:
        """How many more messages each partition takes; very many where there is no limit."""
        limit = self._model.limit
        if not limit:
            return [sys.maxsize] * len(partitions_of(feed))
        return [max(0, limit - depth) for depth in await self.depths(feed)]

    async def consume(self, feed: Feed, deliver: Callable[[Delivery], None]) -> None:
        """Bring a feed's messages."""
        await self._hop("rabbit.consume")
        self._deliver[feed.sub_id] = (feed, deliver)
        for queue in self._queues(feed):
            queue.consumers.append(self)
        if self._pump is None:
            self._pump = self._node.tasks.spawn(self._run(), name="rabbit.deliver")
        self.look.set()

    async def cancel(self, sub_id: int) -> None:
        """Bring no more of a feed, and give back what was not acknowledged."""
        self._deliver.pop(sub_id, None)
        await self._hop("rabbit.cancel")
        for (owner, _), queue in self._model.queues.items():
            if owner == sub_id:
                queue.release(self)
        self._model.wake()

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Send an acknowledgement; it arrives, or the connection ends."""
        if self.ended() or not deliveries:
            return
        self._acks.append((deliveries[0].sub_id, [delivery.tag for delivery in deliveries]))
        self._acked.set()
        if self._acker is None:
            self._acker = self._node.tasks.spawn(self._acknowledge(), name="rabbit.acknowledge")

    async def _acknowledge(self) -> None:
        while not self.ended():
            if not self._acks:
                self._acked.clear()
                await self._acked.wait()
                continue
            sub_id, tags = self._acks.popleft()
            await self.simulation.hop("rabbit.acknowledge")
            if not self.ended() and self.simulation.draw("rabbit.ack_lost"):
                self._model.end(self)
            for (owner, _), queue in self._model.queues.items():
                if owner == sub_id:  # What has been put back is not found.
                    for tag in tags:
                        queue.unacked.pop((self, tag), None)
            self.look.set()

    async def depths(self, feed: Feed) -> list[int]:
        """How many messages wait in each partition."""
        await self._hop("rabbit.depths")
        depths = [len(queue.waiting) for queue in self._queues(feed)]
        await self._hop("rabbit.depths")
        return depths

    async def drain(self, feed: Feed, limit: int) -> list[Delivery]:
        """Take up to `limit` messages of a feed that nobody consumes."""
        await self._hop("rabbit.drain")
        taken: list[Delivery] = []
        for queue in self._queues(feed):
            while queue.waiting and len(taken) < limit:
                taken.append(self._give(queue, queue.waiting.popleft()))
        await self._hop("rabbit.drain")
        return taken

    async def delete(self, feed: Feed) -> None:
        """Remove a feed's queues."""
        await self._hop("rabbit.delete")
        for name in [name for name in self._model.queues if name[0] == feed.sub_id]:
            del self._model.queues[name]

    async def close(self) -> None:
        """End; what was not acknowledged goes back."""
        self.lost = nothing
        self._model.end(self)
        for task in (self._pump, self._acker):
            if task is not None:
                task.cancel()

    async def _hop(self, what: str) -> None:
        if not self.ended():
            await self.simulation.hop(what)
        if self.ended():
            raise BrokerUnreachable(url=URL, why=f"the connection ended during {what}")

    def _queues(self, feed: Feed) -> list[ModelQueue]:
        names = [(feed.sub_id, partition) for partition in partitions_of(feed)]
        return [self._model.queues[name] for name in names if name in self._model.queues]

    async def _run(self) -> None:
        """Deliver, one message at a time, for as long as the connection lives."""
        while not self.ended():
            found = self._next()
            if found is None:
                self.look.clear()
                await self.look.wait()
                continue
            delivery, deliver = found
            await self.simulation.hop("rabbit.deliver")
            for _ in range(self.simulation.draw("rabbit.slow", SLOW_MAX)):
                await self.simulation.hop("rabbit.deliver")
            if not self.ended() and self._deliver.get(delivery.sub_id, (None, None))[1] is deliver:
                deliver(delivery)

    def _next(self) -> tuple[Delivery, Callable[[Delivery], None]] | None:
        for feed, deliver in self._deliver.values():
            for queue in self._queues(feed):
                held = sum(1 for holder, _ in queue.unacked if holder is self)
                turn = self in queue.consumers and (not queue.single or queue.consumers[0] is self)
                if turn and queue.waiting and held < feed.prefetch:
                    return self._give(queue, self._pick(queue)), deliver
        return None

    def _pick(self, queue: ModelQueue) -> Stored:
        """The head of a queue, or a message a little behind it that overtakes nobody of its own key."""
        wanted = self.simulation.draw("rabbit.reorder", REORDER_MAX)
        for at in range(min(wanted, len(queue.waiting) - 1), 0, -1):
            okey = queue.waiting[at].message.okey
            if okey is None or all(queue.waiting[before].message.okey != okey for before in range(at)):
                found = queue.waiting[at]
                del queue.waiting[at]
                return found
        return queue.waiting.popleft()

    def _give(self, queue: ModelQueue, stored: Stored) -> Delivery:
        self._tag += 1
        queue.unacked[self, self._tag] = stored
        message = stored.message
        return Delivery(queue.feed.sub_id, message, stored.repeated, partial=False, link=self, tag=self._tag)


def nothing() -> None:
    """What is called when a connection ends that was meant to."""
