"""Metrics of one running copy, in Prometheus' text format; plain numbers on the hot path, collected at the scrape.

An update is an addition to a dictionary entry or a list, about 0.3 us; prometheus-client's own objects take a lock for
each. The declared table is the public contract; docs/reference/events.md is generated from it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Declared:
    """One metric: name, kind, labels, and what it says."""

    name: str
    kind: str
    labels: tuple[str, ...]
    says: str


TABLE = (
    Declared("dujiang_requests", "counter", ("route", "method", "status"), "Requests answered."),
    Declared("dujiang_request_seconds", "histogram", ("route",), "Time from a request's head to its answer."),
    Declared("dujiang_relayed_events", "counter", (), "Events passed on by the relay of this process."),
    Declared("dujiang_outbox_backlog", "gauge", (), "Events that the relay has not passed yet."),
    Declared("dujiang_outbox_oldest_age_seconds", "gauge", (), "Age of the oldest of them."),
    Declared("dujiang_work", "counter", ("subscription", "outcome"), "Work that ended: done, duplicate, retried, dead."),
    Declared("dujiang_work_seconds", "histogram", ("subscription",), "Time of one run."),
    Declared("dujiang_event_delay_seconds", "histogram", ("subscription",), "Time from an event's transaction to its end."),
    Declared("dujiang_ready", "gauge", ("subscription",), "Work that waits."),
    Declared("dujiang_running", "gauge", ("subscription",), "Work that runs."),
    Declared("dujiang_dead", "gauge", ("subscription",), "Dead letters."),
)


@dataclass
class Histogram:
    """Counts by bucket, and the sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Add one observation."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulated buckets as Prometheus wants them."""
        cumulated, running = [], 0
        for limit, count in zip([*map(str, SECONDS), "+Inf"], self.counts, strict=True):
            running += count
            cumulated.append((limit, float(running)))
        return cumulated


class Metrics:
    """The numbers of one running copy."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, ...], int] = {}
        self._gauges: dict[tuple[str, ...], float] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)  # type: ignore[arg-type]

    def add(self, name: str, *labels: str, count: int = 1) -> None:
        """Add to a counter."""
        place = (name, *labels)
        self._counters[place] = self._counters.get(place, 0) + count

    def put(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._gauges[name, *labels] = value

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Add to a histogram."""
        place = (name, *labels)
        found = self._histograms.get(place)
        if found is None:
            found = self._histograms[place] = Histogram()
        found.observe(seconds)

    def request(self, route: str, method: str, status: int, took_s: float) -> None:
        """Count an answered request."""
        self.add("dujiang_requests", route, method, str(status))
        self.observe("dujiang_request_seconds", took_s, route)

    def work(self, subscription: str, outcome: str, took_s: float, delay_s: float) -> None:
        """Count a piece of work that ended."""
        self.add("dujiang_work", subscription, outcome)
        self.observe("dujiang_work_seconds", took_s, subscription)
        if outcome == "done":
            self.observe("dujiang_event_delay_seconds", max(0.0, delay_s), subscription)

    def relayed(self, count: int) -> None:
        """Count events that the relay passed on."""
        self.add("dujiang_relayed_events", count=count)

    def outbox(self, backlog: int, oldest_s: float) -> None:
        """Say how full the outbox is."""
        self.put("dujiang_outbox_backlog", backlog)
        self.put("dujiang_outbox_oldest_age_seconds", oldest_s)

    def waiting(self, subscription: str, ready: int, running: int, dead: int) -> None:
        """Say how much work a subscription has."""
        self.put("dujiang_ready", ready, subscription)
        self.put("dujiang_running", running, subscription)
        self.put("dujiang_dead", dead, subscription)

    def collect(self) -> Iterator[Metric]:
        """Give everything to a scrape."""
        for declared in TABLE:
            if declared.kind == "counter":
                counter = CounterMetricFamily(declared.name, declared.says, labels=declared.labels)
                for place, count in list(self._counters.items()):
                    if place[0] == declared.name:
                        counter.add_metric(place[1:], count)
                yield counter
            elif declared.kind == "gauge":
                gauge = GaugeMetricFamily(declared.name, declared.says, labels=declared.labels)
                for place, value in list(self._gauges.items()):
                    if place[0] == declared.name:
                        gauge.add_metric(place[1:], value)
                yield gauge
            else:
                histogram = HistogramMetricFamily(declared.name, declared.says, labels=declared.labels)
                for place, found in list(self._histograms.items()):
                    if place[0] == declared.name:
                        histogram.add_metric(place[1:], found.buckets(), found.total)
                yield histogram

    def render(self) -> tuple[bytes, str]:
        """Everything in Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
