"""Tracing: spans for whoever installed a tracer, and trace ids for everybody; 0.25 us per span when nobody did.

    request --traceparent--> write ... outbox row {traceparent} ... relay ... broker ... react --> handler
                             span                                                        continued(...)

OpenTelemetry's API costs 4.5 us per span even when nothing records. Whether a real tracer provider is installed is asked
once and remembered; until then `span` answers one shared object that does nothing. The W3C header `traceparent` is what
crosses the outbox: the row carries the id of the span that wrote it, and the reaction's span becomes its child, so one
order is one trace however many processes it went through. Malformed headers come from strangers: they give a new trace,
never an error.

Without a tracer the ids still travel, from the caller's header through context and outbox to the logs of the reaction.
tests/unit/telemetry/test_tracing.py follows one trace across an outbox row.
"""

from __future__ import annotations

import re
from itertools import repeat
from typing import TYPE_CHECKING, Any

from dujiang.kernel.context import current_or_none

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context as SpanContext

    from dujiang.kernel.node import Node

TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
SAMPLED = 1
TEXT_CHARS_MAX = 512


class NoSpan:
    """The span of nobody."""

    __slots__ = ()

    # Every request enters and leaves several, so both are C: one gives NO_SPAN, one takes anything and answers "" (false).
    __enter__: Any
    __exit__: Any = staticmethod("".format)

    def end(self) -> None:
        """Nothing."""


NO_SPAN = NoSpan()
NoSpan.__enter__ = staticmethod(repeat(NO_SPAN).__next__)
# The tracer, False while no provider is installed, None = not asked yet.
_tracer: Any = None


def enabled() -> bool:
    """Whether somebody installed a tracer provider; asked once, see `recheck`."""
    return _tracer is not False and (_tracer is not None or recheck())


def recheck() -> bool:
    """Ask again; a runtime does so when it starts, so that a provider may be installed after the import."""
    global _tracer  # noqa: PLW0603 - one answer per process, like OpenTelemetry's own provider
    from opentelemetry import trace  # noqa: PLC0415 - 10 ms that a declaration must not cost

    provider = trace.get_tracer_provider()
    nobody = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
    _tracer = False if nobody else provider.get_tracer("dujiang")
    return not nobody


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """A span around a block, child of the current one, otherwise of the span that the context names.

    Args:
        name: What is done; a fixed word, not a value.
        attributes: Strings and numbers; shown as `dujiang.<name>`.
    """
    if not _tracer and (_tracer is False or not enabled()):
        return NO_SPAN
    return _started(name, attributes, _inherited())


def begun(name: str) -> Any:
    """A span that lasts until its `end()` is called and is nobody's parent; for what begins in one function and ends in another.

    Args:
        name: What is done.
    """
    if not _tracer and (_tracer is False or not enabled()):
        return NO_SPAN
    return _tracer.start_span(name, context=_inherited())


def active() -> Any:
    """What names the current span, to link another one to it; None when there is none."""
    if not _tracer:
        return None
    from opentelemetry import trace  # noqa: PLC0415

    found = trace.get_current_span().get_span_context()
    return found if found.is_valid else None


def continued(
    trace_parent: str, name: str, operation: str = "", *, link: Any = None, **attributes: Any
) -> AbstractContextManager[Any]:
    """A span around a block, child of a span in another process; a malformed parent begins a new trace.

    Args:
        trace_parent: The header as the outbox row carried it; may be empty.
        name: What is done.
        operation: The name of the reaction.
        link: Another span that belongs to it, from `active`.
        attributes: As in `span`.
    """
    if not _tracer and (_tracer is False or not enabled()):
        return NO_SPAN
    from opentelemetry.context import Context  # noqa: PLC0415

    ids = parse_traceparent(trace_parent)
    # An empty context, not None: what the worker's own task happens to carry is no parent of this message.
    parent = Context() if ids is None else _remote(*ids, sampled=bool(int(trace_parent[53:55], 16) & SAMPLED))
    return _started(name, {"operation": operation, **attributes} if operation else attributes, parent, link)


def parse_traceparent(text: str) -> tuple[str, str] | None:
    """Trace id and span id of a W3C traceparent; None when it is malformed or says nothing (all zeros)."""
    if len(text) > TEXT_CHARS_MAX:
        return None
    match = TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, _, more = match.groups()
    # Version ff is forbidden; version 00 ends after the flags, later ones may go on.
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return trace_id, span_id


def format_traceparent(trace_id: str, span_id: str, *, sampled: bool = True) -> str:
    """The W3C traceparent of a span."""
    return f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"


def current_traceparent() -> str:
    """The traceparent to hand on: of the current span, otherwise of the context; empty when there is no trace."""
    if _tracer or (_tracer is None and enabled()):
        from opentelemetry import trace  # noqa: PLC0415

        active = trace.get_current_span().get_span_context()
        if active.is_valid:
            sampled = bool(active.trace_flags & SAMPLED)
            return format_traceparent(f"{active.trace_id:032x}", f"{active.span_id:016x}", sampled=sampled)
    context = current_or_none()
    if context is None or not context.trace_id:
        return ""
    return format_traceparent(context.trace_id, context.span_id or new_span_id(context.node))


def current_trace_id() -> str:
    """The trace id of the current span, otherwise of the context; empty when there is none."""
    if _tracer:
        from opentelemetry import trace  # noqa: PLC0415

        active = trace.get_current_span().get_span_context()
        if active.is_valid:
            return f"{active.trace_id:032x}"
    context = current_or_none()
    return "" if context is None else context.trace_id


def new_trace_id(node: Node) -> str:
    """32 hexadecimal digits, not all zero."""
    return (node.entropy.bits(128) or 1).to_bytes(16, "big").hex()  # A fifth of what a format costs.


def new_span_id(node: Node) -> str:
    """16 hexadecimal digits, not all zero."""
    return (node.entropy.bits(64) or 1).to_bytes(8, "big").hex()


def _started(
    name: str, attributes: dict[str, Any], parent: SpanContext | None, link: Any = None
) -> AbstractContextManager[Any]:
    from opentelemetry import trace  # noqa: PLC0415

    named = {f"dujiang.{key}": value for key, value in attributes.items()}
    links = () if link is None else (trace.Link(link),)
    started: AbstractContextManager[Any] = _tracer.start_as_current_span(
        name, context=parent, attributes=named, links=links
    )
    return started


def _inherited() -> SpanContext | None:
    """The parent for a span without one: what the caller's header named; None = the current span, or a new trace."""
    from opentelemetry import trace  # noqa: PLC0415

    if trace.get_current_span().get_span_context().is_valid:
        return None
    context = current_or_none()
    if context is None or not (context.trace_id and context.span_id):
        return None
    return _remote(context.trace_id, context.span_id, sampled=True)


def _remote(trace_id: str, span_id: str, *, sampled: bool) -> SpanContext:
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.context import Context  # noqa: PLC0415

    parent = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(SAMPLED if sampled else 0)
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


__all__ = [
    "NO_SPAN",
    "active",
    "begun",
    "continued",
    "current_trace_id",
    "current_traceparent",
    "enabled",
    "format_traceparent",
    "new_span_id",
    "new_trace_id",
    "parse_traceparent",
    "recheck",
    "span",
]
