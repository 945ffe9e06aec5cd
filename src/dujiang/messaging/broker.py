"""The port `broker`: carries committed events to the subscriptions.

The broker carries the happy path only. Retry, delay, parking, dead letters and replay live in SQL (messaging/work.py), so
they mean the same on every broker, and a failing message leaves the broker at once.

For the next adapter: declare its capabilities truthfully; keep each numbered promise; translate every driver error to
BrokerUnreachable at the edge; then run testing/conformance/broker.py against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.messaging.message import Message
    from dujiang.messaging.work import Claim, KeyCursor


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
        gaps: Numbers below the floor that were not seen yet.
    """

    lease: int
    floor: int
    gaps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Passed:
    """What became of a batch.

    Attributes:
        owned: False when the relay had lost its lease; then nothing moved.
        subscriptions: Numbers of the subscriptions that got work; None = unknown, wake all.
        stamp: A transaction id drawn after the batch was read, where the database has such; stamps new gaps.
    """

    owned: bool
    subscriptions: tuple[int, ...] | None = None
    stamp: int | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """What a subscription got.

    Attributes:
        claims: Work under our lease.
        due_us: When the next waiting work is due, if known; wake up then.
    """

    claims: tuple[Claim, ...]
    due_us: int | None = None


class Broker(Protocol):
    """What every adapter promises; testing/conformance/broker.py holds each one to it.

    1. `publish` returns only after the whole batch is on durable storage and the cursor has moved.
    2. A batch whose cursor did not move comes again; so a message may arrive twice (see messaging/inbox.py).
    3. Work that is received and never settled comes back when the process that holds it is dead.
    4. Messages with one key reach one ordered subscription in publish order, one at a time.

    Not promised: no duplicates, and no order between keys.
    """

    capabilities: BrokerCapabilities

    async def start(self) -> None:
        """Connect."""
        ...

    async def stop(self) -> None:
        """Disconnect."""
        ...

    async def publish(self, batch: Sequence[Message], move: CursorMove) -> Passed:
        """Store a batch durably and move the cursor past it. Raises BrokerUnreachable when no confirm came in time."""
        ...

    async def receive(self, sub_id: int, lease: int, limit: int, cursor: KeyCursor | None) -> Received:
        """Take up to `limit` messages for a subscription; `cursor` is given for an ordered one. Does not wait."""
        ...


@dataclass(eq=False, kw_only=True)
class BrokerUnreachable(DujiangError):
    """The broker gave no confirm in time; the batch may or may not have arrived.

    Publishing it again is safe: consumers drop repeats by message id (messaging/inbox.py).
    """

    code = "broker_unreachable"
    move = "wait"
    says = "no confirm from {url} after {waited_s:.1f} s for {batch_count} messages"

    url: str
    waited_s: float
    batch_count: int
