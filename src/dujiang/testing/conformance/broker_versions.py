"""Conformance of `Broker`, versions: a deploy goes forward and is taken back while work waits, and nothing is lost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.app import App
from dujiang.data.sql import Sql
from dujiang.messaging.catalogue import EventStranded, NamesStranded
from dujiang.messaging.message import Event, key
from dujiang.messaging.newer import newer_stored
from dujiang.messaging.tx import Tx
from dujiang.module import Module
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import ADD, QUICK, StageSuite, effects, fetch, playing, until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from dujiang.testing.harness import World

WAITING = Sql("versions_waiting", "SELECT count(*) FROM dj_ready", "Counts what waits.")


class Rung(Event):
    """A bell was rung."""

    line: str = key()
    n: int


class RungLouder(Event, name="Rung", version=2):
    """The same with a field more, under a raised version."""

    line: str = key()
    n: int
    loud: bool


@RungLouder.upcast(1)
def quiet(payload: dict[str, Any]) -> dict[str, Any]:
    """Version 1 was never loud."""
    return {**payload, "loud": False}


class Struck(Event):
    """What `Rung` is called later."""

    line: str = key()
    n: int


class VersionCases(StageSuite):
    """Forward, back, and forward again."""

    @case("C67.back")
    async def test_an_older_version_starts_beside_what_a_newer_one_added(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A deploy adds a reaction and is taken back: the old version works, and what the added one waits for is kept.

        Method: each version publishes one event; all of the old version's own work is done at the end of each life, the
        added reaction's when its version is back.
        """
        async with self._ringing(hear=Rung) as world:
            await world.publish(Rung(line="a", n=1))
            await world.settle()
        async with self._ringing(hear=Rung, also=Rung) as world:
            await world.publish(Rung(line="a", n=2))
            await world.settle()
        with caplog.at_level(logging.WARNING, "dujiang.app.workers"):
            async with self._ringing(hear=Rung) as world:
                await world.publish(Rung(line="a", n=3))

                async def done() -> bool:
                    return await effects(world, "hear") == [("a", 1), ("a", 2), ("a", 3)]

                await until(world, done, "the old version's own work")
                _, told = await world.runtime.health.ready()
        async with self._ringing(hear=Rung, also=Rung) as world:
            await world.settle()

            assert await effects(world, "hear") == [("a", 1), ("a", 2), ("a", 3)]
            assert await effects(world, "also") == [("a", 2), ("a", 3)]
        assert "the reaction ring.also is not in this version of the code" in caplog.text
        assert told["checks"]["reactions"]["detail"] == "left to another version: 1"

    @case("C67.unknown")
    async def test_a_version_that_never_ran_here_must_say_what_became_of_a_name(self) -> None:
        """The same names as the old version's would have been enough; another contract is another program."""
        async with self._ringing(hear=Rung):
            pass
        async with self._ringing(hear=Rung, also=Rung):
            pass
        with pytest.raises(NamesStranded, match=r"ring\.also \(0 waiting, 0 dead\)"):
            async with self._ringing(hear=RungLouder):
                raise AssertionError("it started")

    @case("C67.gone")
    async def test_an_older_version_whose_own_name_is_gone_is_refused(self) -> None:
        """The newer version renamed the reaction: beside it the old one would begin anew, under its old name."""
        async with self._ringing(hear=Rung):
            pass
        async with self._ringing(renamed={"ring.hear": "ring.listen"}, listen=Rung):
            pass
        with pytest.raises(NamesStranded, match=r"ring\.listen"):
            async with self._ringing(hear=Rung):
                raise AssertionError("it started")

    @case("C67.newer")
    async def test_events_of_a_newer_version_wait_for_it_in_sight(self, caplog: pytest.LogCaptureFixture) -> None:
        """Published by a deploy that was taken back: the old version puts them off and says so; the new one takes them at once."""
        async with self._ringing(hear=Rung):
            pass
        async with self._ringing(hear=RungLouder) as world:
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            await world.publish(RungLouder(line="a", n=1, loud=True), RungLouder(line="b", n=2, loud=True))
            await self.routed(world, consumer.sub_id, consumer.subscription, 2)
        with caplog.at_level(logging.WARNING, "dujiang.consumer"):
            async with self._ringing(hear=Rung) as world:
                (consumer,) = world.runtime.consumers

                async def met() -> bool:
                    return consumer.newer.count() == 2 and await fetch(world, WAITING.text) == [(2,)]

                await until(world, met, "both events put off")
                _, told = await world.runtime.health.ready()
                stored = await newer_stored(world.runtime.database, [Rung])
        async with self._ringing(hear=RungLouder) as world:
            await world.settle()

            assert await effects(world, "hear") == [("a", 1), ("b", 2)]
            assert await fetch(world, "SELECT attempts FROM dj_outcome") == [(1,), (1,)]
        assert caplog.text.count("hear met version 2 of Rung and knows 1") == 1
        assert told["checks"]["reactions"]["detail"] == "events of a newer version: 2"
        assert stored == {"Rung": (2, 2)}

    @case("C67.event")
    async def test_an_event_of_another_name_is_refused_while_the_old_one_is_stored(self) -> None:
        """The refusal counts what is stranded and changes nothing; told that it was renamed, the new version does the work."""
        async with self._ringing(hear=Rung) as world:
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            await world.publish(*(Rung(line="a", n=n) for n in range(3)))
            await self.routed(world, consumer.sub_id, consumer.subscription, 3)
        with pytest.raises(EventStranded) as refused:
            async with self._ringing(hear=Struck):
                raise AssertionError("it started")
        async with self._ringing(renamed={"Rung": "Struck"}, hear=Struck) as world:
            await world.publish(Struck(line="a", n=3))
            await world.settle()

            assert await effects(world, "hear") == [("a", n) for n in range(4)]
            assert await fetch(world, "SELECT count(*) FROM dj_dead") == [(0,)]
        assert refused.value.values["stored"] == "3 waiting"
        assert 'class Struck(Event, name="Rung")' in refused.value.hint

    @case("C67.event-dropped")
    async def test_what_is_stored_of_a_former_event_can_be_cancelled_on_purpose(self) -> None:
        """`renamed={"Rung": None}`: what waits ends as cancelled, counted, and the reaction goes on with the new event."""
        async with self._ringing(hear=Rung) as world:
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            await world.publish(Rung(line="a", n=1), Rung(line="b", n=2))
            await self.routed(world, consumer.sub_id, consumer.subscription, 2)
        async with self._ringing(renamed={"Rung": None}, hear=Struck) as world:
            await world.publish(Struck(line="a", n=3))
            await world.settle()

            assert await effects(world, "hear") == [("a", 3)]
            states = await fetch(world, "SELECT state, count(*) FROM dj_outcome GROUP BY state ORDER BY state")
            assert states == [(1, 1), (4, 2)]

    @case("C67.event-done")
    async def test_what_was_handled_of_a_former_event_binds_nobody(self) -> None:
        """All of the old event is done, and the outbox still holds it: the new version starts without a word."""
        async with self._ringing(hear=Rung) as world:
            await world.publish(Rung(line="a", n=1))
            await world.settle()
        async with self._ringing(hear=Struck) as world:
            await world.publish(Struck(line="a", n=2))
            await world.settle()

            assert await effects(world, "hear") == [("a", 1), ("a", 2)]

    def _ringing(
        self, *, renamed: Mapping[str, str | None] | None = None, **reactions: type[Event]
    ) -> AbstractAsyncContextManager[World]:
        """A copy of an app with these reactions, each noting what it handled."""
        module = Module("ring")
        for name, event in reactions.items():
            self._ring(module, name, event)
        app = App(modules=[module], renamed=renamed)
        return playing(app, self.url, self.folder, broker=self.broker_url, simulation=self.simulation)

    def _ring(self, module: Module, name: str, kind: type[Event]) -> None:
        async def note(tx: Tx, event: Event) -> None:
            told = event.model_dump()
            await tx.fetch(ADD, name, told["line"], told["n"])

        note.__annotations__.update(tx=Tx, event=kind)
        module.react(kind, name=name, ordered=True, retry=QUICK)(note)
