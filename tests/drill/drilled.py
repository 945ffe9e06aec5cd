"""Drills of small apps: one workload for all of them, because they have one contract, and a cluster for each."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dujiang import App
from dujiang.drill.drilling import SWEEP, quiet
from dujiang.drill.escape import sealed
from dujiang.drill.run import Outcome, Scenario, warmed
from dujiang.drill.search import Search
from dujiang.drill.template import cluster_of
from dujiang.drill.workload import Workload
from dujiang.drill.world import Cluster, World
from tests.drill import apps

STORM = Scenario(clients=4, operations=2, faults_s=3.0)


@functools.cache
def workload() -> Workload:
    """The requests that all of these apps understand."""
    return Workload(apps.app_of())


@contextmanager
def standing(**defect: Any) -> Iterator[Cluster]:
    """A cluster of an app with a defect, inside the seal."""
    with quiet(), sealed():
        cluster = cluster_of(apps.app_of(**defect))
        try:
            yield cluster
        finally:
            shutil.rmtree(cluster.folder, ignore_errors=True)


@contextmanager
def living(cluster: Cluster, *, tracing: bool = False) -> Iterator[World]:
    """A world that has been warmed."""
    world = warmed(cluster, tracing=tracing)
    try:
        yield world
    finally:
        world.close()


def stormy(seeds: int = 3, scenario: Scenario = STORM, **defect: Any) -> Search:
    """Some random schedules of an app with a defect."""
    with standing(**defect) as cluster:
        search = Search(cluster, workload(), width=2)
        search.random(scenario, budget_s=0.0, seeds=seeds)
    return search


def calm(**defect: Any) -> Search:
    """The calm run of an app with a defect."""
    with standing(**defect) as cluster:
        search = Search(cluster, workload(), width=2)
        search.count(SWEEP)
    return search


def searched(app: App, scenario: Scenario = STORM, *, seeds: int, calmly: bool = True) -> Search:
    """A calm run, unless it is left out, and random schedules of an app with a contract of its own."""
    with quiet(), sealed():
        cluster = cluster_of(app)
        try:
            search = Search(cluster, Workload(app), width=2)
            if calmly:
                search.count(SWEEP)
            search.random(scenario, budget_s=0.0, seeds=seeds)
        finally:
            shutil.rmtree(cluster.folder, ignore_errors=True)
    return search


def violated(search: Search) -> set[str]:
    """The kinds of violations that were found."""
    assert not search.found.failed, search.found.failed
    return set(search.found.counts)


def first(search: Search, kind: str) -> tuple[Outcome, str]:
    """The first outcome with a violation of a kind, and what the violation says."""
    outcome = search.found.outcomes[kind][1]
    return outcome, next(each.said for each in outcome.violations if each.kind == kind)
