"""Conformance of `Broker`, the brown-out gate: what fails altogether is paused, and goes on by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import Refusal
from dujiang.messaging.gate import WINDOW
from dujiang.resilience.retry import Retry
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import Stage, StageSuite, Told, effects, fetch, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

COUNT = 200
BRIEF = Retry(attempts=3, base="20ms", cap="40ms")


class GateCases(StageSuite):
    """The brown-out gate."""

    @case("C30.outage")
    async def test_an_outage_pauses_the_work_and_costs_no_message_its_attempts(self) -> None:
        """200 messages, 3 attempts each, and everything fails: the gate closes early, nobody dies, and all are done after."""
        stage, away = Stage(), [True]

        async def depend(*_: Any) -> None:
            if away[0]:
                raise ConnectionError("the bank is away")

        stage.reaction(behave=depend, retry=BRIEF)
        async with self.playing(stage) as world:
            (consumer,) = world.runtime.consumers
            await world.publish(*(Told(line=str(n), n=n) for n in range(COUNT)))
            await until(world, closed(world), "the gate")
            _, page = await world.runtime.health.ready()
            shown = world.runtime.metrics.gauge("dujiang_gate_closed", subscription="stage.hear").value

            async def probed() -> bool:
                return consumer.gate._probe_s > 4.0  # noqa: SLF001  (three waits have been set)

            await until(world, probed, "two failed probes")
            runs = len(stage.runs)
            assert await fetch(world, "SELECT count(*) FROM dj_dead") == [(0,)]
            assert await fetch(world, "SELECT max(attempt) FROM dj_ready") <= [(1,)]
            assert runs < COUNT  # Most were never begun, although there was time for all of them.
            assert (page["status"], page["checks"]["reactions"]["detail"], shown) == ("ready", "1 of 1 paused", 1)

            away[0] = False
            await world.settle()

            assert len(await effects(world)) == COUNT
            assert not consumer.gate.closed
            assert world.runtime.metrics.gauge("dujiang_gate_closed", subscription="stage.hear").value == 0

    @case("C30.one")
    async def test_one_message_that_always_fails_closes_nothing(self) -> None:
        """Failures are counted by message: a poisoned one dies by its attempts while the others go on."""
        stage = Stage()

        async def depend(_: Tx, event: Told) -> None:
            if event.n == 0:
                raise ConnectionError("this one never")

        stage.reaction(behave=depend, retry=Retry(attempts=WINDOW + 5, base="1ms", cap="1ms"))
        async with self.playing(stage) as world:
            await world.publish(*(Told(line=str(n), n=n) for n in range(10)))
            await world.settle()

            assert len(await effects(world)) == 9
            assert await fetch(world, "SELECT reason FROM dj_dead") == [("attempts",)]

    @case("C30.second_try")
    async def test_work_whose_second_try_succeeds_is_not_paused_for_good(self) -> None:
        """60 messages that each fail once: the first probe is one of them, and nothing is paused a second time."""
        stage, pauses = Stage(), []
        tried: set[int] = set()

        async def depend(_: Tx, event: Told) -> None:
            if event.n not in tried:
                tried.add(event.n)
                raise ConnectionError("not at the first try")

        stage.reaction(behave=depend, retry=Retry(attempts=100, base="20ms", cap="40ms"))
        async with self.playing(stage) as world:
            (consumer,) = world.runtime.consumers
            turned = consumer._gated  # noqa: SLF001  (nobody else hears each turn)

            def count(name: str, is_closed: bool) -> None:  # noqa: FBT001  (as the consumer calls it)
                pauses.append(is_closed)
                turned(name, is_closed)

            consumer._gated = count  # noqa: SLF001
            await world.publish(*(Told(line=str(n), n=n) for n in range(60)))
            await world.settle()

            assert len(await effects(world)) == 60
            assert pauses.count(True) <= 1

    @case("C30.poisoned_probe")
    async def test_a_probe_that_always_fails_does_not_keep_the_gate_closed(self) -> None:
        """After the outage the message that is probed first still fails; the next probe is another, and the rest goes on."""
        stage, away, poisoned = Stage(), [True], set[int]()

        async def depend(_: Tx, event: Told) -> None:
            if away[0] or event.n in poisoned:
                raise ConnectionError("the bank is away, and one of them it will never take")

        stage.reaction(behave=depend, retry=Retry(attempts=5, base="20ms", cap="40ms"))
        async with self.playing(stage) as world:
            (consumer,) = world.runtime.consumers
            await world.publish(*(Told(line=str(n), n=n) for n in range(COUNT)))
            await until(world, closed(world), "the gate")
            assert consumer.gate.kept is not None
            poisoned.add(json.loads(consumer.gate.kept.message.payload)["n"])
            away[0] = False
            await world.settle()

            assert len(await effects(world)) == COUNT - 1
            assert await fetch(world, "SELECT reason FROM dj_dead") == [("attempts",)]

    @case("C30.judged")
    async def test_refusals_close_nothing(self) -> None:
        """A handler that says no has judged: 50 refusals are 50 dead letters, and the gate stays open."""
        stage = Stage()

        async def refuse(*_: Any) -> None:
            raise Refusal("no")

        stage.reaction(behave=refuse)
        async with self.playing(stage) as world:
            (consumer,) = world.runtime.consumers
            await world.publish(*(Told(line=str(n), n=n) for n in range(50)))
            await world.settle()

            assert await fetch(world, "SELECT count(*) FROM dj_dead") == [(50,)]
            assert not consumer.gate.closed


def closed(world: World) -> Callable[[], Awaitable[bool]]:
    """Whether the only consumer's gate is closed."""

    async def look() -> bool:
        return world.runtime.consumers[0].gate.closed

    return look
