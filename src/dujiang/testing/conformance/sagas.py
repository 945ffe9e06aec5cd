"""Conformance of sagas: all of it or nothing of it, each effect once, one winner of every race, and somebody to ask.

They use the work tables of every broker, and its events to begin and to be woken.
"""

# No postponed annotations: the types of steps are read from their functions.
import asyncio
from typing import Any

from dujiang.data.types import Model
from dujiang.kernel.tasks import all_of
from dujiang.saga.operations import SagaEnded
from dujiang.saga.outcome import Failed, Unknown
from dujiang.saga.stranded import SagasStranded
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import REAL, case
from dujiang.testing.conformance.sagas_desk import (
    Asked,
    Case,
    Confirmed,
    No,
    Places,
    PlacesSuite,
    effects,
    stands,
    until_state,
)
from dujiang.testing.conformance.stage import fetch

WHOLE = {"first": 1, "last": 1}
UNDONE = {"first": 1, "undo first": 1}


class SagaCases(PlacesSuite):
    """Sagas."""

    @case("C57.done")
    async def test_all_steps_happen_and_what_is_in_between_has_a_name(self) -> None:
        """It waits by name, hears, and is done; each effect is there once, and the timeline tells it in order."""
        places = Places()
        async with self.with_saga(places) as world:
            await world.publish(Asked(n=1))
            waiting = await until_state(world, places, 1, "waiting")
            assert (waiting.step, waiting.done) == ("confirmed", ("first_step", "second_step"))
            assert await stands(world, places, 2) is None
            await world.publish(Confirmed(n=1, word="yes"))
            found = await until_state(world, places, 1, "done")

            assert await effects(world, 1) == WHOLE
            assert [(one.step, one.what) for one in found.timeline] == [
                ("first_step", "done"),
                ("second_step", "started"),
                ("second_step", "done"),
                ("confirmed", "heard"),
                ("last_step", "done"),
            ]
            assert found.timeline[2].result == "second 1"
            rows = await fetch(world, "SELECT data FROM dj_saga")
            assert bytes(rows[0][0]) == b'{"n":1,"word":"yes"}'
            assert await world.violations() == []

    @case("C57.refused")
    async def test_a_failure_at_each_step_undoes_what_was_done_in_reverse_order(self) -> None:
        """A refusal, a Failed and an Unknown that stays one: behind each the earlier steps are undone, once."""

        async def failing(place: str, n: int) -> Any:
            if (place, n) == ("first", 1):
                raise No("not this one")
            if place == "second":
                return {2: Failed("no"), 3: Unknown("no answer")}.get(n)
            return None

        places = Places(failing)
        async with self.with_saga(places) as world:
            for n in (1, 2, 3):
                await world.publish(Asked(n=n))
                found = await until_state(world, places, n, "compensated")
                assert found.why

            assert await effects(world, 1) == {}
            assert await effects(world, 2) == UNDONE
            assert await effects(world, 3) == UNDONE
            assert places.runs[-6:] == ["first", "second", "second", "second", "undo second", "undo first"]
            assert places.runs.count("undo second") == 1  # Of the one that nobody knew of; a Failed has no effect.
            assert places.keys["undone"] == {"None"}

    @case("C57.late_steps")
    async def test_behind_the_pivot_there_are_only_tries(self) -> None:
        """The last step fails more often than the bound says, and is done all the same; nothing is undone."""
        failures = [OSError("not yet")] * 7

        async def failing(place: str, _: int) -> None:
            if place == "last" and failures:
                raise failures.pop()

        places = Places(failing)
        async with self.with_saga(places) as world:
            await world.publish(Asked(n=1), Confirmed(n=1))
            await until_state(world, places, 1, "done")

            assert await effects(world, 1) == WHOLE
            assert places.runs.count("last") == 8

    @case("C57.tries")
    async def test_tries_are_counted_for_each_step(self) -> None:
        """Each of three places fails as often as its bound lets it: a step's failures are not held against the next."""
        left = {"first": 2, "second": 2, "last": 2}

        async def failing(place: str, _: int) -> None:
            if left.get(place):
                left[place] -= 1
                raise OSError("not yet")

        places = Places(failing)
        async with self.with_saga(places) as world:
            await world.publish(Asked(n=1), Confirmed(n=1))
            await until_state(world, places, 1, "done")

            assert await effects(world, 1) == WHOLE
            assert len(places.keys["second"]) == 1

    @case("C57.killed", needs=REAL)
    async def test_a_run_that_was_cut_goes_on_where_it_was(self) -> None:
        """A copy stops in the middle of the second step; the next one takes that step again with the same key."""
        held, reached = asyncio.Event(), asyncio.Event()

        async def holding(place: str, _: int) -> None:
            if place == "second" and not held.is_set():
                reached.set()
                await held.wait()

        places = Places(holding)
        async with self.with_saga(places, grace_s=0.05) as world:
            await world.publish(Asked(n=1), Confirmed(n=1))
            async with asyncio.timeout(60):
                await reached.wait()
        held.set()
        async with self.with_saga(places) as world:
            await until_state(world, places, 1, "done")

            assert await effects(world, 1) == WHOLE
            assert (places.runs.count("first"), places.runs.count("second"), len(places.keys["second"])) == (1, 2, 1)

    @case("C58.stuck")
    async def test_what_cannot_be_undone_is_stuck_and_an_operator_takes_it_on(self) -> None:
        """It is a dead letter and named stuck; retried it goes on, skipped it goes on without; what has ended is refused."""
        broken = [True]

        async def failing(place: str, _: int) -> Any:
            if place == "undo first" and broken:
                raise OSError("the shelf is locked")
            return Failed("no") if place == "second" else None

        places = Places(failing)
        async with self.with_saga(places) as world:
            views = []
            for n in (1, 2):
                await world.publish(Asked(n=n))
                views.append(await until_state(world, places, n, "stuck"))
            assert len(await world.runtime.deadletters.list()) == 2
            assert [one.key for one in await world.runtime.sagas.list(stuck_only=True)] == ["1", "2"]
            broken.clear()
            await world.runtime.sagas.retry(views[0].saga_id)
            await world.runtime.sagas.skip(views[1].saga_id, "put back by hand")
            await until_state(world, places, 1, "compensated")
            found = await until_state(world, places, 2, "compensated")

            assert await effects(world, 1) == UNDONE
            assert await effects(world, 2) == {"first": 1}
            assert ("first_step", "skipped", "put back by hand") in [(e.step, e.what, e.note) for e in found.timeline]
            assert await world.runtime.deadletters.list() == []
            try:
                await world.runtime.sagas.retry(views[0].saga_id)
            except SagaEnded:
                return
            raise AssertionError("an ended saga was retried")

    @case("C58.decided")
    async def test_an_operator_turns_a_saga_back_or_gives_it_another_state(self) -> None:
        """One that waits is compensated when asked; one that is stuck behind its pivot goes on with the state that it gets."""

        async def failing(place: str, n: int) -> None:
            if place == "last" and n == 2:
                raise No("a wrong number")

        places = Places(failing)
        async with self.with_saga(places) as world:
            await world.publish(Asked(n=1))
            waiting = await until_state(world, places, 1, "waiting")
            await world.runtime.sagas.compensate(waiting.saga_id, "the customer has called")
            found = await until_state(world, places, 1, "compensated")
            await world.publish(Asked(n=2), Confirmed(n=2))
            stuck = await until_state(world, places, 2, "stuck")
            await world.runtime.sagas.resume(stuck.saga_id, b'{"n": 3}', "it was number 3")
            await until_state(world, places, 2, "done")

            assert found.why == "an operator: the customer has called"
            assert await effects(world, 1) == UNDONE
            assert await effects(world, 3) == {"last": 1}

    @case("C59.timeout")
    async def test_a_wait_in_vain_undoes_and_a_late_event_is_ignored(self) -> None:
        """When its time is over the saga turns back; the event that comes then changes nothing."""
        clock, places = JumpClock(), Places()
        async with self.with_saga(places, clock=clock) as world:
            await world.publish(Asked(n=1))
            await until_state(world, places, 1, "waiting")
            clock.jump(601.0)
            found = await until_state(world, places, 1, "compensated")
            await world.publish(Confirmed(n=1))
            await world.settle()

            assert "Confirmed has not come in time" in found.why
            assert await effects(world, 1) == UNDONE
            again = await stands(world, places, 1)
            assert again is not None
            assert again.timeline == found.timeline

    @case("C59.race")
    async def test_of_event_and_timeout_one_wins(self) -> None:
        """Event and time come at one moment, again and again: each saga is done as a whole, or undone as a whole."""
        clock, places = JumpClock(), Places()
        async with self.with_saga(places, clock=clock) as world:
            numbers = range(1, 9)
            await world.publish(*(Asked(n=n) for n in numbers))
            for n in numbers:
                await until_state(world, places, n, "waiting")
            clock.jump(600.0)
            await all_of(*(world.publish(Confirmed(n=n)) for n in numbers))
            for n in numbers:
                found = await until_state(world, places, n, "done", "compensated")
                assert await effects(world, n) == (WHOLE if found.state == "done" else UNDONE)
                heard = [entry.what for entry in found.timeline if entry.step == "confirmed"]
                assert heard == (["heard"] if found.state == "done" else ["timed out"])

    @case("C59.deadline")
    async def test_a_saga_whose_deadline_passes_is_undone(self) -> None:
        """Its own time ends before that of its wait: it turns back."""
        clock, places = JumpClock(), Places(within="1m")
        async with self.with_saga(places, clock=clock) as world:
            await world.publish(Asked(n=1))
            await until_state(world, places, 1, "waiting")
            clock.jump(61.0)
            await until_state(world, places, 1, "compensated")

            assert await effects(world, 1) == UNDONE

    @case("C60.upgraded", needs=REAL)
    async def test_an_open_saga_goes_on_in_a_newer_version_or_the_start_is_refused(self) -> None:
        """A state of version 1 goes on in version 2 by its upgrade; without one the start names what would be stranded."""

        class Newer(Model, frozen=False):
            n: int
            word: str = ""
            currency: str

        places = Places()
        async with self.with_saga(places) as world:
            await world.publish(Asked(n=1))
            await until_state(world, places, 1, "waiting")
        refused: list[SagasStranded] = []
        try:
            async with self.with_saga(Places(state=Newer, version=2)):
                pass
        except SagasStranded as error:
            refused.append(error)
        assert "1 at confirmed, version 1" in str(refused[0])
        assert "upgrades={1: function}" in refused[0].hint
        newer = Places(state=Newer, version=2, upgrades={1: lambda data: {**data, "currency": "EUR"}})
        newer.keys = places.keys
        async with self.with_saga(newer) as world:
            await world.publish(Confirmed(n=1, word="yes"))
            found = await until_state(world, newer, 1, "done")

            assert found.version == 2
            assert await effects(world, 1) == WHOLE
            rows = await fetch(world, "SELECT data FROM dj_saga")
            assert bytes(rows[0][0]) == b'{"n":1,"word":"yes","currency":"EUR"}'

    @case("C61.order")
    async def test_events_may_come_early_twice_and_together(self) -> None:
        """The awaited event comes before its saga has begun, and twice; two events begin one saga: it runs once."""
        places = Places()
        async with self.with_saga(places) as world:
            await world.publish(Confirmed(n=1, word="first"), Confirmed(n=1, word="second"))
            await world.settle()
            await all_of(*(world.publish(Asked(n=1)) for _ in range(5)))
            await until_state(world, places, 1, "done")
            await world.settle()

            assert await effects(world, 1) == WHOLE
            assert await fetch(world, "SELECT count(*) FROM dj_saga") == [(1,)]
            assert places.runs == ["first", "second", "last"]
            rows = await fetch(world, "SELECT data FROM dj_saga")
            assert bytes(rows[0][0]) == b'{"n":1,"word":"first"}'

    @case("C61.kinds")
    async def test_a_state_is_what_begin_says(self) -> None:
        """Sagas of several keys do not see each other."""
        places = Places()
        async with self.with_saga(places) as world:
            await world.publish(*(Asked(n=n) for n in range(20)), *(Confirmed(n=n, word=str(n)) for n in range(20)))
            for n in range(20):
                await until_state(world, places, n, "done")
                assert await effects(world, n) == WHOLE
            rows = await fetch(world, "SELECT data FROM dj_saga ORDER BY saga_id")
            states = sorted((Case.model_validate_json(bytes(row[0])) for row in rows), key=lambda one: one.n)
            assert [(one.n, one.word) for one in states] == [(n, str(n)) for n in range(20)]
