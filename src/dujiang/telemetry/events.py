"""Events: what the platform tells of itself, as a public contract: when, with which numbers, under which labels.

Dashboards and alarms are built on these names. A row may be added; renaming or removing one is a breaking change and
needs a change fragment. docs/reference/events.md is generated from this table, and tests/unit/telemetry/test_events.py
holds that every metric of metrics.py belongs to a row and every row's metrics exist, with the row's labels.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TelemetryEvent:
    """One thing that happens.

    Attributes:
        name: `<part>.<what happened>`.
        when: One sentence.
        measurements: The metrics that it moves.
        labels: The labels of those metrics, all of them together.
        span: The span that covers it when a tracer is installed; empty = none.
    """

    name: str
    when: str
    measurements: tuple[str, ...]
    labels: tuple[str, ...] = ()
    span: str = ""


EVENTS: tuple[TelemetryEvent, ...] = (
    TelemetryEvent(
        "request.answered",
        "The last byte of an answer has been handed to the server, whatever its status.",
        ("dujiang_requests_total", "dujiang_request_seconds"),
        ("route", "method", "status"),
        span="gateway.guard",
    ),
    TelemetryEvent(
        "transaction.ended",
        "A write transaction was committed, was rolled back, or lost its connection before the answer to COMMIT.",
        ("dujiang_transactions_total", "dujiang_transaction_seconds"),
        ("outcome",),
        span="data.transaction",
    ),
    TelemetryEvent(
        "transaction.conflicted",
        "The database sent a transaction back (serialization failure, deadlock), and it runs again.",
        ("dujiang_conflicts_total",),
    ),
    TelemetryEvent(
        "idempotency.claimed",
        "A request with a key was the first, got the stored answer, met the first one at work, or differed from it.",
        ("dujiang_idempotency_total",),
        ("outcome",),
        span="gateway.idempotency",
    ),
    TelemetryEvent(
        "relay.passed",
        "The broker confirmed a batch of events and the relay marked it.",
        ("dujiang_outbox_published_total", "dujiang_relay_batches_total"),
        span="messaging.relay",
    ),
    TelemetryEvent(
        "outbox.measured",
        "The relay looked at what it has not passed on yet.",
        ("dujiang_outbox_backlog", "dujiang_outbox_oldest_age_seconds"),
    ),
    TelemetryEvent(
        "work.finished",
        "An attempt ended: done, put back for a retry, dead, or a duplicate that the inbox dropped.",
        ("dujiang_work_total", "dujiang_work_seconds"),
        ("subscription", "outcome"),
        span="react",
    ),
    TelemetryEvent(
        "work.delayed",
        "The effect of an event was committed; measured from the commit of the event.",
        ("dujiang_event_delay_seconds",),
        ("subscription",),
    ),
    TelemetryEvent(
        "work.measured",
        "The work tables were counted.",
        ("dujiang_ready", "dujiang_dead"),
        ("subscription",),
    ),
    TelemetryEvent(
        "loop.sampled",
        "Twice a second the event loop was asked how late it is.",
        ("dujiang_loop_lag_seconds",),
    ),
    TelemetryEvent(
        "pool.measured",
        "A scrape looked at the connections to the database.",
        ("dujiang_pool_size", "dujiang_pool_used", "dujiang_pool_waiting"),
    ),
    TelemetryEvent(
        "clock.measured",
        "A scrape looked at how far the machine's clock had been set back.",
        ("dujiang_clock_stepped_back_seconds",),
    ),
    TelemetryEvent(
        "process.described",
        "A scrape asked what runs.",
        ("dujiang_build_info",),
        ("version", "python"),
    ),
)


def markdown() -> str:
    """The table of the reference page."""
    rows = ["| event | when | metrics | labels | span |", "|---|---|---|---|---|"]
    for event in EVENTS:
        metrics = ", ".join(f"`{name}`" for name in event.measurements)
        labels = ", ".join(f"`{label}`" for label in event.labels)
        span = f"`{event.span}`" if event.span else ""
        rows.append(f"| `{event.name}` | {event.when} | {metrics} | {labels} | {span} |")
    return "\n".join(rows) + "\n"


__all__ = ["EVENTS", "TelemetryEvent", "markdown"]
