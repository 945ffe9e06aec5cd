"""Tx: the public transaction, with the only way to emit.

`publish` writes an event row that exists if and only if the transaction commits; `forget` a row that puts an end to cached
answers (messaging/forgotten.py). `enqueue` asks its first argument, a job, for the rows to write, and so will `notify` (a
channel); there is no other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

from dujiang.data.transaction import ReadSession, Transaction
from dujiang.kernel.context import current
from dujiang.kernel.errors import DujiangError, Overloaded
from dujiang.kernel.ids import uuid7
from dujiang.messaging.forgotten import insert_piece, number_of, tag_name
from dujiang.messaging.message import Event, headers_text
from dujiang.messaging.outbox import insert_pieces
from dujiang.telemetry.tracing import current_traceparent, span

if TYPE_CHECKING:
    from datetime import datetime

    from dujiang.data.database import Connection, Database
    from dujiang.data.transaction import Piece
    from dujiang.kernel.units import Duration
    from dujiang.messaging.forgotten import Forgettable
    from dujiang.messaging.message import Message

HOPS_MAX = 32

Ts = TypeVarTuple("Ts")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")
# Makes the closing pieces of all rows that were gathered for it.
Gatherer = Callable[["Database", "Sequence[Any]"], "list[Piece]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """When and how often a job shall run.

    Attributes:
        delay: How long it waits.
        run_at: When it is due; an aware datetime.
        deadline: After which nobody wants it any more: a time, or how long from now.
        unique: At most one open job of its kind has this key.
    """

    delay: Duration | None = None
    run_at: datetime | None = None
    deadline: datetime | Duration | None = None
    unique: object = None


class Durable(Protocol[*Ts, R_co]):
    """What can be enqueued; says which rows that needs."""

    async def enqueued(self, tx: Tx, many: Sequence[Sequence[Any]], terms: Terms) -> Sequence[R_co]:
        """Add the rows to the transaction: one piece of work for each tuple of arguments; what stands for each."""
        ...

    def takes(self, *args: *Ts) -> None:
        """For type checkers: the arguments of one piece of work."""
        ...


@dataclass(eq=False, kw_only=True)
class ForgetRefused(DujiangError):
    """`tx.forget` was called with what names no cached answer."""

    code = "forget_refused"
    move = "report"
    says = "forget({what}): {why}"
    cure = 'give the read all its parameters, `tx.forget(read_order, order_id)`, or a tag, `tx.forget("order:7")`'

    what: str
    why: str


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

    __slots__ = ("_cause", "_forgot", "_forgotten", "_gathered", "_gauge", "_published", "_wake")

    def __init__(
        self,
        connection: Connection,
        database: Database,
        now_us: int,
        *,
        gauge: OutboxGauge,
        wake: Callable[[], None],
        cause: Message | None = None,
        forgot: Callable[[int, Sequence[int]], None] = lambda _, __: None,
    ) -> None:
        super().__init__(connection, database, now_us)
        self._forgot = forgot
        self._forgotten: list[int] = []
        self._gauge = gauge
        self._wake = wake
        self._cause = cause
        self._published: list[tuple[bytes, str, str | None, str, int, bytes]] = []
        self._gathered: list[tuple[Gatherer, Any]] = []

    def caused_by(self, message: Message) -> None:
        """Say which message the events published from now on follow from; for the platform."""
        self._cause = message

    @property
    def cause(self) -> Message | None:
        """The message whose handler holds this transaction, if any; for the platform."""
        return self._cause

    def publish(self, *events: Event) -> None:
        """Emit events when, and only when, this transaction commits; they keep their order.

        Raises:
            Overloaded: If the outbox already holds more than its limit.
        """
        if self._gauge.size > self._gauge.limit:
            raise Overloaded(what="the outbox", size=self._gauge.size, limit=self._gauge.limit)
        entropy = current().node.entropy
        headers = self.envelope()
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

    def forget(self, what: Forgettable | str, *args: Any, **kwargs: Any) -> None:
        """Drop cached answers when, and only when, this transaction commits; here at once, elsewhere within moments.

        Args:
            what: A read, followed by its parameters; or a tag, as "order:7", which reaches the reads of all modules. The tag
                "*" reaches everything.
            args: The read's parameters, all but its session and what the app provides.
            kwargs: The same by name.

        Raises:
            ForgetRefused: If the arguments are not the read's, or a tag comes with some.
        """
        if isinstance(what, str):
            if args or kwargs:
                raise ForgetRefused(what=repr(what), why="a tag takes no parameters")
            self._forgotten.append(number_of(tag_name(what)))
        else:
            self._forgotten.extend(map(number_of, what.names_of(*args, **kwargs)))

    async def enqueue(
        self,
        job: Durable[*Ts, R],
        *args: *Ts,
        delay: Duration | None = None,
        run_at: datetime | None = None,
        deadline: datetime | Duration | None = None,
        unique: object = None,
    ) -> R:
        """Make a job when, and only when, this transaction commits.

            ref = await tx.enqueue(send_receipt, Receipt(...), delay="5m", unique=order.id)

        Args:
            job: A job of the app: `@module.accept`.
            args: Its parameters after the first.
            delay: How long it waits, as "5m"; or
            run_at: when it is due, an aware datetime.
            deadline: A time, or how long from now; if it has not ended by then it ends as `expired`.
            unique: While an open job of this kind has the same key, that one is returned and none is made.
        """
        terms = Terms(delay=delay, run_at=run_at, deadline=deadline, unique=unique)
        return (await job.enqueued(self, [args], terms))[0]

    async def enqueue_many(
        self,
        job: Durable[*Ts, R],
        many: Iterable[tuple[*Ts]],
        *,
        delay: Duration | None = None,
        run_at: datetime | None = None,
        deadline: datetime | Duration | None = None,
    ) -> Sequence[R]:
        """Make many jobs of one kind, in one statement where the database takes arrays.

            await tx.enqueue_many(send_letter, [(letter,) for letter in letters])

        Args:
            job: See `enqueue`, as for the others.
            many: The parameters of each, as a tuple.
            delay: Of all of them.
            run_at: Of all of them.
            deadline: Of all of them.
        """
        return await job.enqueued(self, list(many), Terms(delay=delay, run_at=run_at, deadline=deadline))

    def gather(self, gatherer: Gatherer, row: Any) -> None:
        """Add a row to the closing statement, together with the others of its gatherer; for the platform."""
        self._gathered.append((gatherer, row))

    def envelope(self, *, step: int = 1) -> dict[str, Any]:
        """The headers of what leaves with this transaction; for the platform. `step` = 0 does not lengthen a chain."""
        headers: dict[str, Any] = {}
        context = current()
        trace = current_traceparent()
        if trace:
            headers["traceparent"] = trace
        if context.tenant:
            headers["tenant"] = context.tenant
        cause = self._cause if self._cause is not None or context.call is None else context.call.message
        if cause is not None:
            headers["causation"] = cause.message_id.hex()
            headers["correlation"] = cause.headers.get("correlation", cause.message_id.hex())
            hop = cause.headers.get("hop", 0)
            headers["hop"] = hop + step if isinstance(hop, int) and hop >= 0 else 1
            if headers["hop"] > HOPS_MAX:
                raise Overloaded(what=f"the chain of events behind {cause.topic}", size=headers["hop"], limit=HOPS_MAX)
        return headers

    def _mark(self) -> tuple[int, ...]:
        return (*super()._mark(), len(self._gathered), len(self._published), len(self._forgotten))

    def _back_to(self, mark: tuple[int, ...]) -> None:
        super()._back_to(mark[:-3])
        del self._gathered[mark[-3] :]
        del self._published[mark[-2] :]
        del self._forgotten[mark[-1] :]

    def add_closing(self) -> None:
        """Append the published events, the gathered rows and the fence of a job's run to the closing statement."""
        call = current().call
        if call is not None and call.fence is not None:
            self.close_with(call.fence)
        for gatherer in dict.fromkeys(gatherer for gatherer, _ in self._gathered):
            rows = [row for each, row in self._gathered if each is gatherer]
            for piece in gatherer(self._database, rows):
                self.close_with(piece)
        if self._published:
            with span("messaging.outbox"):
                for piece in insert_pieces(self._database, self._published):
                    self.close_with(piece)
            self.after_commit.append(self._wake)
        if self._forgotten:
            names, mark = self._forgotten, current().node.entropy.bits(48)
            self.close_with(insert_piece(self._database, self.now_us, mark, names))
            # First of all: whoever gets this write's answer must not read an older one here.
            self.after_commit.insert(0, lambda: self._forgot(mark, names))


class Read(ReadSession):
    """A read-only session; a write through it raises."""

    __slots__ = ()
