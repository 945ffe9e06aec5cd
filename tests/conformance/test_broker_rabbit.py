"""RabbitMQ itself: the whole suite over a real server, through a proxy that cuts, refuses and swallows confirms."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import aiormq
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pamqp.commands import Basic

from dujiang.backends.postgres.database import PostgresDatabase
from dujiang.kernel.tasks import Threads
from dujiang.messaging.broker import BrokerRefused
from dujiang.telemetry.tracing import recheck
from dujiang.testing.conformance.broker import BrokerConformance
from dujiang.testing.conformance.broker_carried import CarriedCases
from dujiang.testing.conformance.broker_cuts import CutCases
from dujiang.testing.conformance.broker_full import FullCases
from dujiang.testing.conformance.broker_upkeep import passed_on
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import Stage, Told, effects, fetch, until
from dujiang.testing.harness import World
from dujiang.testing.proxy import Proxy
from dujiang.testing.rabbit import RabbitServer
from dujiang.testing.servers import PostgresServer

DATABASE = "broker"


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    """One PostgreSQL for all cases."""
    with PostgresServer(fsync=False) as running:
        running.create_database(DATABASE)
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    """One RabbitMQ for all cases; each has a prefix of its own."""
    with RabbitServer() as running:
        yield running


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A real tracer that keeps its spans; it is gone after the test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    recheck()
    yield exporter
    monkeypatch.undo()
    recheck()
    provider.shutdown()


class TestRabbitOnPostgres(
    BrokerConformance, CarriedCases, FullCases, CutCases, capabilities=PostgresDatabase.capabilities
):
    """The broker in RabbitMQ keeps every promise; `make test` asks for those in which it has a part of its own."""

    quick = frozenset(
        {
            *(
                "C1.1",
                "C9",
                "C10.1",
                "C10.2",
                "C11",
                "C13",
                "C14",
                "C14.fence",
                "C16",
                "C17",
                "C20",
                "C21",
                "C23",
                "C32.1",
            ),
            *(
                "C3",
                "C3.start",
                "C4",
                "C4.dead",
                "C5.full",
                "C5.gone",
                "C5.other",
                "C10.again",
                "C21.arrives",
                "C31.cut",
            ),
            *("C35.1", "C44.1", "C63", "C63.lost", "C63.backlog", "C63.discarded", "C64.arrive"),
        }
    )
    made = 0

    @pytest.fixture(autouse=True)
    async def _store(self, database: PostgresServer, server: RabbitServer, tmp_path: Path) -> AsyncIterator[None]:
        self.folder = tmp_path
        database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database=DATABASE)
        self.url, self.port = database.url(DATABASE), database.port
        self.server = server
        TestRabbitOnPostgres.made += 1
        self.prefix = f"test{TestRabbitOnPostgres.made}"
        async with Proxy("127.0.0.1", server.port) as self.proxy:
            self.broker_url = server.url(self.prefix, port=self.proxy.port)
            yield
        await self.on_channel(self.delete_all)

    async def on_channel(self, work: object) -> None:
        """Run something on a channel that goes past the proxy."""
        connection = await aiormq.connect(self.server.url().partition("?")[0])
        try:
            await work(await connection.channel())  # type: ignore[operator]
        finally:
            await connection.close()

    def queues(self) -> list[str]:
        """The names that the queues of three subscriptions may have."""
        return [f"{self.prefix}.{sub}.{part}" for sub in range(1, 4) for part in ("u", *range(8))]

    async def delete_all(self, channel: aiormq.abc.AbstractChannel) -> None:
        """Remove what a test left behind."""
        for name in self.queues():
            await channel.queue_delete(name)
        await channel.exchange_delete(f"{self.prefix}.events")

    async def take_away(self) -> None:
        """End connections and refuse new ones."""
        await self.proxy.become("refuse")
        self.proxy.cut()

    async def bring_back(self) -> None:
        """Let connections pass."""
        await self.proxy.become("ok")

    async def cut(self) -> None:
        """End all connections."""
        self.proxy.cut()

    async def lose_confirm(self, world: World) -> None:
        """Hold what the server says, and cut when something was said to it."""
        await self.proxy.become("hang_down")
        await world.runtime.node.clock.sleep(0.2)
        self.proxy.cut()
        await self.proxy.become("ok")

    async def empty_queues(self, world: World) -> None:
        """Purge what waits."""

        async def purge(channel: aiormq.abc.AbstractChannel) -> None:
            for name in [f"{self.prefix}.1.{part}" for part in range(8)] + [f"{self.prefix}.2.u"]:
                await channel.queue_purge(name)

        await self.on_channel(purge)

    def limit_queues(self, limit: int) -> None:
        """Say it in the URL."""
        self.broker_url += f"&queue_limit={limit}"

    @case("C5.others")
    async def test_queues_of_other_programs_get_everything_beside_a_full_one(self) -> None:
        """A queue that another program has bound gets each event once, while one of ours is full and after."""
        self.limit_queues(5)
        stage, theirs = Stage(), f"{self.prefix}.theirs"
        stage.reaction("hear")

        async def listen(channel: aiormq.abc.AbstractChannel) -> None:
            await channel.exchange_declare(f"{self.prefix}.events", exchange_type="topic", durable=True)
            await channel.queue_declare(theirs)
            await channel.queue_bind(theirs, f"{self.prefix}.events", "Told.#")

        got: list[int] = []

        async def look(channel: aiormq.abc.AbstractChannel) -> None:
            while not isinstance((one := await channel.basic_get(theirs, no_ack=True)).delivery, Basic.GetEmpty):
                got.append(json.loads(one.body)["n"])

        await self.on_channel(listen)
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=0))
            await world.settle()
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            for n in range(1, 40):
                await world.publish(Told(line="a", n=n))
            await until(world, partial(passed_on, world), "the cursor")
        async with self.playing(stage) as world:
            await world.settle()
        await self.on_channel(look)
        await self.on_channel(lambda channel: channel.queue_delete(theirs))

        assert sorted(set(got)) == list(range(40))

    @case("C5.gone")
    async def test_a_queue_that_somebody_deleted_is_made_again(self) -> None:
        """An event that no queue takes stays in the outbox until its queue is there again, and then is handled."""
        stage = Stage()
        stage.reaction("hear", ordered=True)
        async with self.playing(stage) as world:
            await world.publish(Told(line="a", n=1))
            await world.settle()
            await self.on_channel(self.delete_all_queues)
            await world.publish(*(Told(line=str(n), n=n) for n in range(20)))
            await world.settle(within_s=60.0)

            assert await effects(world) == sorted([("a", 1), *((str(n), n) for n in range(20))])

    async def delete_all_queues(self, channel: aiormq.abc.AbstractChannel) -> None:
        """Remove the queues and leave the exchange."""
        for name in self.queues():
            await channel.queue_delete(name)

    @case("C5.other")
    async def test_a_queue_with_other_arguments_refuses_the_start_with_the_cure(self) -> None:
        """A queue of our name that is no quorum queue is one clear error, and nothing is left running."""
        stage = Stage()
        stage.reaction("hear")

        async def take_name(channel: aiormq.abc.AbstractChannel) -> None:
            await channel.queue_declare(f"{self.prefix}.1.u", durable=True)

        await self.on_channel(take_name)
        with pytest.raises(BrokerRefused) as refused:
            async with self.playing(stage):
                pass

        assert f"{self.prefix}.1.u" in str(refused.value)
        assert "delete_queue" in refused.value.hint

    async def test_a_wrong_password_refuses_the_start_without_showing_it(self) -> None:
        """The error names the setting and shows no password."""
        self.broker_url = self.broker_url.replace("guest:guest", "guest:opensesame")
        with pytest.raises(BrokerRefused) as refused:
            async with self.playing(Stage()):
                pass

        assert "`broker`" in refused.value.hint
        assert "opensesame" not in str(refused.value)

    @case("C16")
    async def test_a_message_of_another_program_has_one_effect(self) -> None:
        """Published twice without id or number by somebody else, it is handled once; a different one is too."""
        stage = Stage()
        stage.reaction("hear")
        async with self.playing(stage) as world:
            await world.publish(Told(line="ours", n=0))
            await world.settle()

            async def publish(channel: aiormq.abc.AbstractChannel) -> None:
                for n in (1, 1, 2):
                    body = b'{"line":"theirs","n":%d}' % n
                    # The driver draws an id where there is none, and that would be a new one each time.
                    properties = Basic.Properties(message_id="none of ours")
                    await channel.basic_publish(
                        body, exchange=f"{self.prefix}.events", routing_key="Told.0", properties=properties
                    )

            await self.on_channel(publish)
            await self.on_channel(publish)

            async def handled() -> bool:
                return len(await fetch(world, "SELECT 1 FROM dj_outcome WHERE state = 1")) == 3

            await until(world, handled, "the messages")
            await world.settle()

            assert await effects(world) == [("ours", 0), ("theirs", 1), ("theirs", 2)]


@pytest.mark.proof
class TestKilled:
    """A fresh server that is killed right after it confirmed."""

    async def test_confirmed_messages_of_a_killed_server_are_all_handled(
        self, database: PostgresServer, tmp_path: Path
    ) -> None:
        """Two hundred confirmed messages, SIGKILL, restart: whatever the server lost is found out and published again.

        A server that is killed within a second or two after a queue was made has lost the queue; so everything that
        takes time comes before, and the app goes on running meanwhile.
        """
        suite, stage, go = TestRabbitOnPostgres(), Stage(), asyncio.Event()
        database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database=DATABASE)
        suite.folder, suite.url = tmp_path, database.url(DATABASE)

        async def wait(*_: object) -> None:
            await go.wait()

        stage.reaction("hear", behave=wait, concurrency=1)
        async with suite.playing(stage) as world:
            await world.runtime.relay.stop()
            await world.publish(*(Told(line=str(n), n=n) for n in range(200)))
        threads = Threads(1, name="server")
        with RabbitServer() as fresh:
            suite.broker_url = fresh.url("killed")
            async with suite.playing(stage) as world:
                await until(world, partial(passed_on, world), "the confirms")
                fresh.kill()
                await threads.run(fresh.start)
                suite.reconciler(world).age_s = 0.5  # The service looks every 5 s by itself.
                go.set()

                async def whole() -> bool:
                    return len(await effects(world)) >= 200

                await until(world, whole, "all messages", within_s=90.0)
                await world.settle()

                assert await effects(world) == sorted((str(n), n) for n in range(200))
        threads.close()
