"""Drilled for real: the shop as processes on PostgreSQL and RabbitMQ, while everything is killed in turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dujiang.drill.real import Plan, play
from dujiang.drill.real.report import lines
from dujiang.systems.shop import app

DURATION_S = 90.0
HIT_SHARE = 0.6


# The driver forgets a connection whose making was broken off, because the server stood still; nobody can close that one.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.proof
@pytest.mark.parametrize("broker", [True, False], ids=["rabbitmq", "sql"])
def test_the_shop_outlives_a_minute_and_a_half_of_faults(tmp_path: Path, *, broker: bool) -> None:
    """Nothing acknowledged is lost, nothing is done twice, nothing is stuck; most faults hit something in hand."""
    plan = Plan(
        app="dujiang.systems.shop:app", duration_s=DURATION_S, rate=20.0, broker=broker, here=tmp_path, logs=tmp_path
    )

    report = asyncio.run(play(app, plan))

    print("\n".join(lines(report)))  # noqa: T201  (pytest shows it when the test fails)
    assert report.violations == ()
    assert report.asked_again > 0
    assert report.hits >= HIT_SHARE * len(report.faults) > 0
