"""Killed at any point: nothing that was acknowledged is lost, and nothing has two effects."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from dujiang.telemetry.crash import CRASH_POINTS
from dujiang.testing.rabbit import RabbitServer
from dujiang.testing.servers import PostgresServer
from tests.proof.killing import new_trial

KINDS = ["sqlite", "postgres"]
PASSES = [1, 2, 3]
RANDOM_S = 120.0


@pytest.mark.proof
@pytest.mark.parametrize("kind", KINDS)
def test_a_store_outlives_every_crash_point(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """One store, and a life that ends at each named point in turn; a point that is never reached fails.

    Method: one process after another, each armed with the next point; then one that is let alone.
    """
    trial = new_trial(kind, tmp_path, lambda: request.getfixturevalue("postgres"))

    for point in CRASH_POINTS:
        trial.die_at(f"{point}:1")

    trial.end_well()
    assert trial.deaths == len(CRASH_POINTS)
    assert trial.answered


@pytest.mark.proof
def test_a_store_behind_rabbitmq_outlives_every_crash_point(
    tmp_path: Path, postgres: PostgresServer, rabbit: RabbitServer
) -> None:
    """The same with a broker outside the store: what was published and not marked, or taken and not acknowledged, repeats."""
    trial = new_trial("rabbitmq", tmp_path, lambda: postgres, broker=rabbit.url("killed"))

    for point in CRASH_POINTS:
        trial.die_at(f"{point}:1")

    trial.end_well()
    assert trial.deaths == len(CRASH_POINTS)
    assert trial.answered


@pytest.mark.proof
@pytest.mark.parametrize("number", PASSES)
@pytest.mark.parametrize("point", CRASH_POINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_crash_at_one_point(
    kind: str, point: str, number: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A new store, one death at the n-th passing of the point, and the books balance after the restart."""
    trial = new_trial(kind, tmp_path, lambda: request.getfixturevalue("postgres"))

    trial.die_at(f"{point}:{number}")

    trial.end_well()


@pytest.mark.proof
@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_random_times(kind: str, tmp_path: Path, postgres: PostgresServer) -> None:
    """Two minutes of lives that are killed from outside, some before they are ready; the seed is in the output."""
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")  # noqa: T201  (pytest shows it when the test fails)
    chance = random.Random(seed)
    trial = new_trial(kind, tmp_path, lambda: postgres, seed=seed)
    until_s = time.monotonic() + RANDOM_S

    while time.monotonic() < until_s:
        trial.die_after(chance.uniform(0.5, 6.0))

    trial.end_well()
    assert trial.deaths > 10
