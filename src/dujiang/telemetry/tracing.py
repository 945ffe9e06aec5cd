"""Tracing: OpenTelemetry spans where a tracer is installed, nothing at all where none is.

One trace leads from the request through the outbox to the reaction: `publish` stores the `traceparent` of the current
span in the message, and the consumer continues it. Without an installed tracer provider a span costs one check; the trace
id of the request still travels, for logs.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from opentelemetry import propagate, trace

from dujiang.kernel.context import current_or_none

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
NOTHING: AbstractContextManager[None] = nullcontext()


def enabled() -> bool:
    """Whether somebody installed a tracer provider."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """A span around the block; nothing without a tracer."""
    if not enabled():
        return NOTHING
    return trace.get_tracer("dujiang").start_as_current_span(name, attributes={f"dujiang.{k}": v for k, v in attributes.items()})


def continued(traceparent: str, name: str, operation: str) -> AbstractContextManager[Any]:
    """A span that continues the trace of a message or request; nothing without a tracer."""
    if not enabled():
        return NOTHING
    context = propagate.extract({"traceparent": traceparent}) if traceparent else None
    return trace.get_tracer("dujiang").start_as_current_span(name, context=context, attributes={"dujiang.operation": operation})


def parse_traceparent(text: str) -> tuple[str, str] | None:
    """(trace id, span id) of a W3C traceparent; None when it is malformed."""
    match = TRACEPARENT.fullmatch(text)
    if match is None or set(match[1]) == {"0"} or set(match[2]) == {"0"}:
        return None
    return match[1], match[2]


def current_traceparent() -> str:
    """The traceparent that a message carries on; empty outside a call."""
    if enabled():
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        if "traceparent" in carrier:
            return carrier["traceparent"]
    context = current_or_none()
    if context is None or not context.trace_id:
        return ""
    return f"00-{context.trace_id}-{context.span_id or context.trace_id[:16]}-01"
