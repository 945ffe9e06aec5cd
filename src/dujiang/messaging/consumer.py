"""Consumer: does the work of one subscription, each message with one effect.

    claim ──► waiting ──► runner 1..n ──► transaction: inbox row, handler, events, acknowledgement, outcome ──► commit
                             │ error
                             └──► rolled back; then a small transaction of its own: ready again later, or dead

Everything that says "handled" lies in the handler's own transaction, so there is no moment at which the effects are kept
and the claim is not, or the other way round. The acknowledgement is fenced by the lease: whoever was taken for dead in
the meantime rolls back.

What becomes of a claim that failed is in ending.py. Crash points stand at every border; tests/proof kills a process at
each of them.

Plain work that is quick and waits in numbers shares a commit, one event after another in one transaction: the number
doubles from 1 to 32 while handlers take less than 50 ms each, and four such transactions run at once. If one fails, each
of its events runs alone, as in the declared batch form.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from dujiang.data.transaction import transact
from dujiang.kernel.context import Context, entered
from dujiang.kernel.errors import DujiangError, Refusal
from dujiang.kernel.tasks import Tasks, current_task
from dujiang.messaging.ending import Ending
from dujiang.messaging.inbox import first_time
from dujiang.messaging.verdict import Unfit, judged
from dujiang.messaging.work import (
    STATE_DONE,
    STATE_DUPLICATE,
    Claim,
    KeyCursor,
    LeaseLost,
    Worked,
    ack_pieces,
    claims_of_lease,
    still_running,
)
from dujiang.telemetry.crash import crash_point
from dujiang.telemetry.tracing import continued, enabled, parse_traceparent, span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.data.process import ProcessLease
    from dujiang.messaging.bell import Bells
    from dujiang.messaging.broker import Broker
    from dujiang.messaging.message import Event, Message
    from dujiang.messaging.subscription import Subscription
    from dujiang.messaging.tx import Tx

logger = logging.getLogger("dujiang.consumer")

POLL_S_MIN, POLL_S_MAX = 0.01, 1.0
NEWER_VERSION_WAIT_US, LATER_US = 60_000_000, 1_000_000
GROUP_MAX, GROUPS_AT_ONCE, QUICK_S = 32, 4, 0.05
DOUBT_S = 10.0


class Consumer:
    """The service behind one subscription in one process.

    Args:
        context: The context in which handlers run (node, runtime).
        subscription: What to do.
        sub_id: Its number.
        database: Where the work is.
        broker: Where it comes from.
        bells: The bell "sub<number>" wakes this consumer.
        process: This process's lease.
        make_tx: Makes the transaction object: (connection, now, cause).
        worked: Called for each claim that ended.
    """

    def __init__(
        self,
        *,
        context: Context,
        subscription: Subscription,
        sub_id: int,
        database: Database,
        broker: Broker,
        bells: Bells,
        process: ProcessLease,
        make_tx: Callable[[Connection, int, Message | None], Tx],
        worked: Callable[[Worked], None],
    ) -> None:
        self._context = context
        self._node = context.node
        self.subscription = subscription
        self.sub_id = sub_id
        self._database = database
        self._broker = broker
        self._bells = bells
        self._process = process
        self._make_tx = make_tx
        self._cursor = KeyCursor() if subscription.ordered else None
        self._waiting: deque[Claim] = deque()
        self._filled = asyncio.Condition()
        self._busy: set[asyncio.Task[Any]] = set()
        self._held: set[int] = set()
        self._group = 1  # How many events may share a commit; grows while handlers are quick.
        self._doubt_until = 0.0
        self._tasks = Tasks(subscription.name)
        self._stopping = False
        self._ending = Ending(context, subscription, database, process, worked=worked, doubt=self._doubt)

    def __repr__(self) -> str:
        return f"<Consumer {self.subscription.name}: {len(self._waiting)} waiting, {len(self._busy)} running>"

    async def start(self) -> None:
        """Begin to claim and to work."""
        self._tasks.spawn(self._fetch(), name="fetch")
        for number in range(self.subscription.concurrency):
            self._tasks.spawn(self._work(), name=f"runner{number}")

    async def stop(self, grace_s: float = 10.0) -> None:
        """Claim no more, give back what has not begun, let what runs end within the grace, then cancel it."""
        self._stopping = self._ending.stopping = True
        self._bells.ring(f"sub{self.sub_id}")
        await self._notify()
        await self._tasks.close(grace_s=grace_s)
        while self._waiting:
            await self._ending.give_back(self._waiting.popleft(), self._node.clock.now_us(), forget_attempt=True)

    def cancel_running(self) -> None:
        """The lease is lost: drop what waits and cancel what runs; others do it now."""
        self._held.difference_update(claim.message.seq for claim in self._waiting)
        self._waiting.clear()
        for task in self._busy:
            task.cancel()
        self._tasks.spawn(self._notify(), name="emptied")  # The line is free; who waits for that would wait for ever.

    async def _notify(self) -> None:
        async with self._filled:
            self._filled.notify_all()

    # Claiming ---------------------------------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        wait_s = POLL_S_MIN
        while not self._stopping:
            due_s: float | None = None
            try:
                if self._node.clock.monotonic() < self._doubt_until:
                    await self._take_stock()
                each = self.subscription.batch if self.subscription.lists else GROUP_MAX // 2 if self._quick else 1
                due_s = await self._claim(self.subscription.concurrency * each)
            except DujiangError as error:
                logger.warning("%s waits: %s", self.subscription.name, error)
                self._doubt()
            except Exception:  # A loop that ended here would stop the subscription without a word.
                logger.exception("%s cannot claim", self.subscription.name)
                self._doubt()
            if due_s == 0.0:
                wait_s = POLL_S_MIN
                continue
            wait_s = min(POLL_S_MAX, wait_s * 2)
            rang = await self._bells.wait(f"sub{self.sub_id}", min(wait_s, due_s if due_s is not None else wait_s))
            if rang:
                wait_s = POLL_S_MIN

    async def _take_stock(self) -> None:
        """Give back what lies under our lease and is not in our hands: a claim, or its end, whose reply was lost."""
        for claim in await claims_of_lease(self._database, self.sub_id, self._process.lease):
            if claim.message.seq not in self._held:
                await self._ending.give_back(claim, self._node.clock.now_us() + LATER_US)

    def _doubt(self) -> None:
        """Take stock for a while: a statement whose connection broke may still be on its way to its commit."""
        self._doubt_until = self._node.clock.monotonic() + DOUBT_S

    async def _claim(self, room: int) -> float | None:
        """Fill the line; seconds until it is worth looking again: 0 = at once, None = when the bell rings."""
        async with self._filled:
            # A claim is worth a round trip when half of the line is free.
            await self._filled.wait_for(lambda: self._stopping or len(self._waiting) * 2 <= room)
        if self._stopping or not self._process.lease:
            return None
        limit = max(1, 2 * room - len(self._waiting))
        received = await self._broker.receive(self.sub_id, self._process.lease, limit, self._cursor)
        crash_point("consumer_received")
        if received.claims and received.claims[0].lease != self._process.lease:
            return 0.0  # The lease was lost while they came; who ended it puts them back.
        if received.claims:
            async with self._filled:
                self._held.update(claim.message.seq for claim in received.claims)
                self._waiting.extend(received.claims)
                self._filled.notify(len(received.claims))
            return 0.0
        if received.due_us is None:
            return None
        return max(0.001, (received.due_us - self._node.clock.now_us()) / 1e6)

    # Working ----------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        runner = current_task()
        while True:
            async with self._filled:
                await self._filled.wait_for(lambda: self._stopping or (self._waiting and self._has_turn))
                if self._stopping:
                    return
                claims = self._next_claims()
                self._busy.add(runner)
                self._filled.notify_all()
            try:
                await self._handle_all(claims)
            except asyncio.CancelledError:
                if self._stopping:
                    raise
                while runner.uncancel():  # The lease is lost: the claims are no longer ours, the runner goes on.
                    pass
            except Exception:  # A runner that ended here would take its claims with it.
                logger.exception("%s could not say what became of its work", self.subscription.name)
                for claim in claims:
                    await self._ending.give_back(claim, self._node.clock.now_us() + LATER_US)
            finally:
                self._busy.discard(runner)
                self._held.difference_update(claim.message.seq for claim in claims)
                if self._cursor is not None:
                    self._bells.ring(f"sub{self.sub_id}")  # The next event of these keys may go now.

    def _next_claims(self) -> list[Claim]:
        """The next batch; or, of plain work that is quick and waits in numbers, the next few that share a commit."""
        subscription = self.subscription
        if subscription.lists:
            limit = subscription.batch
        elif self._quick and subscription.on_fail != "halt" and not enabled():  # A trace follows one message.
            limit = min(self._group, -(-len(self._waiting) // (GROUPS_AT_ONCE - len(self._busy))))
        else:
            limit = 1
        claims = [self._waiting.popleft()]
        while len(claims) < limit and self._waiting and belong_together(claims[0], self._waiting[0]):
            claims.append(self._waiting.popleft())
        return claims

    @property
    def _quick(self) -> bool:
        return not self.subscription.lists and self._group > 1

    @property
    def _has_turn(self) -> bool:
        """Whether one more runner helps: of quick work a few transactions at once are enough, the rest gathers."""
        return not self._quick or len(self._busy) < GROUPS_AT_ONCE

    async def _handle_all(self, claims: list[Claim]) -> None:
        """Handle a batch in one transaction; if that fails and there is more than one, each by itself."""
        ready: list[tuple[Claim, Event]] = []
        for claim in claims:
            event = await self._decoded(claim)
            if event is not None:
                ready.append((claim, event))
        if not ready:
            return
        error = await self._try(ready)
        if error is None:
            return
        self._group = 1
        for place, one in enumerate(ready):
            if len(ready) > 1:
                error = await self._try([one])
            if error is not None and await self._ending.failed(one[0], error) and self.subscription.on_fail == "halt":
                await self._give_all_back([claim for claim, _ in ready[place + 1 :]])
                return

    async def _give_all_back(self, claims: Sequence[Claim]) -> None:
        """A halted subscription begins nothing more: neither these nor what waits."""
        waiting = [*claims, *self._waiting]
        self._waiting.clear()
        for claim in waiting:
            await self._ending.give_back(claim, self._node.clock.now_us(), forget_attempt=True)

    async def _decoded(self, claim: Claim) -> Event | None:
        """The event of a claim; None when the claim was dealt with because it is none."""
        now_us = self._node.clock.now_us()
        found = judged(claim.message, self.subscription, now_us)
        if not isinstance(found, Unfit):
            return found
        if found.reason:
            await self._ending.bury(claim, found.reason, found.error)
            if self.subscription.on_fail == "halt":
                await self._give_all_back([])
        else:
            await self._ending.give_back(claim, now_us + NEWER_VERSION_WAIT_US, forget_attempt=True)
        return None

    async def _try(self, ready: Sequence[tuple[Claim, Event]]) -> BaseException | None:
        """Run the transaction of these claims; the error if it rolled back."""
        first = ready[0][0].message
        trace = parse_traceparent(str(first.headers.get("traceparent", "")))
        context = self._context.but(
            trace_id=trace[0] if trace else "",
            tenant=str(first.headers.get("tenant", "")),
            deadline=self._node.clock.monotonic() + self.subscription.timeout_s,
            limited=True,
        )
        began = self._node.clock.monotonic()
        with entered(context), continued(str(first.headers.get("traceparent", "")), "react", self.subscription.name):
            try:
                with self._node.limits.within(self.subscription.timeout_s):
                    outcome = await transact(
                        self._database,
                        lambda connection, now_us: self._make_tx(connection, now_us, first),
                        lambda tx: self._run(tx, ready, began),
                        what=self.subscription.name,
                        settle=self._settle(ready),
                    )
            except LeaseLost as error:
                logger.warning("%s", error)
                self._doubt()
                # One of several may be lost, and the others still ours: each by itself tells.
                return error if len(ready) > 1 else None
            except asyncio.CancelledError as error:
                if not current_task().cancelling():
                    return error  # Nobody cancelled us: the handler raised it by itself, which is a failure like any other.
                if self._stopping:
                    for claim, _ in ready:
                        await self._ending.give_back(claim, self._node.clock.now_us(), forget_attempt=True)
                raise
            except (GeneratorExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001  (a handler may raise anything; it is answered by retry or burial)
                return error
        crash_point("after_commit_before_broker_ack")
        for claim, _ in ready:
            self._ending.report(claim, outcome, began)
        return None

    async def _run(self, tx: Tx, ready: Sequence[tuple[Claim, Event]], began: float) -> str:
        with span("messaging.inbox"):
            fresh = await first_time(tx, self._database, self.sub_id, [claim.message.message_id for claim, _ in ready])
        # By id: published twice, a message stands twice in a batch.
        todo = {
            claim.message.message_id: (claim.message, event)
            for claim, event in ready
            if claim.message.message_id in fresh
        }
        await self._handle(tx, list(todo.values()))
        crash_point("handler_done")
        took_us = int((self._node.clock.monotonic() - began) * 1e6)
        claims, state = [claim for claim, _ in ready], STATE_DONE if todo else STATE_DUPLICATE
        crash_point("before_ack_commit")
        for piece in ack_pieces(self._database, self.subscription.name, claims, state, tx.now_us, took_us):
            tx.close_with(piece)
        return "done" if todo else "duplicate"

    async def _handle(self, tx: Tx, todo: Sequence[tuple[Message, Event]]) -> None:
        if todo and self.subscription.lists:
            for refusal in await self.subscription.handle(tx, [event for _, event in todo]):
                if isinstance(refusal, Refusal):
                    raise refusal
            return
        began = self._node.clock.monotonic()
        for message, event in todo:
            tx.caused_by(message)
            await self.subscription.handle(tx, [event])
        quick = (self._node.clock.monotonic() - began) < QUICK_S * len(todo)
        self._group = min(GROUP_MAX, self._group * 2) if quick else 1

    def _settle(self, ready: Sequence[tuple[Claim, Event]]) -> Any:
        """Says after a lost reply whether the commit happened: the same transaction ends the claim."""
        claim = ready[0][0]

        async def settle(connection: Connection) -> bool:
            return not await still_running(connection, claim)

        return settle


def belong_together(first: Claim, other: Claim) -> bool:
    """Whether two claims may share a transaction: one lease fences it, one tenant's context surrounds it."""
    return first.lease == other.lease and first.message.headers.get("tenant") == other.message.headers.get("tenant")
