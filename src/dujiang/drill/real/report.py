"""Report: what came of a real drill: figures, faults, verdicts; as JSON, and as lines for people."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dujiang.drill.real.faults import BROKER, DATABASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dujiang.drill.real.faults import Fault
    from dujiang.drill.real.load import Call
    from dujiang.drill.violation import Violation

WINDOW_S = 10.0
OK_BELOW = 500


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a drill; times are seconds since its beginning.

    Attributes:
        name: `calm`, `faults`, `healed`.
        from_s: When it began.
        until_s: When it ended.
    """

    name: str
    from_s: float
    until_s: float


@dataclass(kw_only=True)
class RealReport:
    """What came of it.

    Attributes:
        app: What was drilled.
        seed: Of the schedule.
        servers: What it ran on: versions, and the durability that the servers report.
        processes: How often each process was started.
        phases: In order.
        calls: By form: how many.
        answers: Final answers by status.
        tries_failed: Tries that got no answer, or "later".
        turned_away: Calls that were not begun, for too many were open.
        latency_ms: By phase: `p50`, `p99`, `max` from the first try to the final answer, and `calls`.
        availability: By window of ten seconds: the share of tries that were answered below 500.
        faults: Each one: kind, target, when, how much it hit, how long until work was done again.
        events: Events that were committed.
        asked_again: Acknowledged calls that were asked for once more.
        drained_s: Seconds from the healing until nothing was left to do.
        violations: What did not hold.
        interrupted: Whether it was ended early.
        took_s: In all.
    """

    app: str
    seed: int
    servers: Mapping[str, str] = field(default_factory=dict)
    processes: Mapping[str, int] = field(default_factory=dict)
    phases: Sequence[Phase] = ()
    calls: Mapping[str, int] = field(default_factory=dict)
    answers: Mapping[int, int] = field(default_factory=dict)
    tries_failed: int = 0
    turned_away: int = 0
    latency_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    availability: Sequence[float] = ()
    faults: Sequence[Mapping[str, Any]] = ()
    events: int = 0
    asked_again: int = 0
    drained_s: float = 0.0
    violations: Sequence[Violation] = ()
    interrupted: bool = False
    took_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        return not self.violations

    @property
    def operations(self) -> int:
        """Calls in all."""
        return sum(self.calls.values())

    @property
    def hits(self) -> int:
        """Faults that hit something in hand; the others do not count."""
        return sum(bool(fault["held"]) for fault in self.faults)

    @property
    def recovery_p95_s(self) -> float:
        """Seconds from the moment a target answered again until work was done, of 95 of 100 faults."""
        return percentile([fault["recovered_s"] for fault in self.faults if fault["recovered_s"] >= 0], 0.95)

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Faults by kind: `count`, `hit`, and the recovery's `p50_s` and `p95_s`."""
        groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for fault in self.faults:
            groups[fault["kind"]].append(fault)
        return {
            kind: {
                "count": len(group),
                "hit": sum(bool(fault["held"]) for fault in group),
                "p50_s": percentile([fault["recovered_s"] for fault in group if fault["recovered_s"] >= 0], 0.5),
                "p95_s": percentile([fault["recovered_s"] for fault in group if fault["recovered_s"] >= 0], 0.95),
            }
            for kind, group in sorted(groups.items())
        }

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        derived = {"passed": self.passed, "operations": self.operations, "hits": self.hits}
        found = {**asdict(self), **derived, "recovery_p95_s": self.recovery_p95_s, "by_kind": self.by_kind()}
        found["answers"] = {str(status): count for status, count in self.answers.items()}
        return found


def lines(report: RealReport) -> list[str]:
    """For people."""
    found = [
        f"servers     {', '.join(f'{name} {what}' for name, what in report.servers.items())}",
        f"processes   {', '.join(f'{name} started {count} times' for name, count in report.processes.items())}",
        f"calls       {report.operations:,}: " + ", ".join(f"{n:,} {form}" for form, n in report.calls.items()),
        (
            f"answers     {', '.join(f'{n:,} x {status}' for status, n in report.answers.items())}; "
            f"{report.tries_failed:,} tries failed and were repeated"
        ),
    ]
    for name, figures in report.latency_ms.items():
        shown = f"P50 {figures['p50']:.0f} ms, P99 {figures['p99']:.0f} ms, longest {figures['max']:.0f} ms"
        found.append(f"{name:<11} {figures['calls']:,.0f} calls, {shown}")
    share = report.hits / len(report.faults) if report.faults else 0.0
    found.append(f"faults      {len(report.faults)}, of which {report.hits} ({share:.0%}) hit something in hand")
    for kind, row in report.by_kind().items():
        again = f"working again after {row['p50_s']:.1f} s (P95 {row['p95_s']:.1f} s)"
        found.append(f"  {kind:<16} {row['count']:>4.0f}, {row['hit']:.0f} hit; {again}")
    found.append(f"recovery    P95 {report.recovery_p95_s:.1f} s from the moment a target answers again")
    found.append(
        f"afterwards  {report.events:,} events, nothing left after {report.drained_s:.1f} s; "
        f"{report.asked_again:,} calls asked again with their keys"
    )
    found += [f"✗ {violation.invariant}: {violation.said}" for violation in report.violations]
    count = len(report.violations)
    found.append(f"{count} violation{'' if count == 1 else 's'}" + (", ended early" if report.interrupted else ""))
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def latencies(calls: Iterable[Call], phases: Sequence[Phase], began_s: float) -> dict[str, dict[str, float]]:
    """By phase, for calls that began in it and were sent once as one request."""
    found = {}
    for phase in phases:
        taken = [
            (call.final_at_s - call.at_s) * 1000
            for call in calls
            if call.final is not None and call.form != "twice" and phase.from_s <= call.at_s - began_s < phase.until_s
        ]
        figures = {"p50": percentile(taken, 0.5), "p99": percentile(taken, 0.99), "max": max(taken, default=0.0)}
        found[phase.name] = {"calls": len(taken), **figures}
    return found


def availability(calls: Iterable[Call], began_s: float, until_s: float) -> list[float]:
    """By window: the share of tries that were answered, and below 500, by the moment at which the call began."""
    good: Counter[int] = Counter()
    tries: Counter[int] = Counter()
    for call in calls:
        window = int((call.at_s - began_s) / WINDOW_S)
        tries[window] += call.tries
        good[window] += call.tries - call.failed_tries
    windows = range(int((until_s - began_s) / WINDOW_S))
    return [good[window] / tries[window] if tries[window] else 1.0 for window in windows]


class Recovery:
    """Finds when work was done again after each fault.

    After a fault of a process or a link that is the first call that this process answered; after one of the database, of
    any process; after one of the broker, or of a process that answers nobody, the first event that was committed later and
    is done. A fault that meets the same target before, or a server that it needs, starts the count anew at its own healing.

    Args:
        calls: The clients' calls.
        events: Of each event: when it was committed and when it was done first, seconds of the same clock.
        faults: All of them.
    """

    def __init__(self, calls: Iterable[Call], events: Iterable[tuple[float, float]], faults: Sequence[Fault]) -> None:
        self._faults = faults
        self._done: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for call in calls:
            if call.final is not None and call.final.status < OK_BELOW:
                began = call.at_s if call.tries == 1 else call.final_at_s
                self._done[call.by].append((began, call.final_at_s))
                self._done[DATABASE].append((began, call.final_at_s))
        self._done[BROKER] = list(events)
        for found in self._done.values():
            found.sort()

    def of(self, fault: Fault) -> float:
        """Seconds until work was done again; -1 when that is not known."""
        from_s = fault.healed_at_s
        if not from_s:
            return -1.0
        while True:
            done_s = self._first(fault.target, from_s)
            later = [each.healed_at_s for each in self._faults if self._meets(each, fault, from_s, done_s)]
            if not later:
                return done_s - from_s if done_s else -1.0
            from_s = max(later)

    def _first(self, target: str, from_s: float) -> float:
        """When the first work was done that began after a moment; 0 = never."""
        done = self._done.get(target) or self._done[BROKER]
        after = done[bisect_left(done, (from_s, 0.0)) :]
        return min((ended for _, ended in after[:50]), default=0.0)

    @staticmethod
    def _meets(other: Fault, fault: Fault, from_s: float, done_s: float) -> bool:
        """Whether another fault stood in the way of this one's recovery."""
        concerns = other.target in (fault.target, DATABASE, BROKER) or fault.target in (DATABASE, BROKER)
        between = other.at_s < (done_s or other.at_s + 1) and other.healed_at_s > from_s
        return other is not fault and concerns and between
