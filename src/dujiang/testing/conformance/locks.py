"""Conformance of locks: one holder, growing tokens, bounded waits; whoever goes leaves nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dujiang.kernel.clock import SystemClock
from dujiang.kernel.errors import OutsideRuntime
from dujiang.kernel.tasks import all_of, ended
from dujiang.locking.lock import lock
from dujiang.locking.port import Grant, LockBusy, LockRefused, Occupied
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import Undone, fetch, until

if TYPE_CHECKING:
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

from dujiang.testing.conformance.locks_lost import LostCases
from dujiang.testing.conformance.locks_stage import CONTENDERS, NAME, TTL_S, TTL_US, Body, LockSuite, locked


class LockConformance(LostCases, LockSuite):
    """All cases of the port `lock`. Subclass it, with a store for each test."""

    @case("C57.one")
    async def test_of_twenty_one_is_inside(self) -> None:
        """Twenty contenders in two copies: never two inside, all get in, and tokens are 1 to 20 in the order of the bodies."""
        inside, most, tokens = 0, 0, list[int]()

        async def contend(world: World) -> None:
            nonlocal inside, most
            async with locked(world, wait="300s") as held:
                inside += 1
                most = max(most, inside)
                tokens.append(held.token)
                await SystemClock().sleep(0.001)
                inside -= 1

        async with self.copies(2) as worlds:
            await all_of(*(contend(worlds[n % 2]) for n in range(CONTENDERS)))

        assert most == 1
        assert tokens == list(range(1, CONTENDERS + 1))

    @case("C57.names")
    async def test_names_do_not_know_each_other(self) -> None:
        """Inside one lock another one is taken at once, and each counts its own tokens."""
        async with self.copies(1) as (world,), locked(world) as held, locked(world, "other", wait="0s") as other:
            assert (held.token, other.token) == (1, 1)

    @case("C58.busy")
    async def test_who_does_not_get_it_learns_who_has_it(self) -> None:
        """Tried once, or for a while: LockBusy with the holder and since when; the body did not run, and the wait is bounded."""
        clock = SystemClock()
        async with self.copies(2) as (one, two), locked(one):
            before_us = one.runtime.node.clock.now_us()
            for wait in ("0s", "300ms"):
                began = clock.monotonic()
                error = await self.refusal(two, LockBusy, wait=wait)

                assert isinstance(error, LockBusy)
                assert error.holder.startswith(one.runtime.node.name)
                assert error.since.endswith("+00:00")
                assert error.waited_s >= (0.3 if wait == "300ms" else 0.0)
                assert clock.monotonic() - began < 60.0
            occupied = await two.runtime.locks.look(NAME)
            assert occupied is not None
            assert occupied.since_us <= before_us

    async def refusal(self, world: World, kind: type[Exception], name: str = NAME, **options: Any) -> Exception | None:
        """The error of a lock that is not given; None if the body ran."""
        try:
            async with locked(world, name, **options):
                return None
        except kind as error:
            return error

    @case("C58.refused")
    async def test_what_cannot_work_is_refused_at_once(self) -> None:
        """A lock inside a transaction, a name or ttl that is none, and a lock outside a running app."""
        async with self.copies(1) as (world,):

            async def inside(_: Tx) -> Exception | None:
                try:
                    async with lock(NAME):
                        return None
                except LockRefused as error:
                    return error

            assert isinstance(await world.runtime.transact(inside), LockRefused)
            for name, ttl in (("", "30s"), ("x" * 201, "30s"), ("a\x00", "30s"), (NAME, "1s"), (NAME, "2d")):
                assert await self.refusal(world, LockRefused, name, ttl=ttl)
            try:
                async with lock(NAME):
                    raise AssertionError
            except OutsideRuntime as error:
                said = str(error)
            assert NAME in said
            await self.free(world)

    @case("C59.expiry")
    async def test_a_dead_holder_keeps_it_for_its_ttl_and_no_longer(self) -> None:
        """A holder that never renews: before the ttl nobody gets it, after it the next one does, with the next token."""
        clock = JumpClock()
        async with self.copies(1, clock) as (world,):
            locks = world.runtime.locks
            assert await locks.take(NAME, "dead", TTL_US) == Grant(1)
            clock.jump(TTL_S * 2 / 3)
            assert isinstance(await locks.take(NAME, "next", TTL_US), Occupied)
            clock.jump(TTL_S / 2)
            async with locked(world) as held:
                assert held.token == 2
            assert not await locks.renew(NAME, 1, TTL_US)
            assert await locks.take(NAME, "third", TTL_US) == Grant(3)

    @case("C59.renewed")
    async def test_a_living_holder_keeps_it(self) -> None:
        """Four ttls in steps of a third: each time it is renewed, nobody else gets it, and the body runs to its end."""
        clock = JumpClock()
        async with self.copies(2, clock) as (one, two):
            body = Body(one)
            held = await body.begun()
            for n in range(12):
                clock.jump(TTL_S / 3 + 0.5)

                async def renewed(count: int = n) -> bool:
                    return held.renewals > count

                await until(one, renewed, "the lock renewed", within_s=60.0)
                assert isinstance(await two.runtime.locks.take(NAME, "other", TTL_US), Occupied)
            await self.looked(one)
            await body.end()

            assert body.error is None
            await self.free(two)

    @case("C62.give")
    async def test_what_is_another_ones_is_not_given_back(self) -> None:
        """With an older token, twice, or of a name that nobody knows: nothing happens."""
        async with self.copies(1) as (world,):
            locks = world.runtime.locks
            assert await locks.take(NAME, "a", TTL_US) == Grant(1)
            await locks.give(NAME, 1)
            await locks.give(NAME, 1)
            assert not await locks.renew(NAME, 1, TTL_US)
            assert await locks.take(NAME, "b", TTL_US) == Grant(2)
            await locks.give(NAME, 1)
            await locks.give("nobody's", 1)
            assert isinstance(await locks.take(NAME, "c", TTL_US), Occupied)

    @case("C62.again")
    async def test_a_take_that_is_asked_again_is_the_same_one(self) -> None:
        """Its reply was lost: with the same holder the answer is the same token."""
        async with self.copies(1) as (world,):
            locks = world.runtime.locks
            assert await locks.take(NAME, "a", TTL_US) == Grant(1)
            assert await locks.take(NAME, "a", TTL_US) == Grant(1)
            assert isinstance(await locks.take(NAME, "b", TTL_US), Occupied)

    @case("C63.error")
    async def test_a_body_that_fails_gives_it_back(self) -> None:
        """Its error is raised as it is, and the next one gets the lock at once."""
        async with self.copies(1) as (world,):
            try:
                async with locked(world):
                    raise Undone
            except Undone:
                async with locked(world, wait="0s") as held:
                    assert held.token == 2

    @case("C63.cancelled")
    async def test_a_body_that_is_cancelled_gives_it_back(self) -> None:
        """Cancelled from outside it stays cancelled: that is no LockLost."""
        async with self.copies(1) as (world,):
            body = Body(world)
            await body.begun()
            body.task.cancel()
            await ended(body.task)

            assert isinstance(body.error, asyncio.CancelledError)
            await self.free(world)

    @case("C63.waiter")
    async def test_a_waiter_that_is_cancelled_leaves_nothing(self) -> None:
        """Cancelled while the store gives it the lock: the lock is free again without waiting for the ttl."""
        async with self.copies(1) as (world,):
            store: Any = world.runtime.locks
            take, asked, gate = store.take, asyncio.Event(), asyncio.Event()

            async def slowly(*args: Any) -> Any:
                asked.set()
                await gate.wait()
                return await take(*args)

            store.take = slowly
            body = Body(world)
            await asked.wait()
            body.task.cancel()
            await ended(body.task)
            gate.set()

            async def had() -> bool:
                return bool(await fetch(world, "SELECT 1 FROM dj_lock WHERE token = 1 AND until_us = 0"))

            await until(world, had, "the lock was taken and given back", within_s=60.0)
            assert body.held is None
            store.take = take
            async with locked(world, wait="0s") as held:
                assert held.token == 2
