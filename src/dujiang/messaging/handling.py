"""Handling: runs the handler of some claims in their transaction; the step between a claim and what became of it.

    claims ──► judged ──► transaction: inbox row, handler, events, acknowledgement, outcome ──► commit
                 │ unfit              │ error: rolled back; several: each by itself
                 └──► ending          └──► ending: ready again later, or dead

Everything that says "handled" lies in the handler's own transaction, so there is no moment at which the effects are kept
and the claim is not, or the other way round. The acknowledgement is fenced by the lease: whoever was taken for dead in
the meantime rolls back. tests/proof kills a process at the crash point of each border.

A handler that takes a Call or a Job runs before that transaction and outside any, at least once (call.py, jobs/running.py);
what it leaves to be written with the end of its claim is a Closing. Runs that leave nothing and end at the same moment share
the transaction that says so (kernel/gathered.py): a thousand quick calls do not cost a thousand commits, and a slow one keeps
nobody waiting, because it joins when it has ended.

Where several events share one, a failure runs each of them alone, as in the declared batch form. A shared transaction
belongs to no single trace: it has a span of its own, `react.group`, and each event a span in the trace that published it,
linked to the shared transaction. What a handler publishes and logs carries its own event's trace, group or not.

For the moments in which foreign code runs (a validator, the handler), the message is marked (marks.py): if the process
dies there, it is known whose run it was. The consumer uses this, and so does the process in which a suspect runs alone.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from dujiang.data.transaction import transact
from dujiang.kernel.context import Context, changed, entered
from dujiang.kernel.errors import Refusal
from dujiang.kernel.gathered import Gathered
from dujiang.kernel.tasks import current_task
from dujiang.messaging.closing import Closing, Instead
from dujiang.messaging.inbox import first_time
from dujiang.messaging.newer import NEWER_VERSION_WAIT_US, Newer
from dujiang.messaging.verdict import Mixed, Unfit, judged
from dujiang.messaging.work import STATE_DUPLICATE, Claim, LeaseLost, ack_pieces, settled_by
from dujiang.telemetry.crash import crash_point
from dujiang.telemetry.tracing import active, continued, parse_traceparent, span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.ending import Ending
    from dujiang.messaging.gate import Gate
    from dujiang.messaging.marks import Marks
    from dujiang.messaging.message import Event, Message
    from dujiang.messaging.subscription import Subscription
    from dujiang.messaging.tx import Tx

    # What has run outside: its claim, its event, when it began.
    Done = tuple[Claim, Event, float]

logger = logging.getLogger("dujiang.consumer")

GROUP_MAX, QUICK_S = 32, 0.05
SETTLED_MAX = 64
DUPLICATE, PLAIN = Closing(STATE_DUPLICATE, "duplicate"), Closing()


class Handling:
    """Handles claims of one subscription in one process.

    Args:
        context: The context in which handlers run (node, runtime).
        subscription: What to do.
        database: Where the work is.
        make_tx: Makes the transaction object: (connection, now, cause).
        ending: Writes down what became of a claim that was not simply handled.
        marks: Says whose handler runs.
        gate: Learns of successes.
        halted: Called when nothing more may begin, with the claims that were not begun.
        doubt: Called when it is not known what became of a claim.

    Attributes:
        group: How many events may share a commit: doubles while handlers are quick, 1 after a failure.
        newer: What was given back because it is of a newer version.
    """

    def __init__(
        self,
        *,
        context: Context,
        subscription: Subscription,
        database: Database,
        make_tx: Callable[[Connection, int, Message | None], Tx],
        ending: Ending,
        marks: Marks,
        gate: Gate,
        halted: Callable[[Sequence[Claim]], Awaitable[None]],
        doubt: Callable[[], None],
    ) -> None:
        self.group = 1
        self.newer = Newer(context.node.clock, subscription.name, subscription.event.event_version)
        self._context = context
        self._node = context.node
        self._subscription = subscription
        self._database = database
        self._make_tx = make_tx
        self._ending = ending
        self._marks = marks
        self._gate = gate
        self._settled = Gathered(self._settle, context.node.tasks, f"{subscription.name}.settled", SETTLED_MAX)
        self._halted = halted
        self._doubt = doubt

    async def handle(self, claims: list[Claim]) -> None:
        """Handle a batch in one transaction; if that fails and there is more than one, each by itself."""
        ready: list[tuple[Claim, Event]] = []
        for claim in claims:
            event = await self._decoded(claim)
            if event is not None:
                ready.append((claim, event))
        if not ready:
            return
        if (error := await self._try(ready)) is None:
            return
        self.group = 1
        for place, one in enumerate(ready):
            if len(ready) > 1:
                error = await self._try([one])
            buried = error is not None and await self._ending.failed(one[0], error)
            if self._gate.closed or (buried and self._subscription.on_fail == "halt"):
                await self._halted([claim for claim, _ in ready[place + 1 :]])
                return

    async def _decoded(self, claim: Claim) -> Event | None:
        """The event of a claim; None when the claim was dealt with because it is none."""
        now_us = self._node.clock.now_us()
        with self._marks.on((claim.sub_id, claim.message.seq)):
            found = judged(claim.message, self._subscription, now_us)
        if not isinstance(found, Unfit):
            event: Event = found
            return event
        if found.reason:
            await self._ending.bury(claim, found.reason, found.error)
            if self._subscription.on_fail == "halt":
                await self._halted([])
        else:
            await self._ending.give_back(claim, now_us + NEWER_VERSION_WAIT_US, forget_attempt=True)
            self._ending.count(claim, "newer")
            await self.newer.note(self._database, claim.sub_id, claim.message)
        return None

    async def _try(self, ready: Sequence[tuple[Claim, Event]]) -> BaseException | None:
        """Run the transaction of these claims; the error if it rolled back."""
        first = ready[0][0].message
        context = self._context.but(
            tenant=str(first.headers.get("tenant", "")),
            deadline=self._node.clock.monotonic() + self._subscription.timeout_s,
            limited=True,
        )
        began = self._node.clock.monotonic()
        name = self._subscription.name
        surrounding = continued("", "react.group", name, count=len(ready)) if len(ready) > 1 else self._for(first)
        with entered(context), surrounding:
            try:
                outcome = await self._outcome(ready, began)
            except LeaseLost as error:
                logger.warning("%s", error)
                self._doubt()
                # One of several may be lost, and the others still ours: each by itself tells.
                return error if len(ready) > 1 else None
            except asyncio.CancelledError as error:
                if not current_task().cancelling():
                    return error  # Nobody cancelled us: the handler raised it by itself, which is a failure like any other.
                if self._ending.stopping:
                    # The run of a Call may have had its effect, so it counts.
                    forget = self._subscription.outside is None
                    for claim, _ in ready:
                        await self._ending.give_back(claim, self._node.clock.now_us(), forget_attempt=forget)
                raise
            except (GeneratorExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001  (a handler may raise anything; it is answered by retry or burial)
                return error
        crash_point("after_commit_before_broker_ack")
        self._gate.passed([claim.message.seq for claim, _ in ready])
        for claim, _ in ready:
            self._ending.report(claim, outcome, began)
        return None

    async def _outcome(self, ready: Sequence[tuple[Claim, Event]], began: float) -> str:
        """Run the handler, in the transaction that ends the claims or before it; what became of them."""
        outside = self._subscription.outside
        if outside is None:
            return await self._commit(ready, began, None)
        claim, event = ready[0]
        with self._marks.on((claim.sub_id, claim.message.seq)):
            closing = await outside(self._subscription, self._database, claim, event)
        if closing.ended:
            return closing.outcome
        if closing == PLAIN:
            return await self._settled((claim, event, began))
        with changed(deadline=self._node.clock.monotonic() + self._subscription.timeout_s):
            try:
                return await self._commit(ready, began, closing)
            except Instead as other:
                return await self._commit(ready, began, other.closing)

    async def _settle(self, done: Sequence[Done]) -> list[str | BaseException]:
        """End the claims of runs that leave nothing else to be written, in one transaction; if it fails, each by itself."""
        ready, began = [(claim, event) for claim, event, _ in done], sum(one[2] for one in done) / len(done)
        many, name = len(done) > 1, self._subscription.name
        context = self._context.but(deadline=self._node.clock.monotonic() + self._subscription.timeout_s, limited=True)
        try:
            with entered(context), continued("", "react.group", name, count=len(done)) if many else nullcontext():
                return [await self._commit(ready, began, PLAIN)] * len(done)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  (each caller gets its own)
            if not many:
                return [error]
        return [answer for one in done for answer in await self._settle([one])]

    async def _commit(self, ready: Sequence[tuple[Claim, Event]], began: float, closing: Closing | None) -> str:
        with self._node.limits.within(self._subscription.timeout_s):
            return await transact(
                self._database,
                lambda connection, now_us: self._make_tx(connection, now_us, ready[0][0].message),
                lambda tx: self._run(tx, ready, began, closing),
                what=self._subscription.name,
                settle=settled_by(ready[0][0]),
            )

    async def _run(self, tx: Tx, ready: Sequence[tuple[Claim, Event]], began: float, closing: Closing | None) -> str:
        todo = await self._fresh(tx, ready) if self._subscription.routed else []
        if closing is None:  # Otherwise the handler has run already, outside.
            await self._handle(tx, ready[0][0].sub_id, todo, shared=len(ready) > 1)
        crash_point("handler_done")
        took_us = int((self._node.clock.monotonic() - began) * 1e6)
        ending = closing or Closing()
        if self._subscription.routed and not todo:
            ending = DUPLICATE
        crash_point("before_ack_commit")
        claims = [claim for claim, _ in ready]
        pieces = ack_pieces(self._database, self._subscription.name, claims, ending.state, tx.now_us, took_us)
        for piece in (*pieces, *ending.pieces(tx.now_us)):
            tx.close_with(piece)
        return ending.outcome

    async def _fresh(self, tx: Tx, ready: Sequence[tuple[Claim, Event]]) -> list[tuple[Message, Event]]:
        """What was not handled before, by the inbox. Raises Mixed for a part of several."""
        with span("messaging.inbox"):
            ids = [claim.message.message_id for claim, _ in ready]
            fresh = await first_time(tx, self._database, ready[0][0].sub_id, ids)
        todo = {
            claim.message.message_id: (claim.message, event)
            for claim, event in ready
            if claim.message.message_id in fresh
        }
        if todo and len(todo) < len(ready):
            raise Mixed
        return list(todo.values())

    @contextmanager
    def _for(self, message: Message, group: Any = None) -> Iterator[None]:
        """Work in the trace of a message; `group` names the span of the transaction that it shares."""
        text = str(message.headers.get("traceparent", ""))
        trace = parse_traceparent(text)
        with changed(trace_id=trace[0] if trace else ""), continued(text, "react", self._subscription.name, link=group):
            yield

    async def _handle(self, tx: Tx, sub_id: int, todo: Sequence[tuple[Message, Event]], *, shared: bool) -> None:
        group = active() if shared else None
        if todo and self._subscription.lists:
            with ExitStack() as spans, self._marks.on(*((sub_id, message.seq) for message, _ in todo)):
                # The first one is the innermost: its trace goes on.
                for message, _ in reversed(todo if shared else ()):
                    spans.enter_context(self._for(message, group))
                refusals = await self._subscription.handle(tx, [event for _, event in todo])
            for refusal in refusals:
                if isinstance(refusal, Refusal):
                    raise refusal
            return
        began = self._node.clock.monotonic()
        for message, event in todo:
            tx.caused_by(message)
            with self._marks.on((sub_id, message.seq)), self._for(message, group) if shared else nullcontext():
                await self._subscription.handle(tx, [event])
        quick = (self._node.clock.monotonic() - began) < QUICK_S * len(todo)
        self.group = min(GROUP_MAX, self.group * 2) if quick else 1
