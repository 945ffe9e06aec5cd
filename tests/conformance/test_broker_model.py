"""The model of RabbitMQ: the whole suite over a quiet one, and each of its faults by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dujiang.backends.rabbitmq.simulated.broker import NAME
from dujiang.backends.rabbitmq.simulated.model import RabbitModel
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.kernel.clock import SystemClock
from dujiang.messaging.broker import BrokerUnreachable
from dujiang.telemetry.tracing import recheck
from dujiang.testing.conformance.broker import BrokerConformance
from dujiang.testing.conformance.broker_carried import CarriedCases
from dujiang.testing.conformance.broker_full import FullCases
from dujiang.testing.conformance.broker_upkeep import passed_on
from dujiang.testing.conformance.stage import Stage, Told, effects, fetch, until
from dujiang.testing.harness import World

T = TypeVar("T")

FAULTS = ("refused", "confirm_lost", "lost_after_confirm", "ack_lost", "reorder", "slow", "restart")


class Quiet:
    """A simulation in which nothing happens but what it was told to.

    Attributes:
        faults: Label -> what each further draw answers; an empty list is quiet.
        happened: How often each label answered something else than 0.
    """

    name, dead, tracing = "quiet", False, False

    def __init__(self) -> None:
        self.faults: dict[str, list[int]] = {}
        self.happened: Counter[str] = Counter()
        self._shared: dict[str, Any] = {}

    async def hop(self, what: str) -> None:
        """One turn of the loop."""
        await asyncio.sleep(0)

    def draw(self, label: str, high: int = 1) -> int:
        """0, unless something else is on the list."""
        answers = self.faults.get(label, [])
        value = min(high, answers.pop(0)) if answers else 0
        self.happened[label] += value > 0
        return value

    def poisoned(self, what: Any) -> bool:
        """Nothing fails."""
        return False

    def note(self, kind: str, said: str = "") -> None:
        """Nobody reads it."""

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """One thing of this name."""
        found: T = self._shared.setdefault(name, make())
        return found

    def now_us(self) -> int:
        """The machine's time."""
        return SystemClock().now_us()

    def soon(self, call: Callable[..., Any], *args: Any) -> None:
        """At the next turn of the loop."""
        asyncio.get_running_loop().call_soon(call, *args)

    async def external(
        self, name: str, key: str | None, arguments: str, effect: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """The effect."""
        return await effect()

    def awake_s(self) -> float:
        """It never stands still."""
        return self.now_us() / 1e6

    def held(self, seconds: float, after: str, until: str) -> None:
        """No transaction is open here."""

    def here(self) -> str:
        """Nobody asks."""
        return ""

    def loop(self) -> Any:
        """The loop of the test."""
        return asyncio.get_running_loop()


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


class TestModelOnSqlite(
    BrokerConformance, CarriedCases, FullCases, capabilities=SqliteDatabase.capabilities, simulated=True
):
    """Every promise of the port holds over the model, on the embedded store."""

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.url = f"sqlite:///{tmp_path}/app.db"
        self.begin()

    def begin(self) -> None:
        """A simulation and a model of its own."""
        self.broker_url = "simulated:"
        self.quiet = self.simulation = Quiet()
        self.model = self.quiet.shared(NAME, RabbitModel)

    def limit_queues(self, limit: int) -> None:
        """Tell the model."""
        self.model.limit = limit

    async def take_away(self) -> None:
        """Refuse connections."""
        self.model.away = True
        self.model.restart()

    async def bring_back(self) -> None:
        """Take them again."""
        self.model.away = False

    async def cut(self) -> None:
        """End all connections."""
        self.model.restart()

    async def lose_confirm(self, world: World) -> None:
        """Lose the next confirm."""
        self.quiet.faults["rabbit.confirm_lost"] = [1]
        await until(world, partial(self.has_happened, "rabbit.confirm_lost"), "a lost confirm")

    async def empty_queues(self, world: World) -> None:
        """Forget what waits."""
        for queue in self.model.queues.values():
            queue.waiting.clear()

    async def has_happened(self, label: str) -> bool:
        """Whether a fault has happened."""
        return self.quiet.happened[label] > 0


class TestFaults:
    """Each fault of the model happens when it is drawn, and costs nobody an event."""

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_a_fault_costs_no_event_and_doubles_none(self, fault: str, tmp_path: Path) -> None:
        """With one kind of fault drawn again and again, each event has one effect; each key keeps its order.

        A broker that loses what it confirmed cannot keep the order, so there the effects alone are looked at.
        """
        suite, stage = TestModelOnSqlite(), Stage()
        suite.folder, suite.url = tmp_path, f"sqlite:///{tmp_path}/app.db"
        suite.begin()
        suite.quiet.faults[f"rabbit.{fault}"] = [0, 0, 0, 2, 0, 1, 0, 0, 3] * 8
        if fault == "refused":
            suite.quiet.faults["rabbit.restart"] = [0, 1] * 10
        stage.reaction("hear", ordered=True)
        stage.reaction("other")
        async with suite.playing(stage) as world:
            for n in range(60):
                await world.publish(*(Told(line=str(line), n=n) for line in range(4)))
                if n % 10 == 9:
                    await until(world, partial(passed_on, world), "the events passed on")
            suite.quiet.faults.clear()
            await until(world, partial(passed_on, world), "the events passed on")
            reconciler = suite.reconciler(world)
            reconciler.age_s = 0.0

            async def whole() -> bool:
                with suppress(
                    BrokerUnreachable
                ):  # An acknowledgement that was lost a moment ago has cut the connection.
                    await reconciler.look()
                return not any(await world.open_work())

            await until(world, whole, "every event")
            kept = sorted((str(line), n) for line in range(4) for n in range(60))

            assert suite.quiet.happened[f"rabbit.{fault}"] > 0
            assert await effects(world) == kept
            assert await effects(world, "other") == kept
            if fault == "lost_after_confirm":
                assert suite.model.lost > 0
            else:
                assert [stage.numbers(str(line)) for line in range(4)] == [list(range(60))] * 4

    async def test_a_killed_node_leaves_its_messages_to_others(self, tmp_path: Path) -> None:
        """What a dead node's connection had comes again, marked, and nothing that connection still does has effect."""
        suite, stage = TestModelOnSqlite(), Stage()
        suite.folder, suite.url = tmp_path, f"sqlite:///{tmp_path}/app.db"
        suite.begin()
        stage.reaction("hear")
        async with suite.playing(stage) as world:
            (consumer,) = world.runtime.consumers
            await consumer.stop()
            await world.publish(Told(line="a", n=1))
            await until(world, partial(passed_on, world), "the event passed on")
            links = list(suite.model.links)
            suite.model.disconnect(suite.quiet)

            assert links
            assert all(link.ended() for link in links)
            await suite.routed(world, consumer.sub_id, consumer.subscription, 1)
            assert await fetch(world, "SELECT attempt FROM dj_ready") == [(0,)]
