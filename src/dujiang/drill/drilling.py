"""Drilling: the whole of it: template, workload, sweep, random schedules, shrinking, stories, one report.

report = Drill(app, "shop:app").run(budget_s=60)
assert report.passed, report.text()
"""

from __future__ import annotations

import gc
import logging
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dujiang.drill.brokers import SETTINGS, standing_for
from dujiang.drill.escape import sealed
from dujiang.drill.reached import places_named
from dujiang.drill.run import Outcome, Scenario
from dujiang.drill.search import Found, Search, tried
from dujiang.drill.seedfile import SeedFile
from dujiang.drill.shrink import Shrink, Smallest
from dujiang.drill.story import Story, told
from dujiang.drill.summary import Reached, lines
from dujiang.drill.template import cluster_of
from dujiang.drill.workload import Workload
from dujiang.drill.world import python_version
from dujiang.kernel.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dujiang.app.declaration import App
    from dujiang.drill.violation import Violation
    from dujiang.drill.world import Cluster

FOLDER = Path(".drill")
SHRINK_S = 20.0
SWEEP = Scenario(kind="sweep", clients=1, operations=1, jitter=False)
LULL = replace(SWEEP, kind="lull")


@dataclass(kw_only=True)
class Report:
    """What a drill found.

    Attributes:
        app: Its name.
        flows: Answers by status, for each flow.
        crash_points: Of the calm run.
        crash_points_killed: How many were tried.
        single_faults: Other faults of the calm run, each tried by itself.
        sites: How often each await site was killed.
        seeds: Random schedules.
        brokers: Over which broker how many of them went.
        kills: Machines killed; `kills_in_flight` of them had something in hand.
        virtual_s: Seconds that passed in all worlds.
        operations: Calls by clients.
        faults: By family.
        stories: One for each kind of violation.
        replays: The file that replays each, in the same order.
        counts: Runs in which each kind of violation showed.
        not_exercised: Flows that never succeeded, and how to help them.
        failed: Runs that could not be judged.
        sometimes: How often each `sometimes` was reached.
        took_s: Real seconds, by phase.
        remarks: What people should know about the app.
        interrupted: Whether somebody ended it early.
    """

    app: str
    flows: dict[str, dict[str, int]] = field(default_factory=dict)
    crash_points: int = 0
    crash_points_killed: int = 0
    single_faults: int = 0
    sites: dict[str, int] = field(default_factory=dict)
    seeds: int = 0
    brokers: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    kills_in_flight: int = 0
    virtual_s: float = 0.0
    operations: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    stories: list[Story] = field(default_factory=list)
    replays: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    not_exercised: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    sometimes: dict[str, int] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def violations(self) -> tuple[Story, ...]:
        """What did not hold, one story for each kind."""
        return tuple(self.stories)

    @property
    def coverage(self) -> Reached:
        """How much of the application the faults have reached."""
        return Reached(await_sites=dict(self.sites), faults=dict(self.faults))

    def text(self) -> str:
        """Stories, replay commands and summary, as the command prints them."""
        return "\n".join(lines(self))

    @property
    def passed(self) -> bool:
        """Whether nothing was violated, every flow was exercised, and every run could be judged."""
        return not (self.stories or self.not_exercised or self.failed or self.interrupted)

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON value; the names of architecture page's contract first."""
        violations = [
            {
                "invariant": story.invariant,
                "story": "\n".join(story.lines()),
                "schedule": list(story.schedule),
                "replay": replay,
            }
            | {"cause": None if story.cause is None else vars(story.cause), "seed": story.seed}
            | {"timeline": None if story.timeline is None else story.timeline.to_json()}
            for story, replay in zip(self.stories, self.replays, strict=True)
        ]
        return {
            "app": self.app,
            "flows": self.flows,
            "crash_points": self.crash_points,
            "crash_points_killed": self.crash_points_killed,
            "single_faults": self.single_faults,
            "seeds": self.seeds,
            "brokers": self.brokers,
            "kills": self.kills,
            "kills_in_flight": self.kills_in_flight,
            "virtual_seconds": round(self.virtual_s, 3),
            "operations": self.operations,
            "violations": violations,
            "counts": self.counts,
            "not_exercised": self.not_exercised,
            "failed": self.failed,
            "sites": self.sites,
            "faults": self.faults,
            "sometimes": self.sometimes,
            "remarks": self.remarks,
            "took_s": self.took_s,
            "interrupted": self.interrupted,
            "passed": self.passed,
        }


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much a drill does.

    Attributes:
        budget_s: Real seconds of the random schedules.
        seeds: So many random schedules instead; 0 = by the budget.
        first: The first seed.
        sweep: Whether to kill at every crash point first.
        every: Only every so many-eth of them.
        scenario: What happens in a random run.
        shrink_s: Real seconds at most to make one failure smaller.
    """

    budget_s: float = 60.0
    seeds: int = 0
    first: int = 0
    sweep: bool = True
    every: int = 1
    scenario: Scenario = Scenario()  # noqa: RUF009  (immutable)
    shrink_s: float = SHRINK_S


class Drill:
    """One drill of one app.

    Args:
        app: What is drilled.
        name: How to load it again, `mysite:app`; stands in replay files.
        said: Called with lines for people as things are found.
        progress: Called with phase, done, total.
        folder: Where replay files go.
        width: Runs at once; default: the cores.
        pools: The workload's requests from an earlier drill; default: made anew.
        first_only: Whether to stop as soon as something is found.
        other: The name and the declaration of another version of the app, which half of the machines run.
    """

    def __init__(
        self,
        app: App,
        name: str = "app",
        *,
        said: Callable[[str], None] = lambda _: None,
        progress: Callable[[str, float, float], None] = lambda *_: None,
        folder: Path = FOLDER,
        width: int = 0,
        pools: Mapping[str, Any] | None = None,
        first_only: bool = False,
        other: tuple[str, App] | None = None,
    ) -> None:
        self._other_name = "" if other is None else other[0]
        self._other = None if other is None else other[1]
        self._pools = pools
        self._first_only = first_only
        self.report = Report(app=name)
        self._app = app
        self._said = said
        self._progress = progress
        self._folder = folder
        self._width = width
        self._clock = SystemClock()

    def run(self, **effort: Any) -> Report:
        """The sweep, then random schedules, then the stories; takes the fields of Effort by name."""
        wanted = Effort(**effort)
        with quiet(), sealed():
            began = self._clock.monotonic()
            cluster = cluster_of(self._app, other=self._other)
            try:
                workload = Workload(self._app, pools=self._pools)
                self._took("template", began)
                cluster = self._search(cluster, workload, wanted)
                self._stories(cluster, workload, wanted.shrink_s)
            finally:
                shutil.rmtree(cluster.folder, ignore_errors=True)
        return self.report

    def _took(self, phase: str, since: float) -> None:
        self.report.took_s[phase] = round(self._clock.monotonic() - since, 3)

    def _search(self, cluster: Cluster, workload: Workload, effort: Effort) -> Cluster:
        search = Search(
            cluster, workload, told=self._found, progress=self._progress, width=self._width, first_only=self._first_only
        )
        self._finds = search.found
        try:
            self._look(search, effort)
        except KeyboardInterrupt:
            self.report.interrupted = True
        finally:
            search.forks.kill()
        self._sum(search.found, workload)
        return search.cluster

    def _look(self, search: Search, effort: Effort) -> None:
        began = self._clock.monotonic()
        points = search.count(SWEEP)
        one_s = self._clock.monotonic() - began
        self.report.remarks = search.found.remarks
        for remark in search.found.remarks:
            self._said(f"note: {remark}")
        if effort.sweep:
            sites = len(set(points))
            self._said(f"sweep: {len(points)} crash points at {sites} await sites, a run takes {one_s:.2f} s")
            search.lull(LULL)
            search.sweep(SWEEP, every=effort.every)
            self._took("sweep", began)
        if (effort.budget_s > 0 or effort.seeds) and not search.enough:
            began = self._clock.monotonic()
            search.random(effort.scenario, budget_s=effort.budget_s, seeds=effort.seeds, first=effort.first)
            self._took("random", began)

    def _found(self, scenario: Scenario, outcome: Outcome, violation: Violation) -> None:
        where = {"sweep": "crash sweep", "lull": "after a silence"}.get(scenario.kind, f"seed {outcome.seed}")
        self._said(f"✗ {violation.invariant}: {violation.said} ({where})")

    def _sum(self, found: Found, workload: Workload) -> None:
        report = self.report
        report.flows = {
            name: {str(status): count for status, count in sorted(statuses.items())}
            for name, statuses in workload.coverage.statuses.items()
        }
        report.crash_points, report.crash_points_killed = found.points, found.killed
        report.single_faults = found.single
        report.sites = dict(sorted(found.sites.items()))
        report.seeds, report.kills, report.kills_in_flight = found.seeds, found.kills, found.kills_in_flight
        report.brokers = {name: found.brokers[url] for name, url in SETTINGS.items() if url in found.brokers}
        report.virtual_s, report.operations = found.virtual_s, found.operations
        report.faults, report.counts = dict(sorted(found.faults.items())), dict(found.counts)
        report.failed = dict(found.failed)
        report.sometimes = dict(sorted({**dict.fromkeys(places_named(self._app), 0), **found.reached}.items()))
        report.not_exercised = [str(each) for each in workload.coverage.not_exercised()]

    def _smallest(self, cluster: Cluster, workload: Workload, kind: str, shrink_s: float) -> tuple[Smallest, Outcome]:
        """A failing schedule made smaller, and its run; as it was found when somebody ends the drill."""
        scenario, outcome = self._finds.outcomes[kind]
        if not self.report.interrupted:
            try:
                standing = standing_for(cluster, scenario, outcome.seed)
                shrink = Shrink(standing, workload, kind, limit_s=shrink_s, width=self._width)
                small = shrink.smallest(scenario, outcome)
                return small, tried(cluster, workload, small.scenario, small.seed, keep=small.keep, tracing=True)
            except KeyboardInterrupt:
                self.report.interrupted = True
        keep = dict(outcome.deviations)
        return Smallest(scenario, outcome.seed, keep, len(keep), 0, 0.0), outcome

    def _stories(self, cluster: Cluster, workload: Workload, shrink_s: float) -> None:
        began = self._clock.monotonic()
        for kind, (_, outcome) in self._finds.outcomes.items():
            self._progress("shrink", len(self.report.stories), len(self._finds.outcomes))
            small, again = self._smallest(cluster, workload, kind, shrink_s)
            shown = [each for each in again.violations if each.kind == kind]
            violation = (shown or [each for each in outcome.violations if each.kind == kind])[0]
            story = told(violation, small, again if shown else outcome)
            path = self._folder / f"{slug(kind)}-{slug(small.seed)}.djseed"
            file = SeedFile(
                app=self.report.app,
                other=self._other_name,
                seed=small.seed,
                scenario=small.scenario,
                keep=small.keep,
                invariant=kind,
                places=tuple((place.module, place.name) for place in cluster.places),
                digest=again.digest if small.runs else "",
                workload=workload.digest,
                python=python_version(),
            )
            file.save(path)
            self.report.stories.append(replace(story, file=file))
            self.report.replays.append(str(path))
            for line in story.lines():
                self._said(line)
            self._said(f"  replay: dujiang replay {path}")
        if self._finds.outcomes:
            self._took("shrink", began)


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())[:60] or "violation"


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines of thousands of simulated processes, and no collector that runs when it likes."""
    logging.disable(logging.CRITICAL)
    collecting = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        if collecting:
            gc.enable()
        gc.unfreeze()


__all__ = ["Drill", "Effort", "Report"]
