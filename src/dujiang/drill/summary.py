"""Summary: a report in lines of text, for a terminal, a failed test and the head of the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dujiang.drill.brokers import RABBITMQ

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dujiang.drill.drilling import Report


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How much of an application the faults have reached.

    Attributes:
        await_sites: How often a machine was killed at each; 0 = it was seen and never killed there.
        faults: Faults that happened, by family.
    """

    await_sites: Mapping[str, int]
    faults: Mapping[str, int]

    @property
    def share(self) -> float:
        """The killed ones of the await sites, 0 to 1."""
        killed = sum(1 for count in self.await_sites.values() if count)
        return killed / len(self.await_sites) if self.await_sites else 0.0


def summary(report: Report) -> list[str]:
    """What was done, and what came of it, without the stories."""
    seen = [name for name in report.sites if report.sites[name]]
    hours = report.virtual_s / 3600
    sweep = (
        f"crash sweep       {report.crash_points_killed}/{report.crash_points} crash points, "
        f"{len(seen)}/{len(report.sites)} await sites, {report.single_faults} other single faults"
    )
    random = (
        f"random schedules  {report.seeds} seeds, {hours:.2f} virtual hours, {report.operations} calls, "
        f"{report.kills} kills ({report.kills_in_flight} hit something in hand)"
    )
    found = [sweep, random]
    if RABBITMQ in report.brokers:
        found.append(
            f"brokers           {', '.join(f'{count} seeds on {name}' for name, count in report.brokers.items())}"
        )
    for name, statuses in report.flows.items():
        found.append(f"flow              {name}: " + ", ".join(f"{n} x {status}" for status, n in statuses.items()))
    for name, count in report.sometimes.items():
        found.append(f"sometimes         {name}: {count}" + ("" if count else "  <- never reached"))
    found += [f"not exercised     {text}" for text in report.not_exercised]
    for text, count in report.failed.items():
        found.append(f"not judged        {count} runs: {text.strip().splitlines()[-1]}")
    if report.interrupted:
        found.append("interrupted       what was found so far is above")
    return [*found, outcome_of(report)]


def outcome_of(report: Report) -> str:
    """The verdict in a few words."""
    count = len(report.stories)
    if count:
        return f"{count} violation{'' if count == 1 else 's'}"
    if report.interrupted:
        return "interrupted, 0 violations so far"
    if report.not_exercised or report.failed:
        return "0 violations, but not everything was tried"
    return "0 violations"


def lines(report: Report) -> list[str]:
    """The stories, each with the command that replays it, and the summary."""
    found = []
    for story, replay in zip(report.stories, report.replays, strict=True):
        found += [*story.lines(), f"  replay: dujiang replay {replay}"]
    return [*found, *summary(report)]
