"""Link: one connection to RabbitMQ; two of the protocol's connections, so that a blocked publisher stops no consumer.

    exchange dj.events (topic)          routing key  <event>.<partition>
      ├─ queue dj.3.u    unordered      bound to     <event>.*
      └─ queue dj.4.0 .. dj.4.7         bound to     <event>.0 .. <event>.7, single active consumer

topology.py holds the names. All queues are quorum queues. A queue holds up to `queue_limit` messages and then refuses:
its subscription falls behind, by itself, and the outbox holds what it lacks (messaging/publishing.py). Its events then go
to each other queue directly, and once through the exchange under `<event>.<partition>.shared`, which none of our queues
is bound to. There is no limit of deliveries and no dead-letter exchange: messages are acknowledged before their handler
runs, so what comes again and again is the neighbour of a fault, not its cause.

A quorum queue of a node that was killed while it was fresh is not only empty afterwards: it is declared without complaint
and then answers nobody, neither a consumer nor a publisher. So a consumer that gets no answer makes its queue a suspect,
and one that was suspected twice in a row is deleted and made again. RabbitMQ deletes such a queue only if its replicas
are really gone; and whatever was in it is found missing and published again (messaging/reconcile.py).

A connection that has any trouble is given up whole: the caller gets BrokerUnreachable, and messaging/carried.py makes a
new one, on which queues are checked and consumers begin anew. There is no half-mended state to be in. That is why the
driver is aiormq and not aio-pika, whose robust connections mend themselves, and whose publish waits meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiormq
from aiormq import exceptions
from pamqp.commands import Basic

from dujiang.backends.rabbitmq.envelope import message_of, properties_of
from dujiang.backends.rabbitmq.topology import arguments_of, binding_of, key_of, queues_of
from dujiang.kernel.tasks import all_of, current_task, outcomes_of
from dujiang.messaging.broker import BrokerBlocked, BrokerRefused, BrokerUnreachable, PublishRefused
from dujiang.messaging.carrier import Delivery, partition_of, partitions_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

    from dujiang.backends.rabbitmq.broker import Options
    from dujiang.kernel.node import Node
    from dujiang.messaging.broker import Feed
    from dujiang.messaging.message import Message

logger = logging.getLogger("dujiang.broker")

# Whatever goes wrong reaches the caller as an error of the port; the driver's own lines would say it a second time.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)

WINDOW = 500
CLOSE_S, ANSWER_S, DELETE_S = 2.0, 5.0, 30.0
SUSPECTED_MAX = 2

TROUBLE = (exceptions.AMQPError, exceptions.ChannelInvalidStateError, OSError, RuntimeError, TimeoutError, EOFError)


class RabbitLink:
    """One connection; made by RabbitCarrier.

    Args:
        options: What the URL says.
        node: The running copy.
        lost: Called once when it ends by itself.
        suspected: How often in a row a queue did not answer; outlives the connection.
    """

    def __init__(
        self, options: Options, node: Node, lost: Callable[[], None], suspected: Counter[str] | None = None
    ) -> None:
        self._suspected: Counter[str] = Counter() if suspected is None else suspected
        self._options = options
        self._node = node
        self._lost = lost
        self._ended = False
        self._connections: list[AbstractConnection] = []
        self._consuming: dict[int, list[AbstractChannel]] = {}
        self._leaving: set[AbstractChannel] = set()
        self._declared: set[tuple[int, str, bool]] = set()

    async def open(self) -> None:
        """Connect. Raises BrokerUnreachable, BrokerRefused."""
        async with self._translated("connecting", limit_s=self._options.connect_timeout_s):
            for name in ("publish", "consume"):
                properties: dict[str, Any] = {"connection_name": f"{self._node.name} {name}"}
                connection = await aiormq.connect(self._options.driver_url, client_properties=properties)
                self._connections.append(connection)
                connection.closing.add_done_callback(self._on_end)
            self._publishing = await self._channel(0, confirms=True)
            self._asking = await self._channel(1)
            await self._asking.exchange_declare(self._options.exchange, exchange_type="topic", durable=True)

    async def _channel(self, connection: int, *, confirms: bool = False) -> AbstractChannel:
        channel = await self._connections[connection].channel(publisher_confirms=confirms)
        channel.closing.add_done_callback(lambda ended: None if channel in self._leaving else self._on_end(ended))
        return channel

    def _on_end(self, _: object) -> None:
        """A connection or a channel has ended that was not told to; this link is over."""
        if self._ended:
            return
        self._ended = True
        self._node.tasks.spawn(self._close_all(), name="broker.close")
        self._lost()

    async def close(self) -> None:
        """End; what was not acknowledged goes back."""
        self._ended = True
        await self._close_all()

    async def _close_all(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await connection.close()
            except TROUBLE:
                pass  # It is gone all the same.

    @asynccontextmanager
    async def _translated(self, what: str, *, limit_s: float = 0.0) -> AsyncIterator[None]:
        """Turn whatever the driver raises into the errors of the port; trouble ends the link."""
        url = self._options.shown
        try:
            async with asyncio.timeout(limit_s or self._options.confirm_timeout_s):
                yield
        except (exceptions.AuthenticationError, exceptions.ProbableAuthenticationError) as error:
            how = "put a user of that broker and its password into the setting `broker`"
            raise BrokerRefused(url=url, what="the user or its password", why=said(error), how=how) from error
        except (exceptions.ConnectionNotAllowed, exceptions.ChannelAccessRefused) as error:
            how = "make the virtual host (rabbitmqctl add_vhost) and give the user its rights there (set_permissions)"
            raise BrokerRefused(url=url, what=what, why=said(error), how=how) from error
        except exceptions.ChannelPreconditionFailed as error:
            how = (
                "drain and delete what exists (rabbitmqctl delete_queue NAME), or keep this installation apart from it"
                " with ?prefix=NAME in the URL"
            )
            raise BrokerRefused(url=url, what=f"{what} as this version needs it", why=said(error), how=how) from error
        except asyncio.CancelledError as error:
            if current_task().cancelling():
                raise
            self._on_end(None)  # The driver cancels who waits for a connection that ends.
            raise BrokerUnreachable(url=url, why=f"the connection ended during {what}") from error
        except TROUBLE as error:
            blocked = self.blocked
            self._on_end(None)
            if blocked:
                raise BrokerBlocked(url=url) from error
            raise BrokerUnreachable(url=url, why=f"{what}: {said(error)}") from error

    # Queues -----------------------------------------------------------------------------------------------------------

    async def declare(self, feeds: Sequence[Feed]) -> None:
        """Make the queues of these feeds, or check them; those of a feed's other form go."""
        for feed in feeds:
            mark = (feed.sub_id, feed.topic, feed.ordered)
            if mark in self._declared:
                continue
            await self._replace(feed)
            for partition in partitions_of(feed):
                name = self._queue(feed, partition)
                async with self._translated(f"the queue {name}"):
                    await self._declare_one(feed, partition)
                    await self._asking.queue_bind(name, self._options.exchange, binding_of(feed, partition))
            async with self._translated("old queues"):
                for name in self._names(feed.sub_id, ordered=not feed.ordered):
                    await self._asking.queue_delete(name)
            self._declared.add(mark)

    async def _replace(self, feed: Feed) -> None:
        """Delete queues that answer nobody; what was in them is published again."""
        names = self._names(feed.sub_id, ordered=feed.ordered)
        dead = [name for name in names if self._suspected[name] >= SUSPECTED_MAX]
        if not dead:
            return
        logger.error("queues that do not answer are deleted and made again: %s", ", ".join(dead))

        async def delete(name: str) -> None:
            channel = await self._channel(1)
            await channel.queue_delete(name)
            del self._suspected[name]

        async with self._translated("queues that do not answer", limit_s=DELETE_S):
            await all_of(*(delete(name) for name in dead))

    async def _declare_one(self, feed: Feed, partition: int) -> None:
        arguments = arguments_of(feed, self._options.queue_limit)
        await self._asking.queue_declare(self._queue(feed, partition), durable=True, arguments=arguments)

    def _queue(self, feed: Feed, partition: int) -> str:
        return self._names(feed.sub_id, ordered=feed.ordered)[partition]

    def _names(self, sub_id: int, *, ordered: bool) -> list[str]:
        return queues_of(self._options.prefix, sub_id, ordered=ordered)

    async def depths(self, feed: Feed) -> list[int]:
        """How many messages wait in each partition, undelivered. A queue that is gone ends the link: it is to be bound too."""

        async def depth(partition: int) -> int:
            return (await self._asking.queue_declare(self._queue(feed, partition), passive=True)).message_count or 0

        async with self._translated("counting"):
            return [await depth(partition) for partition in partitions_of(feed)]

    async def rooms(self, feed: Feed) -> list[int]:
        """How many more messages each partition takes; very many where there is no limit."""
        limit = self._options.queue_limit
        if not limit:
            return [sys.maxsize] * len(partitions_of(feed))
        return [max(0, limit - depth) for depth in await self.depths(feed)]

    async def drain(self, feed: Feed, limit: int) -> list[Delivery]:
        """Take up to `limit` messages of a feed that nobody consumes any more."""
        taken: list[Delivery] = []
        async with self._translated("draining"):
            for partition in partitions_of(feed):
                await self._declare_one(feed, partition)
                while len(taken) < limit:
                    got = await self._asking.basic_get(self._queue(feed, partition))
                    if isinstance(got.delivery, Basic.GetEmpty):
                        break
                    taken.append(self._delivery(feed, got, partition))
        return taken

    async def delete(self, feed: Feed) -> None:
        """Remove a feed's queues with what is in them."""
        async with self._translated("deleting queues"):
            for ordered in (True, False):
                for name in self._names(feed.sub_id, ordered=ordered):
                    await self._asking.queue_delete(name)
        self._declared = {mark for mark in self._declared if mark[0] != feed.sub_id}

    # Publishing -------------------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message], *, repeated: bool = False, only: Feed | None = None) -> None:
        """Store messages, up to 500 unconfirmed at a time, and return when all are confirmed."""
        for start in range(0, len(messages), WINDOW):
            window = messages[start : start + WINDOW]
            async with self._translated("publishing"):
                sent = (self._send(one, self._address(one, only), repeated=repeated) for one in window)
                self._judge(window, await outcomes_of(*sent), len(messages))

    async def share(self, messages: Sequence[Message], *, repeated: bool = False) -> None:
        """Store messages for the queues of other programs; nobody may want them."""
        for start in range(0, len(messages), WINDOW):
            window = messages[start : start + WINDOW]
            async with self._translated("publishing"):
                exchange = self._options.exchange
                sent = (
                    self._send(one, (exchange, f"{key_of(one)}.shared"), repeated=repeated, mandatory=False)
                    for one in window
                )
                self._judge(window, await outcomes_of(*sent), len(messages))

    def _address(self, message: Message, only: Feed | None) -> tuple[str, str]:
        """Exchange and routing key: of everybody who wants the event, or of one feed's queue."""
        if only is None:
            return self._options.exchange, key_of(message)
        return "", self._queue(only, partition_of(message) if only.ordered else 0)

    def _send(self, message: Message, to: tuple[str, str], *, repeated: bool, mandatory: bool = True) -> Any:
        channel: Any = self._publishing  # The driver's abstract class does not know `wait`.
        properties = properties_of(message, repeated=repeated)
        return channel.basic_publish(
            message.payload, exchange=to[0], routing_key=to[1], properties=properties, mandatory=mandatory, wait=False
        )

    def _judge(self, window: Sequence[Message], outcomes: Sequence[Any], batch_count: int) -> None:
        """Raise what there is to raise; a refusal names the topics, unless they have no queue at all."""
        refused: dict[str, BaseException] = {}
        count = 0
        for message, outcome in zip(window, outcomes, strict=True):
            if isinstance(outcome, exceptions.DeliveryError):
                refused.setdefault(message.topic, outcome)
                count += 1
            elif isinstance(outcome, BaseException):
                raise outcome
        if not refused:
            return
        gone = any(isinstance(error, exceptions.PublishError) for error in refused.values())
        if gone:
            self._declared.clear()  # A queue that somebody deleted is made again.
        why, topics = (
            ("no queue wants them", ()) if gone else ("a queue is full or has lost its leader", tuple(refused))
        )
        url = self._options.shown
        raise PublishRefused(url=url, refused_count=count, batch_count=batch_count, why=why, topics=topics)

    @property
    def blocked(self) -> bool:
        """Whether the broker has said that an alarm stops what is published here; it tells only who has published."""
        if not self._connections:
            return False
        waits: Any = self._connections[0].ready()  # It suspends if and only if the connection is blocked.
        try:
            waits.send(None)
        except StopIteration:
            return False
        finally:
            waits.close()
        return True

    async def ping(self) -> None:
        """Publish a message that no queue wants, and return when it is confirmed."""
        async with self._translated("asking for a confirm"):
            await self._publishing.basic_publish(b"", exchange="", routing_key=f"{self._options.prefix}.ping")

    # Consuming --------------------------------------------------------------------------------------------------------

    async def consume(self, feed: Feed, deliver: Callable[[Delivery], None]) -> None:
        """Bring a feed's messages, each partition on a channel of its own, so that one queue cannot hold up the others."""
        channels: list[AbstractChannel] = []
        self._consuming[feed.sub_id] = channels

        async def begin(partition: int) -> None:
            channel = channels[partition]

            async def receive(delivered: DeliveredMessage) -> None:
                if self._consuming.get(feed.sub_id) is channels and not self._ended:
                    deliver(self._delivery(feed, delivered, partition))

            queue = self._queue(feed, partition)
            await channel.basic_qos(prefetch_count=feed.prefetch)
            try:
                async with asyncio.timeout(ANSWER_S):
                    await channel.basic_consume(queue, receive)
            except TimeoutError:
                self._suspected[queue] += 1
                raise
            del self._suspected[queue]

        async with self._translated("consuming", limit_s=2 * ANSWER_S):
            for _ in partitions_of(feed):
                channel = await self._channel(1)
                channel.on_consumer_cancel_callbacks.add(self._on_end)
                channels.append(channel)
            outcomes = await outcomes_of(*(begin(partition) for partition in partitions_of(feed)))
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome

    def _delivery(self, feed: Feed, delivered: DeliveredMessage, partition: int) -> Delivery:
        message, repeated, partial = message_of(delivered, feed.topic, self._node.clock.now_us())
        frame: Any = delivered.delivery
        tag = (partition, frame.delivery_tag)
        return Delivery(feed.sub_id, message, repeated or bool(frame.redelivered), partial, self, tag)

    async def cancel(self, sub_id: int) -> None:
        """Bring no more of a feed; its channels end, and what was not acknowledged goes back."""
        channels = self._consuming.pop(sub_id, [])
        if self._ended:
            return
        async with self._translated("cancelling"):
            for channel in channels:
                self._leaving.add(channel)
                await channel.close()

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries and all before them on their channels; the oldest come first, so that is the same."""
        last = dict(delivery.tag for delivery in deliveries)
        channels = self._consuming.get(deliveries[0].sub_id)
        async with self._translated("acknowledging"):
            for partition, tag in last.items():
                channel = self._asking if channels is None else channels[partition]
                await channel.basic_ack(tag, multiple=True, wait=False)


class RabbitCarrier:
    """Connects to RabbitMQ.

    Args:
        options: What the URL says.
        node: The running copy.
    """

    def __init__(self, options: Options, node: Node) -> None:
        self._options = options
        self._node = node
        self._suspected: Counter[str] = Counter()

    async def connect(self, lost: Callable[[], None]) -> RabbitLink:
        """A new connection. Raises BrokerUnreachable, BrokerRefused."""
        link = RabbitLink(self._options, self._node, lost, self._suspected)
        try:
            await link.open()
        except BaseException:
            await link.close()
            raise
        return link


def said(error: BaseException) -> str:
    """What an error of the driver says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
