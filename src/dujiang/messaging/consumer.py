"""Consumer: does the work of one subscription, each message with one effect.

    claim ──► waiting  ──► runner 1..n ──► handling ──► done, retried or dead
        └───► suspects ──► one runner  ──► alone, in a process of its own

What happens to a claim is in handling.py, what becomes of one that failed in ending.py, what is done about one whose
process died in suspects.py. Here is who gets which claims, and when.

Plain work that is quick and waits in numbers shares a commit, one event after another in one transaction: the number
doubles from 1 to 32 while handlers take less than 50 ms each, and four such transactions run at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import Tasks, current_task
from dujiang.messaging.ending import Ending
from dujiang.messaging.gate import Gate, refund
from dujiang.messaging.handling import GROUP_MAX, Handling
from dujiang.messaging.suspects import Suspects
from dujiang.messaging.work import Claim, KeyCursor, Worked, belong_together, claims_of_lease
from dujiang.telemetry.crash import crash_point

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.data.process import ProcessLease
    from dujiang.kernel.context import Context
    from dujiang.messaging.bell import Bells
    from dujiang.messaging.broker import Source
    from dujiang.messaging.marks import Marks
    from dujiang.messaging.message import Message
    from dujiang.messaging.newer import Newer
    from dujiang.messaging.subscription import Subscription
    from dujiang.messaging.suspects import Quarantine
    from dujiang.messaging.tx import Tx

logger = logging.getLogger("dujiang.consumer")

POLL_S_MIN, POLL_S_MAX = 0.01, 1.0
LATER_US = 1_000_000
GROUPS_AT_ONCE = 4
DOUBT_S = 10.0
SUSPECTS_MAX, SUSPECTS_WAIT_US = 64, 5_000_000


class Consumer:
    """The service behind one subscription in one process.

    Args:
        context: The context in which handlers run (node, runtime).
        subscription: What to do.
        sub_id: Its number.
        database: Where the work is.
        source: Where it comes from.
        bells: The bell "sub<number>" wakes this consumer.
        process: This process's lease.
        make_tx: Makes the transaction object: (connection, now, cause).
        marks: Says whose handler runs.
        quarantine: Runs a claim in a process of its own.
        worked: Called for each claim that ended.
        gated: Called with the subscription's name when its gate has closed (True) or opened.
    """

    def __init__(
        self,
        *,
        context: Context,
        subscription: Subscription,
        sub_id: int,
        database: Database,
        source: Source,
        bells: Bells,
        process: ProcessLease,
        make_tx: Callable[[Connection, int, Message | None], Tx],
        marks: Marks,
        quarantine: Quarantine,
        worked: Callable[[Worked], None],
        gated: Callable[[str, bool], None],
    ) -> None:
        self._node = context.node
        self.subscription = subscription
        self.sub_id = sub_id
        self._database = database
        self._source = source
        self._bells = bells
        self._process = process
        self._cursor = KeyCursor() if subscription.ordered else None
        self._waiting: deque[Claim] = deque()
        self._apart: deque[Claim] = deque()
        self._filled = asyncio.Condition()
        self._busy: set[asyncio.Task[Any]] = set()
        self._running = 0  # Of them those that run no suspect.
        self._held: set[tuple[int, int]] = set()  # By number and attempt: an earlier run may still be ending.
        self._doubt_until = 0.0
        self._owed: Mapping[int, int] = {}  # What the outage has cost each message, in attempts.
        self._tasks = Tasks(subscription.name)
        self._stopping = False
        self.gate = Gate(context.node, self._turned)
        self._gated = gated
        self._ending = Ending(
            context, subscription, database, process, gate=self.gate, worked=worked, doubt=self._doubt
        )
        self._handling = Handling(
            context=context,
            subscription=subscription,
            database=database,
            make_tx=make_tx,
            ending=self._ending,
            marks=marks,
            gate=self.gate,
            halted=self._give_all_back,
            doubt=self._doubt,
        )
        self._suspects = Suspects(
            subscription=subscription,
            quarantine=quarantine,
            handling=self._handling,
            ending=self._ending,
            halted=self._give_all_back,
            now_us=context.node.clock.now_us,
        )

    def __repr__(self) -> str:
        return f"<Consumer {self.subscription.name}: {len(self._waiting)} waiting, {len(self._busy)} running>"

    @property
    def newer(self) -> Newer:
        """What was given back because it is of a newer version."""
        return self._handling.newer

    async def start(self) -> None:
        """Begin to claim and to work."""
        await self._source.attend(self.subscription.feed(self.sub_id), lambda: self._bells.ring(f"sub{self.sub_id}"))
        self._tasks.spawn(self._fetch(), name="fetch")
        for number in range(self.subscription.concurrency):
            self._tasks.spawn(
                self._work(self._may_begin, self._next_claims, self._handling.handle), name=f"runner{number}"
            )
        self._tasks.spawn(self._work(self._has_suspect, self._next_suspect, self._suspects.handle), name="suspects")

    async def stop(self, grace_s: float = 10.0) -> None:
        """Claim no more, give back what has not begun, let what runs end within the grace, then cancel it."""
        self._stopping = self._ending.stopping = True
        self._bells.ring(f"sub{self.sub_id}")
        await self._notify()
        await self._tasks.close(grace_s=grace_s)
        await self._source.leave(self.sub_id)
        await self._give_all_back(self.gate.take())

    def cancel_running(self) -> None:
        """The lease is lost: drop what waits and cancel what runs; others do it now."""
        for line in (self._waiting, self._apart, self.gate.take()):
            self._held.difference_update(map(place_of, line))
            line.clear()
        for task in self._busy:
            task.cancel()
        if not self._stopping:  # `stop` told everybody. The line is free; who waits for it would wait for ever.
            self._tasks.spawn(self._notify(), name="emptied")

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
            if place_of(claim) not in self._held:
                await self._ending.give_back(claim, self._node.clock.now_us() + LATER_US)

    def _doubt(self) -> None:
        """Take stock for a while: a statement whose connection broke may still be on its way to its commit."""
        self._doubt_until = self._node.clock.monotonic() + DOUBT_S

    async def _claim(self, room: int) -> float | None:
        """Fill the line; seconds until it is worth looking again: 0 = at once, None = when the bell rings."""
        async with self._filled:
            await self._filled.wait_for(lambda: self._stopping or self._wants(room) > 0)
        if self._stopping or not self._process.lease:
            return None
        limit = max(1, self._wants(room))
        if self.gate.closed:
            if self._waiting or self._apart or self._busy or self.gate.probe_in_s:
                return max(POLL_S_MIN, self.gate.probe_in_s)
            limit = 1
        if self._owed:
            await refund(self._database, self.sub_id, self._owed)
            self._owed = {}
        if kept := self.gate.take():
            await self._line_up(kept)
            return 0.0
        received = await self._source.receive(self.sub_id, self._process.lease, limit, self._cursor)
        crash_point("consumer_received")
        if received.claims and received.claims[0].lease != self._process.lease:
            return 0.0  # The lease was lost while they came; who ended it puts them back.
        if received.claims:
            await self._line_up(received.claims)
            await self._keep_few_suspects()
            return 0.0
        if received.due_us is None:
            return None
        return max(0.001, (received.due_us - self._node.clock.now_us()) / 1e6)

    def _wants(self, room: int) -> int:
        """How many claims the line takes; 0 = not yet."""
        waiting = len(self._waiting)
        if not self.subscription.ahead:
            return self.subscription.concurrency - self._running - waiting
        # A claim is worth a round trip when half of the line is free.
        return max(1, 2 * room - waiting) if waiting * 2 <= room else 0

    async def _line_up(self, claims: Sequence[Claim]) -> None:
        async with self._filled:
            self._held.update(map(place_of, claims))
            for claim in claims:
                (self._apart if self._suspects.suspected(claim) else self._waiting).append(claim)
            self._filled.notify_all()

    def _turned(self) -> None:
        """The gate has closed, or opened."""
        name = self.subscription.name
        self._gated(name, self.gate.closed)
        if self.gate.closed:
            logger.error("%s is paused: all that it does fails; one message at a time is tried", name)
            # Given back before the first probe: what still runs has not put its row back yet, and would be missed now.
            self._owed = self.gate.cost()
            if not self._stopping:
                self._tasks.spawn(self._give_all_back([]), name="paused")
        else:
            logger.warning("%s goes on", name)
            self._bells.ring(f"sub{self.sub_id}")

    async def _keep_few_suspects(self) -> None:
        """They run one at a time; more of them than this wait in the database, where others find them too."""
        while len(self._apart) > SUSPECTS_MAX:
            claim = self._apart.pop()
            await self._ending.give_back(claim, self._node.clock.now_us() + SUSPECTS_WAIT_US, forget_attempt=True)
            self._held.discard(place_of(claim))

    # Working ----------------------------------------------------------------------------------------------------------

    async def _work(
        self,
        may_begin: Callable[[], bool],
        next_claims: Callable[[], list[Claim]],
        handle: Callable[[list[Claim]], Awaitable[None]],
    ) -> None:
        """Take the next claims when it is their turn, handle them, again and again."""
        runner = current_task()
        while True:
            async with self._filled:
                if not self.subscription.ahead:
                    self._filled.notify_all()  # Who fetches waits for a runner.
                await self._filled.wait_for(lambda: self._stopping or may_begin())
                if self._stopping:
                    return
                claims = next_claims()
                self._busy.add(runner)
                self._filled.notify_all()
            try:
                await handle(claims)
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
                self._running -= next_claims == self._next_claims
                self._held.difference_update(place_of(claim) for claim in claims if claim is not self.gate.kept)
                if self._cursor is not None:
                    self._bells.ring(f"sub{self.sub_id}")  # The next event of these keys may go now.
                elif self.subscription.limit:
                    self._bells.ring_far(f"sub{self.sub_id}")  # Somebody else may begin, maybe elsewhere.

    def _may_begin(self) -> bool:
        """Whether one more runner helps: of quick work a few transactions at once are enough, the rest gathers."""
        return bool(self._waiting) and (not self._quick or len(self._busy) < GROUPS_AT_ONCE)

    def _has_suspect(self) -> bool:
        return bool(self._apart)

    def _next_suspect(self) -> list[Claim]:
        return [self._apart.popleft()]

    def _next_claims(self) -> list[Claim]:
        """The next batch; or, of plain work that is quick and waits in numbers, the next few that share a commit."""
        subscription = self.subscription
        if subscription.lists:
            limit = subscription.batch
        elif self._quick and subscription.on_fail != "halt":
            limit = min(self._handling.group, -(-len(self._waiting) // (GROUPS_AT_ONCE - len(self._busy))))
        else:
            limit = 1
        self._running += 1
        claims = [self._waiting.popleft()]
        while len(claims) < limit and self._waiting and belong_together(claims[0], self._waiting[0]):
            claims.append(self._waiting.popleft())
        return claims

    @property
    def _quick(self) -> bool:
        return not self.subscription.lists and self._handling.group > 1

    async def _give_all_back(self, claims: Sequence[Claim]) -> None:
        """Begin nothing more, neither these nor what waits: the subscription is halted, or this process stops."""
        waiting = [*claims, *self._waiting, *self._apart]
        self._waiting.clear()
        self._apart.clear()
        await self._notify()  # Whoever fetches may wait for the line to be free, and nobody else would tell.
        for claim in waiting:
            await self._ending.give_back(claim, self._node.clock.now_us(), forget_attempt=True)


def place_of(claim: Claim) -> tuple[int, int]:
    """What tells a claim from an earlier one of the same work: its number and its attempt."""
    return claim.message.seq, claim.attempt
