"""Conformance of `Broker`, what stands around it: parts of tables, clean-up, stored names, bells, traces."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.data.sql import Sql
from dujiang.kernel.ids import uuid7
from dujiang.kernel.tasks import Tasks
from dujiang.messaging.catalogue import NamesStranded
from dujiang.messaging.outbox import needed_from
from dujiang.messaging.partitions import CHILDREN, DAY_US
from dujiang.telemetry.tracing import span
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import (
    QUICK,
    Held,
    Stage,
    StageSuite,
    Told,
    append_raw,
    effects,
    execute,
    fetch,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Connection
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

PARTS = ("dj_inbox", "dj_outcome", "dj_outbox")


class UpkeepCases(StageSuite):
    """Parts, clean-up, names, bells, traces."""

    @case("C64.missing", needs="partitions")
    async def test_a_missing_part_is_made_when_a_row_needs_it(self, caplog: pytest.LogCaptureFixture) -> None:
        """Without any part of outbox, inbox and outcomes an event is still published, handled and counted, with an alarm."""
        stage = Stage()

        async def fail_second(_: Tx, event: Told) -> None:
            if event.n == 2:
                raise ValueError("always")

        stage.reaction(behave=fail_second, retry=QUICK)
        async with self.playing(stage) as world:
            for n in (1, 2):
                await drop_parts(world)
                await world.publish(Told(line="a", n=n))
                await drop_parts(world, ("dj_inbox", "dj_outcome"))
                await world.settle()

            assert await effects(world) == [("a", 1)]
            assert len(await world.runtime.deadletters.list()) == 1
            alarms = [record for record in caplog.records if record.name == "dujiang.partitions"]
            assert alarms
            assert {record.levelno for record in alarms} == {logging.ERROR}

    @case("C64.jump", needs="partitions")
    async def test_a_clock_that_jumps_over_all_parts_stops_nothing(self) -> None:
        """Ten days later, before anybody made new parts, events are published and handled."""
        stage, clock = Stage(), JumpClock()
        stage.reaction()
        async with self.playing(stage, clock=clock) as world:
            clock.jump(10 * 86_400)
            await world.publish(Told(line="a", n=1))
            await world.settle()

            assert await effects(world) == [("a", 1)]

    @case("C64.clean")
    async def test_a_cleaning_takes_only_what_nothing_needs(self) -> None:
        """What was handled long ago goes; what still waits, is open, or is dead can be handled afterwards."""
        stage, clock, broken = Stage(), JumpClock(), [True]

        async def fail_while_broken(_: Tx, event: Told) -> None:
            if broken[0] and event.line == "bad":
                raise ValueError("broken")

        stage.reaction(ordered=True, behave=fail_while_broken, retry=QUICK)
        async with self.playing(stage, clock=clock) as world:
            await world.publish(*(Told(line="old", n=n) for n in range(5)))
            await world.publish(*(Told(line="bad", n=n) for n in range(3)))
            await world.settle()
            clock.jump(9 * 86_400)  # Beyond the outbox's retention, within the horizon of the inbox.
            while await world.runtime.cleaner.clean():
                pass
            broken[0] = False
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.replay(letter.dead_id)
            await world.settle()

            assert await effects(world) == sorted([*(("old", n) for n in range(5)), *(("bad", n) for n in range(3))])
            assert await world.runtime.deadletters.list() == []

    @case("C64.gap", needs="xid_horizon")
    async def test_a_cleaning_keeps_the_place_of_an_open_number(self) -> None:
        """While a transaction holds a number, everything from that number on counts as needed."""
        stage, tasks = Stage(), Tasks("held")
        stage.reaction()
        async with self.playing(stage) as world:
            held = Held(tasks, world.runtime, [Told(line="late", n=1)])
            await held.reached()
            await world.publish(Told(line="a", n=2))
            await world.settle()
            needed = await needed_from(world.runtime.database)
            await held.end(commit=True)

            async def late() -> bool:
                return ("late", 1) in await effects(world)

            await until(world, late, "the late event")

            assert needed == 1

    @case("C64.slices")
    async def test_old_outcomes_and_inbox_rows_go(self) -> None:
        """Beyond their retention rows of finished work are removed, whole parts or in slices."""
        stage, clock = Stage(), JumpClock()
        stage.reaction()
        async with self.playing(stage, clock=clock) as world:
            await world.publish(*(Told(line=str(n), n=n) for n in range(20)))
            await world.settle()
            clock.jump(40 * DAY_US / 1e6)
            await world.runtime.cleaner.prepare()
            while await world.runtime.cleaner.clean():
                pass

            assert await fetch(world, "SELECT count(*) FROM dj_outcome") == [(0,)]
            assert await fetch(world, "SELECT count(*) FROM dj_inbox") == [(0,)]

    @case("C64.blocks", needs="partitions")
    async def test_dropping_a_part_waits_for_nobody(self) -> None:
        """While a long report reads old parts, a cleaning leaves them and stops nobody; afterwards they go."""
        stage, clock, tasks = Stage(), JumpClock(), Tasks("report")
        reads, leave = asyncio.Event(), asyncio.Event()
        stage.reaction()
        async with self.playing(stage, clock=clock) as world:

            async def report(connection: Connection) -> None:
                await connection.fetch(Sql("stage_report", "SELECT count(*) FROM dj_outcome", "Counts."))
                await connection.fetch(Sql("stage_report", "SELECT count(*) FROM dj_inbox", "Counts."))
                reads.set()
                await leave.wait()

            await world.publish(*(Told(line=str(n), n=n) for n in range(5)))
            await world.settle()
            clock.jump(40 * DAY_US / 1e6)
            await world.runtime.cleaner.prepare()
            reading = tasks.spawn(world.runtime.database.write(report), name="report")
            await reads.wait()
            cleaning = tasks.spawn(world.runtime.cleaner.clean(), name="cleaning")
            await world.publish(*(Told(line=str(n), n=n) for n in range(5, 10)))
            await world.settle(within_s=8.0)  # Below the limit of a lock, after which a cleaning gave up in any case.
            await cleaning
            before = await fetch(world, "SELECT count(*) FROM dj_outcome")
            leave.set()
            await reading
            await world.runtime.cleaner.clean()

            assert (before, await fetch(world, "SELECT count(*) FROM dj_outcome")) == ([(10,)], [(5,)])
            assert await effects(world) == sorted((str(n), n) for n in range(10))

    @case("C67.names")
    async def test_a_stored_name_without_code_is_asked_about(self) -> None:
        """A start is refused while work of a vanished reaction would be stranded; a renamed one goes on where it was."""
        before, vanished, after = Stage(), Stage(), Stage()
        before.reaction("old_name")
        vanished.reaction("other")
        after.reaction("new_name")
        async with self.playing(before) as world:
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            await world.publish(*(Told(line="a", n=n) for n in range(5)))
            await until(world, lambda: passed_on(world), "the events passed on")
        with pytest.raises(NamesStranded) as refused:
            async with self.playing(vanished):
                pass
        async with self.playing(after, renamed={"stage.old_name": "stage.new_name"}) as world:
            await world.settle()

            assert await effects(world, "new_name") == [("a", n) for n in range(5)]
        assert "stage.old_name" in str(refused.value)

    @case("C67.retired")
    async def test_what_waits_for_a_retired_reaction_ends_as_cancelled(self) -> None:
        """A reaction that is gone on purpose leaves no work behind, and every piece of it is counted as cancelled."""
        before, after = Stage(), Stage()
        before.reaction("gone")
        after.reaction("stays")
        async with self.playing(before) as world:
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            await world.publish(*(Told(line="a", n=n) for n in range(5)))
            await until(world, lambda: passed_on(world), "the events passed on")
        async with self.playing(after, renamed={"stage.gone": None}) as world:
            await world.publish(Told(line="b", n=1))
            await world.settle()

            assert await fetch(world, "SELECT state, count(*) FROM dj_outcome GROUP BY state ORDER BY state") == [
                (1, 1),
                (4, 5),
            ]
            assert await fetch(world, "SELECT count(*) FROM dj_ready") == [(0,)]

    @case("C31.bells")
    async def test_everything_works_without_bells(self) -> None:
        """With all wake-ups lost, events are relayed, handled, retried and kept in order by looking alone."""
        stage, failed = Stage(), set[int]()

        async def fail_once(_: Tx, event: Told) -> None:
            if event.n == 2 and not failed:
                failed.add(event.n)
                raise ValueError("once")

        stage.reaction(ordered=True, behave=fail_once, retry=QUICK)
        async with self.playing(stage) as world:
            world.runtime.bells.muffled = True
            await world.publish(*(Told(line="a", n=n) for n in range(5)))
            await world.settle()

            assert stage.numbers("a") == [0, 1, 2, 2, 3, 4]

    @case("C62")
    async def test_a_trace_goes_on_from_publisher_to_reaction_to_its_own_events(self, exported: Any) -> None:
        """The reaction's span is a child of the publisher's, and the reaction of its event a child of the reaction's."""
        stage = Stage()

        async def tell_on(tx: Tx, event: Told) -> None:
            if event.n == 1:
                tx.publish(Told(line="b", n=2))

        stage.reaction(behave=tell_on)
        async with self.playing(stage) as world:
            with span("request"):
                await world.publish(Told(line="a", n=1))
            await world.settle()
        spans = exported.get_finished_spans()
        (root,) = [one for one in spans if one.name == "request"]
        first, second = sorted((one for one in spans if one.name == "react"), key=lambda one: one.start_time)

        assert {one.context.trace_id for one in (first, second)} == {root.context.trace_id}
        assert chain(spans, first.context.span_id)[-1] == "request"
        assert chain(spans, second.context.span_id).count("react") == 2

    @pytest.mark.parametrize("options", [{}, {"batch": 16}], ids=["grouped", "batched"])
    @case("C62.group")
    async def test_traced_events_share_commits_and_keep_their_traces(self, exported: Any, options: Any) -> None:
        """With a tracer quick events share commits as without one; each has one span, in the trace that published it."""
        stage, count = Stage(), 60

        async def tell_on(tx: Tx, event: Told) -> None:
            if event.line == "a":
                tx.publish(Told(line="b", n=event.n))

        stage.reaction(behave=tell_on, concurrency=2, **options)
        async with self.playing(stage) as world:
            await world.runtime.relay.stop()
            for n in range(count):
                with span("request", n=n):
                    await world.publish(Told(line="a", n=n))
        async with self.playing(stage) as world:
            await world.settle()
        spans = exported.get_finished_spans()
        reacts = [one for one in spans if one.name == "react"]
        groups = {one.context.span_id for one in spans if one.name == "react.group"}
        requests = {one.context.trace_id for one in spans if one.name == "request"}

        each = Counter(one.context.trace_id for one in reacts)
        assert each.keys() == requests
        assert 0 < len(groups) < len(reacts) / 3
        assert all(chain(spans, one.context.span_id)[-1] == "request" for one in reacts)
        shared = {one.context.span_id for one in spans if one.parent is not None and one.parent.span_id in groups}
        assert {link.context.span_id for one in reacts for link in one.links} <= shared
        assert sum(len(one.links) for one in reacts) > count
        if not options:
            assert min(each.values()) == 2

    @case("C62.untraced")
    async def test_trace_ids_travel_through_shared_commits_without_a_tracer(self) -> None:
        """What a handler publishes carries the trace id of its own event, also when many share a commit."""
        stage, count = Stage(), 60

        async def tell_on(tx: Tx, event: Told) -> None:
            if event.line == "a":
                tx.publish(Told(line="b", n=event.n))

        stage.reaction(behave=tell_on, concurrency=2)
        async with self.playing(stage) as world:
            await world.runtime.relay.stop()
            for n in range(count):
                trace = f"00-{n + 1:032x}-{1:016x}-01"
                payload = b'{"line":"a","n":%d}' % n
                message_id = uuid7(world.runtime.node.clock.now_us(), n)
                await append_raw(world, message_id, payload, headers=f'{{"traceparent":"{trace}"}}')
        async with self.playing(stage) as world:
            await world.settle()
            rows = await fetch(world, "SELECT payload, headers FROM dj_outbox WHERE okey = 'b'")
            told = {json.loads(bytes(row[0]))["n"]: json.loads(row[1])["traceparent"].split("-")[1] for row in rows}

            assert told == {n: f"{n + 1:032x}" for n in range(count)}


async def passed_on(world: World) -> bool:
    """Whether the relay has passed everything on; what nobody receives then waits, in the store or in the broker."""
    behind = "SELECT count(*) FROM dj_outbox WHERE seq > (SELECT floor_seq FROM dj_relay WHERE relay_id = 1)"
    return await fetch(world, behind) == [(0,)]


async def drop_parts(world: World, tables: tuple[str, ...] = PARTS) -> None:
    """Remove every empty part of these tables; a part with rows stays."""
    for table in tables:
        rows = await world.runtime.database.read(lambda connection, table=table: connection.fetch(CHILDREN, table))  # type: ignore[misc]
        for (name,) in [tuple(row) for row in rows]:
            await execute(world.runtime, Sql("stage_drop_part", f"DROP TABLE {name}", "Removes a part."))


def chain(spans: Sequence[Any], span_id: int) -> list[str]:
    """The names of a span and of those above it, the outermost last."""
    by_id = {one.context.span_id: one for one in spans}
    names = []
    found = by_id.get(span_id)
    while found is not None:
        names.append(found.name)
        found = None if found.parent is None else by_id.get(found.parent.span_id)
    return names
