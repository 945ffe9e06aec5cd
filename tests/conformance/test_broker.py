"""The port `broker` on every adapter: the broker in the database, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dujiang.backends.postgres.database import PostgresDatabase
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.messaging.tx import Tx
from dujiang.telemetry.tracing import recheck
from dujiang.testing.conformance.broker import BrokerConformance
from dujiang.testing.conformance.broker_cuts import CutCases
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import Stage, Told, effects, fetch
from dujiang.testing.proxy import Proxy
from dujiang.testing.servers import PostgresServer

DATABASE = "broker"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server and one database for all cases; fsync off, because nothing here cuts the power."""
    with PostgresServer(fsync=False) as running:
        running.create_database(DATABASE)
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


class TestSqlOnSqlite(BrokerConformance, capabilities=SqliteDatabase.capabilities):
    """The broker in the embedded store keeps every promise that one writing process can be asked for."""

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.url = f"sqlite:///{tmp_path}/app.db"


class TestSqlOnPostgres(BrokerConformance, CutCases, capabilities=PostgresDatabase.capabilities):
    """The broker in PostgreSQL keeps every promise."""

    @pytest.fixture(autouse=True)
    def _store(self, server: PostgresServer, tmp_path: Path) -> None:
        self.folder = tmp_path
        # Emptying a database costs a tenth of making one.
        server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public", database=DATABASE)
        self.url = server.url(DATABASE)
        self.port = server.port

    @case("C18.write")
    async def test_a_publisher_whose_commit_was_not_answered_publishes_once(self) -> None:
        """The reply to COMMIT is lost: the transaction is found committed, and its event is delivered once."""
        stage = Stage()
        stage.reaction()
        async with Proxy("127.0.0.1", self.port) as proxy, self.playing(stage, url=self.through(proxy)) as world:
            for n in range(5):
                lost = proxy.drop_commit_reply()
                await world.publish(Told(line="a", n=n))
                assert lost.is_set()
            await world.settle()

            assert await effects(world) == [("a", n) for n in range(5)]

    @case("C18.request")
    async def test_a_publisher_whose_commit_did_not_arrive_publishes_once(self) -> None:
        """The COMMIT itself is lost: the transaction runs again, and its event is delivered once."""
        stage = Stage()
        stage.reaction()
        async with Proxy("127.0.0.1", self.port) as proxy, self.playing(stage, url=self.through(proxy)) as world:
            for n in range(5):
                lost = proxy.drop_commit_request()
                await world.publish(Told(line="a", n=n))
                assert lost.is_set()
            await world.settle()

            assert await effects(world) == [("a", n) for n in range(5)]

    @pytest.mark.parametrize("lost_part", ["reply", "request"])
    @case("C18.reaction")
    async def test_a_reaction_whose_commit_was_cut_has_one_effect(self, lost_part: str) -> None:
        """Cut at the COMMIT of a reaction, before or after it happened: one effect, one outcome."""
        stage, traps = Stage(), list[asyncio.Event]()

        async with Proxy("127.0.0.1", self.port) as proxy:

            async def arm(tx: Tx, event: Told) -> None:
                if len(traps) <= event.n:
                    traps.append(proxy.drop_commit_reply() if lost_part == "reply" else proxy.drop_commit_request())

            stage.reaction(ordered=True, behave=arm)
            async with self.playing(stage, url=self.through(proxy)) as world:
                for n in range(3):
                    await world.publish(Told(line="a", n=n))
                    await world.settle()

                assert [trap.is_set() for trap in traps] == [True] * 3
                assert await effects(world) == [("a", n) for n in range(3)]
                assert await fetch(world, "SELECT state, count(*) FROM dj_outcome GROUP BY state") == [(1, 3)]
