"""Conformance of `Broker` outside the store: away, cut, full and forgetful brokers cost time, and nothing else.

A suite of an adapter gives the four hooks of `CarriedCases`; what they do to a real server a proxy does before it, and
what they do to a model a draw.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import TYPE_CHECKING, Any

from dujiang.kernel.tasks import Tasks
from dujiang.messaging.carried import CarriedBroker
from dujiang.messaging.outbox import message_of
from dujiang.testing.conformance.broker_upkeep import passed_on
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import QUICK, Stage, StageSuite, Told, append_raw, effects, fetch, until

if TYPE_CHECKING:
    import pytest

    from dujiang.messaging.reconcile import Reconciler
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

LINES, EACH, CUTS = 5, 40, 50


class CarriedCases(StageSuite):
    """What only a broker outside the store can be asked."""

    async def take_away(self) -> None:
        """End all connections of the broker and refuse new ones."""
        raise NotImplementedError

    async def bring_back(self) -> None:
        """Take connections again."""
        raise NotImplementedError

    async def cut(self) -> None:
        """End all connections; new ones are taken."""
        raise NotImplementedError

    async def lose_confirm(self, world: World) -> None:
        """Let what is published from now on arrive while its confirm does not; returns when a batch has met that."""
        raise NotImplementedError

    @case("C3")
    async def test_a_broker_that_is_away_delays_and_loses_nothing(self) -> None:
        """While the broker is away every commit succeeds, and afterwards all is handled, each key in its order."""
        stage = Stage()
        stage.reaction("hear", ordered=True)
        stage.reaction("other")
        async with self.playing(stage) as world:
            await world.publish(Told(line="0", n=-1))
            await world.settle()
            await self.take_away()
            for n in range(EACH):
                await world.publish(*(Told(line=str(line), n=n) for line in range(LINES)))
            seen = len(stage.runs)
            waiting = (await world.open_work())[0]
            await self.bring_back()
            await world.settle(within_s=60.0)

            assert seen == 2
            assert waiting >= LINES * EACH
            assert [stage.numbers(str(line)) for line in range(1, LINES)] == [list(range(EACH))] * (LINES - 1)
            assert stage.numbers("0") == list(range(-1, EACH))
            assert len(await effects(world, "other")) == LINES * EACH + 1

    @case("C3.start")
    async def test_a_start_does_not_wait_for_the_broker(self) -> None:
        """A process starts and commits while the broker is away, and its events are handled once that is back."""
        stage = Stage()
        stage.reaction("hear", ordered=True)
        await self.take_away()
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=1))
            before = await effects(world)
            await self.bring_back()
            await until(world, lambda: self.heard(world, 1), "the event", within_s=60.0)

            assert before == []

    @case("C4")
    async def test_a_lost_confirm_costs_a_repeat_and_no_second_effect(self) -> None:
        """What was stored and never confirmed is published again; each event has one effect, each key its order."""
        stage = Stage()
        stage.reaction("hear", ordered=True)
        stage.reaction("other")
        async with self.playing(stage) as world:
            await world.publish(Told(line="0", n=-1))
            await world.settle()
            tasks = Tasks("loser")
            losing = tasks.spawn(self.lose_confirm(world), name="lose")
            for n in range(EACH):
                await world.publish(*(Told(line=str(line), n=n) for line in range(LINES)))
            await losing
            await world.settle(within_s=60.0)
            kept = sorted([("0", -1), *((str(line), n) for line in range(LINES) for n in range(EACH))])

            assert await effects(world) == kept
            assert await effects(world, "other") == kept
            assert [stage.numbers(str(line)) for line in range(1, LINES)] == [list(range(EACH))] * (LINES - 1)

    @case("C4.dead")
    async def test_a_repeat_of_a_dead_letter_is_not_a_second_letter(self) -> None:
        """An event that died and comes again, marked as a repeat, stays the one letter that it is."""
        stage = Stage()

        async def fail(*_: Any) -> None:
            raise ValueError("always")

        stage.reaction("hear", behave=fail, retry=QUICK)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line=str(n), n=n) for n in range(3)))
            await world.settle()
            broker, (consumer,) = world.runtime.broker, world.runtime.consumers
            assert isinstance(broker, CarriedBroker)
            await until(world, lambda: self.again(world, consumer.sub_id), "the repeats to be published")
            stage.runs.clear()
            await world.publish(Told(line="last", n=9))
            await until(world, lambda: letters(world, 4), "the last letter")

            assert {run.line for run in stage.runs} == {"last"}

    @case("C10.again")
    async def test_a_repeat_of_what_was_handled_has_no_effect(self) -> None:
        """Everything is published a second time after it was handled: one effect for each, and the order holds."""
        stage = Stage()
        stage.reaction("hear", ordered=True)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line=str(n % 3), n=n) for n in range(30)))
            await world.settle()
            (consumer,) = world.runtime.consumers
            await until(world, lambda: self.again(world, consumer.sub_id), "the repeats to be published")
            await world.publish(Told(line="last", n=99))
            await until(world, lambda: self.heard(world, 31), "the last event")
            await world.settle()

            assert await effects(world) == sorted([*((str(n % 3), n) for n in range(30)), ("last", 99)])

    @case("C21.arrives")
    async def test_what_arrives_for_a_parked_key_goes_behind_it(self) -> None:
        """Events that arrive after their key was parked wait in the store, and follow the replayed one in order."""
        stage, broken = Stage(), [True]

        async def fail_first(_: Tx, event: Told) -> None:
            if broken[0] and event.line == "a" and event.n == 0:
                raise ValueError("broken")

        stage.reaction("hear", ordered=True, behave=fail_first, retry=QUICK)
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=0))
            await until(world, lambda: letters(world, 1), "the letter")
            for n in range(1, 6):
                await world.publish(Told(line="a", n=n), Told(line="b", n=n))
            await world.settle()
            parked = await fetch(world, "SELECT okey FROM dj_ready")
            others = stage.numbers("b")
            broken[0] = False
            stage.runs.clear()
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.replay(letter.dead_id)
            await world.settle()

            assert parked == [("a",)] * 5
            assert others == list(range(1, 6))
            assert stage.numbers("a") == list(range(6))

    @case("C31.cut")
    async def test_connections_that_keep_breaking_lose_nothing(self) -> None:
        """All connections to the broker are cut again and again under load: one effect each, each key in order."""
        stage = Stage()
        stage.reaction("hear", ordered=True)
        stage.reaction("other")
        async with self.playing(stage) as world:
            for n in range(EACH):
                await world.publish(*(Told(line=str(line), n=n) for line in range(LINES)))
                if n % 8 == 3:
                    await self.cut()
            await world.settle(within_s=60.0)
            kept = sorted((str(line), n) for line in range(LINES) for n in range(EACH))

            assert await effects(world) == kept
            assert await effects(world, "other") == kept
            for line in range(LINES):
                assert stage.numbers(str(line)) == list(range(EACH))

    @case("C31.fifty")
    async def test_after_each_of_fifty_cuts_messages_come_again(self) -> None:
        """Fifty times all connections to the broker are cut under load; each time the next event is handled within 10 s."""
        stage = Stage()
        stage.reaction("hear", ordered=True)
        stage.reaction("other")
        async with self.playing(stage) as world:
            for n in range(CUTS):
                await world.publish(*(Told(line=str(line), n=n) for line in range(LINES)))
                await self.cut()
                await world.publish(Told(line="after", n=n))

                async def came(n: int = n) -> bool:
                    return "after" in {run.line for run in stage.runs if run.n == n}

                await until(world, came, f"the event after cut {n}", within_s=10.0)
            await world.settle(within_s=60.0)
            kept = sorted((line, n) for line in (*map(str, range(LINES)), "after") for n in range(CUTS))

            assert await effects(world) == await effects(world, "other") == kept
            for line in ("0", "after"):
                assert stage.numbers(line) == list(range(CUTS))

    @case("C64.arrive")
    async def test_the_outbox_keeps_what_has_not_arrived(self) -> None:
        """A cleaning long after the retention leaves what still lies in the broker."""
        stage = Stage()
        stage.reaction("hear")
        async with self.playing(stage) as world:
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            await world.publish(*(Told(line=str(n), n=n) for n in range(5)))

            async def passed() -> bool:
                return await fetch(world, "SELECT floor_seq FROM dj_relay") == [(5,)]

            await until(world, passed, "the events passed on")
            world.runtime.cleaner._outbox_keep_us = -1_000_000  # noqa: SLF001  (everything counts as old)
            await world.runtime.cleaner.clean()
            await self.reconciler(world).look()

            assert await fetch(world, "SELECT count(*) FROM dj_outbox") == [(5,)]

    @case("C63.lost")
    async def test_what_the_broker_lost_is_published_again(self, caplog: pytest.LogCaptureFixture) -> None:
        """Queues that lost what they had confirmed are found out, and every event has its effect."""
        stage = Stage()
        stage.reaction("hear", ordered=True)
        stage.reaction("other")
        async with self.playing(stage) as world:
            await world.publish(Told(line="0", n=-1))
            await world.settle()
            for consumer in world.runtime.consumers:
                await consumer.stop()
            await world.publish(*(Told(line=str(n % LINES), n=n) for n in range(20)))
            await until(world, lambda: passed_on(world), "the events passed on")
            await self.empty_queues(world)
        with caplog.at_level(logging.ERROR, "dujiang.reconcile"):
            async with self.playing(stage) as world:
                reconciler = self.reconciler(world)
                early = await reconciler.look()
                reconciler.age_s = 0.0

                async def found() -> bool:
                    return world.runtime.relay.owns and await reconciler.look() > 0

                await until(world, found, "the loss")
                reconciler.age_s = 30.0
                await world.settle()
                kept = sorted([("0", -1), *((str(n % LINES), n) for n in range(20))])

                assert early == 0
                assert await effects(world) == kept
                assert await effects(world, "other") == kept
                assert await reconciler.look() == 0

    @case("C63.backlog")
    async def test_what_only_waits_is_not_published_again(self) -> None:
        """However old they are, messages that wait in their queue are not taken for lost."""
        stage = Stage()
        stage.reaction("hear", ordered=True)
        async with self.playing(stage) as world:
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            await world.publish(*(Told(line=str(n % LINES), n=n) for n in range(20)))
            await until(world, lambda: passed_on(world), "the events passed on")
            reconciler = self.reconciler(world)
            reconciler.age_s = 0.0

            assert await reconciler.look() == 0

    @case("C63.discarded")
    async def test_what_was_discarded_is_not_published_again(self) -> None:
        """A dead letter that somebody gave up is not taken for lost."""
        stage = Stage()
        stage.reaction("hear")
        async with self.playing(stage) as world:
            await append_raw(world, b"short", b"bad")
            await world.publish(Told(line="a", n=1))
            await until(world, lambda: letters(world, 1), "the letter")
            await world.settle()
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.discard(letter.dead_id)
            reconciler = self.reconciler(world)
            reconciler.age_s = 0.0
            (mark,) = chain.from_iterable(
                await fetch(world, "SELECT value FROM dj_counter WHERE name = $1", "arrived:1")
            )

            assert mark == 0
            assert await reconciler.look() == 0
            assert await fetch(world, "SELECT value FROM dj_counter WHERE name = 'arrived:1'") == [(2,)]

    async def empty_queues(self, world: World) -> None:
        """Lose every message that waits in the broker."""
        raise NotImplementedError

    async def heard(self, world: World, count: int) -> bool:
        """Whether so many effects are there."""
        return len(await effects(world)) == count

    async def again(self, world: World, sub_id: int) -> bool:
        """Publish the whole outbox once more to a subscription; False while the broker cannot."""
        broker = world.runtime.broker
        assert isinstance(broker, CarriedBroker)
        rows = await fetch(
            world, "SELECT seq, message_id, topic, okey, created_us, headers, payload FROM dj_outbox ORDER BY seq"
        )
        (feed,) = [attended.feed for attended in broker._attended.values() if attended.feed.sub_id == sub_id]  # noqa: SLF001
        await broker.republish(feed, [message_of(row) for row in rows])
        return True

    def reconciler(self, world: World) -> Reconciler:
        """The service of a running copy."""
        found = world.runtime.reconciler
        assert found is not None
        return found


async def letters(world: World, count: int) -> bool:
    """Whether there are so many dead letters."""
    return len(await world.runtime.deadletters.list()) == count
