"""Conformance of `Broker`: what every adapter promises together with outbox, inbox and work tables.

    class TestSqlOnSqlite(BrokerConformance, capabilities=SqliteDatabase.capabilities):
        url = "sqlite:///..."       # an empty store for each test
        folder = ...                # a folder for each test

The numbers are those of the list of cases in the design of messaging; a number with a point is a part of one. Real
processes killed at crash points, and brokers of their own, have suites beside this one; docs/reference/pending.md lists
what nothing runs yet. Each file holds one subject:

    broker.py           delivery, counting                    broker_publish.py   publishing, the relay
    broker_order.py     order of a key
    broker_retry.py     retries and delays                    broker_dead.py      poison, what a letter keeps
    broker_leases.py    leases, fencing, stopping             broker_letters.py   replay and discard
    broker_clocks.py    wrong clocks                          broker_races.py     two who decide at once
    broker_upkeep.py    parts, names, bells                   broker_crashes.py   whose process died
    broker_gate.py      outages                               broker_contracts.py events that change
    broker_versions.py  deploys that are taken back
    jobs.py, jobs_ended.py    jobs, in the same work tables
    schedules.py              jobs of the clock
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.kernel.clock import instant
from dujiang.kernel.ids import uuid7
from dujiang.kernel.tasks import all_of
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.broker_clocks import ClockCases
from dujiang.testing.conformance.broker_contracts import ContractCases
from dujiang.testing.conformance.broker_crashes import CrashCases
from dujiang.testing.conformance.broker_dead import DeadCases
from dujiang.testing.conformance.broker_gate import GateCases
from dujiang.testing.conformance.broker_leases import LeaseCases
from dujiang.testing.conformance.broker_letters import LetterCases
from dujiang.testing.conformance.broker_order import OrderCases
from dujiang.testing.conformance.broker_publish import PublishCases
from dujiang.testing.conformance.broker_races import RaceCases
from dujiang.testing.conformance.broker_retry import RetryCases
from dujiang.testing.conformance.broker_upkeep import UpkeepCases
from dujiang.testing.conformance.broker_versions import VersionCases
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.jobs import JobCases
from dujiang.testing.conformance.jobs_ended import EndedJobCases
from dujiang.testing.conformance.sagas import SagaCases
from dujiang.testing.conformance.schedules import ScheduleCases
from dujiang.testing.conformance.stage import (
    COUNT_EFFECTS,
    QUICK,
    Stage,
    Told,
    append_raw,
    effects,
    fetch,
    until,
)

if TYPE_CHECKING:
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World


class BrokerConformance(
    JobCases,
    EndedJobCases,
    SagaCases,
    ScheduleCases,
    PublishCases,
    OrderCases,
    RetryCases,
    DeadCases,
    LetterCases,
    LeaseCases,
    ClockCases,
    RaceCases,
    UpkeepCases,
    CrashCases,
    GateCases,
    ContractCases,
    VersionCases,
):
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

        async def dawdle(*_: Any) -> None:
            for _step in range(5):
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

        async def fail_twice(tx: Tx, _: Told) -> None:
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

        async def fail(*_: Any) -> None:
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

    @case("C14.time")
    async def test_a_late_subscription_begins_at_a_time(self) -> None:
        """A new reaction with a time gets what was published since then, in order, and what comes."""
        stage, clock = Stage(), JumpClock()
        stage.reaction("first")
        async with self.playing(stage, clock=clock) as world:
            await world.publish(*(Told(line="a", n=n) for n in range(3)))
            clock.jump(60.0)
            since = instant(world.runtime.node.clock.now_us())
            await world.publish(*(Told(line="a", n=n) for n in range(3, 5)))
            await world.settle()
        stage.reaction("since_then", start=since, ordered=True)
        async with self.playing(stage, clock=clock) as world:
            await world.publish(Told(line="a", n=5))
            await world.settle()

            assert stage.numbers("a", "since_then") == [3, 4, 5]

    @case("C17")
    async def test_payloads_and_headers_arrive_as_they_were_sent(self) -> None:
        """A megabyte, nothing, and every kind of character come through; so does a header in any script."""
        texts = ["", "x" * 1_000_000, "江\U0001f30a\u202e\ufeff", '"\\ \t\n\x01', "a\u0000b"]
        got: list[str] = []
        stage = Stage()

        async def keep(_: Tx, event: Told) -> None:
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

        async def fail_some(_: Tx, event: Told) -> None:
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


async def states(world: World) -> dict[int, int]:
    """How many pieces of work ended in each state."""
    rows = await fetch(world, "SELECT state, count(*) FROM dj_outcome GROUP BY state")
    return {row[0]: row[1] for row in rows}
