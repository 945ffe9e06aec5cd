"""A model of RabbitMQ in memory, for the deterministic simulation: the same port, all that can go wrong, nothing else.

    RabbitModel (one per simulated cluster, outside its nodes)         kernel/simulation.py
      queues: waiting ── consumer ──► unacknowledged                     await hop("...")   one way over the network
      connections, one per node                                          draw("...", high)  0 = nothing bad

What it keeps of RabbitMQ is what others rely on: a publish reaches every queue bound to its topic, or is confirmed not
at all; a queue brings its messages in order, the queue of a partition to one consumer at a time; what was delivered and
not acknowledged when its connection ends comes back to the head of its queue, in order, marked as repeated.

What it adds are the faults, each decided by a draw and named by it:

    rabbit.refused             a connection is refused, and so are the next few
    rabbit.confirm_lost        the messages are stored, the confirm never comes, the connection ends
    rabbit.lost_after_confirm  so many of the last messages of a confirmed batch are gone
    rabbit.ack_lost            an acknowledgement does not arrive and the connection ends: what was handled comes again
    rabbit.reorder             a message of another key overtakes the head of its queue
    rabbit.slow                a delivery takes so many hops more
    rabbit.restart             all connections end; what was not acknowledged is back in its queue

RabbitMQ itself does not reorder within a queue. The model does, between keys, because the port promises nothing there,
and code that relied on it would be found only on the next broker.

A killed machine leaves its connection behind; whoever kills it says `model.disconnect(machine)`. From then on nothing
that the old connection does has any effect. No time, no chance, no tasks but the node's own: one seed, one course.
tests/conformance/test_broker_model.py runs the whole suite over a quiet model, and each fault by itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dujiang.backends.rabbitmq.simulated.link import URL, ModelLink
from dujiang.messaging.broker import BrokerUnreachable
from dujiang.messaging.carrier import partition_of, partitions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.kernel.node import Node
    from dujiang.kernel.simulation import Simulation
    from dujiang.messaging.broker import Feed
    from dujiang.messaging.message import Message

REFUSED_MAX = 3

QueueName = tuple[int, int]


@dataclass(eq=False, slots=True)
class Stored:
    """A message in a queue.

    Attributes:
        message: The message.
        repeated: Marked by its publisher, or delivered before.
    """

    message: Message
    repeated: bool


@dataclass(eq=False)
class ModelQueue:
    """One queue.

    Attributes:
        feed: Whose it is.
        single: One consumer at a time gets its messages.
        waiting: Not delivered, in order.
        unacked: Delivered: the connection and its tag -> the message.
        consumers: Connections that want its messages, in the order in which they came.
    """

    feed: Feed
    single: bool
    waiting: deque[Stored] = field(default_factory=deque)
    unacked: dict[tuple[ModelLink, int], Stored] = field(default_factory=dict)
    consumers: list[ModelLink] = field(default_factory=list)

    def release(self, link: ModelLink) -> None:
        """Put back, in order, what a connection had."""
        mine = sorted(tag for holder, tag in self.unacked if holder is link)
        for tag in reversed(mine):
            stored = self.unacked.pop((link, tag))
            stored.repeated = True
            self.waiting.appendleft(stored)
        if link in self.consumers:
            self.consumers.remove(link)


class RabbitModel:
    """The broker; it outlives the nodes that connect to it.

    Attributes:
        lost: How many messages it lost after their confirm.
        lost_keys: Subscriptions and keys of which it lost one: their order cannot be kept.
        away: It takes no connection; for tests that want it away for as long as they say.
        links: The living connections, in the order in which they came.
        limit: How many messages may wait in a queue before it refuses more; 0 = any number.
    """

    def __init__(self) -> None:
        self.queues: dict[QueueName, ModelQueue] = {}
        self.lost = 0
        self.lost_keys: set[tuple[int, str]] = set()
        self.away = False
        self.links: list[ModelLink] = []
        self.limit = 0
        self._refusals = 0
        self._turn = 0

    def __repr__(self) -> str:
        waiting = sum(len(queue.waiting) for queue in self.queues.values())
        return f"<RabbitModel, {len(self.queues)} queues, {waiting} waiting>"

    def disconnect(self, machine: Simulation) -> None:
        """End the connections of a machine, which may be dead: nothing that they still do has any effect."""
        for link in [link for link in self.links if link.simulation is machine]:
            self.end(link)

    def end(self, link: ModelLink) -> None:
        """End one connection."""
        if link.ended():
            return
        link.end()
        self.links.remove(link)
        for queue in self.queues.values():
            queue.release(link)
        self.wake()
        if not link.simulation.dead:
            link.lost()

    def restart(self) -> None:
        """Kill the broker and start it: all connections end, what was not acknowledged is in its queue again."""
        for link in list(self.links):
            self.end(link)

    def connect(self, node: Node, simulation: Simulation, lost: Callable[[], None]) -> ModelLink:
        """A new connection of a node. Raises BrokerUnreachable while connections are refused."""
        if self._refusals == 0:
            self._refusals = simulation.draw("rabbit.refused", REFUSED_MAX)
        if self._refusals or self.away:
            self._refusals = max(0, self._refusals - 1)
            raise BrokerUnreachable(url=URL, why="connection refused")
        link = ModelLink(self, node, simulation, lost)
        self.links.append(link)
        return link

    def declare(self, feed: Feed) -> None:
        """Make the queues of a feed; those of its other form go."""
        names = {(feed.sub_id, partition) for partition in partitions_of(feed)}
        for name in [name for name, queue in self.queues.items() if name[0] == feed.sub_id]:
            if name not in names or self.queues[name].single != feed.ordered:
                del self.queues[name]
        for name in sorted(names):
            queue = self.queues.setdefault(name, ModelQueue(feed, single=feed.ordered))
            queue.feed = feed

    def store(self, message: Message, *, repeated: bool, only: int | None) -> list[tuple[ModelQueue, Stored]]:
        """Put a message into every queue that wants it."""
        stored = []
        for queue in self._wanting(message, only):
            if not self.limit or len(queue.waiting) < self.limit:
                one = Stored(message, repeated)
                queue.waiting.append(one)
                stored.append((queue, one))
        return stored

    def full(self, messages: Sequence[Message], *, only: int | None) -> list[Message]:
        """Those of the messages that some queue will refuse."""
        if not self.limit:
            return []
        room = {id(queue): self.limit - len(queue.waiting) for queue in self.queues.values()}
        refused = []
        for message in messages:
            queues = self._wanting(message, only)
            for queue in queues:
                room[id(queue)] -= 1
            if any(room[id(queue)] < 0 for queue in queues):
                refused.append(message)
        return refused

    def _wanting(self, message: Message, only: int | None) -> list[ModelQueue]:
        """The queues that want a message; of one subscription, if it is given."""
        return [
            queue
            for (sub_id, partition), queue in self.queues.items()
            if (queue.feed.topic == message.topic if only is None else sub_id == only)
            and (not queue.single or partition == partition_of(message))
        ]

    def lose(self, stored: Sequence[tuple[ModelQueue, Stored]]) -> None:
        """Lose messages that were confirmed; one that was delivered meanwhile is not lost."""
        for queue, one in stored:
            if one in queue.waiting:
                queue.waiting.remove(one)
                self.lost += 1
                if one.message.okey is not None:
                    self.lost_keys.add((queue.feed.sub_id, one.message.okey))

    def wake(self) -> None:
        """Let every connection look for messages; the one that had the last turn looks last."""
        self._turn += 1
        for at in range(len(self.links)):
            self.links[(at + self._turn) % len(self.links)].look.set()
