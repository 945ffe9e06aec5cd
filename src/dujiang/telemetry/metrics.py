"""Metrics: counters, levels and distributions that cost a fraction of a microsecond, read by Prometheus at `/metrics`.

    handler -> requests.add()       an integer in our own object       hot: 0.25 us for a counter and a histogram
    /metrics -> Metrics.render()    prometheus-client writes the text  cold: once per scrape

prometheus-client's own counter takes a lock per increment: counting one request and observing its time costs 1.7 us
with it (CPython 3.11). So values live in plain objects that are bound once, and a collector hands them over at the
scrape. The price: only the thread of the event loop may change them.

A label whose values come from outside could fill the memory. A metric therefore holds at most SERIES_MAX combinations;
what comes later is counted under "other". Each metric stands in METRICS; a name or a label that does not is a bug and
raises. An app adds its own with `declare`, or registers any collector of prometheus-client with `registry`.
tests/unit/telemetry/test_metrics.py reads the text back with prometheus-client's parser and holds the cost.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

SERIES_MAX = 1_000
OTHER = "other"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DELAY_SECONDS = (*SECONDS, 60.0, 600.0, 3600.0)

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared metric.

    Attributes:
        name: As Prometheus shows it; a counter ends in `_total`, a time in `_seconds`.
        kind: What it is.
        labels: The names of its labels.
        help: One sentence.
        bounds: Upper bounds of a histogram's buckets, ascending, in the unit of the name.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = SECONDS


METRICS: tuple[Metric, ...] = (
    Metric("dujiang_requests_total", "counter", ("route", "method", "status"), "Requests answered."),
    Metric("dujiang_request_seconds", "histogram", ("route", "method"), "From a request's first byte to its answer."),
    Metric("dujiang_transactions_total", "counter", ("outcome",), "Transactions: committed, rolled_back or unknown."),
    Metric("dujiang_transaction_seconds", "histogram", (), "From BEGIN to the answer to COMMIT."),
    Metric("dujiang_outbox_published_total", "counter", (), "Events that the broker confirmed."),
    Metric("dujiang_outbox_backlog", "gauge", (), "Committed events that the broker has not confirmed."),
    Metric("dujiang_outbox_oldest_age_seconds", "gauge", (), "Age of the oldest of them; 0 when there is none."),
    Metric("dujiang_relay_batches_total", "counter", (), "Batches that the relay passed on."),
    Metric(
        "dujiang_broker_connected_since_seconds", "gauge", (), "When the connection to the broker was made; 0 = away."
    ),
    Metric("dujiang_broker_publish_failures_total", "counter", (), "Publishes that were refused or not confirmed."),
    Metric("dujiang_broker_unconfirmed", "gauge", (), "Messages that were sent and are not confirmed yet."),
    Metric("dujiang_broker_blocked", "gauge", (), "1 while an alarm of the broker stops what is published here."),
    Metric(
        "dujiang_broker_behind", "gauge", ("subscription",), "Events that wait in the outbox because its queue is full."
    ),
    Metric(
        "dujiang_work_total", "counter", ("subscription", "outcome"), "Finished work: done, retried, dead or duplicate."
    ),
    Metric(
        "dujiang_work_seconds", "histogram", ("subscription",), "From the claim of work to the end of its transaction."
    ),
    Metric(
        "dujiang_event_delay_seconds",
        "histogram",
        ("subscription",),
        "From the commit of an event to the commit of its effect.",
        DELAY_SECONDS,
    ),
    Metric("dujiang_schedule_fired_total", "counter", ("schedule",), "Jobs that a schedule has made."),
    Metric(
        "dujiang_schedule_delay_seconds",
        "histogram",
        ("schedule",),
        "From the time of a schedule to the transaction that makes its job.",
        DELAY_SECONDS,
    ),
    Metric("dujiang_ready", "gauge", ("subscription",), "Work that could start now and has not."),
    Metric("dujiang_dead", "gauge", ("subscription",), "Work in the dead letters."),
    Metric("dujiang_gate_closed", "gauge", ("subscription",), "1 while work is paused because all of it fails."),
    Metric("dujiang_external_total", "counter", ("external", "outcome"), "Calls of external effects: done or failed."),
    Metric(
        "dujiang_external_seconds", "histogram", ("external",), "From the call of an external effect to its answer."
    ),
    Metric("dujiang_loop_lag_seconds", "histogram", (), "How late the event loop was, sampled twice a second."),
    Metric("dujiang_pool_size", "gauge", (), "Connections to the database that are open."),
    Metric("dujiang_pool_used", "gauge", (), "Connections in use."),
    Metric("dujiang_pool_waiting", "gauge", (), "Callers that wait for a connection."),
    Metric(
        "dujiang_idempotency_total",
        "counter",
        ("outcome",),
        "Requests with a key: first, replayed, in_flight, mismatch.",
    ),
    Metric("dujiang_cache_reads_total", "counter", ("read", "outcome"), "Cached reads: hit, miss or stale."),
    Metric("dujiang_cache_loads_total", "counter", ("read",), "Answers of cached reads that were loaded."),
    Metric("dujiang_cache_refreshes_total", "counter", ("read",), "Loads that began before their answer had ended."),
    Metric("dujiang_cache_inconsistent_total", "counter", ("read",), "Sampled answers that the database did not give."),
    Metric(
        "dujiang_cache_shared_reads_total",
        "counter",
        ("outcome",),
        "Looks at the shared cache: hit, miss, outdated, unreadable, or waited for another process.",
    ),
    Metric("dujiang_cache_shared_up", "gauge", (), "1 while the shared cache is asked; 0 = it does not answer."),
    Metric(
        "dujiang_cache_shared_failures_total",
        "counter",
        ("kind",),
        "Calls of the shared cache that failed: silent, refused, or skipped while it is away.",
    ),
    Metric("dujiang_cache_bytes", "gauge", (), "What the cached answers of this process take."),
    Metric("dujiang_cache_entries", "gauge", (), "Cached answers in this process."),
    Metric("dujiang_cache_trusted", "gauge", (), "1 while cached answers are given; 0 = the log cannot be read."),
    Metric("dujiang_conflicts_total", "counter", (), "Transactions that the database sent back and that ran again."),
    Metric("dujiang_clock_stepped_back_seconds", "gauge", (), "By how much our time is ahead of a clock set back."),
    Metric("dujiang_clock_skew_seconds", "gauge", (), "By how much this machine's clock is ahead of the store's."),
    Metric(
        "dujiang_invariant_violations", "gauge", ("invariant",), "Rows that violate a declared law; -1 = not known."
    ),
    Metric("dujiang_build_info", "gauge", ("version", "python"), "Always 1; its labels say what runs."),
)


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, count: int = 1) -> None:
        """Count."""
        self.value += count


class Gauge:
    """A level."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        """The level is now this."""
        self.value = value


class Histogram:
    """How values are distributed, in buckets."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; one that equals a bound belongs to the bucket below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)


S = TypeVar("S", Counter, Gauge, Histogram)


class Metrics:
    """The metrics of one running copy; another copy in the same process has its own.

    `counter`, `gauge` and `histogram` give the series of a name and its labels, always the same object: look it up once,
    keep it, and use it from the thread of the event loop.

    Raises:
        KeyError: For a metric that is not declared.
        TypeError: For wrong labels or the wrong kind.
    """

    def __init__(self) -> None:
        self._declared: dict[str, Metric] = {metric.name: metric for metric in METRICS}
        self._series: dict[str, dict[tuple[str, ...], Any]] = {}
        self._at_scrape: list[Callable[[], None]] = []
        self._registry: CollectorRegistry | None = None

    def __repr__(self) -> str:
        return f"<Metrics: {sum(map(len, self._series.values()))} series>"

    def declare(self, metric: Metric) -> None:
        """Add a metric of the app. Raises ValueError if the name is taken."""
        if metric.name in self._declared:
            raise ValueError(f"{metric.name} is already declared")
        self._declared[metric.name] = metric

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter of these labels."""
        return self._find(name, "counter", labels, Counter)

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The level of these labels."""
        return self._find(name, "gauge", labels, Gauge)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The distribution of these labels."""
        return self._find(name, "histogram", labels, lambda: Histogram(self._declared[name].bounds))

    def at_scrape(self, read: Callable[[], None]) -> None:
        """Call this before each scrape; it sets levels that are cheap to read. It must not block."""
        self._at_scrape.append(read)

    @property
    def registry(self) -> CollectorRegistry:
        """This copy's registry, for collectors of the app's own."""
        if self._registry is None:
            from prometheus_client import CollectorRegistry  # noqa: PLC0415 - 20 ms that only a scrape needs

            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(self)
        return self._registry

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text of all metrics and its content type, in the format that the header Accept prefers."""
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterable[Family]:
        """Every series that was used, for prometheus-client."""
        self._note_build()
        for read in self._at_scrape:
            read()
        for name, series in self._series.items():
            yield self._family(self._declared[name], series)

    def _find(self, name: str, kind: Kind, labels: dict[str, str], make: Callable[[], S]) -> S:
        metric = self._declared[name]
        if metric.kind != kind or labels.keys() != set(metric.labels):
            raise TypeError(f"{name} is a {metric.kind} with the labels {metric.labels}, not a {kind} with {labels}")
        series = self._series.setdefault(name, {})
        key = tuple(labels[label] for label in metric.labels)
        found: S | None = series.get(key)
        if found is None:
            if len(series) >= SERIES_MAX:
                key = (OTHER,) * len(metric.labels)
            found = series.setdefault(key, make())
        return found

    def _note_build(self) -> None:
        if "dujiang_build_info" not in self._series:
            import platform  # noqa: PLC0415
            from importlib.metadata import version  # noqa: PLC0415

            self.gauge("dujiang_build_info", version=version("dujiang"), python=platform.python_version()).set(1.0)

    def _family(self, metric: Metric, series: dict[tuple[str, ...], Any]) -> Family:
        from prometheus_client import metrics_core as core  # noqa: PLC0415

        if metric.kind == "histogram":
            histograms = core.HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, one in series.items():
                histograms.add_metric(labels, buckets=_cumulative(one), sum_value=one.total)
            return histograms
        kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=metric.labels)
        for labels, one in series.items():
            family.add_metric(labels, one.value)
        return family


def _cumulative(histogram: Histogram) -> list[tuple[str, int]]:
    """The buckets as Prometheus wants them: each holds all below it too."""
    so_far, buckets = 0, []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        so_far += count
        buckets.append((bound, so_far))
    return buckets


__all__ = ["METRICS", "Counter", "Gauge", "Histogram", "Metric", "Metrics"]
