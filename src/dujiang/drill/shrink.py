"""Shrink: the smallest schedule that still fails in the same way.

    all deviations ──► equal delays? ──► halves, quarters, ... taken out (ddmin) ──► fewer clients ──► gentler forms

Each try is a copy of the warmed world, several at once. What must stay is the kind of the violation; what is smaller may
show another instance of it. The delays come last to go and are often what a race needs: then they stay, from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dujiang.drill.fork import Forks
from dujiang.drill.run import Outcome, Run, Scenario, warmed
from dujiang.kernel.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dujiang.drill.tape import Deviation
    from dujiang.drill.workload.workload import Workload
    from dujiang.drill.world import Cluster

Kept = dict["Deviation", int]

PERIOD_S = 30.0
REST_S = 7.0


@dataclass(frozen=True)
class Smallest:
    """A failing schedule that cannot be made smaller by taking something out.

    Attributes:
        scenario: With as few clients as it needs.
        seed: Its seed.
        keep: The deviations that it needs.
        before: How many there were.
        runs: How many runs it took.
        took_s: Real seconds.
        certain: Whether it failed again at all when it was repeated.
    """

    scenario: Scenario
    seed: str
    keep: Kept
    before: int
    runs: int
    took_s: float
    certain: bool = True


class Shrink:
    """Makes one failure smaller.

    Args:
        cluster: The world's contents.
        workload: What clients call.
        kind: The violation that must stay.
        limit_s: Real seconds at most.
        width: Runs at once.
    """

    def __init__(
        self, cluster: Cluster, workload: Workload, kind: str, *, limit_s: float = PERIOD_S, width: int = 0
    ) -> None:
        self._world = warmed(cluster)
        self._calm = False
        self._workload = workload
        self._kind = kind
        self._clock = SystemClock()
        self._until = self._clock.monotonic() + limit_s
        self._forks = Forks(width)
        self._runs = 0

    def smallest(self, scenario: Scenario, outcome: Outcome) -> Smallest:
        """The smallest schedule that was found in time; to be called once. No copy is left alive, whatever ends it."""
        try:
            return self._smallest(scenario, outcome)
        finally:
            self._forks.kill()
            self._world.close()

    def _smallest(self, scenario: Scenario, outcome: Outcome) -> Smallest:
        began, seed, keep = self._clock.monotonic(), outcome.seed, dict(outcome.deviations)
        before = len(keep)
        if scenario.kind == "sweep":
            self._world.loop.run_until_complete(self._world.loop.pause(REST_S))
        certain = self._fails(scenario, seed, keep)
        if certain:
            if scenario.jitter and self._fails(flat := replace(scenario, jitter=False), seed, keep):
                scenario = flat
            keep = self._fewer(scenario, seed, keep)
            if scenario.kind == "random":
                scenario = self._fewer_clients(scenario, seed, keep)
                keep = self._fewer(scenario, seed, keep)
                if scenario.jitter and self._fails(flat := replace(scenario, jitter=False), seed, keep):
                    scenario = flat
            keep = self._gentler(scenario, seed, keep)
        return Smallest(scenario, seed, keep, before, self._runs, self._clock.monotonic() - began, certain)

    def _fails(self, scenario: Scenario, seed: str, keep: Kept) -> bool:
        return self._first([(scenario, seed, keep)]) == 0

    def _first(self, candidates: Sequence[tuple[Scenario, str, Kept]]) -> int | None:
        """The first candidate that fails in the same way; later ones are not waited for."""
        found: int | None = None
        for start in range(0, len(candidates), self._forks.width):
            if self._clock.monotonic() > self._until:
                return None
            for number in range(start, min(start + self._forks.width, len(candidates))):
                scenario, seed, keep = candidates[number]
                self._runs += 1
                self._forks.run(number, lambda s=scenario, d=seed, k=keep: self._lived(s, d, k))  # type: ignore[misc]
            failing = [
                number for number, kinds in self._forks.finish() if isinstance(kinds, list) and self._kind in kinds
            ]
            if failing:
                found = min(failing)
                break
        return found

    def _lived(self, scenario: Scenario, seed: str, keep: Kept) -> list[str]:
        run = Run(self._world, self._workload, scenario)
        outcome = self._world.loop.run_until_complete(run.live(seed, keep))
        return [violation.kind for violation in outcome.violations]

    def _fewer(self, scenario: Scenario, seed: str, keep: Kept) -> Kept:
        """Take out as much as possible, in ever smaller pieces."""
        if keep and self._fails(scenario, seed, {}):
            return {}
        names = sorted(keep)
        size = max(1, len(names) // 2)
        while names and size:
            candidates = [names[:start] + names[start + size :] for start in range(0, len(names), size)]
            place = self._first([(scenario, seed, chosen(keep, each)) for each in candidates])
            if place is not None:
                names = candidates[place]
                size = min(size, max(1, len(names) // 2))
            elif size == 1:
                break
            else:
                size = max(1, size // 2)
        return chosen(keep, names)

    def _fewer_clients(self, scenario: Scenario, seed: str, keep: Kept) -> Scenario:
        for clients in range(1, scenario.clients):
            if self._fails(smaller := replace(scenario, clients=clients), seed, keep):
                scenario = smaller
                break
        for operations in range(1, scenario.operations):
            if self._fails(smaller := replace(scenario, operations=operations), seed, keep):
                return smaller
        return scenario

    def _gentler(self, scenario: Scenario, seed: str, keep: Kept) -> Kept:
        for name, value in sorted(keep.items()):
            if value > 1 and self._fails(scenario, seed, {**keep, name: 1}):
                keep = {**keep, name: 1}
        return keep


def chosen(keep: Kept, names: Iterable[Any]) -> Kept:
    """The deviations of these names."""
    return {name: keep[name] for name in names}
