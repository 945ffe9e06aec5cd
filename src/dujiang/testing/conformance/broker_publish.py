"""Conformance of `Broker`, publishing: an event leaves with its commit, and the relay loses none and waits for none."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.kernel.errors import Overloaded
from dujiang.kernel.tasks import Tasks, all_of, outcomes_of
from dujiang.messaging.outbox import backlog
from dujiang.messaging.relay import BATCH
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import (
    Held,
    Stage,
    StageSuite,
    Told,
    Undone,
    effects,
    fetch,
    until,
)

if TYPE_CHECKING:
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World


class PublishCases(StageSuite):
    """Publishing and the relay."""

    @case("C1.1")
    async def test_a_rolled_back_transaction_publishes_nothing(self) -> None:
        """An event published by a transaction that raised, or whose caller left, is never delivered; the next one is."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            reached = asyncio.Event()

            async def fail(tx: Tx) -> None:
                tx.publish(Told(line="a", n=1))
                raise Undone

            async def stay(tx: Tx) -> None:
                tx.publish(Told(line="a", n=2))
                await tx.finish()
                reached.set()
                await asyncio.Event().wait()

            (raised,) = await outcomes_of(world.runtime.transact(fail))
            tasks = Tasks("leaver")
            leaver = tasks.spawn(world.runtime.transact(stay), name="leaver")
            await reached.wait()
            leaver.cancel()
            await outcomes_of(leaver)
            await world.publish(Told(line="a", n=3))
            await world.settle()

            assert isinstance(raised, Undone)
            assert await effects(world) == [("a", 3)]

    @case("C1.2")
    async def test_a_savepoint_that_is_undone_takes_its_events_along(self) -> None:
        """Events published inside a savepoint share its fate; those around it go their way, in their order."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with self.playing(stage) as world:

            async def body(tx: Tx) -> None:
                tx.publish(Told(line="a", n=1))
                try:
                    async with tx.savepoint():
                        tx.publish(Told(line="a", n=2))
                        raise Undone
                except Undone:
                    pass
                async with tx.savepoint():
                    tx.publish(Told(line="a", n=3))

            await world.runtime.transact(body)
            await world.settle()

            assert stage.numbers("a") == [1, 3]

    @case("C2")
    async def test_a_caller_that_leaves_during_the_commit_leaves_all_or_nothing(self) -> None:
        """Cancelled at any moment around the commit, a publisher leaves one effect for each committed event, no more."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            tasks = Tasks("leavers")
            for n in range(30):
                leaver = tasks.spawn(world.publish(Told(line=str(n), n=n)), name="leaver")
                for _ in range(n % 10):
                    await world.runtime.node.clock.sleep(0)
                leaver.cancel()
                await outcomes_of(leaver)
            await world.settle()
            kept = [row[0] for row in await fetch(world, "SELECT okey FROM dj_outbox")]

            assert sorted(line for line, _ in await effects(world)) == sorted(kept)

    @case("C6.1")
    async def test_ten_writers_with_rollbacks_lose_nothing(self) -> None:
        """Ten writers at once, every fifth transaction rolled back: what was committed is delivered, once."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            committed = await all_of(*(write_some(world, writer) for writer in range(10)))
            await world.settle()

            assert await effects(world) == sorted(chain.from_iterable(committed))

    @case("C6.2", needs="many_writers")
    async def test_a_transaction_that_stays_open_stalls_nobody(self) -> None:
        """While one transaction holds its numbers uncommitted, the others' events are delivered; its own come late."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            tasks = Tasks("held")
            late = Held(tasks, world.runtime, [Told(line="late", n=1), Told(line="late", n=2)])
            await late.reached()
            committed = list(chain.from_iterable(await all_of(*(write_some(world, writer) for writer in range(10)))))

            async def others() -> bool:
                return await effects(world) == sorted(committed)

            await until(world, others, "the others' events")
            await late.end(commit=True)
            await world.settle()

            async def all_there() -> bool:
                return await effects(world) == sorted([*committed, ("late", 1), ("late", 2)])

            await until(world, all_there, "the late events")

    @case("C8", needs="xid_horizon")
    async def test_open_numbers_survive_the_relay(self) -> None:
        """A number that was open when the relay ended is delivered by the next one; a rolled back one is closed."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as keeper:
            tasks = Tasks("held")
            comes = Held(tasks, keeper.runtime, [Told(line="late", n=1)])
            await comes.reached()
            fails = Held(tasks, keeper.runtime, [Told(line="late", n=2)])
            await fails.reached()
            async with self.playing(stage) as world:
                await keeper.runtime.relay.stop()
                await world.publish(Told(line="x", n=3))

                async def passed() -> bool:
                    return world.runtime.relay.owns and await gaps(world) == ["1-2"]

                await until(world, passed, "two open numbers")
            async with self.playing(stage) as world:
                await fails.end(commit=False)
                await comes.end(commit=True)
                await world.publish(Told(line="x", n=4))

                async def closed() -> bool:
                    return await gaps(world) == [] and not any(await world.open_work())

                await until(world, closed, "no open number")

                assert await effects(world) == [("late", 1), ("x", 3), ("x", 4)]

    @case("C8.jump", needs="xid_horizon")
    async def test_a_sequence_that_jumps_leaves_one_gap(self) -> None:
        """A jump by a million costs one range and no backlog; what commits late inside it comes, and the rest is closed."""
        stage, many = Stage(), 2 * BATCH + 200
        stage.reaction()
        async with self.playing(stage) as world:
            tasks = Tasks("held")
            held = [Held(tasks, world.runtime, [Told(line=f"{each}", n=n) for n in range(many)]) for each in "ab"]
            for one in held:
                await one.reached()
            await fetch_jump(world, 1_000_000)
            await world.publish(Told(line="x", n=1))

            async def passed() -> bool:
                return await effects(world) == [("x", 1)]

            await until(world, passed, "the event beyond the jump")
            noticed = await gaps(world)
            await held[0].end(commit=False)
            await held[1].end(commit=True)

            async def closed() -> bool:
                return await gaps(world) == [] and not any(await world.open_work())

            await until(world, closed, "no gap")

            assert noticed == [f"1-{2 * many + 1_000_000}"]
            assert await effects(world) == sorted([*(("b", n) for n in range(many)), ("x", 1)])

    @case("C66.jump", needs="xid_horizon")
    async def test_a_sequence_that_jumps_is_no_backlog(self) -> None:
        """Two events with three million numbers between them, in another part of the table, count as two."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            await world.runtime.relay.stop()
            await world.publish(Told(line="a", n=1))
            await fetch_jump(world, 3_000_000)
            await world.publish(Told(line="a", n=2))

            assert (await backlog(world.runtime.database, 1_000_000))[0] == 2
            assert (await backlog(world.runtime.database, 1))[0] == 2
        async with self.playing(stage) as world:
            await world.settle()

            assert await effects(world) == [("a", 1), ("a", 2)]

    @case("C9")
    async def test_events_of_one_transaction_keep_their_order(self) -> None:
        """Forty events of one transaction with one key are handled in the order in which they were published."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line="a", n=n) for n in range(40)))
            await world.settle()

            assert stage.numbers("a") == list(range(40))

    @case("C66")
    async def test_a_full_outbox_refuses_to_publish(self) -> None:
        """Beyond its limit the outbox refuses with Overloaded, and takes events again once the backlog has gone."""
        stage, clock = Stage(), JumpClock()
        stage.reaction()
        async with self.playing(stage, clock=clock, outbox_limit=100) as world:
            await world.runtime.relay.stop()
            await world.publish(*(Told(line=str(n), n=n) for n in range(150)))

            async def full() -> bool:
                clock.jump(1.2)  # The gauge is read each second.
                return world.runtime.gauge.size > 100

            await until(world, full, "a gauge that saw the backlog")
            (refused,) = await outcomes_of(world.publish(Told(line="x", n=1)))

            assert isinstance(refused, Overloaded)
            assert (refused.http_status(), refused.move) == (503, "wait")
        async with self.playing(stage, clock=clock, outbox_limit=100) as world:

            async def empty() -> bool:
                clock.jump(1.2)
                return world.runtime.gauge.size == 0

            await until(world, empty, "a gauge that saw the backlog go")
            await world.publish(Told(line="x", n=1))
            await world.settle()

            assert len(await effects(world)) == 151


async def write_some(world: World, writer: int) -> list[tuple[str, int]]:
    """Thirty transactions, every fifth of which is rolled back; what was committed."""
    committed: list[tuple[str, int]] = []
    for n in range(30):

        async def body(tx: Tx, n: int = n) -> None:
            tx.publish(Told(line=str(writer), n=n))
            if n % 5 == 4:
                await tx.finish()
                raise Undone

        (outcome,) = await outcomes_of(world.runtime.transact(body))
        if outcome is None:
            committed.append((str(writer), n))
    return committed


async def fetch_jump(world: World, by: int) -> None:
    """Move the outbox's sequence ahead."""
    jump = Sql("stage_jump", "SELECT setval('dj_outbox_seq', nextval('dj_outbox_seq') - 1 + $1::bigint)", "Jumps.")
    await world.runtime.database.statement(jump, by)


async def gaps(world: World) -> list[str]:
    """The relay's gaps, as they are stored."""
    text = (await fetch(world, "SELECT gaps FROM dj_relay"))[0][0]
    return text.split(",") if text else []
