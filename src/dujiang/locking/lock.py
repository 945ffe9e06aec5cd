"""Lock: one body at a time under a name, in the whole installation; and what a body that was overtaken may still do: nothing.

    async with lock("nightly-export", ttl="30s") as held:
        rows = await collect()
        await job.transact(save, rows, held)        save: held.fence(tx)

    by monotonic time, counted from the last renewal that was CONFIRMED, from the moment in which it was asked for:
    0 ............ ttl/3 ............. 2/3 ttl ............... ttl
    body runs      a task renews       body is cancelled,      others may take it
                                       LockLost

The body is cancelled where it waits, while the lock is still its own: an error that comes when the work is done comes too
late. What no timer can help is a process that stands still for longer than the ttl (SIGSTOP, a collection of garbage, a
machine that sleeps): its body may take one more step before it finds itself cancelled. So the promise is the fence's: a
transaction that was fenced commits only if the lock is still this holder's, with nobody in between; the lock itself only
saves work. A lock without a fence is for work that may happen twice.

To take a lock is a task of its own, as is to give it back: a waiter that is cancelled while the store answers would else
leave a lock that nobody holds. Who waits is woken when a lock is given back, and looks by itself after 20 ms, later
200 ms, with chance in it.

Rejected: locks of a database session (pg_advisory_lock), which a pooler loses without a word and which have no token; a
lock by majority of several Redis, which has no token either and trusts clocks; a queue of waiters, whose dead would have to
be found; a lock inside a transaction, which would wait for others while it holds rows that they may need.

testing/conformance/locks.py holds all of it; tests/cli/test_locks.py kills and stops real processes.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast

from dujiang.data.database import VITAL
from dujiang.kernel.clock import instant
from dujiang.kernel.context import current_or_none, entered
from dujiang.kernel.errors import DujiangError, OutsideRuntime
from dujiang.kernel.tasks import Stopping, ended, outcomes_of, owned
from dujiang.kernel.units import duration_s
from dujiang.locking.port import Grant, LockBusy, LockLost, LockRefused, Occupied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dujiang.kernel.context import Context
    from dujiang.kernel.units import Duration
    from dujiang.locking.port import LockStore
    from dujiang.messaging.tx import Tx

__all__ = ["BELL", "Held", "lock"]

logger = logging.getLogger("dujiang.locking")

BELL = "locks"
NAME_MAX = 200
# Two thirds of the least are more than the list of limits takes (kernel/deadline.py).
TTL_S_MIN, TTL_S_MAX = 2.0, 86_400.0
PAUSE_S, PAUSE_S_MAX = 0.02, 0.2
GIVE_S = 5.0


class Held:
    """A lock that this body holds.

    Attributes:
        name: Its name.
        token: Greater than that of every holder before; for what lies outside the database and can compare.
        renewals: How often it was renewed.
    """

    def __init__(self, context: Context, name: str, token: int, ttl_s: float, asked_at: float) -> None:
        self.name = name
        self.token = token
        self.renewals = 0
        self._context = context
        self._locks: LockStore = context.runtime.locks
        self._clock = context.node.clock
        self._ttl_s = ttl_s
        self._confirmed_at = asked_at
        self._given = False
        self._limit = context.node.limits.movable(self._lost_at)
        self._watchdog = context.node.tasks.spawn(self._keep(), name=f"lock {name}")

    def __repr__(self) -> str:
        return f"<Held {self.name!r}, token {self.token}{', lost' if self.lost else ''}>"

    @property
    def lost(self) -> bool:
        """Whether it is this body's no more, as far as this process knows."""
        return self._given or self._limit.expired

    @property
    def _lost_at(self) -> float:
        return self._confirmed_at + self._ttl_s * 2 / 3

    def fence(self, tx: Tx) -> None:
        """Let `tx` commit only if the lock is still this body's at its commit, and was all the time; else LockLost.

        Raises:
            LockLost: At once, if that is known already.
        """
        if self.lost:
            raise self._error()
        self._locks.fence(tx, self.name, self.token)

    def _error(self) -> LockLost:
        return LockLost(name=self.name, token=self.token)

    @asynccontextmanager
    async def _block(self) -> AsyncIterator[Held]:
        """The body: cancelled when the lock is not confirmed in time, and then LockLost."""
        try:
            with self._limit:
                yield self
        except TimeoutError as error:
            if self._limit.expired:
                raise self._error() from error
            raise
        if self._limit.expired:
            raise self._error()

    async def _keep(self) -> None:
        """Renew until told otherwise. What fails is tried again; the limit does not wait for it."""
        VITAL.set(True)  # In this task alone.
        clock, entropy = self._clock, self._context.node.entropy
        with entered(self._context.runtime.context()):
            pause_s = self._confirmed_at + self._ttl_s / 3 - clock.monotonic()
            while not self._limit.expired:
                await clock.sleep(max(0.0, pause_s))
                asked_at = clock.monotonic()
                try:
                    with self._context.node.limits.within(self._ttl_s / 6):
                        kept = await self._locks.renew(self.name, self.token, int(self._ttl_s * 1e6))
                except (DujiangError, TimeoutError) as error:
                    logger.warning("lock %s is not renewed: %s", self.name, error)
                    pause_s = entropy.uniform(self._ttl_s / 24, self._ttl_s / 12)
                    continue
                if not kept:
                    self._limit.expire()
                    return
                self._confirmed_at, pause_s = asked_at, self._ttl_s / 3 - (clock.monotonic() - asked_at)
                self._limit.until = self._lost_at
                self.renewals += 1

    async def _end(self) -> None:
        """Renew no more, and give it back unless it is lost. A cancelled caller leaves that running."""
        self._given = True
        node = self._context.node
        with suppress(Stopping):  # Then it is free when its ttl has passed.
            await owned(node.tasks, self._give(), name=f"unlock {self.name}")

    async def _give(self) -> None:
        self._watchdog.cancel()
        await ended(self._watchdog)
        if not self._limit.expired:
            await given(self._context, self.name, self.token)


async def given(context: Context, name: str, token: int) -> None:
    """Give a lock back; if the store does not answer, it is free when its ttl has passed."""
    with entered(context.runtime.context()):
        try:
            with context.node.limits.within(GIVE_S):
                await context.runtime.locks.give(name, token)
        except (DujiangError, TimeoutError) as error:
            logger.warning("lock %s could not be given back, and ends by itself: %s", name, error)
        else:
            context.runtime.bells.ring_far(BELL)


@asynccontextmanager
async def lock(name: str, *, ttl: Duration = "30s", wait: Duration = "10s") -> AsyncIterator[Held]:
    """Run the block while nobody else in the installation runs one under this name.

        async with lock("nightly-export", ttl="30s") as held:
            ...

    Args:
        name: At most 200 characters.
        ttl: After how long without news from this process others may have it; it is renewed every third of it.
        wait: How long to wait for it; "0s" = try once.

    Raises:
        LockBusy: It was not free in that time. Says who holds it, and since when.
        LockLost: In place of the cancellation of the block, which happens when the lock is lost.
        LockRefused: Inside a transaction, or with a name or ttl that is none.
        OutsideRuntime: Outside a running app.
    """
    context = current_or_none()
    if context is None or context.runtime is None:
        raise OutsideRuntime(what=f"lock({name!r})")
    ttl_s, wait_s = checked(context, name, ttl, wait)
    held = await taken(context, name, ttl_s, wait_s)
    try:
        async with held._block():  # noqa: SLF001  (the rest of Held is the public's)
            yield held
    finally:
        await held._end()  # noqa: SLF001


def checked(context: Context, name: str, ttl: Duration, wait: Duration) -> tuple[float, float]:
    """The times in seconds. Raises LockRefused."""
    ttl_s, wait_s = duration_s(ttl), duration_s(wait)
    if context.transaction is not None and not context.transaction.ended:
        why = "a transaction is open, which would hold its rows while it waits"
        how = "take the lock first and open the transaction inside; for its length alone, lock a row: SELECT ... FOR UPDATE"
        raise LockRefused(name=name, why=why, how=how)
    if not 0 < len(name) <= NAME_MAX or not name.isprintable():
        why = f"a name is 1 to {NAME_MAX} printable characters"
        raise LockRefused(name=name, why=why, how="give it a name like 'nightly-export' or f'export:{tenant}'")
    if not TTL_S_MIN <= ttl_s <= TTL_S_MAX:
        why = f"a ttl of {ttl_s} s is not between {TTL_S_MIN} s and {TTL_S_MAX:.0f} s"
        raise LockRefused(
            name=name, why=why, how="'30s' suits most; it is how long others wait when a process was killed"
        )
    return ttl_s, wait_s


async def taken(context: Context, name: str, ttl_s: float, wait_s: float) -> Held:
    """Wait for a lock. Raises LockBusy."""
    node, locks, bells = context.node, context.runtime.locks, context.runtime.bells
    holder = f"{node.name}/{node.entropy.bits(64):016x}"
    began_at, pause_s = node.clock.monotonic(), PAUSE_S
    found: Grant | Occupied | None = None
    while True:
        if not isinstance(found, Occupied):
            asked_at = node.clock.monotonic()
            found = await tried(context, name, holder, ttl_s)
            if isinstance(found, Grant):
                return Held(context, name, found.token, ttl_s, asked_at)
        waited_s = node.clock.monotonic() - began_at
        if waited_s >= wait_s:
            since = instant(found.since_us).isoformat()
            raise LockBusy(name=name, holder=found.holder, since=since, waited_s=waited_s)
        await bells.wait(BELL, min(wait_s - waited_s, node.entropy.uniform(PAUSE_S, pause_s)))
        pause_s = min(PAUSE_S_MAX, pause_s * 2)
        found = await locks.look(name)


async def tried(context: Context, name: str, holder: str, ttl_s: float) -> Grant | Occupied:
    """Try once, in a task of its own; a caller that is cancelled has nothing."""
    tasks, locks = context.node.tasks, cast("LockStore", context.runtime.locks)
    # Its error is the caller's, and no crash of a task.
    asked = tasks.spawn(outcomes_of(locks.take(name, holder, int(ttl_s * 1e6))), name=f"lock {name}")
    try:
        (found,) = await asyncio.shield(asked)
    except asyncio.CancelledError:
        with suppress(Stopping):
            tasks.spawn(put_back(context, name, asked), name=f"unlock {name}")
        raise
    if isinstance(found, BaseException):
        raise found
    return found


async def put_back(context: Context, name: str, asked: asyncio.Task[list[Grant | Occupied | BaseException]]) -> None:
    """Give back what nobody waits for any more."""
    await ended(asked)
    if not asked.cancelled() and isinstance(found := asked.result()[0], Grant):
        await given(context, name, found.token)
