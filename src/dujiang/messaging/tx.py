"""Tx: the public transaction, with the only way to emit.

`publish` writes an event row that exists if and only if the transaction commits. `enqueue`, `forget` and `notify` will ask
their first argument (a job, a read, a channel) for the rows to write; there is no other way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.data.transaction import ReadSession, Transaction
from dujiang.kernel.context import current
from dujiang.kernel.errors import Overloaded
from dujiang.kernel.ids import uuid7
from dujiang.messaging.message import Event, headers_text
from dujiang.messaging.outbox import insert_pieces
from dujiang.telemetry.tracing import current_traceparent, span

if TYPE_CHECKING:
    from collections.abc import Callable

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.message import Message

HOPS_MAX = 32


class OutboxGauge:
    """How full the outbox was when somebody last looked; the process samples it, publishers read it for nothing.

    Args:
        limit: Events that may wait; more are refused with Overloaded.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.oldest_us: int | None = None


class Tx(Transaction):
    """One transaction on the primary: statements, an ORM session, and the events that leave with its commit."""

    __slots__ = ("_cause", "_gauge", "_published", "_wake")

    def __init__(
        self,
        connection: Connection,
        database: Database,
        now_us: int,
        *,
        gauge: OutboxGauge,
        wake: Callable[[], None],
        cause: Message | None = None,
    ) -> None:
        super().__init__(connection, database, now_us)
        self._gauge = gauge
        self._wake = wake
        self._cause = cause
        self._published: list[tuple[bytes, str, str | None, str, int, bytes]] = []

    def caused_by(self, message: Message) -> None:
        """Say which message the events published from now on follow from; for the platform."""
        self._cause = message

    def publish(self, *events: Event) -> None:
        """Emit events when, and only when, this transaction commits; they keep their order.

        Raises:
            Overloaded: If the outbox already holds more than its limit.
        """
        if self._gauge.size > self._gauge.limit:
            raise Overloaded(what="the outbox", size=self._gauge.size, limit=self._gauge.limit)
        entropy = current().node.entropy
        headers = self._headers()
        for event in events:
            own = headers if event.event_version == 1 else {**headers, "version": event.event_version}
            self._published.append(
                (
                    uuid7(self.now_us, entropy.bits(62)),
                    event.event_name,
                    event.order_key(),
                    headers_text(own),
                    self.now_us,
                    event.to_bytes(),
                )
            )

    def _headers(self) -> dict[str, Any]:
        headers: dict[str, Any] = {}
        context = current()
        trace = current_traceparent()
        if trace:
            headers["traceparent"] = trace
        if context.tenant:
            headers["tenant"] = context.tenant
        if self._cause is not None:
            headers["causation"] = self._cause.message_id.hex()
            headers["correlation"] = self._cause.headers.get("correlation", self._cause.message_id.hex())
            hop = self._cause.headers.get("hop", 0)
            headers["hop"] = hop + 1 if isinstance(hop, int) and hop >= 0 else 1
            if headers["hop"] > HOPS_MAX:
                raise Overloaded(
                    what=f"the chain of events behind {self._cause.topic}", size=headers["hop"], limit=HOPS_MAX
                )
        return headers

    def _mark(self) -> tuple[int, ...]:
        return (*super()._mark(), len(self._published))

    def _back_to(self, mark: tuple[int, ...]) -> None:
        super()._back_to(mark[:-1])
        del self._published[mark[-1] :]

    def add_closing(self) -> None:
        """Append the published events to the closing statement."""
        if self._published:
            with span("messaging.outbox"):
                for piece in insert_pieces(self._database, self._published):
                    self.close_with(piece)
            self.after_commit.append(self._wake)


class Read(ReadSession):
    """A read-only session; a write through it raises."""

    __slots__ = ()
