"""Conformance of `Broker`, poison and dead letters: bad bytes end as a letter and nothing else; letters can be played again."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dujiang.kernel.ids import uuid7
from dujiang.messaging.message import received_text
from dujiang.messaging.outbox import message_of
from dujiang.messaging.verdict import Unfit, judged
from dujiang.testing.clocks import JumpClock
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import (
    QUICK,
    Stage,
    StageSuite,
    Told,
    append_raw,
    effects,
    fetch,
    until,
)

if TYPE_CHECKING:
    from dujiang.messaging.deadletter import DeadLetter
    from dujiang.messaging.tx import Tx
    from dujiang.testing.harness import World

GOOD = b'{"line":"good","n":1}'
DAY_US = 86_400_000_000

# What arrives -> the reason of its letter. By the numbers of the list of broken messages in the design of reliability.
BROKEN_PAYLOADS: dict[str, bytes] = {
    "1 empty": b"",
    "2 not JSON": b"hello",
    "3 truncated": b'{"line":"a","n":',
    "4 pickle": pickle.dumps({"line": "a", "n": 1}),
    "5 gzip": gzip.compress(GOOD),
    "6 wrong charset": '{"line":"ü","n":1}'.encode("latin-1"),
    "6 utf-16": '{"line":"a","n":1}'.encode("utf-16"),
    "20 missing field": b'{"line":"a"}',
    "20 wrong type": b'{"line":"a","n":"1"}',
    "20 null": b"null",
    "20 a list": b"[1,2]",
    "26 deep nesting": b'{"line":"a","n":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "27 NaN": b'{"line":"a","n":NaN}',
    "half a surrogate": b'{"line":"\\ud800","n":1}',
    "NUL bytes": b"\x00" * 64,
}
GOOD_ALL_THE_SAME: dict[str, tuple[bytes, str]] = {
    "21 extra fields": (b'{"line":"a","n":1,"colour":"red","n2":[1]}', "{}"),
    "17 negative hop": (b'{"line":"a","n":2}', '{"hop":-5}'),
    "18 hop is a word": (b'{"line":"a","n":3}', '{"hop":"abc"}'),
    "44 malformed trace": (b'{"line":"a","n":4}', '{"traceparent":"00-zz-\\u0000-\\"\'"}'),
    "44 trace is a list": (b'{"line":"a","n":5}', '{"traceparent":[1]}'),
    "headers are no JSON": (b'{"line":"a","n":6}', "{{{"),
    "headers are a list": (b'{"line":"a","n":7}', "[1,2]"),
    "headers are empty": (b'{"line":"a","n":8}', ""),
    "23 large headers": (b'{"line":"a","n":9}', json.dumps({"x": "y" * 1_000_000})),
    "8 older version": (b'{"line":"a","n":10}', '{"version":0}'),
    "22 a megabyte": (b'{"line":"a","n":11,"text":"' + b"x" * 1_000_000 + b'"}', "{}"),
}
BROKEN_HEADERS = {
    "version is a word": '{"version":"abc"}',
    "version is a list": '{"version":[1]}',
    "endless": '{"version":1e999}',
}


class DeadCases(StageSuite):
    """Poison and dead letters."""

    @case("C32.1")
    async def test_bytes_that_are_no_event_are_kept_exactly_and_hurt_nobody(self) -> None:
        """Each kind of broken payload is dead at first sight with its own bytes; the good ones between them are handled."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with self.playing(stage) as world:
            await world.runtime.relay.stop()
            for n, (what, payload) in enumerate(BROKEN_PAYLOADS.items()):
                await append_raw(world, self.new_id(world, n), payload, line=what)
                await append_raw(world, self.new_id(world, 1000 + n), GOOD, line="good")
        async with self.playing(stage) as world:
            await world.settle()
            letters = await world.runtime.deadletters.list(limit=1000)

            assert {letter.okey: letter.payload for letter in letters} == BROKEN_PAYLOADS
            assert {letter.reason for letter in letters} == {"undecodable"}
            assert {letter.attempts for letter in letters} == {1}
            assert await effects(world) == [("good", 1)] * len(BROKEN_PAYLOADS)

    @case("C32.2")
    async def test_a_letter_names_the_field_that_is_wrong(self) -> None:
        """The error of a letter says which field of which event is missing or wrong."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            await append_raw(world, self.new_id(world, 1), b'{"line":"a"}')
            await world.settle()
            (letter,) = await world.runtime.deadletters.list()

            assert "Told" in letter.error
            assert "\nn\n" in letter.error

    @case("C32.3")
    async def test_odd_but_readable_messages_are_handled(self) -> None:
        """Extra fields, senseless headers, malformed trace ids and a megabyte are no reason to refuse a message."""
        stage = Stage()

        async def publish_on(tx: Tx, event: Told) -> None:
            if event.line == "a":
                tx.publish(Told(line="next", n=event.n))

        stage.reaction(behave=publish_on)
        async with self.playing(stage) as world:
            for n, (payload, headers) in enumerate(GOOD_ALL_THE_SAME.values()):
                await append_raw(world, self.new_id(world, n), payload, headers=headers)
            await world.settle()

            assert await effects(world) == sorted((line, n) for line in ("a", "next") for n in range(1, 12))
            assert await world.runtime.deadletters.list() == []

    @case("C32.4")
    async def test_broken_versions_and_ids_are_dead_at_once(self) -> None:
        """A version that is no number, an id that is none and one of the far future are dead."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            now_us = world.runtime.node.clock.now_us()
            for n, headers in enumerate(BROKEN_HEADERS.values()):
                await append_raw(world, self.new_id(world, n), GOOD, headers=headers)
            ids = {
                "undecodable": b"short",
                "id_in_the_future": uuid7(now_us + 3650 * DAY_US, 1),
            }
            for message_id in ids.values():
                await append_raw(world, message_id, GOOD)
            await world.settle()
            letters = await world.runtime.deadletters.list()

            assert sorted(letter.reason for letter in letters) == sorted(
                [*ids, "undecodable", "undecodable", "undecodable"]
            )
            assert await effects(world) == []

    @case("C15")
    async def test_a_message_beyond_the_horizon_is_dead_until_it_is_forced(self) -> None:
        """Older than the inbox remembers, a message is not handled: nobody knows whether it was before; force decides."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            await append_raw(world, uuid7(world.runtime.node.clock.now_us() - 15 * DAY_US, 1), GOOD)
            await world.settle()
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.replay(letter.dead_id)
            await world.settle()
            (again,) = await world.runtime.deadletters.list()
            unforced = await effects(world)
            await world.runtime.deadletters.replay(again.dead_id, force=True)
            await world.settle()

            assert [letter.reason, again.reason] == ["beyond_dedupe_horizon"] * 2
            assert unforced == []
            assert await effects(world) == [("good", 1)]
            assert await world.runtime.deadletters.list() == []

    @case("C33.1")
    async def test_a_newer_version_is_returned_and_not_dead(self) -> None:
        """A message of a newer version waits, with no attempt counted, for a process that knows it."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            await append_raw(world, self.new_id(world, 1), GOOD, headers='{"version":2}')

            async def returned() -> bool:
                rows = await fetch(world, "SELECT attempt, run_at FROM dj_ready")
                return bool(rows) and rows[0][0] == 0 and rows[0][1] > world.runtime.node.clock.now_us() + 30_000_000

            await until(world, returned, "the message to be returned")

            assert await world.runtime.deadletters.list() == []
            assert stage.runs == []

    @case("C33.2")
    async def test_an_event_that_nobody_wants_passes(self) -> None:
        """An event of a type without a reaction is passed by the relay and stops nothing."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            await append_raw(world, self.new_id(world, 1), GOOD, topic="Unknown")
            await world.publish(Told(line="a", n=1))
            await world.settle()

            assert await effects(world) == [("a", 1)]

    @case("C33.3")
    async def test_judging_a_message_raises_nothing(self) -> None:
        """Whatever stands in id, headers and payload, the verdict is an answer."""
        stage = Stage()
        stage.reaction()
        async with self.playing(stage) as world:
            (consumer,) = world.runtime.consumers
            await append_raw(world, self.new_id(world, 1), GOOD)
            await world.settle()
            (seen,) = await fetch(
                world, "SELECT 1, message_id, topic, okey, created_us, headers, payload FROM dj_outbox"
            )
            message = message_of(seen)
            now_us = world.runtime.node.clock.now_us()
            odd: list[Any] = [None, {}, "9" * 5000, float("nan")]
            for version in odd:
                found = judged(replace(message, headers={"version": version}), consumer.subscription, now_us)
                assert isinstance(found, Unfit)
            dropped = judged(replace(message, topic=None, payload=None), consumer.subscription, now_us)  # type: ignore[arg-type]
            assert isinstance(dropped, Unfit)

    @case("C38")
    async def test_a_letter_keeps_what_is_needed_to_understand_it(self) -> None:
        """Headers with the trace id, attempts and error are kept; equal errors at one place have one fingerprint."""
        stage = Stage()
        trace = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "tenant": "水利", "strange": '\ud800 " \\'}

        async def fail(_: Tx, event: Told) -> None:
            raise ValueError(f"number {event.n} \x00 \ud800")

        stage.reaction(behave=fail, retry=QUICK)
        async with self.playing(stage) as world:
            for n in range(2):
                payload = b'{"line":"a","n":%d}' % n
                await append_raw(world, self.new_id(world, n), payload, headers=received_text(trace))
            await world.settle()
            letters: list[DeadLetter] = await world.runtime.deadletters.list()

            assert [letter.headers for letter in letters] == [trace] * 2
            assert {letter.attempts for letter in letters} == {QUICK.attempts}
            assert len({letter.fingerprint for letter in letters}) == 1
            assert sorted(letter.error[:20] for letter in letters) == ["ValueError: number 0", "ValueError: number 1"]

    @case("C34.hang", needs="many_writers")
    async def test_a_handler_that_hangs_is_ended_and_the_others_go_on(self) -> None:
        """A run longer than its limit is rolled back and counted as an attempt; other events are handled meanwhile."""
        stage, clock = Stage(), JumpClock()

        async def hang(_: Tx, event: Told) -> None:
            if event.n == 0:
                await asyncio.Event().wait()

        stage.reaction(behave=hang, retry=QUICK, timeout="2s", ordered=True)
        async with self.playing(stage, clock=clock) as world:
            await world.publish(*(Told(line=str(n), n=n) for n in range(10)))

            async def others() -> bool:
                return len(await effects(world)) == 9

            await until(world, others, "the other events")

            async def dead() -> bool:
                clock.jump(0.5)
                return bool(await world.runtime.deadletters.list())

            await until(world, dead, "a letter")
            (letter,) = await world.runtime.deadletters.list()

            assert (letter.attempts, letter.error[:12]) == (QUICK.attempts, "TimeoutError")

    @case("C34.base")
    async def test_a_handler_that_raises_what_ends_tasks_is_a_failure_like_others(self) -> None:
        """CancelledError, SystemExit and other BaseExceptions of a handler cost an attempt, and no runner is lost."""
        stage = Stage()
        kinds: list[Any] = [asyncio.CancelledError, SystemExit, Unusual]

        async def fail(_: Tx, event: Told) -> None:
            if event.n < len(kinds):
                raise kinds[event.n]

        stage.reaction(behave=fail, retry=QUICK, concurrency=1)
        async with self.playing(stage) as world:
            await world.publish(*(Told(line=str(n), n=n) for n in range(6)))
            await world.settle()

            assert await effects(world) == [("3", 3), ("4", 4), ("5", 5)]
            assert {letter.reason for letter in await world.runtime.deadletters.list()} == {"attempts"}

    def new_id(self, world: World, n: int) -> bytes:
        """A message id of now."""
        return uuid7(world.runtime.node.clock.now_us(), n)


class Unusual(BaseException):
    """Not an Exception."""
