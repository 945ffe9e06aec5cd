"""Conformance of `Broker`, decisions about dead letters: a replay or a discard lets go of what the letter held, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dujiang.data.sql import Sql
from dujiang.kernel.errors import Refusal
from dujiang.kernel.ids import uuid7
from dujiang.messaging.deadletter import DeadLetterUnknown, SubscriptionRetired
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import QUICK, Stage, StageSuite, Told, append_raw, effects, execute, fetch

if TYPE_CHECKING:
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

GOOD = b'{"line":"good","n":1}'


class LetterCases(StageSuite):
    """Replay and discard."""

    @case("C35.1")
    async def test_a_letter_is_replayed_once_with_its_own_or_a_better_payload(self) -> None:
        """A replay handles the message, a second replay finds no letter, and a given payload takes the place of the bad one."""
        stage, broken = Stage(), [True]

        async def fail_while_broken(*_: Any) -> None:
            if broken[0]:
                raise ValueError("broken")

        stage.reaction(behave=fail_while_broken, retry=QUICK)
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=1))
            await append_raw(world, self.new_id(world, 1), b"bad")
            await world.settle()
            broken[0] = False
            for letter in await world.runtime.deadletters.list():
                payload = GOOD if letter.reason == "undecodable" else None
                await world.runtime.deadletters.replay(letter.dead_id, payload)
                with pytest.raises(DeadLetterUnknown):
                    await world.runtime.deadletters.replay(letter.dead_id)
            await world.settle()

            assert await effects(world) == [("a", 1), ("good", 1)]

    @case("C35.2")
    async def test_a_letter_is_replayed_when_the_outbox_has_dropped_its_row(self) -> None:
        """A letter carries its own copy of the message."""
        stage, broken = Stage(), [True]

        async def fail_while_broken(*_: Any) -> None:
            if broken[0]:
                raise ValueError("broken")

        stage.reaction(ordered=True, behave=fail_while_broken, retry=QUICK)
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=1))
            await world.settle()
            broken[0] = False
            await self.drop_outbox(world)
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.replay(letter.dead_id)
            await world.settle()

            assert await effects(world) == [("a", 1)]

    @case("C36")
    async def test_a_handled_message_is_handled_again_only_by_force(self) -> None:
        """The replay of a letter whose message was handled already has no effect; with force it has one more."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            for n, forced in enumerate((False, True)):
                message_id = self.new_id(world, n)
                await append_raw(world, message_id, GOOD)
                await world.settle()
                await append_raw(world, message_id, b"bad")
                await world.settle()
                (letter,) = await world.runtime.deadletters.list()
                await world.runtime.deadletters.replay(letter.dead_id, GOOD, force=forced)
                await world.settle()

            assert await effects(world) == [("good", 1)] * 3

    @case("C37")
    async def test_a_discard_releases_the_key(self) -> None:
        """Once its dead event is discarded, a parked key goes on without it."""
        stage = Stage()

        async def fail_first(_: Tx, event: Told) -> None:
            if event.n == 0:
                raise Refused("no")

        stage.reaction(ordered=True, behave=fail_first)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line="a", n=n) for n in range(4)))
            await world.settle()
            parked = await effects(world)
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.discard(letter.dead_id)
            await world.settle()

            assert (parked, letter.reason, letter.attempts) == ([], "stage_refused", 1)
            assert stage.numbers("a") == [0, 1, 2, 3]
            assert await fetch(world, "SELECT count(*) FROM dj_hold") == [(0,)]

    @pytest.mark.parametrize("first", ["replay", "discard"])
    @case("C37.two")
    async def test_a_halt_lasts_until_every_letter_under_it_is_decided(self, first: str) -> None:
        """Two runs died under one halt: after a decision about one of them nothing begins, and after both everything does."""
        stage, broken = Stage(), [True]

        async def fail_while_broken(_: Tx, event: Told) -> None:
            if broken[0] and event.n == 0:
                raise Refused("no")

        stage.reaction(ordered=True, on_fail="halt", concurrency=2, behave=fail_while_broken)
        async with self.playing(stage) as world:
            letters = world.runtime.deadletters
            await world.publish(Told(line="a", n=0), Told(line="b", n=0))
            await world.settle()
            broken[0] = False
            await world.publish(Told(line="c", n=1))
            one, other = await letters.list()
            await (letters.replay if first == "replay" else letters.discard)(one.dead_id)
            await world.settle()
            halted = await effects(world)
            await letters.replay(other.dead_id)
            await world.settle()

            assert halted == []
            kept = [("a", 0), ("b", 0)] if first == "replay" else [(str(other.okey), 0)]
            assert await effects(world) == [*kept, ("c", 1)]
            assert await fetch(world, "SELECT count(*) FROM dj_hold") == [(0,)]

    @case("C35.retired")
    async def test_a_letter_of_a_retired_reaction_is_discarded_and_never_replayed(self) -> None:
        """Replayed, its work would wait for ever: that is refused with what to do, and the letter stays until discarded."""
        before, after = Stage(), Stage()

        async def refuse(*_: Any) -> None:
            raise Refused("no")

        before.reaction("gone", behave=refuse, ordered=True)
        after.reaction("stays")
        async with self.playing(before) as world:
            await world.publish(Told(line="a", n=1))
            await world.settle()
        async with self.playing(after, renamed={"stage.gone": None}) as world:
            letters = world.runtime.deadletters
            (letter,) = await letters.list()
            with pytest.raises(SubscriptionRetired, match=r"stage\.gone"):
                await letters.replay(letter.dead_id)
            kept = await letters.list()
            ready = await fetch(world, "SELECT count(*) FROM dj_ready")
            await letters.discard(letter.dead_id)

            assert kept == [letter]
            assert ready == [(0,)]
            assert await letters.list() == []
            assert await fetch(world, "SELECT count(*) FROM dj_hold") == [(0,)]

    def new_id(self, world: World, n: int) -> bytes:
        """A message id of now."""
        return uuid7(world.runtime.node.clock.now_us(), n)

    async def drop_outbox(self, world: World) -> None:
        """Remove every row of the outbox."""
        await execute(world.runtime, Sql("stage_drop", "DELETE FROM dj_outbox", "Drops what was published."))


class Refused(Refusal):
    """A reaction refuses."""

    code = "stage_refused"
