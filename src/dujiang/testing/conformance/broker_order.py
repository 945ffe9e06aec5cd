"""Conformance of `Broker`, the order of a key: one at a time, in the order of commits, and a failure parks its key alone."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from dujiang.kernel.clock import SystemClock
from dujiang.kernel.entropy import SystemEntropy
from dujiang.kernel.tasks import all_of
from dujiang.messaging import work
from dujiang.messaging.relay import Relay
from dujiang.messaging.work import KeyCursor
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import (
    END_LEASE,
    QUICK,
    Stage,
    StageSuite,
    Told,
    effects,
    execute,
    new_process,
    until,
)

if TYPE_CHECKING:
    from dujiang.app.runtime import Runtime
    from dujiang.messaging.tx import Tx

KEYS, EACH = 100, 20


class OrderCases(StageSuite):
    """The order of a key."""

    @case("C7", needs="many_writers")
    async def test_a_relay_that_lost_its_lease_moves_nothing(self) -> None:
        """A relay that is paused with a batch in hand while another takes over routes nothing when it comes back."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with self.playing(stage) as world:
            runtime = world.runtime
            await runtime.relay.stop()
            stale_process, fresh_process = await new_process(world), await new_process(world)
            gate = Gate(runtime.broker)
            stale = Relay(runtime.node, runtime.database, gate, runtime.bells, stale_process, lambda _: None)
            fresh = Relay(runtime.node, runtime.database, runtime.broker, runtime.bells, fresh_process, lambda _: None)
            await world.publish(*(Told(line="a", n=n) for n in range(10)))
            await stale.start()
            await gate.entered.wait()
            await execute(runtime, END_LEASE, stale_process.lease)
            await fresh.start()
            await world.publish(*(Told(line="a", n=n) for n in range(10, 20)))
            await world.settle()
            gate.go.set()
            await gate.left.wait()
            await world.publish(*(Told(line="a", n=n) for n in range(20, 30)))
            await world.settle()

            assert not gate.owned
            assert stage.numbers("a") == list(range(30))
            assert fresh.owns
            for service in (stale, fresh, stale_process, fresh_process):
                await service.stop()

    @case("C19")
    async def test_each_key_is_handled_in_order_one_at_a_time(self) -> None:
        """A hundred keys with twenty messages each and handlers of random length: each key's sequence is exact."""
        stage, entropy, clock = Stage(), SystemEntropy(), SystemClock()

        async def dawdle(*_: Any) -> None:
            for _step in range(entropy.below(4)):
                await clock.sleep(0)

        stage.reaction(ordered=True, behave=dawdle)
        async with self.playing(stage) as world:
            for n in range(EACH):
                await world.publish(*(Told(line=f"k{line}", n=n) for line in range(KEYS)))
            await world.settle(within_s=90.0)

            assert stage.overlaps == []
            assert all(stage.numbers(f"k{line}") == list(range(EACH)) for line in range(KEYS))

    @case("C19.empty")
    async def test_the_empty_text_is_a_key_like_any_other(self) -> None:
        """Events whose key is the empty text are handled, in order."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line=line, n=n) for n in range(5) for line in ("", "a", "\U0001f30a")))
            await world.settle()

            assert [stage.numbers(line) for line in ("", "a", "\U0001f30a")] == [list(range(5))] * 3

    @case("C20")
    async def test_a_dead_event_parks_its_key_alone(self) -> None:
        """The later events of a key whose event is dead wait; every other key goes on to its end."""
        stage = Stage()
        stage.reaction(ordered=True, behave=fail_when(lambda event: event.line == "k3" and event.n == 1), retry=QUICK)
        async with self.playing(stage) as world:
            for n in range(5):
                await world.publish(*(Told(line=f"k{line}", n=n) for line in range(10)))
            await world.settle()
            kept = await effects(world)

            assert [n for line, n in kept if line == "k3"] == [0]
            assert len(kept) == 9 * 5 + 1
            assert len(await world.runtime.deadletters.list()) == 1

    @case("C21")
    async def test_a_parked_key_goes_on_in_order_after_the_replay(self) -> None:
        """Replayed after the fix, the dead event comes first, and the waiting ones follow in their order."""
        stage, broken = Stage(), [True]
        stage.reaction(ordered=True, behave=fail_when(lambda event: broken[0] and event.n == 1), retry=QUICK)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line="a", n=n) for n in range(6)))
            await world.settle()
            broken[0] = False
            stage.runs.clear()
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.replay(letter.dead_id)
            await world.settle()

            assert stage.numbers("a") == [1, 2, 3, 4, 5]
            assert await effects(world) == [("a", n) for n in range(6)]

    @case("C22.1")
    async def test_skip_lets_the_key_go_on_without_its_dead_event(self) -> None:
        """With `on_fail="skip"` the dead event leaves the sequence."""
        stage = Stage()
        stage.reaction(ordered=True, on_fail="skip", behave=fail_when(lambda event: event.n == 1), retry=QUICK)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line="a", n=n) for n in range(4)))
            await world.settle()

            assert await effects(world) == [("a", 0), ("a", 2), ("a", 3)]
            assert len(await world.runtime.deadletters.list()) == 1

    @case("C22.2")
    async def test_halt_stops_the_whole_subscription_until_the_letter_is_gone(self) -> None:
        """With `on_fail="halt"` nothing begins any more in any key, and everything goes on after the discard."""
        stage = Stage()
        stage.reaction(
            ordered=True, on_fail="halt", concurrency=1, behave=fail_when(lambda event: event.n == 1), retry=QUICK
        )
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=1))
            await world.settle()
            await world.publish(*(Told(line=str(line), n=0) for line in range(5)))
            await world.settle()
            halted = await effects(world)
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.discard(letter.dead_id)
            await world.settle()

            assert halted == []
            assert len(await effects(world)) == 5

    @case("C23", needs="many_writers")
    async def test_processes_that_come_and_go_keep_the_order(self) -> None:
        """While processes join and leave in mid-stream each key is handled in order, each event once."""
        stage, clock = Stage(), SystemClock()

        async def dawdle(*_: Any) -> None:
            await clock.sleep(0)

        stage.reaction(ordered=True, behave=dawdle, concurrency=4)
        async with self.playing(stage) as world:

            async def publish() -> None:
                for n in range(EACH):
                    await world.publish(*(Told(line=f"k{line}", n=n) for line in range(20)))

            async def come_and_go() -> None:
                for _ in range(3):
                    async with AsyncExitStack() as stack:
                        for _ in range(2):
                            await stack.enter_async_context(self.playing(stage))
                        before = len(stage.runs)

                        async def moved(before: int = before) -> bool:
                            return len(stage.runs) > before or len(await effects(world)) == 20 * EACH

                        await until(world, moved, "some more runs")

            await all_of(publish(), come_and_go())
            await world.settle()

            assert stage.overlaps == []
            assert await effects(world) == sorted((f"k{line}", n) for line in range(20) for n in range(EACH))
            for line in range(20):
                seen = stage.numbers(f"k{line}")
                # A run that a leaving process broke off comes again; nothing comes before what stands before it.
                assert [n for at, n in enumerate(seen) if n not in seen[:at]] == list(range(EACH))

    @case("C24")
    async def test_a_long_line_of_one_key_costs_the_others_nothing(self) -> None:
        """With 3,000 events of one key waiting, a look at the first hundred keys finds the heads of all others."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with self.playing(stage) as world:
            runtime = world.runtime
            (consumer,) = runtime.consumers
            await consumer.stop()
            for part in range(6):
                await world.publish(*(Told(line="hot", n=part * 500 + n) for n in range(500)))
            await world.publish(*(Told(line=f"k{line}", n=0) for line in range(50)))
            await self.routed(world, consumer.sub_id, consumer.subscription, 3050)
            claims = await claim_keyed(runtime, consumer.sub_id, KeyCursor(), 100)
            again = await claim_keyed(runtime, consumer.sub_id, KeyCursor(), 100)

            assert sorted(claims) == sorted(["hot", *(f"k{line}" for line in range(50))])
            assert again == []

    @case("C24.fair")
    async def test_the_cursor_goes_round_and_starves_no_key(self) -> None:
        """Taking few heads at a time while new events keep coming, every key gets its turn in each round."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with self.playing(stage) as world:
            runtime = world.runtime
            (consumer,) = runtime.consumers
            await consumer.stop()
            await world.publish(*(Told(line=f"k{line:02}", n=n) for n in range(2) for line in range(30)))
            await self.routed(world, consumer.sub_id, consumer.subscription, 60)
            cursor, seen = KeyCursor(), list[str]()
            for _ in range(40):
                seen.extend(await claim_keyed(runtime, consumer.sub_id, cursor, 4))

            assert sorted(seen) == [f"k{line:02}" for line in range(30)]


async def claim_keyed(runtime: Runtime, sub_id: int, cursor: KeyCursor, limit: int) -> list[str]:
    """The keys of what one look at the waiting work claims."""
    now_us = runtime.node.clock.now_us()
    claims, _ = await work.claim_keyed(runtime.database, sub_id, runtime.process.lease, now_us, limit, cursor)
    return [claim.message.okey or "" for claim in claims]


class Gate:
    """A broker whose first publish waits, as if its process had been paused, and remembers how it ended."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self.capabilities, self.standing = broker.capabilities, broker.standing
        self.entered, self.go, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.owned = True

    async def publish(self, batch: Any, move: Any) -> Any:
        """Wait, then publish; later calls go straight through."""
        if self.left.is_set() or not batch:
            return await self._broker.publish(batch, move)
        self.entered.set()
        await self.go.wait()
        passed = await self._broker.publish(batch, move)
        self.owned = passed.owned
        self.left.set()
        return passed

    async def start(self) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Nothing."""

    async def attend(self, feed: Any, heard: Any) -> None:
        """As the broker."""
        await self._broker.attend(feed, heard)

    async def leave(self, sub_id: int) -> None:
        """As the broker."""
        await self._broker.leave(sub_id)

    async def receive(self, sub_id: int, lease: int, limit: int, cursor: KeyCursor | None) -> Any:
        """As the broker."""
        return await self._broker.receive(sub_id, lease, limit, cursor)


def fail_when(wrong: Any) -> Any:
    """A behaviour that raises for some events."""

    async def behave(_: Tx, event: Told) -> None:
        if wrong(event):
            raise ValueError(f"{event.line} {event.n} fails")

    return behave
