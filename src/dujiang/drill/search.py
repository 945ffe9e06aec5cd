"""Search: the sweep over every crash point, then random schedules until the time is over.

    sweep     one calm run of every flow; at each resumption of a task of a machine a copy of the world is killed there
    random    one seed, one copy, one schedule; as many as the time allows

A crash point is one resumption of a task between the first request and the moment at which nothing is left to do. Loops
that go round while nothing happens count once for each await site and machine: killing an idle loop in its tenth round
shows nothing that the first did not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dujiang.drill.brokers import standing_for
from dujiang.drill.escape import OUTSIDE, EscapedSimulation, open_sockets
from dujiang.drill.fork import LIMIT_S, Forks, answer_of
from dujiang.drill.memories import Memories, Place
from dujiang.drill.run import Outcome, Run, Scenario, warmed
from dujiang.drill.sites import running_sites, site_of, sites_of
from dujiang.drill.state import Calm
from dujiang.drill.violation import Violation
from dujiang.kernel.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dujiang.drill.machine import Machine
    from dujiang.drill.tape import Deviation
    from dujiang.drill.workload.workload import Workload
    from dujiang.drill.world import Cluster, World

SLOW_STEP_S = 2.0
SWEPT = "sweep"
SEEN_MAX = 2
# Decided for the whole run, or big enough to be left to the random runs.
NOT_SINGLE = ("kill",)


@dataclass
class Found:
    """What a search has found so far.

    Attributes:
        points: Crash points of the calm run.
        killed: Of them, how many were tried.
        singles: Other faults that could happen in the calm run; `single` of them were tried, each by itself.
        sites: How often each await site was killed; every site that was seen is there.
        seeds: Random schedules.
        kills: Machines killed in all.
        kills_in_flight: Of them, how many had something in hand.
        virtual_s: Seconds that passed in the worlds.
        operations: Calls by clients.
        outcomes: The first failing outcome of each kind of violation, with its scenario.
        counts: Violations by kind, of all runs.
        faults: Faults by family.
        brokers: Random schedules by the setting `broker` of their machines.
        failed: Runs that could not be judged, by error.
    """

    points: int = 0
    killed: int = 0
    singles: int = 0
    single: int = 0
    sites: Counter[str] = field(default_factory=Counter)
    seeds: int = 0
    kills: int = 0
    kills_in_flight: int = 0
    virtual_s: float = 0.0
    operations: int = 0
    outcomes: dict[str, tuple[Scenario, Outcome]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    brokers: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    digests: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


class Search:
    """The search in one app.

    Args:
        cluster: Every world's contents.
        workload: What clients call.
        told: Called with each kind of violation when it is first found.
        progress: Called now and then with a phase, how much is done, and of how much (0 = unknown).
        width: Runs at once.
        first_only: Whether to stop as soon as something is found.
    """

    def __init__(
        self,
        cluster: Cluster,
        workload: Workload,
        *,
        first_only: bool = False,
        told: Callable[[Scenario, Outcome, Violation], None] = lambda *_: None,
        progress: Callable[[str, float, float], None] = lambda *_: None,
        width: int = 0,
    ) -> None:
        self.cluster = cluster
        self.workload = workload
        self.found = Found()
        self.forks = Forks(width)
        self._first_only = first_only
        self._told = told
        self._progress = progress
        self._clock = SystemClock()

    @property
    def enough(self) -> bool:
        """Whether the search may end early."""
        return self._first_only and bool(self.found.outcomes)

    # The sweep --------------------------------------------------------------------------------------------------------

    def count(self, scenario: Scenario) -> list[str]:
        """The crash points of the calm run, by site; plays it once in a copy."""
        found = self._played(scenario, SWEPT)
        self.found.remarks = found["remarks"]
        places = tuple(Place(module, name) for module, name in found["places"])
        self.cluster = replace(self.cluster, places=places)
        outcome = Outcome.of_json(found["outcome"])
        self._take(scenario, outcome)
        if places and not outcome.violations:  # With memories of their own the machines may do something else.
            outcome = Outcome.of_json(self._played(scenario, SWEPT)["outcome"])
        apart = self.cluster.other is not None  # Which version handles an event is chance, and both may be right.
        other = None if apart or outcome.violations else self._played(scenario, "another")["outcome"]["tables"]
        calm = None if other is None else Calm.of(outcome.tables, other)
        self.cluster = replace(self.cluster, calm=calm)
        points: list[str] = found["points"]
        self.found.points = len(points)
        for site in points:
            self.found.sites[site] += 0
        return points

    def _played(self, scenario: Scenario, seed: str) -> dict[str, Any]:
        """A calm run in a copy."""
        self.forks.run(seed, lambda: self._counted(scenario, seed))
        ((_, found),) = self.forks.finish()
        refuse(found)
        if "error" in found:
            raise RuntimeError(found["error"])
        played: dict[str, Any] = found
        return played

    def _counted(self, scenario: Scenario, seed: str) -> dict[str, Any]:
        points: list[str] = []
        run, choose = self._calm(scenario)

        def note(machine: Machine, task: asyncio.Task[Any]) -> bool:
            site = choose(machine, task)
            if site:
                points.append(site)
            return False

        run.at_point = note
        memories, watcher = Memories(), StepWatch()
        run.world.loop.after_step = watcher.after
        outcome = run.world.loop.run_until_complete(run.live(seed))
        places = [place for place in memories.changed() if place not in self.cluster.journals]
        remarks = [*watcher.remarks, *(f"{place} changed: every machine has its own from here on" for place in places)]
        named = [[place.module, place.name] for place in places]
        return {"points": points, "outcome": outcome.to_json(), "places": named, "remarks": remarks}

    def _calm(self, scenario: Scenario) -> tuple[Run, Callable[[Machine, asyncio.Task[Any]], str]]:
        """A warmed calm run, and a function that names a crash point, or says "" for one that was counted."""
        world = warmed(self.cluster)
        idle: set[tuple[Any, ...]] = set()

        def look(machine: Machine, task: asyncio.Task[Any]) -> bool:
            idle.add((machine.name, *sites_of(task)))
            return True

        async def rest() -> None:
            world.loop.watch = look
            await world.loop.pause(7.0)  # Longer than a heartbeat: every loop has gone round.
            world.loop.watch = None

        world.loop.run_until_complete(rest())
        counted: set[tuple[Any, ...]] = set()

        def choose(machine: Machine, task: asyncio.Task[Any]) -> str:
            place = (machine.name, *sites_of(task))
            if place in idle:
                if place in counted:
                    return ""
                counted.add(place)
            return f"{machine.name.rstrip('0123456789')} {world.site(task)}"

        return Run(world, self.workload, scenario), choose

    def lull(self, scenario: Scenario) -> None:
        """One run with a long silence in it and no fault: what waits ever longer, or believes in old times, shows there."""
        self.forks.run("lull", lambda: self._lived(warmed(self.cluster), scenario, "lull"))
        for seed, found in self.forks.finish():
            self._judge(scenario, seed, found)

    def sweep(self, scenario: Scenario, *, every: int = 1) -> None:
        """Kill at each crash point, and let each single fault happen once; each in a copy of the world that got there."""
        run, choose = self._calm(scenario)
        number = 0
        seen: Counter[Any] = Counter()

        def copied(tag: tuple[str, str]) -> bool:
            nonlocal number
            number += 1
            if self.enough or number % every:
                return False
            if self.forks.fork(tag):
                run.at_point = run.world.tape.at_draw = None
                return True
            self._take_swept(scenario)
            self._progress("sweep", self.found.killed + self.found.single, self.found.points + self.found.singles)
            return False

        def point(machine: Machine, task: asyncio.Task[Any]) -> bool:
            site = choose(machine, task)
            return bool(site) and copied(("kill", site))

        def draw(label: str, high: int) -> int:
            family = label.partition(".")[0]
            place = (label, running_sites())
            seen[place] += 1
            if family in NOT_SINGLE or seen[place] > SEEN_MAX:
                return 0
            self.found.singles += not self.forks.in_child
            return next((form for form in range(1, high + 1) if copied(("single", label))), 0)

        run.at_point, run.at_draw = point, draw
        try:
            outcome = run.world.loop.run_until_complete(run.live(SWEPT))
        except BaseException as error:
            if self.forks.in_child:
                self.forks.report(answer_of(partial(again, error)))
            raise
        finally:
            if not self.forks.in_child:
                run.world.close()
        if self.forks.in_child:
            self.forks.report(outcome.to_json())
        for tag, found in self.forks.finish():
            self._swept(scenario, tag, found)

    def _take_swept(self, scenario: Scenario) -> None:
        for tag, found in self.forks.results():
            self._swept(scenario, tag, found)

    def _swept(self, scenario: Scenario, tag: tuple[str, str], found: Mapping[str, Any]) -> None:
        kind, site = tag
        if kind == "kill":
            self.found.killed += 1
            self.found.sites[site] += 1
        else:
            self.found.single += 1
        self._judge(scenario, SWEPT if "hung" not in found else f"{kind} {site}", found)

    # Random schedules -------------------------------------------------------------------------------------------------

    def random(self, scenario: Scenario, *, budget_s: float, first: int = 0, seeds: int = 0) -> None:
        """Try seeds until the real time is over, or so many."""
        worlds: dict[str, World] = {}
        try:
            self._seeds(worlds, scenario, budget_s, first, seeds)
        finally:
            for world in worlds.values():
                world.close()

    def _seeds(self, worlds: dict[str, World], scenario: Scenario, budget_s: float, first: int, seeds: int) -> None:
        began, number = self._clock.monotonic(), first
        while not self.enough and (number < first + seeds if seeds else self._clock.monotonic() - began < budget_s):
            cluster = standing_for(self.cluster, scenario, str(number))
            if cluster.broker not in worlds:
                worlds[cluster.broker] = rested(warmed(cluster))
            self.found.brokers[cluster.broker] += 1
            world = worlds[cluster.broker]
            self.forks.run(str(number), lambda seed=str(number), world=world: self._lived(world, scenario, seed))  # type: ignore[misc]
            number += 1
            for tag, found in self.forks.results():
                self._tried(scenario, tag, found)
            share = self._clock.monotonic() - began
            self._progress("random", self.found.seeds if seeds else share, seeds or budget_s)
        for tag, found in self.forks.finish():
            self._tried(scenario, tag, found)

    def _lived(self, world: World, scenario: Scenario, seed: str) -> dict[str, Any]:
        outcome = world.loop.run_until_complete(Run(world, self.workload, scenario).live(seed))
        found: dict[str, Any] = outcome.to_json()
        return found

    def _tried(self, scenario: Scenario, seed: str, found: Mapping[str, Any]) -> None:
        self.found.seeds += 1
        self._judge(scenario, seed, found)
        if "digest" in found:
            self.found.digests[seed] = found["digest"]

    # Both -------------------------------------------------------------------------------------------------------------

    def _judge(self, scenario: Scenario, seed: str, found: Mapping[str, Any]) -> None:
        refuse(found)
        if found.get("error"):
            self.found.failed[str(found["error"])] += 1
            return
        outcome = Outcome(seed=seed, violations=[hung(seed)]) if "hung" in found else Outcome.of_json(found)
        self._take(scenario, outcome)

    def _take(self, scenario: Scenario, outcome: Outcome) -> None:
        found = self.found
        found.kills += outcome.kills
        found.kills_in_flight += outcome.kills_in_flight
        found.virtual_s += outcome.virtual_s
        found.operations += outcome.operations
        found.reached.update(outcome.notes)
        for fault in outcome.faults:
            found.faults[fault.label.partition(".")[0]] += 1
        self.workload.coverage.add(outcome.coverage)
        for violation in outcome.violations:
            found.counts[violation.kind] += 1
            if violation.kind not in found.outcomes:
                found.outcomes[violation.kind] = (scenario, outcome)
                self._told(scenario, outcome, violation)


def rested(world: World) -> World:
    """A warmed world that leaves the process to others: two may be warm at once, over two brokers."""
    if world.loop.memories is not None:
        world.loop.memories.leave()
    return world


def hung(what: str) -> Violation:
    """The violation of a run that did not end in real time."""
    said = f"the run did not end in {LIMIT_S:.0f} s of real time ({what}): something turns for ever without waiting"
    return Violation("nothing-stuck", said)


def refuse(found: Mapping[str, Any]) -> None:
    """Raise EscapedSimulation if that is what a copy met."""
    if "escaped" in found:
        raise EscapedSimulation(**found["escaped"])


def again(error: BaseException) -> None:
    """Raise it again."""
    raise error


class StepWatch:
    """Looks at the real machine after each step of the calm run: sockets that opened, steps that took long."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self._clock = SystemClock()
        self._sockets = open_sockets()
        self._last = self._clock.monotonic()

    def after(self, machine: Machine, handle: Any) -> None:
        """One step of a machine is done."""
        task = getattr(handle._callback, "__self__", None)  # noqa: SLF001
        where = site_of(task) if isinstance(task, asyncio.Task) else repr(handle)
        if open_sockets() > self._sockets:
            raise EscapedSimulation(what="a socket that a C extension opened", where=where, way=OUTSIDE)
        now = self._clock.monotonic()
        if now - self._last > SLOW_STEP_S:
            self.remarks.append(f"a step of {machine.name} took {now - self._last:.1f} s of real time before {where}")
        self._last = self._clock.monotonic()


def tried(
    cluster: Cluster,
    workload: Workload,
    scenario: Scenario,
    seed: str,
    *,
    keep: Mapping[Deviation, int] | None = None,
    tracing: bool = False,
    at_fault: Callable[[int], None] | None = None,
) -> Outcome:
    """One run from the beginning, in this process; for replays. `at_fault` is called with the number of each fault."""
    world = warmed(standing_for(cluster, scenario, seed), tracing=tracing)
    world.at_fault = at_fault
    try:
        if scenario.kind == "sweep":
            world.loop.run_until_complete(world.loop.pause(7.0))
        return world.loop.run_until_complete(Run(world, workload, scenario).live(seed, keep))
    finally:
        world.close()
