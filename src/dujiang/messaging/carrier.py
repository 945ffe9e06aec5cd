"""The port `Carrier`: what a broker outside the store must be able to do, and nothing more.

    publish(messages)  -> returns when all are confirmed
    consume(feed)      -> deliveries, in the order of each partition
    acknowledge        -> gone for good
    a connection that ends -> what was not acknowledged comes again

Everything else (work, leases, retries, order behind a parked key) is messaging/carried.py, written once. So an adapter
is a connection, names of queues, and a translation of errors.

Order is kept by partitions: all messages with one key go through one queue, which brings them to one consumer at a time.
The number of partitions is a constant of the platform. Two publishers that counted differently would send one key
through two queues, and no test of one of them alone could see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.messaging.broker import Feed
    from dujiang.messaging.message import Message

PARTITIONS = 8


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that a connection brought, not acknowledged yet.

    Attributes:
        sub_id: Whose it is.
        message: The message; of one that is too large for an envelope, headers and payload lie in the outbox.
        repeated: The broker or the publisher says that it may have come before.
        partial: Headers and payload are missing; whoever takes it reads them from the outbox.
        link: The connection that brought it; only there it can be acknowledged.
        tag: The connection's own mark of it.
    """

    sub_id: int
    message: Message
    repeated: bool
    partial: bool
    link: Link
    tag: Any


class Link(Protocol):
    """One connection. A method on a broken one raises BrokerUnreachable; it never mends itself.

    1. `publish` returns only after every message is on durable storage of the broker, in every queue that wants it.
    2. Deliveries of one partition come in the order in which they were published.
    3. What was delivered and not acknowledged when the connection ends comes again, before what stood behind it.
    """

    @property
    def blocked(self) -> bool:
        """Whether the broker has said that it reads nothing of what is published here."""
        ...

    async def ping(self) -> None:
        """Return when the broker has confirmed a message that no queue wants. Raises BrokerUnreachable."""
        ...

    async def declare(self, feeds: Sequence[Feed]) -> None:
        """Make the queues of these feeds, or check them. Raises BrokerRefused when one exists and differs."""
        ...

    async def rooms(self, feed: Feed) -> list[int]:
        """How many more messages each partition takes."""
        ...

    async def share(self, messages: Sequence[Message], *, repeated: bool = False) -> None:
        """Store messages for whoever listens beside our feeds."""
        ...

    async def publish(self, messages: Sequence[Message], *, repeated: bool = False, only: Feed | None = None) -> None:
        """Store messages for every feed of their topic, or for one feed only.

        Args:
            messages: In the order in which they must arrive.
            repeated: They may have been published before; deliveries will say so.
            only: The one feed that gets them.

        Raises:
            BrokerUnreachable: When not all were confirmed in time; each may or may not have arrived.
            PublishRefused: When the broker gave some back.
        """
        ...

    async def consume(self, feed: Feed, deliver: Callable[[Delivery], None]) -> None:
        """Bring a feed's messages: at most `feed.prefetch` for each partition that are not acknowledged."""
        ...

    async def cancel(self, sub_id: int) -> None:
        """Bring no more of a feed, and give back what was not acknowledged."""
        ...

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Say that deliveries, the oldest ones of their feed, need not come again. Waits for no answer; may be lost."""
        ...

    async def depths(self, feed: Feed) -> list[int]:
        """How many messages wait in each partition, undelivered."""
        ...

    async def drain(self, feed: Feed, limit: int) -> list[Delivery]:
        """Take up to `limit` messages of a feed that nobody consumes any more; none = it is empty."""
        ...

    async def delete(self, feed: Feed) -> None:
        """Remove a feed's queues with what is in them."""
        ...

    async def close(self) -> None:
        """End; may be called twice and on a broken connection."""
        ...


class Carrier(Protocol):
    """Makes connections."""

    async def connect(self, lost: Callable[[], None]) -> Link:
        """A new connection; `lost` is called once when it ends by itself. Raises BrokerUnreachable, BrokerRefused."""
        ...


def partition_of(message: Message) -> int:
    """The partition of a message: the same for one key, always and everywhere; without a key any will do."""
    if message.okey is None:
        return message.seq % PARTITIONS
    return int.from_bytes(blake2b(message.okey.encode(), digest_size=4).digest(), "big") % PARTITIONS


def partitions_of(feed: Feed) -> range:
    """The partitions of a feed: an unordered one has a single queue, from which any process may take."""
    return range(PARTITIONS if feed.ordered else 1)
