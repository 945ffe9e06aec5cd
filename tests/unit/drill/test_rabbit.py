"""The drill over the model of RabbitMQ: an app's machines publish and receive through it, and its faults happen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dujiang.drill.drilling import quiet
from dujiang.drill.escape import sealed
from dujiang.drill.run import Outcome, Scenario
from dujiang.drill.search import tried
from dujiang.drill.story import sentence
from dujiang.drill.template import cluster_of
from dujiang.drill.workload import Workload
from dujiang.drill.world import Cluster
from dujiang.systems.shop import app


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The shop on the model."""
    with quiet(), sealed():
        made = replace(cluster_of(app), broker="simulated:")
        yield made
        shutil.rmtree(made.folder, ignore_errors=True)


def played(cluster: Cluster, seed: str, *only: str) -> Outcome:
    """One random run."""
    return tried(cluster, Workload(app), Scenario(only=only), seed)


@pytest.mark.parametrize("seed", ["2", "5"])
def test_faults_of_the_broker_and_kills_cost_nothing(cluster: Cluster, seed: str) -> None:
    """In a seed that draws faults of the broker beside others nothing is violated, and each is told in words."""
    outcome = played(cluster, seed)
    drawn = [fault for fault in outcome.faults if fault.label.startswith("rabbit.")]

    assert drawn
    assert outcome.violations == []
    assert all(fault.label not in sentence(fault) for fault in drawn)


def test_a_seed_gives_the_same_run_twice(cluster: Cluster) -> None:
    """The model draws nothing but from the tape."""
    assert played(cluster, "2").digest == played(cluster, "2").digest
