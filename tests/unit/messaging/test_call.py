"""Reactions on Call: outside any transaction, at least once, under one key, on both databases."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dujiang import App, Call, Event, Module, Refusal, Retry, Tx, key
from dujiang.data.sql import Sql
from dujiang.kernel.context import current
from dujiang.kernel.errors import Declared
from dujiang.kernel.ids import uuid7
from dujiang.messaging.call import stable_key
from dujiang.messaging.work import release_lease
from dujiang.resilience.external import ExternalInTransaction
from dujiang.testing.conformance.stage import append_raw, execute, fetch, until
from dujiang.testing.harness import World, running
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

QUICK = Retry(attempts=4, base="1ms", cap="5ms")
DATABASE = "calls"
FENCE_OFF = Sql("test_fence_off", "UPDATE dj_running SET lease = -1", "Takes the claims for those of a dead process.")
STATES = "SELECT state, count(*) FROM dj_outcome GROUP BY state"


class Due(Event):
    """Something is to be paid."""

    line: str = key()
    n: int = 1


class Told(Event):
    """Something was told while paying."""

    line: str


class Declined(Refusal):
    """The other side says no."""

    code = "declined"


def app_of(behave: Callable[[Call, Due], Awaitable[None]], **options: Any) -> App:
    """An app with one reaction on Call."""
    module = Module("bank")

    @module.react(Due, **{"retry": QUICK, **options})
    async def pay(call: Call, event: Due) -> None:
        await behave(call, event)

    @module.write()
    async def tell(tx: Tx, line: str) -> None:
        tx.publish(Told(line=line))

    return App(modules=[module])


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for all tests; fsync off, because nothing here cuts the power."""
    with PostgresServer(fsync=False) as found:
        found.create_database(DATABASE)
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[App], AbstractAsyncContextManager[World]]:
    """Starts an app on the test's store; twice is a restart."""
    url = f"sqlite:///{tmp_path}/app.db"
    if request.param == "postgres":
        found: PostgresServer = request.getfixturevalue("server")
        found.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database=DATABASE)
        url = found.url(DATABASE)
    return lambda app: running(app, database=url, data=tmp_path)


class Seen(list[Call]):
    """A handler that notes its calls and fails so many times."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.failures = failures

    async def __call__(self, call: Call, _: Due) -> None:
        """Note, and fail."""
        assert current().transaction is None
        self.append(call)
        if len(self) <= self.failures:
            raise ConnectionError("no answer")


class TestRuns:
    async def test_a_call_runs_once_when_nothing_fails(self, life: Any) -> None:
        """One message, one run, one inbox row, one outcome; nothing is left running."""
        seen = Seen()
        async with life(app_of(seen)) as world:
            await world.publish(Due(line="a"))
            await world.settle()

            assert [call.attempt for call in seen] == [1]
            assert await fetch(world, "SELECT count(*) FROM dj_inbox") == [(1,)]
            assert await fetch(world, STATES) == [(1, 1)]

    async def test_every_run_of_a_message_has_its_key(self, life: Any) -> None:
        """Two failures: three runs, numbered, with one key of visible ASCII; another message has another key."""
        seen = Seen(failures=2)
        async with life(app_of(seen, concurrency=1)) as world:
            await world.publish(Due(line="a"))
            await world.settle()
            await world.publish(Due(line="a"))
            await world.settle()

            assert [call.attempt for call in seen] == [1, 2, 3, 1]
            assert len({call.key for call in seen[:3]}) == 1
            assert seen[3].key != seen[0].key
            assert seen[0].key.isascii()
            assert seen[0].key.isprintable()
            assert len(seen[0].key) <= 64
            assert seen[0].now < seen[2].now

    async def test_the_key_survives_the_process(self, life: Any) -> None:
        """The effect is there and the acknowledgement is fenced off: another process runs it again under the same key."""
        first, second = Seen(), Seen()

        async def lose_the_lease(call: Call, event: Due) -> None:
            await first(call, event)
            await execute(current().runtime, FENCE_OFF)

        async with life(app_of(lose_the_lease)) as world:
            await world.publish(Due(line="a"))
            await until(world, lambda: fetch(world, "SELECT 1 FROM dj_running WHERE lease = -1"), "fenced off")
        assert len(first) == 1
        async with life(app_of(second)) as world:
            now_us = world.runtime.node.clock.now_us()
            await world.runtime.database.write(lambda connection: release_lease(connection, -1, now_us))
            world.runtime.bells.ring_all()
            await world.settle()

            assert [call.key for call in second] == [call.key for call in first]
            assert [call.attempt for call in second] == [2]
            assert await fetch(world, STATES) == [(1, 1)]

    async def test_what_the_inbox_knows_does_not_run_again(self, life: Any) -> None:
        """A message that comes a second time is acknowledged as a duplicate, and its handler is not asked."""
        seen = Seen()
        async with life(app_of(seen)) as world:
            message_id = uuid7(world.runtime.node.clock.now_us(), 7)
            for _ in range(2):
                await append_raw(world, message_id, b'{"line":"a","n":1}', topic="Due")
                await world.settle()

            assert len(seen) == 1
            assert await fetch(world, STATES + " ORDER BY state") == [(1, 1), (3, 1)]

    async def test_a_refusal_is_dead_at_once(self, life: Any) -> None:
        """The other side's no is a decision: one run, and a dead letter with its code."""
        runs = []

        async def refuse(call: Call, _: Due) -> None:
            runs.append(call.attempt)
            raise Declined("no cover")

        async with life(app_of(refuse)) as world:
            await world.publish(Due(line="a"))
            await world.settle()

            assert runs == [1]
            assert [letter.reason for letter in await world.runtime.deadletters.list()] == ["declined"]

    async def test_a_call_that_takes_too_long_is_tried_again(self, life: Any) -> None:
        """The limit of the reaction holds for its call; the second run has the same key."""
        seen: list[str] = []

        async def hang(call: Call, _: Due) -> None:
            seen.append(call.key)
            if len(seen) == 1:
                await current().node.clock.sleep(3600)

        # On a busy machine the acknowledgement may miss so short a limit too; then there are more runs.
        async with life(app_of(hang, timeout="200ms", retry=Retry(attempts=50, base="1ms", cap="5ms"))) as world:
            await world.publish(Due(line="a"))
            await world.settle()

            assert len(seen) >= 2
            assert len(set(seen)) == 1
            assert await fetch(world, STATES) == [(1, 1)]

    async def test_events_of_one_key_come_one_after_another(self, life: Any) -> None:
        """An ordered reaction on Call keeps the order, through a failure too."""
        order: list[int] = []

        async def note(call: Call, event: Due) -> None:
            order.append(event.n)
            if event.n == 2 and call.attempt == 1:
                raise ConnectionError("no answer")

        async with life(app_of(note, ordered=True)) as world:
            await world.publish(*(Due(line="a", n=n) for n in (1, 2, 3)))
            await world.settle()

            assert order == [1, 2, 2, 3]

    async def test_an_operation_runs_inside_a_call(self, life: Any) -> None:
        """It has a transaction of its own, and its events follow from the message that is handled."""

        async def run(call: Call, _: Due) -> None:
            await current().runtime.run(app.modules[0].verbs[1], (), {"line": "x"}, call.key)

        app = app_of(run)
        async with life(app) as world:
            await world.publish(Due(line="a"))
            await world.settle()
            (headers,) = (row[0] for row in await fetch(world, "SELECT headers FROM dj_outbox WHERE topic = 'Told'"))
            (message_id,) = (
                bytes(row[0]) for row in await fetch(world, "SELECT message_id FROM dj_outbox WHERE topic = 'Due'")
            )

            assert message_id.hex() in str(headers)


class TestKey:
    def test_the_key_is_of_the_subscription_and_the_message(self) -> None:
        """Either makes another key; nothing else does, so it stays what it is for ever."""
        assert stable_key(1, bytes(16)) == stable_key(1, bytes(16)) == "e9b4bba3ef8069287af31dbe362bde9c"
        assert stable_key(2, bytes(16)) != stable_key(1, bytes(16)) != stable_key(1, bytes(15) + b"\1")

    def test_a_test_makes_a_call_of_its_own(self) -> None:
        """A handler is a function; its Call needs a key and nothing more."""
        assert Call(key="k").attempt == 1


class TestDeclaration:
    def test_a_batch_of_calls_is_refused_with_the_cure(self) -> None:
        """Each call has a key of its own, so a list of events has none."""
        module = Module("bank")

        async def pay(call: Call, events: list[Due]) -> None: ...

        with pytest.raises(Declared) as caught:
            module.react(Due, batch=8)(pay)

        assert "batch with Call" in caught.value.detail
        assert "take one event" in caught.value.hint

    def test_a_write_takes_no_call(self) -> None:
        """A write is one transaction; its cure names the transaction alone, a reaction's both worlds."""
        module = Module("bank")

        async def pay(call: Call) -> None: ...

        async def react(event: Due) -> None: ...

        with pytest.raises(Declared) as caught:
            module.write()(pay)
        assert caught.value.hint == "begin with `(tx: Tx, ...)`"
        with pytest.raises(Declared) as caught:
            module.react(Due)(react)
        assert caught.value.hint == "begin with `(tx: Tx, ...)` or `(call: Call, ...)`"


class TestExternalInside:
    async def test_an_external_in_a_transaction_is_refused(self, life: Any) -> None:
        """Neither a transaction nor a read may wait for a stranger; outside of both the same function runs."""
        app, made = app_of(Seen()), []

        @app.external("bank")
        async def charge(key: str) -> str:
            made.append(key)
            return key

        async def body(_: Any) -> None:
            await charge("k")

        async with life(app) as world:
            with pytest.raises(ExternalInTransaction) as caught:
                await world.runtime.transact(body)
            assert "call: Call" in caught.value.hint
            assert made == []
