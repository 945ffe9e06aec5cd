"""Conformance of locks, the second half: lost inside the body, and a fence that holds whatever the holder believes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dujiang.kernel.context import changed, entered
from dujiang.kernel.tasks import ended
from dujiang.locking.port import Grant, LockLost, Occupied
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import ADD, Undone, effects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.data.database import Connection
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

from dujiang.testing.conformance.locks_stage import NAME, TTL_S, TTL_US, Body, LockSuite, deaf, locked, noting


class LostCases(LockSuite):
    """Locks that are lost."""

    @case("C60.inside")
    async def test_a_holder_that_cannot_renew_is_cancelled_while_the_lock_is_its_own(self) -> None:
        """After two thirds of the ttl the body is cancelled where it waits and LockLost is raised; nobody had it meanwhile."""
        clock = JumpClock()
        async with self.copies(2, clock) as (one, two):
            body = Body(one)
            await body.begun()
            deaf(one)
            clock.jump(TTL_S * 2 / 3 + 0.5)
            await ended(body.task)

            assert body.cancelled
            assert isinstance(body.error, LockLost)
            assert isinstance(await two.runtime.locks.take(NAME, "other", TTL_US), Occupied)
            clock.jump(TTL_S)
            assert await two.runtime.locks.take(NAME, "other", TTL_US) == Grant(2)

    @case("C60.told")
    async def test_a_holder_that_is_told_by_its_renewal_is_cancelled_at_once(self) -> None:
        """The row has another token when it renews, long before its time is over: cancelled, LockLost."""
        clock = JumpClock()
        async with self.copies(1, clock) as (world,):
            body = Body(world, ttl="30m")
            await body.begun()
            await world.runtime.locks.give(NAME, 1)
            assert await world.runtime.locks.take(NAME, "other", TTL_US) == Grant(2)
            clock.jump(601.0)
            async with asyncio.timeout(120.0):  # Its own limit would come after ten minutes.
                await ended(body.task)

            assert body.cancelled
            assert isinstance(body.error, LockLost)

    @case("C60.taken")
    async def test_a_holder_that_slept_finds_itself_cancelled(self) -> None:
        """It stands still for longer than its ttl and another one has the lock: cancelled, and the other's lock is left alone."""
        clock = JumpClock()
        async with self.copies(2, clock) as (one, two):
            body = Body(one)
            await body.begun()
            store: Any = one.runtime.locks
            renew, gate = store.renew, asyncio.Event()

            async def late(*args: Any) -> bool:
                await gate.wait()
                return bool(await renew(*args))

            store.renew = late
            clock.jump(TTL_S + 1.0)
            assert await two.runtime.locks.take(NAME, "other", TTL_US) == Grant(2)
            gate.set()
            await ended(body.task)

            assert body.cancelled
            assert isinstance(body.error, LockLost)
            occupied = await two.runtime.locks.look(NAME)
            assert occupied is not None
            assert occupied.holder == "other"

    @case("C61.fence")
    async def test_a_stale_holder_commits_nothing(self) -> None:
        """Another one has had the lock since: the fenced transaction is rolled back whole, one without a fence is not."""
        clock = JumpClock()
        async with self.copies(2, clock) as (one, two), locked(one) as held:
            await one.runtime.transact(noting(1, held))
            await two.runtime.locks.give(NAME, held.token)
            assert await two.runtime.locks.take(NAME, "other", TTL_US) == Grant(held.token + 1)
            assert await self.lost(one, noting(2, held))
            await one.runtime.transact(noting(3, None))
            await two.runtime.locks.give(NAME, held.token + 1)
            assert await self.lost(one, noting(4, held))

            assert await effects(one, "lock") == [("row", 1), ("row", 3)]

    async def lost(self, world: World, body: Callable[[Tx], Awaitable[None]]) -> bool:
        """Whether a transaction ends with LockLost."""
        try:
            await world.runtime.transact(body)
        except LockLost:
            return True
        return False

    @case("C61.expired")
    async def test_a_fence_of_an_expired_lock_refuses(self) -> None:
        """Nobody else has taken it, but its time has passed: somebody may have looked at it as free."""
        clock = JumpClock()
        async with self.copies(1, clock) as (world,):
            deaf(world)
            body = Body(world)
            held = await body.begun()

            async def late(tx: Tx) -> None:
                held.fence(tx)
                await tx.fetch(ADD, "lock", "row", 1)
                clock.jump(TTL_S + 1.0)

            assert await self.lost(world, late)
            await ended(body.task)
            assert await self.lost(world, noting(2, held))
            assert await effects(world, "lock") == []

    @case("C61.savepoint")
    async def test_a_fence_goes_with_its_savepoint(self) -> None:
        """A part that was undone is fenced by nothing; what stands counts twice as once, and two locks stand side by side."""
        async with self.copies(1) as (world,), locked(world) as held, locked(world, "other") as other:

            async def undone(tx: Tx) -> None:
                held.fence(tx)
                held.fence(tx)
                try:
                    async with tx.savepoint():
                        other.fence(tx)
                        raise Undone
                except Undone:
                    await tx.fetch(ADD, "lock", "row", 1)

            async def both(tx: Tx) -> None:
                held.fence(tx)
                other.fence(tx)
                await tx.fetch(ADD, "lock", "row", 2)

            await world.runtime.transact(both)
            await world.runtime.locks.give("other", other.token)
            await world.runtime.transact(undone)
            assert await self.lost(world, both)
            assert await effects(world, "lock") == [("row", 1), ("row", 2)]

    @case("C61.race")
    async def test_nobody_takes_it_between_the_fence_and_the_commit(self) -> None:
        """The time passes while the transaction stands before its COMMIT: who takes the lock sees what it has written."""
        clock = JumpClock()
        async with self.copies(2, clock) as (one, two):
            deaf(one)
            held = await Body(one).begun()
            passed, asked = asyncio.Event(), asyncio.Event()

            async def takes() -> list[tuple[str, int]]:
                await passed.wait()
                clock.jump(TTL_S + 1.0)
                asked.set()
                assert await two.runtime.locks.take(NAME, "other", TTL_US) == Grant(held.token + 1)
                return await effects(two, "lock")

            async def body(connection: Connection) -> None:
                with entered(one.runtime.context()):
                    tx = one.runtime.make_tx(connection, one.runtime.node.clock.now_us())
                    with changed(transaction=tx):
                        await noting(1, held)(tx)
                        await tx.finish()
                passed.set()
                await asked.wait()

            taker = one.runtime.node.tasks.spawn(takes(), name="taker")
            commit = one.runtime.node.tasks.spawn(one.runtime.database.write(body), name="commit")
            await ended(taker)
            await ended(commit)

            assert taker.result() == [("row", 1)]
