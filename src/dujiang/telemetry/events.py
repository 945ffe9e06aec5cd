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
        "broker.measured",
        "The metrics were read by a process that is connected to a broker outside the database.",
        (
            "dujiang_broker_connected_since_seconds",
            "dujiang_broker_publish_failures_total",
            "dujiang_broker_unconfirmed",
            "dujiang_broker_blocked",
        ),
    ),
    TelemetryEvent(
        "broker.behind",
        "The metrics were read by the process that relays, and a queue of the broker is full, or was.",
        ("dujiang_broker_behind",),
        ("subscription",),
    ),
    TelemetryEvent(
        "cache.read",
        "A cached read was asked: its answer was there, was not, or was given although it is old.",
        ("dujiang_cache_reads_total",),
        ("read", "outcome"),
    ),
    TelemetryEvent(
        "cache.loaded",
        "An answer of a cached read was loaded: it was missing, or its time was nearly over, or it was sampled to be compared.",
        ("dujiang_cache_loads_total", "dujiang_cache_refreshes_total", "dujiang_cache_inconsistent_total"),
        ("read",),
    ),
    TelemetryEvent(
        "cache.shared",
        "The cache that processes share was looked at: it had the answer, had none, one that is outdated or cannot be read, or"
        " had it after another process had loaded it.",
        ("dujiang_cache_shared_reads_total",),
        ("outcome",),
    ),
    TelemetryEvent(
        "cache.shared_measured",
        "The metrics were read by a process that shares answers: whether that cache answers, and calls of it that failed.",
        ("dujiang_cache_shared_up", "dujiang_cache_shared_failures_total"),
        ("kind",),
    ),
    TelemetryEvent(
        "cache.measured",
        "The metrics were read by a process that keeps answers.",
        ("dujiang_cache_bytes", "dujiang_cache_entries", "dujiang_cache_trusted"),
    ),
    TelemetryEvent(
        "work.finished",
        "An attempt ended: done, put back for a retry, put off, dead, or a duplicate that the inbox dropped.",
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
        "schedule.fired",
        "The job of a schedule's time was made; measured from that time.",
        ("dujiang_schedule_fired_total", "dujiang_schedule_delay_seconds"),
        ("schedule",),
    ),
    TelemetryEvent(
        "gate.turned",
        "The work of a subscription was paused because all of it fails, or goes on because a probe succeeded.",
        ("dujiang_gate_closed",),
        ("subscription",),
    ),
    TelemetryEvent(
        "external.called",
        "A call of an external effect was answered, or failed.",
        ("dujiang_external_total", "dujiang_external_seconds"),
        ("external", "outcome"),
        span="external",
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
        "clock.compared",
        "Each second this machine's clock was compared with the store's, which is the one that counts.",
        ("dujiang_clock_skew_seconds",),
    ),
    TelemetryEvent(
        "law.checked",
        "A law with `every` was checked on the process that relays.",
        ("dujiang_invariant_violations",),
        ("invariant",),
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
