"""Claim: the drill is quick, repeatable, and finds what is wrong.

Speed: the shop in a cluster of 2 api and 2 worker machines, 8 clients with 3 calls each, faults for 20 virtual seconds,
then healing and judging: random schedules, and crash points of the calm run, a second of one core.
Repeatable: the same seeds in two processes with different hash seeds give the same histories.
Finds: `--sides planted` plants each bug of bench/planted in turn and lets the bare command look for it.
The limit is the simulated loop with nothing on it: callbacks a second.

    python -m bench drill                      python -m bench drill --rounds 1 --sides planted
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # Run as a file: this folder's `http.py` must not hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import contextlib
import json
import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.planted.bugs import BUGS
from bench.planted.plant import planted
from bench.processes import SideFailed
from bench.runner import Claim, Measured, Side, main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.planted.bug import Bug
    from bench.runner import Checks, Options

APP = "dujiang.systems.shop:app"
SEEDS = 40
DIGEST_SEEDS = 100
FOUND_WITHIN_S = 60.0
# What the simulated database cannot show: numbers of a sequence that commit late, and the embedded store's own writer.
ELSEWHERE = {"many_writers": "conformance on PostgreSQL", "writer": "the storage drill"}

MEASURE = """
import json, sys, time
from dujiang.drill.drilling import SWEEP, quiet
from dujiang.drill.escape import sealed
from dujiang.drill.run import Scenario
from dujiang.drill.search import Search
from dujiang.drill.template import cluster_of
from dujiang.drill.workload import Workload
from dujiang.systems.shop import app
seeds, sweep = int(sys.argv[1]), sys.argv[2] == "sweep"
with quiet(), sealed():
    cluster, workload = cluster_of(app), Workload(app)
    search = Search(cluster, workload, width=1)
    found = {"digests": {}}
    search.count(SWEEP)
    if sweep:
        began = time.perf_counter()
        search.sweep(SWEEP)
        tried = search.found.killed + search.found.single
        found |= {"points_per_s": tried / (time.perf_counter() - began), "points": search.found.killed}
    kills, virtual = [], []
    take = search._take
    def note(scenario, outcome):
        kills.append(outcome.kills)
        virtual.append(outcome.virtual_s)
        take(scenario, outcome)
    search._take = note
    began = time.perf_counter()
    search.random(Scenario(), budget_s=0, seeds=seeds)
    found |= {"seeds_per_s": seeds / (time.perf_counter() - began), "kills": kills, "virtual": virtual}
    found |= {"digests": search.found.digests, "violations": dict(search.found.counts)}
print(json.dumps(found))
"""
LOOP = """
import time
from dujiang.drill.loop import SimulatedLoop
loop = SimulatedLoop(lambda what: 0.001)
async def turn():
    for _ in range(100_000):
        await loop.pause(0.001)
began = time.perf_counter()
loop.run_until_complete(turn())
print(loop.steps / (time.perf_counter() - began))
"""


def measured(seeds: int, *, sweep: bool, hash_seed: str = "0") -> dict[str, Any]:
    """What a process of its own, on one core, found and how long it took."""
    words = [sys.executable, "-c", MEASURE, str(seeds), "sweep" if sweep else "none"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SideFailed(f"the drill failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def speed(checks: Checks) -> list[Measured]:
    """Seeds and crash points a second of one core."""
    found = measured(SEEDS, sweep=True)
    kills, virtual_s = statistics.median(found["kills"]), statistics.median(found["virtual"])
    checks.state("the shop passes", not found["violations"], found["violations"])
    checks.state("a seed kills 2 machines at the median", kills >= 2, kills)
    checks.state("a seed lives 20 virtual seconds at the median", virtual_s >= 20, virtual_s)
    return [
        Measured("random schedules", "seeds/s", found["seeds_per_s"]),
        Measured("crash points", "points/s", found["points_per_s"]),
        Measured("kills of a seed", "machines", kills),
        Measured("life of a seed", "virtual s", virtual_s),
    ]


def digests(checks: Checks) -> list[Measured]:
    """The same seeds in two processes."""
    first, second = (measured(DIGEST_SEEDS, sweep=False, hash_seed=each)["digests"] for each in ("1", "4711"))
    same = sum(first[seed] == second.get(seed) for seed in first)
    checks.state(f"{DIGEST_SEEDS} seeds have the same history in two processes", same == DIGEST_SEEDS, same)
    return [Measured("equal histories", "of 100 seeds", 100 * same / DIGEST_SEEDS)]


def bare(checks: Checks) -> list[Measured]:
    """The loop with nothing on it."""
    done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True)
    checks.state("the bare loop turned", bool(done.stdout))
    return [Measured("bare loop", "callbacks/s", float(done.stdout))]


@dataclass(frozen=True)
class Finding:
    """What came of one planted bug.

    Attributes:
        bug: The bug.
        found: Whether the bare command found it.
        took_s: Seconds of the whole command.
        seeds: Random schedules that it took; 0 = the sweep found it.
        faults: Faults in the smallest schedule.
        shrink_s: Seconds that the shrinking took.
        said: What was violated, or the error.
    """

    bug: Bug
    found: bool
    took_s: float
    seeds: int
    faults: int
    shrink_s: float
    said: str


def look_for(bug: Bug) -> Finding:
    """Plant a bug and run the bare command on it, until the first violation."""
    words = ("-m", "dujiang.cli", "drill", bug.app, "--json", "--fail-fast", "--budget", f"{FOUND_WITHIN_S:.0f}s")
    with planted(bug) as planting:
        began = time.perf_counter()
        done = planting.run(*words, timeout_s=600)
        took_s = time.perf_counter() - began
    try:
        report = json.loads(done.stdout)
        violations = report["violations"]
    except (ValueError, KeyError):
        return Finding(bug, False, took_s, 0, 0, 0.0, (done.stdout + done.stderr)[-500:])  # noqa: FBT003
    schedule = len(violations[0]["schedule"]) if violations else 0
    said = violations[0]["invariant"] if violations else "nothing"
    return Finding(bug, bool(violations), took_s, report["seeds"], schedule, report["took_s"].get("shrink", 0.0), said)


def hunt(checks: Checks) -> list[Measured]:
    """Every planted bug."""
    findings = []
    for bug in BUGS:
        if bug.needs in ELSEWHERE:
            continue
        finding = look_for(bug)
        print(f"  {bug.name}: {finding.said} in {finding.took_s:.0f} s", file=sys.stderr)
        checks.state(f"found: {bug.name}", finding.found, finding.said)
        findings.append(finding)
    found = [each for each in findings if each.found]
    return [
        Measured("planted bugs found", "bugs", len(found)),
        Measured("planted bugs", "bugs", len(findings)),
        Measured("time to find", "s", statistics.median(each.took_s for each in found)),
        Measured("seeds to find", "seeds", statistics.median(each.seeds for each in found)),
        Measured("smallest schedule", "faults", statistics.median(each.faults for each in found)),
        Measured("time to shrink", "s", statistics.median(each.shrink_s for each in found)),
    ]


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """Every side; the hunt only when it is asked for, because it takes many minutes."""
    sides = [Side("speed", speed), Side("digests", digests), Side("bare loop", bare)]
    yield [*sides, Side("planted", hunt)] if "planted" in options.sides else sides


CLAIM = Claim(name="drill", says="the drill's speed, repeatability and power", opened=opened, rounds=3)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
