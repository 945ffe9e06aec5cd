"""The documented table of events: it and the metrics say the same."""

from __future__ import annotations

import re
from pathlib import Path

import dujiang
from dujiang.telemetry.events import EVENTS, markdown
from dujiang.telemetry.metrics import METRICS


def test_every_metric_belongs_to_one_event_and_exists() -> None:
    """No metric is undocumented, none is documented twice, and no row names one that does not exist."""
    documented = [name for event in EVENTS for name in event.measurements]

    assert sorted(documented) == sorted(metric.name for metric in METRICS)


def test_an_events_labels_are_those_of_its_metrics() -> None:
    """The labels of a row are the union of its metrics' labels."""
    labels = {metric.name: set(metric.labels) for metric in METRICS}

    for event in EVENTS:
        assert set(event.labels) == set().union(*(labels[name] for name in event.measurements)), event.name


def test_names_are_unique_and_well_formed() -> None:
    """A row is found by its name, and its sentence is one."""
    assert len({event.name for event in EVENTS}) == len(EVENTS)
    for event in EVENTS:
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", event.name)
        assert event.when.endswith(".")


def test_every_span_of_the_table_is_opened_somewhere() -> None:
    """A span that the table promises is opened by the code under that name."""
    root = Path(dujiang.__file__).parent
    code = "\n".join(path.read_text() for path in root.rglob("*.py") if path.name != "events.py")

    for event in EVENTS:
        assert not event.span or f'"{event.span}"' in code, event.span


def test_the_page_has_a_row_for_each_event() -> None:
    """The generated table holds every event with its metrics."""
    rows = markdown().splitlines()

    assert len(rows) == len(EVENTS) + 2
    assert all(row.count(" | ") == 4 for row in rows if row.startswith("| `"))
    assert any("`dujiang_outbox_backlog`" in row and "`outbox.measured`" in row for row in rows)
