"""Conformance of `Broker` outside the store, full queues: whoever has no room falls behind, alone and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.kernel.tasks import Tasks
from dujiang.testing.conformance.broker_upkeep import passed_on
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import Aside, Held, Stage, StageSuite, Told, effects, fetch, until

if TYPE_CHECKING:
    import pytest

    from dujiang.messaging.consumer import Consumer
    from dujiang.testing.harness import World

LIMIT, LINES, EACH = 10, 3, 30
BEHIND = "SELECT count(*) FROM dj_counter WHERE name >= 'behind:' AND name < 'behind;'"


class FullCases(StageSuite):
    """Queues that take ten messages, and a hundred that are published."""

    def limit_queues(self, limit: int) -> None:
        """Let every queue that is made from now on hold so many messages."""
        raise NotImplementedError

    @case("C5.full")
    async def test_a_full_queue_stops_its_own_subscription_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        """One reaction stands still until its queue is full: all others go on, and it gets the rest once it goes on.

        Another reaction to the same events, and one to other events, have all of theirs meanwhile; log, health and metrics
        tell whose queue it is. After a restart of everything each key is handled in order, each event once.
        """
        self.limit_queues(LIMIT)
        stage = three_reactions()
        async with self.playing(stage) as world:
            await named(world, "hear").stop()
            for n in range(EACH):
                await world.publish(*(Told(line=str(line), n=n) for line in range(LINES)), Aside(n=n))

            async def others() -> bool:
                return len(await effects(world, "other")) == LINES * EACH and len(await effects(world, "aside")) == EACH

            await until(world, others, "what the others get", within_s=60.0)
            await until(world, lambda: passed_on(world), "the cursor")
            _, page = await world.runtime.health.ready()
            metrics = (await world.get("/metrics")).body.decode()
            waiting = await fetch(world, BEHIND)

        assert "the queue of stage.hear is full" in caplog.text
        assert waiting == [(1,)]
        assert (page["status"], page["checks"]["queues"]) == ("ready", {"status": "degraded", "code": "queues_full"})
        assert 0 < behind(metrics, "stage.hear") <= LINES * EACH
        async with self.playing(stage) as world:
            await world.publish(*(Told(line=str(line), n=EACH) for line in range(LINES)))
            await world.settle(within_s=60.0)
            _, page = await world.runtime.health.ready()
            kept = sorted((str(line), n) for line in range(LINES) for n in range(EACH + 1))

            assert await effects(world) == await effects(world, "other") == kept
            assert [stage.numbers(str(line)) for line in range(LINES)] == [list(range(EACH + 1))] * LINES
            assert await fetch(world, BEHIND) == [(0,)]
            assert page["checks"]["queues"] == {"status": "ok"}

    @case("C5.flow")
    async def test_a_queue_that_is_full_again_and_again_keeps_the_order(self) -> None:
        """Events are published faster than a queue of ten has room, while they are handled: one effect each, in order."""
        self.limit_queues(LIMIT)
        stage = three_reactions()
        async with self.playing(stage) as world:
            for n in range(EACH):
                await world.publish(*(Told(line=str(line), n=n) for line in range(LINES) for _ in range(2)))
            await world.settle(within_s=60.0)

            twice = [n for n in range(EACH) for _ in range(2)]
            assert [stage.numbers(str(line)) for line in range(LINES)] == [twice] * LINES
            assert [stage.numbers(str(line), "other") for line in range(LINES)] == [twice] * LINES
            assert await fetch(world, "SELECT state, count(*) FROM dj_outcome GROUP BY state") == [
                (1, 2 * 2 * LINES * EACH)
            ]

    @case("C5.late", needs="xid_horizon")
    async def test_what_commits_late_reaches_who_is_behind(self) -> None:
        """An event below both cursors whose transaction was long is handled by the one that is behind, and by the others."""
        self.limit_queues(LIMIT)
        stage = three_reactions()
        async with self.playing(stage) as world:
            await named(world, "hear").stop()
            late = Held(Tasks("held"), world.runtime, [Told(line="late", n=0)])
            await late.reached()
            for n in range(EACH):
                await world.publish(*(Told(line=str(line), n=n) for line in range(LINES)))

            async def lags() -> bool:
                heard = len(await effects(world, "other"))
                return heard == LINES * EACH and await fetch(world, BEHIND) == [(1,)]

            await until(world, lags, "a full queue", within_s=60.0)
            await late.end(commit=True)

            async def heard() -> bool:
                return ("late", 0) in await effects(world, "other")

            await until(world, heard, "the late event at the other reaction")
        async with self.playing(stage) as world:
            await world.settle(within_s=60.0)
            kept = sorted([("late", 0), *((str(line), n) for line in range(LINES) for n in range(EACH))])

            assert await effects(world) == await effects(world, "other") == kept
            assert [stage.numbers(str(line)) for line in range(LINES)] == [list(range(EACH))] * LINES

    @case("C5.retired")
    async def test_what_a_retired_reaction_had_not_got_is_cancelled(self) -> None:
        """A reaction is retired while its queue is full: what was in it and what waited for it is counted, each once."""
        self.limit_queues(LIMIT)
        before, after = Stage(), Stage()
        before.reaction("gone")
        after.reaction("stays")
        async with self.playing(before) as world:
            await named(world, "gone").stop()
            await world.publish(*(Told(line="a", n=n) for n in range(EACH)))
            await until(world, lambda: passed_on(world), "the cursor")
        async with self.playing(after, renamed={"stage.gone": None}) as world:
            await world.settle()

            assert await fetch(world, "SELECT state, count(*) FROM dj_outcome GROUP BY state") == [(4, EACH)]
            assert await fetch(world, BEHIND) == [(0,)]


def three_reactions() -> Stage:
    """Two ordered ones to the same events, and one to others."""
    stage = Stage()
    stage.reaction("hear", ordered=True)
    stage.reaction("other", ordered=True)
    stage.reaction("aside", event=Aside)
    return stage


def named(world: World, name: str) -> Consumer:
    """The consumer of a reaction."""
    (found,) = [one for one in world.runtime.consumers if one.subscription.name == f"stage.{name}"]
    return found


def behind(metrics: str, subscription: str) -> float:
    """How many events wait for a subscription, as the metrics say."""
    start = f'dujiang_broker_behind{{subscription="{subscription}"}} '
    return next(float(line.removeprefix(start)) for line in metrics.splitlines() if line.startswith(start))
