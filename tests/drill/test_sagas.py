"""Sagas in a drill: the trips pass kills, lost answers and waits in vain; what every try repeats is found."""

import shutil

import pytest

from bench.planted.apps import trips
from dujiang.drill.drilling import SWEEP, quiet
from dujiang.drill.escape import sealed
from dujiang.drill.run import Scenario
from dujiang.drill.search import Search
from dujiang.drill.template import cluster_of
from dujiang.drill.workload import Workload
from dujiang.saga.progress import Progress
from tests.drill.drilled import violated

STORM = Scenario(clients=3, operations=3, faults_s=3.0)


def drilled(seeds: int) -> Search:
    """A calm run and random schedules of the trips."""
    with quiet(), sealed():
        cluster = cluster_of(trips.app)
        try:
            search = Search(cluster, Workload(trips.app), width=2)
            search.count(SWEEP)
            search.random(STORM, budget_s=0.0, seeds=seeds)
        finally:
            shutil.rmtree(cluster.folder, ignore_errors=True)
    return search


def test_the_trips_are_sound() -> None:
    """Each ends booked with its room, or taken back without one; the money adds up."""
    assert violated(drilled(8)) == set()


def test_undos_that_forget_what_their_steps_gave_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result that was stored with a step is what its undo gets; without it the money that was held stays held."""
    monkeypatch.setattr(Progress, "result_of", lambda *_: None)

    assert violated(drilled(4)) != set()
