"""Conformance of `Broker`: what every adapter promises together with outbox, inbox and work tables.

    class TestSqlOnSqlite(BrokerConformance, capabilities=SqliteDatabase.capabilities):
        url = "sqlite:///..."       # an empty store for each test
        folder = ...                # a folder for each test

The numbers are those of the list of cases in the design of messaging; a number with a point is a part of one. Real
processes killed at crash points, and brokers of their own, have suites beside this one; docs/reference/pending.md lists
what nothing runs yet. Each file holds one subject:

    broker.py           publishing, delivery, counting        broker_order.py     order of a key
    broker_retry.py     retries and delays                    broker_dead.py      poison and dead letters
    broker_leases.py    leases, fencing, stopping             broker_upkeep.py    parts, names, bells
"""

from __future__ import annotations

import asyncio
from typing import Any

from dujiang.kernel.errors import Overloaded
from dujiang.kernel.ids import uuid7
from dujiang.kernel.tasks import Tasks, all_of, outcomes_of
from dujiang.messaging.tx import Tx
from dujiang.testing.conformance.broker_dead import DeadCases
from dujiang.testing.conformance.broker_leases import LeaseCases
from dujiang.testing.conformance.broker_order import OrderCases
from dujiang.testing.conformance.broker_retry import RetryCases
from dujiang.testing.conformance.broker_upkeep import UpkeepCases
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import (
    COUNT_EFFECTS,
    QUICK,
    Held,
    Stage,
    Told,
    Undone,
    append_raw,
    effects,
    fetch,
    until,
)
from dujiang.testing.harness import World


class PublishCases(OrderCases, RetryCases, DeadCases, LeaseCases, UpkeepCases):
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

            assert await effects(world) == sorted(sum(committed, []))

    @case("C6.2", needs="many_writers")
    async def test_a_transaction_that_stays_open_stalls_nobody(self) -> None:
        """While one transaction holds its numbers uncommitted, the others' events are delivered; its own come late."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            tasks = Tasks("held")
            late = Held(tasks, world.runtime, [Told(line="late", n=1), Told(line="late", n=2)])
            await late.reached()
            committed = sum(await all_of(*(write_some(world, writer) for writer in range(10))), [])

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
                    return world.runtime.relay.owns and await gaps(world) == ["1", "2"]

                await until(world, passed, "two open numbers")
            async with self.playing(stage) as world:
                await fails.end(commit=False)
                await comes.end(commit=True)
                await world.publish(Told(line="x", n=4))

                async def closed() -> bool:
                    return await gaps(world) == [] and not any(await world.open_work())

                await until(world, closed, "no open number")

                assert await effects(world) == [("late", 1), ("x", 3), ("x", 4)]

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
        stage = Stage()
        stage.reaction()
        async with self.playing(stage, outbox_limit=100) as world:
            await world.runtime.relay.stop()
            await world.publish(*(Told(line=str(n), n=n) for n in range(150)))

            async def full() -> bool:
                return world.runtime.gauge.size > 100

            await until(world, full, "a gauge that saw the backlog")
            (refused,) = await outcomes_of(world.publish(Told(line="x", n=1)))

            assert isinstance(refused, Overloaded)
            assert (refused.http_status(), refused.move) == (503, "wait")
        async with self.playing(stage, outbox_limit=100) as world:

            async def empty() -> bool:
                return world.runtime.gauge.size == 0

            await until(world, empty, "a gauge that saw the backlog go")
            await world.publish(Told(line="x", n=1))
            await world.settle()

            assert len(await effects(world)) == 151


class BrokerConformance(PublishCases):
    """All cases of the port `broker`. Subclass it; see the module's docstring."""

    @case("C10.1")
    async def test_a_message_published_twice_has_one_effect(self) -> None:
        """Two outbox rows with one message id: one effect, and the repeat is counted as a duplicate."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            message_id = uuid7(world.runtime.node.clock.now_us(), 7)
            for _ in range(3):
                await append_raw(world, message_id, b'{"line":"a","n":1}')
                await world.settle()

            assert await effects(world) == [("a", 1)]
            assert await states(world) == {1: 1, 3: 2}

    @case("C10.2")
    async def test_a_message_twice_in_one_batch_has_one_effect(self) -> None:
        """A repeat that is handled in the same transaction as its original is left out."""
        stage = Stage()
        stage.reaction(batch=10, concurrency=1)
        async with self.playing(stage) as world:
            message_id = uuid7(world.runtime.node.clock.now_us(), 7)
            await world.runtime.relay.stop()
            for _ in range(4):
                await append_raw(world, message_id, b'{"line":"a","n":1}')
        async with self.playing(stage) as world:
            await world.settle()

            assert await effects(world) == [("a", 1)]

    @case("C11")
    async def test_a_message_that_is_handled_twice_at_once_has_one_effect(self) -> None:
        """Two runners with one message: one waits for the other's decision, and there is one effect."""
        stage = Stage()

        async def dawdle(tx: Tx, _: Any) -> None:
            for _ in range(5):
                await world.runtime.node.clock.sleep(0.002)

        stage.reaction(behave=dawdle)
        async with self.playing(stage) as world:
            for n in range(10):
                message_id = uuid7(world.runtime.node.clock.now_us(), n)
                await all_of(*(append_raw(world, message_id, b'{"line":"a","n":%d}' % n) for _ in range(4)))
            await world.settle()

            assert await effects(world) == [("a", n) for n in range(10)]

    @case("C12")
    async def test_a_handler_that_raises_leaves_no_write_and_runs_again(self) -> None:
        """What a failed run wrote is gone, its inbox row too, and the next run is the one effect."""
        stage = Stage()
        seen: list[int] = []

        async def fail_twice(tx: Tx, event: Told) -> None:
            seen.append((await tx.fetch(COUNT_EFFECTS))[0][0])
            if len(seen) < 3:
                raise ValueError("not yet")

        stage.reaction(behave=fail_twice, retry=QUICK)
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=1))
            await world.settle()

            assert seen == [1, 1, 1]  # Each run saw its own row alone.
            assert await effects(world) == [("a", 1)]
            assert await fetch(world, "SELECT count(*) FROM dj_inbox") == [(1,)]

    @case("C13")
    async def test_subscriptions_do_not_feel_each_other(self) -> None:
        """One reaction that always fails delays the other one by nothing."""
        stage = Stage()

        async def fail(tx: Tx, event: Told) -> None:
            raise ValueError("never")

        stage.reaction("deaf", behave=fail)
        stage.reaction("hear")
        async with self.playing(stage) as world:
            await world.publish(*(Told(line=str(n), n=n) for n in range(20)))

            async def heard() -> bool:
                return len(await effects(world, "hear")) == 20

            await until(world, heard, "the other subscription's effects")

            assert await effects(world, "deaf") == []

    @case("C14")
    async def test_a_late_subscription_begins_now_or_at_the_beginning(self) -> None:
        """A new reaction gets what is published from now on, or with `start="beginning"` all that is kept."""
        stage = Stage()
        stage.reaction("first")
        async with self.playing(stage) as world:
            await world.publish(*(Told(line="a", n=n) for n in range(5)))
            await world.settle()
        stage.reaction("from_now", start="now")
        stage.reaction("from_beginning", start="beginning", ordered=True)
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=5))
            await world.settle()

            assert await effects(world, "from_now") == [("a", 5)]
            assert stage.numbers("a", "from_beginning") == list(range(6))
            assert await effects(world, "first") == [("a", n) for n in range(6)]

    @case("C17")
    async def test_payloads_and_headers_arrive_as_they_were_sent(self) -> None:
        """A megabyte, nothing, and every kind of character come through; so does a header in any script."""
        texts = ["", "x" * 1_000_000, "江\U0001f30a\u202e\ufeff", "\"\\ \t\n\x01", "a\u0000b"]
        got: list[str] = []
        stage = Stage()

        async def keep(tx: Tx, event: Told) -> None:
            got.append(event.text)

        stage.reaction(behave=keep, ordered=True)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line="都江堰", n=n, text=text) for n, text in enumerate(texts)))
            await world.settle()
            message_id = uuid7(world.runtime.node.clock.now_us(), 1)
            await append_raw(world, message_id, b'{"line":"a","n":9,"text":"t"}', headers='{"tenant":"水利"}')
            await world.settle()

            assert got == [*texts, "t"]

    @case("C63")
    async def test_every_accepted_message_is_counted_once(self) -> None:
        """Published times subscriptions = done + dead + ready, with failures, repeats and a parked key among them."""
        stage = Stage()

        async def fail_some(tx: Tx, event: Told) -> None:
            if event.n % 7 == 3:
                raise ValueError("always")

        stage.reaction("some", behave=fail_some, ordered=True, retry=QUICK)
        stage.reaction("all")
        async with self.playing(stage) as world:
            for n in range(40):
                await world.publish(Told(line=str(n % 10), n=n))
            await world.settle()
            published = (await fetch(world, "SELECT count(*) FROM dj_outbox"))[0][0]
            ended = await fetch(world, "SELECT sub_id, seq FROM dj_outcome")
            ready = await fetch(world, "SELECT sub_id, seq FROM dj_ready")
            dead = await fetch(world, "SELECT sub_id, seq FROM dj_dead")

            assert len(set(ended)) == len(ended)
            assert not set(ended) & set(ready)
            assert set(dead) <= set(ended)
            assert len(ended) + len(ready) == 2 * published
            assert {state: count for state, count in (await states(world)).items() if state == 2} == {2: len(dead)}


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


async def gaps(world: World) -> list[str]:
    """The relay's open numbers."""
    text = (await fetch(world, "SELECT gaps FROM dj_relay"))[0][0]
    return text.split(",") if text else []


async def states(world: World) -> dict[int, int]:
    """How many pieces of work ended in each state."""
    rows = await fetch(world, "SELECT state, count(*) FROM dj_outcome GROUP BY state")
    return {row[0]: row[1] for row in rows}
