"""The port `broker`: carries committed events to the subscriptions.

The broker carries the happy path only. Retry, delay, parking, dead letters and replay live in SQL (messaging/work.py), so
they mean the same on every broker, and a failing message leaves the broker at once.

There are two kinds. The broker in the business database (backends/sql) serves this port directly: publishing is routing.
A broker outside it serves the narrower port `Carrier` (messaging/carrier.py), which knows nothing of work, leases and
cursors; messaging/carried.py makes this port of it.

For the next adapter: declare its capabilities truthfully; keep each numbered promise; translate every driver error to
BrokerUnreachable at the edge; then run testing/conformance/broker.py against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.messaging.gaps import Gap
    from dujiang.messaging.message import Message
    from dujiang.messaging.standing import Standing
    from dujiang.messaging.work import Claim, KeyCursor

MOVE = Sql(
    "broker_move_cursor",
    "UPDATE dj_relay SET floor_seq = $2, gaps = $3 WHERE relay_id = 1 AND lease = $1",
    "Moves the cursor if the lease is still ours.",
)


@dataclass(frozen=True, kw_only=True)
class BrokerCapabilities:
    """What an adapter promises beyond the numbered list.

    Attributes:
        durable: A published message survives the broker's death.
        ordered_by_key: Messages with one key arrive in publish order.
        in_store: It lives in the business database: routing and cursor move in one transaction.
    """

    durable: bool
    ordered_by_key: bool
    in_store: bool


@dataclass(frozen=True, slots=True)
class CursorMove:
    """Where the relay's cursor stands after a batch; fenced by the relay's lease.

    Attributes:
        lease: The relay's lease number.
        floor: The highest number that was passed.
        gaps: Numbers below the floor that were not seen yet, ascending.
    """

    lease: int
    floor: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Passed:
    """What became of a batch.

    Attributes:
        owned: False when the relay had lost its lease; then nothing moved.
        subscriptions: Numbers of the subscriptions that got work; None = unknown, wake all.
        stamp: A transaction id drawn after the batch was read, where the database has such; stamps new gaps.
        behind: Somebody has not got all of what was passed; publish again even when there is nothing new.
        more: ... and at once, because there is room.
    """

    owned: bool
    subscriptions: tuple[int, ...] | None = None
    stamp: int | None = None
    behind: bool = False
    more: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """What a subscription got.

    Attributes:
        claims: Work under our lease.
        due_us: When the next waiting work is due, if known; wake up then.
    """

    claims: tuple[Claim, ...]
    due_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What a subscription wants of the broker.

    Attributes:
        sub_id: Its number; stored, so that a renamed subscription keeps its queue.
        topic: The stored name of its events.
        ordered: Whether events with one key must come in publish order.
        prefetch: How many messages may lie in this process without being taken; 0 = it only gets ready to receive.
    """

    sub_id: int
    topic: str
    ordered: bool
    prefetch: int = 0


class Source(Protocol):
    """Where the work of a consumer comes from: a broker, or the work tables themselves."""

    async def attend(self, feed: Feed, heard: Callable[[], None]) -> None:
        """Bring a subscription's messages to this process from now on; `heard` is called when some came.

        While the broker is away this returns all the same, and the messages come once it is back.
        """
        ...

    async def leave(self, sub_id: int) -> None:
        """Bring no more messages of a subscription; what was not received goes to others."""
        ...

    async def receive(self, sub_id: int, lease: int, limit: int, cursor: KeyCursor | None) -> Received:
        """Take up to `limit` messages for a subscription; `cursor` is given for an ordered one. Does not wait."""
        ...


class Broker(Source, Protocol):
    """What every adapter promises; testing/conformance/broker.py holds each one to it.

    1. `publish` returns only after the whole batch is on durable storage and the cursor has moved.
    2. A batch whose cursor did not move comes again; so a message may arrive twice (see messaging/inbox.py).
    3. Work that is received and never settled comes back when the process that holds it is dead.
    4. Messages with one key reach one ordered subscription in publish order, one at a time.

    Not promised: no duplicates, and no order between keys.
    """

    capabilities: BrokerCapabilities
    standing: Standing | None  # None where the broker is the database, which answers for both.

    async def start(self) -> None:
        """Connect."""
        ...

    async def stop(self) -> None:
        """Disconnect."""
        ...

    async def publish(self, batch: Sequence[Message], move: CursorMove) -> Passed:
        """Store a batch durably and move the cursor past it. Raises BrokerUnreachable when no confirm came in time."""
        ...


@dataclass(eq=False, kw_only=True)
class BrokerUnreachable(DujiangError):
    """The broker does not answer; what was sent to it may or may not have arrived.

    Publishing it again is safe: consumers drop repeats by message id (messaging/inbox.py).
    """

    code = "broker_unreachable"
    move = "wait"
    says = "the broker at {url} does not answer: {why}"

    url: str
    why: str


@dataclass(eq=False, kw_only=True)
class BrokerBlocked(DujiangError):
    """The broker has run short of memory or disk, and reads nothing from who publishes until it has more."""

    code = "broker_blocked"
    move = "wait"
    says = "an alarm of the broker at {url} stops what is published"

    url: str


@dataclass(eq=False, kw_only=True)
class BrokerRefused(DujiangError):
    """The broker took the connection and refused what was asked of it; it will refuse it again."""

    code = "broker_refused"
    move = "fix"
    says = "the broker at {url} refuses {what}: {why}"
    cure = "{how}"

    url: str
    what: str
    why: str
    how: str


@dataclass(eq=False, kw_only=True)
class PublishRefused(DujiangError):
    """The broker gave messages back: a queue is full or gone. They stay in the outbox and are sent again.

    Attributes:
        topics: Whose queues gave them back; empty when there was none.
    """

    code = "publish_refused"
    move = "wait"
    says = "the broker at {url} gave {refused_count} of {batch_count} messages back: {why}"

    url: str
    refused_count: int
    batch_count: int
    why: str
    topics: tuple[str, ...] = ()


@dataclass(eq=False, kw_only=True)
class QueuesFull(DujiangError):
    """Queues of the broker are full: what is published for these subscriptions waits in the outbox, the others go on."""

    code = "queues_full"
    move = "wait"
    says = "the queues of {names} are full; {waiting} events wait in the outbox for them"

    names: str
    waiting: int
