"""The walk of one request: what docs/walk.md tells is what one trace shows, step by step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dujiang import App, Module, Tx
from dujiang.systems.shop import app
from dujiang.telemetry import tracing
from dujiang.testing.harness import running
from dujiang.testing.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

PAGE = Path(__file__).parents[1] / "docs" / "walk.md"
STEP = re.compile(r"^(\d+)\. `([a-z.]+)` - ", re.MULTILINE)
ORDER = {"items": ["itemA"], "user_id": 1}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What a tracer records during the test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # OpenTelemetry takes a provider once per process; other tests have theirs.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    tracing.recheck()
    yield exporter
    monkeypatch.undo()
    tracing.recheck()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """One private server; fsync off, because nothing here cuts the power."""
    with PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store; empty text = an embedded store of the test's own."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


def walked(exporter: InMemorySpanExporter, trace_id: int | None = None) -> list[ReadableSpan]:
    """The spans of one trace (default: that of the first), by their start."""
    found = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
    requests = [span for span in found if span.name == "gateway.guard"]
    wanted = trace_id or requests[0].context.trace_id
    return [span for span in found if span.context.trace_id == wanted]


def told() -> list[str]:
    """The steps of the page."""
    steps = STEP.findall(PAGE.read_text(encoding="utf-8"))
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    return [name for _, name in steps]


class TestWalk:
    async def test_one_order_takes_the_steps_that_the_page_tells(self, spans: InMemorySpanExporter, store: str) -> None:
        """One trace holds every step of docs/walk.md, in its order, and no other step."""
        async with running(app, database=store) as world:
            answer = await world.post("/api/v1/orders", ORDER, key="k1")
            await world.settle()

        assert answer.status == 201
        assert [span.name for span in walked(spans)] == told()

    async def test_the_walk_continues_the_callers_trace(self, spans: InMemorySpanExporter, store: str) -> None:
        """The trace that the caller's `traceparent` names is that of the request, of its event and of the reaction."""
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

        async with running(app, database=store) as world:
            await world.post("/api/v1/orders", ORDER, key="k1", headers={"traceparent": parent})
            await world.settle()

        trace_id = int(parent.split("-")[1], 16)
        assert [span.name for span in walked(spans, trace_id)] == told()

    async def test_a_replay_ends_at_the_key(self, spans: InMemorySpanExporter, store: str) -> None:
        """The second request under a key stops at step 5: no handler, no event, no commit of its own."""
        async with running(app, database=store) as world:
            await world.post("/api/v1/orders", ORDER, key="k1")
            await world.settle()
            spans.clear()
            answer = await world.post("/api/v1/orders", ORDER, key="k1")

        assert answer.headers["idempotent-replayed"] == "true"
        assert [span.name for span in walked(spans)] == told()[:5]

    async def test_what_the_guard_refuses_goes_no_further(self, spans: InMemorySpanExporter, store: str) -> None:
        """A foreign Host ends the walk at its first step."""
        async with running(app, database=store) as world:
            answer = await world.post("/api/v1/orders", ORDER, headers={"host": "elsewhere.example"})

        assert answer.status == 421
        assert [span.name for span in walked(spans)] == told()[:1]

    async def test_a_fault_names_the_trace_that_the_tracer_recorded(
        self, spans: InMemorySpanExporter, store: str
    ) -> None:
        """The `trace_id` of a 500 is the one under which the spans of that request are found."""
        module = Module("faulty")

        @module.write("POST /fault")
        async def fault(tx: Tx) -> None:
            raise RuntimeError("a bug")

        async with running(App(modules=[module]), database=store) as world:
            answer = await world.post("/fault")

        assert answer.status == 500
        assert f"{walked(spans)[0].context.trace_id:032x}" == answer.json["trace_id"]
        assert [span.name for span in walked(spans)] == [
            "gateway.guard",
            "gateway.context",
            "write",
            "data.transaction",
            "handler",
        ]
