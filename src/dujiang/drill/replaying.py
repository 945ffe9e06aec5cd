"""Replaying: one failing schedule once more, in this process, with every event kept."""

from __future__ import annotations

import pdb  # noqa: T100  (asked for by name)
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dujiang.drill.drilling import quiet
from dujiang.drill.escape import sealed
from dujiang.drill.memories import Place
from dujiang.drill.search import Search, tried
from dujiang.drill.shrink import Smallest
from dujiang.drill.story import Story, told
from dujiang.drill.template import cluster_of
from dujiang.drill.workload import Workload

if TYPE_CHECKING:
    from dujiang.app.declaration import App
    from dujiang.drill.run import Outcome
    from dujiang.drill.seedfile import SeedFile


@dataclass(frozen=True)
class Replayed:
    """What came of a replay.

    Attributes:
        outcome: Of the run.
        story: Of the violation, if it still shows.
        remarks: What may be the reason when it does not.
    """

    outcome: Outcome
    story: Story | None
    remarks: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """Whether it still fails in the same way."""
        return self.story is not None

    def to_json(self, *, trace: bool) -> dict[str, Any]:
        """As a JSON value."""
        return {
            "fails": self.fails,
            "story": None if self.story is None else self.story.to_json(),
            "digest": self.outcome.digest,
            "remarks": list(self.remarks),
            "trace": [list(event) for event in self.outcome.trace] if trace else None,
        }


def replayed(app: App, seed: SeedFile, *, other: App | None = None, stop_at_last: bool = False) -> Replayed:
    """Play a schedule again.

    Args:
        app: What is drilled.
        other: Its other version, if the schedule has one.
        seed: The schedule.
        stop_at_last: Whether to stop in the debugger when the last of its faults happens.
    """
    with quiet(), sealed():
        cluster = cluster_of(app, other=other)
        try:
            workload = Workload(app)
            cluster = replace(cluster, places=tuple(Place(*each) for each in seed.places))
            if seed.scenario.kind == "sweep":  # It is compared with a run in which nothing happens.
                search = Search(cluster, workload)
                search.count(seed.scenario)
                cluster = replace(cluster, calm=search.cluster.calm)
            stop = (lambda number: pdb.set_trace() if number == len(seed.keep) else None) if stop_at_last else None  # noqa: T100
            outcome = tried(cluster, workload, seed.scenario, seed.seed, keep=seed.keep, tracing=True, at_fault=stop)
        finally:
            shutil.rmtree(cluster.folder, ignore_errors=True)
    remarks = []
    if seed.workload and seed.workload != workload.digest:
        remarks.append("the handlers' types have changed since: the seed now stands for other requests")
    if seed.digest and seed.digest != outcome.digest:
        remarks.append("the run is not the one that was saved: the code has changed since, or it is not deterministic")
    shown = [violation for violation in outcome.violations if violation.kind == seed.invariant]
    small = Smallest(seed.scenario, seed.seed, seed.keep, len(seed.keep), 1, 0.0)
    return Replayed(outcome, told(shown[0], small, outcome) if shown else None, tuple(remarks))
