"""Counting: what a running copy counts, bound to the declared metrics once and then only added to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sized

    from dujiang.messaging.standing import Standing
    from dujiang.messaging.work import Worked
    from dujiang.telemetry.metrics import Counter, Histogram, Metrics


class Counting:
    """The counters of one running copy.

    Args:
        metrics: Where they are declared and read.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._work: dict[tuple[str, str], tuple[Counter, Histogram, Histogram]] = {}
        self._externals: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._published = metrics.counter("dujiang_outbox_published_total")
        self._batches = metrics.counter("dujiang_relay_batches_total")
        self._backlog = metrics.gauge("dujiang_outbox_backlog")
        self._oldest = metrics.gauge("dujiang_outbox_oldest_age_seconds")
        self._skew = metrics.gauge("dujiang_clock_skew_seconds")

    def request(self, route: str, method: str, status: int, took_s: float) -> None:
        """Count an answered request."""
        found = self._requests.get((route, method, status))
        if found is None:
            counter = self._metrics.counter("dujiang_requests_total", route=route, method=method, status=str(status))
            times = self._metrics.histogram("dujiang_request_seconds", route=route, method=method)
            found = self._requests[route, method, status] = (counter, times)
        found[0].add()
        found[1].observe(took_s)

    def worked(self, worked: Worked) -> None:
        """Count a piece of work that ended."""
        name = worked.subscription
        found = self._work.get((name, worked.outcome))
        if found is None:
            counter = self._metrics.counter("dujiang_work_total", subscription=name, outcome=worked.outcome)
            times = self._metrics.histogram("dujiang_work_seconds", subscription=name)
            delays = self._metrics.histogram("dujiang_event_delay_seconds", subscription=name)
            found = self._work[name, worked.outcome] = (counter, times, delays)
        found[0].add()
        found[1].observe(worked.took_s)
        if worked.outcome == "done":
            found[2].observe(max(0.0, worked.delay_s))

    def gated(self, subscription: str, closed: bool) -> None:  # noqa: FBT001  (what the gauge shows)
        """Say whether a subscription's gate is closed."""
        self._metrics.gauge("dujiang_gate_closed", subscription=subscription).set(int(closed))

    def external(self, name: str, outcome: str, took_s: float) -> None:
        """Count a call of an external effect."""
        found = self._externals.get((name, outcome))
        if found is None:
            counter = self._metrics.counter("dujiang_external_total", external=name, outcome=outcome)
            found = (counter, self._metrics.histogram("dujiang_external_seconds", external=name))
            self._externals[name, outcome] = found
        found[0].add()
        found[1].observe(took_s)

    def fired(self, schedule: str, late_s: float) -> None:
        """Count a job that a schedule has made."""
        self._metrics.counter("dujiang_schedule_fired_total", schedule=schedule).add()
        self._metrics.histogram("dujiang_schedule_delay_seconds", schedule=schedule).observe(late_s)

    def passed(self, batch: Sized) -> None:
        """Count a batch that the relay passed on."""
        self._batches.add()
        self._published.add(len(batch))

    def outbox(self, backlog: int, oldest_s: float) -> None:
        """Say how full the outbox is."""
        self._backlog.set(backlog)
        self._oldest.set(oldest_s)

    def skewed(self, skew_s: float) -> None:
        """Say by how much the machine's clock is ahead of the store's."""
        self._skew.set(skew_s)

    def watch(self, standing: Standing) -> None:
        """Read how the broker stands, at each scrape."""
        since = self._metrics.gauge("dujiang_broker_connected_since_seconds")
        failures = self._metrics.counter("dujiang_broker_publish_failures_total")
        unconfirmed = self._metrics.gauge("dujiang_broker_unconfirmed")
        blocked = self._metrics.gauge("dujiang_broker_blocked")

        def read() -> None:
            since.set(standing.since_us / 1e6)
            failures.value = standing.failures
            unconfirmed.set(standing.unconfirmed)
            blocked.set(float(standing.blocked))
            for name, count in standing.behind.items():
                self._metrics.gauge("dujiang_broker_behind", subscription=name).set(count)

        self._metrics.at_scrape(read)

    def waiting(self, subscription: str, ready: int, dead: int) -> None:
        """Say how much work a subscription has."""
        self._metrics.gauge("dujiang_ready", subscription=subscription).set(ready)
        self._metrics.gauge("dujiang_dead", subscription=subscription).set(dead)
