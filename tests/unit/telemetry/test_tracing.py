"""Tracing: one trace across the outbox when a tracer is installed, and nothing at all when none is."""

from __future__ import annotations

import timeit
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dujiang.kernel.context import Context, entered
from dujiang.kernel.node import Node
from dujiang.telemetry import tracing
from dujiang.telemetry.tracing import (
    NO_SPAN,
    continued,
    current_trace_id,
    current_traceparent,
    enabled,
    format_traceparent,
    new_span_id,
    new_trace_id,
    parse_traceparent,
    recheck,
    span,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def node() -> Node:
    """A node on the real machine."""
    return Node.system("test")


@pytest.fixture
def nobody() -> Iterator[None]:
    """No tracer is installed, whatever ran before."""
    kept, tracing._tracer = tracing._tracer, False
    yield
    tracing._tracer = kept


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A real provider of the SDK that keeps what is exported; it is gone after the test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    recheck()
    yield exporter
    monkeypatch.undo()
    recheck()
    provider.shutdown()


class TestWithoutTracer:
    def test_a_span_is_one_shared_object(self, nobody: None) -> None:
        """Nothing is made: every span is the same object, with attributes or without."""
        assert span("write", operation="place") is NO_SPAN
        assert continued(PARENT, "react", "reserve") is NO_SPAN
        with span("write") as entered_span:
            assert entered_span is NO_SPAN

    def test_a_span_lets_errors_through(self, nobody: None) -> None:
        """The null span swallows nothing."""
        with pytest.raises(KeyError), span("write"):
            raise KeyError

    def test_it_costs_less_than_a_microsecond(self, nobody: None) -> None:
        """Best of several runs; the aim is 0.3 us, and a slow machine gets some room."""

        def once() -> None:
            with span("write"):
                pass

        assert min(timeit.repeat(once, number=20_000, repeat=7)) / 20_000 < 1e-6

    def test_the_ids_of_the_context_are_handed_on(self, nobody: None, node: Node) -> None:
        """The caller's trace goes on in what we publish, under the caller's span."""
        with entered(Context(node=node, trace_id=TRACE, span_id=SPAN)):
            assert current_traceparent() == PARENT
            assert current_trace_id() == TRACE

    def test_a_context_without_a_span_gets_one(self, nobody: None, node: Node) -> None:
        """A trace id alone still makes a well-formed parent in the same trace."""
        with entered(Context(node=node, trace_id=TRACE)):
            parsed = parse_traceparent(current_traceparent())

        assert parsed is not None
        assert parsed[0] == TRACE

    def test_without_a_trace_there_is_nothing_to_hand_on(self, nobody: None, node: Node) -> None:
        """No context, or one without a trace, gives the empty text."""
        assert current_traceparent() == ""
        assert current_trace_id() == ""
        with entered(Context(node=node)):
            assert current_traceparent() == ""

    def test_the_question_is_asked_again_on_request(self, exported: InMemorySpanExporter) -> None:
        """With a provider installed `enabled` is true, and false again after it is gone and asked again."""
        during = enabled()
        trace._TRACER_PROVIDER = None

        assert during
        assert enabled()
        assert not recheck()
        assert not enabled()


class TestWithTracer:
    def test_one_trace_crosses_the_outbox(self, exported: InMemorySpanExporter, node: Node) -> None:
        """A request's trace runs through write and handler, over the row's text, to the reaction in another task.

        Method: the parent's ids come in by the context, as from a header; what `current_traceparent` wrote is all that
        the reaction gets, and its context knows nothing.
        """
        with entered(Context(node=node, trace_id=TRACE, span_id=SPAN)), span("write", operation="place"):
            with span("handler"):
                row = current_traceparent()
            logged = current_trace_id()
        with entered(Context(node=node)), continued(row, "react", "reserve"), span("handler"):
            pass

        handler, write, reaction_handler, reaction = exported.get_finished_spans()
        assert {one.context.trace_id for one in exported.get_finished_spans()} == {int(TRACE, 16)}
        assert logged == TRACE
        assert write.parent is not None
        assert write.parent.span_id == int(SPAN, 16)
        assert handler.parent is not None
        assert handler.parent.span_id == write.context.span_id
        assert reaction.parent is not None
        assert reaction.parent.span_id == handler.context.span_id
        assert reaction.parent.is_remote
        assert reaction_handler.parent is not None
        assert reaction_handler.parent.span_id == reaction.context.span_id
        assert dict(reaction.attributes or {}) == {"dujiang.operation": "reserve"}
        assert dict(write.attributes or {}) == {"dujiang.operation": "place"}

    @pytest.mark.parametrize("parent", ["", "nonsense", PARENT.upper()])
    def test_a_malformed_parent_begins_a_new_trace(self, exported: InMemorySpanExporter, parent: str) -> None:
        """The reaction has a trace of its own, also when the worker's task happens to carry another span."""
        with span("worker"), continued(parent, "react"):
            pass

        reaction, worker = exported.get_finished_spans()
        assert reaction.parent is None
        assert reaction.context.trace_id != worker.context.trace_id

    def test_a_parent_that_was_not_sampled_stays_unsampled(self, exported: InMemorySpanExporter) -> None:
        """The caller's decision not to record is kept, and handed on."""
        with continued(f"00-{TRACE}-{SPAN}-00", "react"):
            handed_on = current_traceparent()

        assert exported.get_finished_spans() == ()
        assert handed_on.startswith(f"00-{TRACE}-")
        assert handed_on.endswith("-00")

    def test_an_error_is_on_the_span_and_goes_through(self, exported: InMemorySpanExporter) -> None:
        """A span whose block fails is marked and the error reaches the caller."""
        with pytest.raises(KeyError), span("write"):
            raise KeyError("x")

        (written,) = exported.get_finished_spans()
        assert not written.status.is_ok
        assert [event.name for event in written.events] == ["exception"]


class TestTraceparent:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "00",
            PARENT.upper(),
            PARENT + "\n",
            " " + PARENT,
            PARENT[:-1],
            PARENT + "-more",
            "ff" + PARENT[2:],
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            PARENT.replace("0af7", "\N{FULLWIDTH DIGIT ZERO}af7"),
            PARENT.replace("-", "_"),
            f"01{PARENT[2:]}-{'x' * 1000}",
        ],
    )
    def test_what_is_malformed_is_nothing(self, text: str) -> None:
        """Wrong length, case, digits, version, all zeros, or too long: no trace and no error."""
        assert parse_traceparent(text) is None

    @pytest.mark.parametrize(
        "text", [PARENT, "00" + PARENT[2:-2] + "00", "cc" + PARENT[2:] + "-what-the-future-brings"]
    )
    def test_what_is_well_formed_gives_its_ids(self, text: str) -> None:
        """This version and later ones, sampled or not."""
        assert parse_traceparent(text) == (TRACE, SPAN)

    @given(st.text(max_size=80))
    def test_no_text_is_an_error(self, text: str) -> None:
        """Any text gives ids or None."""
        assert parse_traceparent(text) is None or len(text) >= 55

    def test_new_ids_are_well_formed_and_come_from_the_nodes_entropy(self, node: Node) -> None:
        """What we make, we can read; ids differ; a chance of all zeros is avoided."""

        class Zeros:
            def bits(self, count: int) -> int:
                return 0

        made = format_traceparent(new_trace_id(node), new_span_id(node))
        zeros = Node(name="zero", clock=node.clock, entropy=Zeros())  # type: ignore[arg-type]

        assert parse_traceparent(made) is not None
        assert new_trace_id(node) != new_trace_id(node)
        assert parse_traceparent(format_traceparent(new_trace_id(zeros), new_span_id(zeros))) is not None
