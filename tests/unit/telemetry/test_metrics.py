"""Metrics: what Prometheus reads is what was counted, and counting costs next to nothing."""

from __future__ import annotations

import subprocess
import sys
import timeit

import pytest
from prometheus_client import Counter as ForeignCounter
from prometheus_client.parser import text_string_to_metric_families

from dujiang.telemetry.metrics import METRICS, SERIES_MAX, Histogram, Metric, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The rendered text, read back with prometheus-client's own parser."""
    text, _ = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


class TestMetrics:
    def test_a_counter_is_shown_under_its_name_and_labels(self) -> None:
        """Two requests of one kind and one of another give two lines with 2 and 1."""
        metrics = Metrics()
        found = metrics.counter("dujiang_requests_total", route="/orders", method="POST", status="201")
        found.add()
        found.add()
        metrics.counter("dujiang_requests_total", route="/orders", method="GET", status="404").add()

        read = samples(metrics)

        name = "dujiang_requests_total"
        assert read[name, (("method", "POST"), ("route", "/orders"), ("status", "201"))] == 2
        assert read[name, (("method", "GET"), ("route", "/orders"), ("status", "404"))] == 1

    def test_the_same_labels_give_the_same_series(self) -> None:
        """Whoever asks again counts into the same number, whatever the order of the labels."""
        metrics = Metrics()

        one = metrics.counter("dujiang_work_total", subscription="reserve", outcome="done")
        other = metrics.counter("dujiang_work_total", outcome="done", subscription="reserve")

        assert one is other

    def test_buckets_are_cumulative_and_a_bound_belongs_below(self) -> None:
        """Values on a bound, between bounds and above all of them are counted where Prometheus expects them."""
        metrics = Metrics()
        times = metrics.histogram("dujiang_work_seconds", subscription="reserve")
        for value in (0.0005, 0.001, 0.0011, 100.0):
            times.observe(value)

        read = samples(metrics)

        def bucket(bound: str) -> float:
            return read["dujiang_work_seconds_bucket", (("le", bound), ("subscription", "reserve"))]

        assert [bucket(bound) for bound in ("0.0005", "0.001", "0.0025", "10.0", "+Inf")] == [1, 2, 3, 3, 4]
        assert read["dujiang_work_seconds_count", (("subscription", "reserve"),)] == 4
        assert read["dujiang_work_seconds_sum", (("subscription", "reserve"),)] == pytest.approx(100.0026)
        assert times.count == 4

    def test_levels_may_be_read_at_the_scrape(self) -> None:
        """What `at_scrape` sets is what the same scrape shows."""
        metrics = Metrics()
        levels = iter([3.0, 7.0])
        metrics.at_scrape(lambda: metrics.gauge("dujiang_pool_used").set(next(levels)))

        first, second = samples(metrics), samples(metrics)

        assert first["dujiang_pool_used", ()] == 3
        assert second["dujiang_pool_used", ()] == 7

    def test_two_copies_do_not_share(self) -> None:
        """Two running copies in one process count apart."""
        one, other = Metrics(), Metrics()
        one.counter("dujiang_conflicts_total").add()

        assert samples(one)["dujiang_conflicts_total", ()] == 1
        assert ("dujiang_conflicts_total", ()) not in samples(other)

    def test_every_declared_metric_can_be_used_and_rendered(self) -> None:
        """Each row of the table gives a series, is shown with its help, and is read back."""
        metrics = Metrics()
        for metric in METRICS:
            getattr(metrics, metric.kind)(metric.name, **dict.fromkeys(metric.labels, "x"))

        text = metrics.render()[0].decode()

        for metric in METRICS:
            family = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
            assert f"# HELP {metric.name} {metric.help}" in text or f"# HELP {family} {metric.help}" in text

    @pytest.mark.parametrize(
        ("kind", "name", "labels", "error"),
        [
            ("counter", "dujiang_nothing_total", {}, KeyError),
            ("counter", "dujiang_conflicts_total", {"route": "/"}, TypeError),
            ("counter", "dujiang_work_total", {"outcome": "done"}, TypeError),
            ("gauge", "dujiang_conflicts_total", {}, TypeError),
        ],
    )
    def test_what_is_not_declared_raises(
        self, kind: str, name: str, labels: dict[str, str], error: type[Exception]
    ) -> None:
        """A wrong name, wrong labels or the wrong kind is a bug and is not counted somewhere else."""
        with pytest.raises(error):
            getattr(Metrics(), kind)(name, **labels)

    def test_labels_from_outside_cannot_fill_the_memory(self) -> None:
        """Beyond the limit everything is counted under `other`, and nothing is lost."""
        metrics = Metrics()
        for number in range(SERIES_MAX + 50):
            metrics.counter("dujiang_requests_total", route="/", method=f"M{number}", status="405").add()

        read = samples(metrics)

        counts = {labels: value for (name, labels), value in read.items() if name == "dujiang_requests_total"}
        assert len(counts) == SERIES_MAX + 1
        assert sum(counts.values()) == SERIES_MAX + 50
        assert counts[("method", "other"), ("route", "other"), ("status", "other")] == 50

    def test_an_app_adds_its_own(self) -> None:
        """A declared metric and a foreign collector are rendered beside ours; a taken name is refused."""
        metrics = Metrics()
        metrics.declare(Metric("shop_orders_total", "counter", ("tier",), "Orders."))
        metrics.counter("shop_orders_total", tier="gold").add(4)
        ForeignCounter("foreign", "From elsewhere.", registry=metrics.registry).inc(5)

        read = samples(metrics)

        assert read["shop_orders_total", (("tier", "gold"),)] == 4
        assert read["foreign_total", ()] == 5
        with pytest.raises(ValueError, match="already declared"):
            metrics.declare(Metric("shop_orders_total", "counter", (), "Again."))

    def test_hostile_label_values_stay_values(self) -> None:
        """Quotes, backslashes and line feeds in a label do not make new lines or new metrics."""
        metrics = Metrics()
        hostile = 'a"} 1\ndujiang_forged 7\\'
        metrics.counter("dujiang_idempotency_total", outcome=hostile).add()

        read = samples(metrics)

        assert read["dujiang_idempotency_total", (("outcome", hostile),)] == 1
        assert not [name for name, _ in read if name == "dujiang_forged"]

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [("", "text/plain"), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text")],
    )
    def test_the_format_follows_accept(self, accept: str, kind: str) -> None:
        """Plain text by default, OpenMetrics for whoever asks for it; both end well."""
        body, content_type = Metrics().render(accept)

        assert content_type.startswith(kind)
        assert b"dujiang_build_info{" in body
        assert body.endswith(b"# EOF\n") == (kind != "text/plain")


def test_counting_a_request_costs_less_than_two_microseconds() -> None:
    """A counter and a histogram together, best of several runs; the aim is 2 us, the usual cost a quarter of one."""
    metrics = Metrics()
    count = metrics.counter("dujiang_requests_total", route="/", method="GET", status="200")
    times = metrics.histogram("dujiang_request_seconds", route="/", method="GET")

    def once() -> None:
        count.add()
        times.observe(0.003)

    best_s = min(timeit.repeat(once, number=20_000, repeat=7)) / 20_000

    assert best_s < 2e-6


def test_the_import_loads_no_heavy_library() -> None:
    """What every declaration imports must not load prometheus-client, structlog or OpenTelemetry."""
    program = (
        "import sys, dujiang.telemetry.metrics, dujiang.telemetry.tracing, dujiang.telemetry.crash\n"
        "print([name for name in ('prometheus_client', 'structlog', 'opentelemetry', 'logging.handlers') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_bounds_ascend() -> None:
    """A histogram finds its bucket by bisection, so every declared list of bounds ascends."""
    assert all(list(metric.bounds) == sorted(set(metric.bounds)) for metric in METRICS)
    assert Histogram((1.0, 2.0)).counts == [0, 0, 0]
