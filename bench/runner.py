"""Runner: every side of a claim in turn, several rounds in one go, then medians, spreads and ratios.

    round 1   probes  A B C  probes        A, B, C = sides: ours, the peers, the limit
    round 2   probes  A B C  probes        one runs at a time; each starts fresh and is stopped before the next
    ...
    figure    median over the rounds, with the interval of the median
    ratio     A / B inside each round, then median and interval of these

The decision is to divide inside the round. A shared machine drifts by 20-40 % within minutes and its disk by more
than ten times; two sides of one round stand seconds apart and meet nearly the same machine, so most of the drift
cancels out. Dividing the medians of two separate runs is the rejected alternative: it compares two machines.
Cost: a server starts once per side and round, 1-2 s each.

The interval is distribution-free: the k-th smallest and k-th largest value, k as large as 95 % coverage of the median
allows. Below six rounds no k does, and the interval is the whole range.

A side measures itself and states facts about what it did (`Checks`): rows counted, answers counted, settings read back.
A figure whose facts do not hold is worth nothing, so a fact that failed makes the exit code 1; a missed goal does not.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.environments import BENCH, SetupFailed, home
from bench.probes import fsync_per_s, loops_per_us
from bench.processes import SideFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

COVERAGE = 0.95
EXIT_CHECK_FAILED = 1
EXIT_UNAVAILABLE = 69


@dataclass(frozen=True)
class Measured:
    """One value of one round."""

    name: str
    unit: str
    value: float


@dataclass
class Checks:
    """Facts that were verified; one fact may be stated in each round, and holds if it held in all."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def state(self, fact: str, ok: object, seen: object = "") -> None:
        """Record that `fact` did or did not hold, and what was seen. A failure stays a failure."""
        before = self.facts.setdefault(fact, {"fact": fact, "ok": True, "times": 0, "seen": ""})
        before["times"] += 1
        if before["ok"]:
            before["ok"], before["seen"] = bool(ok), str(seen)


@dataclass(frozen=True)
class Side:
    """One competitor. `turn` runs it once, from start to stop, and returns what it measured."""

    name: str
    turn: Callable[[Checks], list[Measured]]


@dataclass(frozen=True)
class Options:
    """What the command line chose: rounds, seconds of each timed part, and the sides to run (empty: all)."""

    rounds: int
    seconds: float
    sides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A benchmark: its name, one sentence, and what opens its services and gives its sides."""

    name: str
    says: str
    opened: Callable[[Options], AbstractContextManager[list[Side]]]
    rounds: int = 7
    seconds: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A bar from goals.toml: a ratio `of` / `to`, or without `to` the figure `of` itself.

    Args:
        at_least: The median must reach it.
        at_most: The median must not exceed it.
        fast_disk: Replaces `at_least` where the disk gives `fast_from_fsync_per_s` or more.
    """

    of: str
    to: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    fast_disk: float | None = None
    fast_from_fsync_per_s: float = math.inf

    def bar(self, disk_fsync_per_s: float) -> float | None:
        """The number to reach on this disk."""
        if self.fast_disk is not None and disk_fsync_per_s >= self.fast_from_fsync_per_s:
            return self.fast_disk
        return self.at_least if self.at_least is not None else self.at_most

    def met(self, median: float, disk_fsync_per_s: float) -> bool | None:
        """Whether the median reaches the bar; None for a ratio that is only reported."""
        bar = self.bar(disk_fsync_per_s)
        if bar is None:
            return None
        return median <= bar if self.at_most is not None else median >= bar


def goals_of(claim: str) -> list[Goal]:
    """The goals of a claim, in the order of goals.toml."""
    return [Goal(**table) for table in tomllib.loads((BENCH / "goals.toml").read_text()).get(claim, [])]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of order statistics that covers the median with at least 95 %, or else the whole range."""
    ordered, count = sorted(values), len(values)
    rank, missed = 1, 0.0
    for k in range(1, count // 2 + 1):
        missed += 2 * math.comb(count, k - 1) / 2**count
        if 1 - missed < COVERAGE:
            break
        rank = k
    return ordered[rank - 1], ordered[count - rank]


def run(claim: Claim, options: Options) -> dict[str, Any]:
    """Run a claim and return the object that `dujiang bench NAME --json` prints.

    Raises:
        SetupFailed: If a tool or an environment is missing.
        SideFailed: If a side cannot run at all.
    """
    checks, log = Checks(), []
    with claim.opened(options) as every:
        sides = [each for each in every if _chosen(each.name, options.sides)]
        if not sides:
            raise SetupFailed(f"no side matches {options.sides}; there are: " + ", ".join(each.name for each in every))
        for number in range(1, options.rounds + 1):
            before = fsync_per_s(home())
            measured: list[Measured] = []
            for side in sides:
                _progress(f"round {number}/{options.rounds}  {side.name}")
                measured += side.turn(checks)
            probes = [
                Measured("disk", "fsync/s", (before + fsync_per_s(home())) / 2),
                Measured("core", "loops/us", loops_per_us()),
            ]
            log.append(probes + measured)
    return _report(claim, log, checks)


def _report(claim: Claim, log: list[list[Measured]], checks: Checks) -> dict[str, Any]:
    units = {each.name: each.unit for round_ in log for each in round_}
    rounds = [{each.name: each.value for each in round_} for round_ in log]
    disk = statistics.median(round_["disk"] for round_ in rounds)
    figures: dict[str, dict[str, Any]] = {
        name: {"name": name, "unit": unit} | _spread(rounds, name) for name, unit in units.items()
    }
    ratios: list[dict[str, Any]] = []
    for goal in goals_of(claim.name):
        if goal.of not in figures or (goal.to is not None and goal.to not in figures):
            continue  # A side that --sides left out.
        row: dict[str, Any] = figures[goal.of]
        if goal.to is not None:
            divided = [{"ratio": each[goal.of] / each[goal.to]} for each in rounds if {goal.of, goal.to} <= set(each)]
            row = {"of": goal.of, "to": goal.to} | _spread(divided, "ratio")
            ratios.append(row)
        sense = "at_most" if goal.at_most is not None else "at_least"
        row |= {"goal": goal.bar(disk), "sense": sense, "met": goal.met(row["median"], disk)}
    facts = list(checks.facts.values())
    return {
        "claim": claim.name,
        "rounds": len(rounds),
        "figures": list(figures.values()),
        "ratios": ratios,
        "checks": facts,
        "says": claim.says,
        "log": rounds,
    }


def _spread(rounds: Sequence[dict[str, float]], name: str) -> dict[str, float]:
    values = [round_[name] for round_ in rounds if name in round_]
    low, high = interval(values)
    return {"median": _short(statistics.median(values)), "low": _short(low), "high": _short(high)}


def _short(value: float) -> float:
    """Four significant digits: more would pretend to a precision that no round has."""
    return float(f"{value:.4g}")


def _chosen(name: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or any(part.lower() in name.lower() for part in wanted)


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def table(report: dict[str, Any]) -> str:
    """The report as text for a terminal."""
    lines = [f"{report['claim']}: {report['says']}", f"{report['rounds']} rounds; median [low .. high]", ""]
    width = max(len(each["name"]) for each in report["figures"])
    for each in report["figures"]:
        bar = _bar(each) if "goal" in each else ""
        span = f"[{each['low']:,g} .. {each['high']:,g}]"
        lines.append(f"  {each['name']:<{width}}  {each['median']:>10,g} {each['unit']:<9} {span:<24}{bar}")
    lines.append("")
    for each in report["ratios"]:
        span = f"[{each['low']:,g} .. {each['high']:,g}]"
        lines.append(f"  {each['median']:>7.3g}x {span:<20} {each['of']}  /  {each['to']}{_bar(each)}")
    lines.append("")
    failed = [each for each in report["checks"] if not each["ok"]]
    lines += [f"  FAILED  {each['fact']}: {each['seen']}" for each in failed]
    lines.append(f"  {len(report['checks']) - len(failed)} facts hold (--json lists them), {len(failed)} do not")
    return "\n".join(lines)


def _bar(row: dict[str, Any]) -> str:
    if row["met"] is None:
        return "  (no goal)"
    sign = "<=" if row["sense"] == "at_most" else ">="
    return f"  goal {sign} {row['goal']:g}: {'met' if row['met'] else 'MISSED'}"


def main(claim: Claim, argv: Sequence[str] | None = None) -> int:
    """The command line of a claim; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{claim.name}", description=claim.says)
    parser.add_argument("--rounds", type=int, default=claim.rounds, help=f"default {claim.rounds}")
    parser.add_argument("--seconds", type=float, default=claim.seconds, help="of each timed part")
    parser.add_argument("--sides", default="", help="comma-separated parts of the names of the sides to run")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    chosen = parser.parse_args(argv)
    wanted = tuple(part.strip() for part in chosen.sides.split(",") if part.strip())
    try:
        report = run(claim, Options(rounds=chosen.rounds, seconds=chosen.seconds, sides=wanted))
    except (SetupFailed, SideFailed) as cause:
        print(f"\n{cause}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    if sys.stderr.isatty():
        _progress("")
    print(json.dumps(report) if chosen.json else table(report))
    return 0 if all(each["ok"] for each in report["checks"]) else EXIT_CHECK_FAILED
