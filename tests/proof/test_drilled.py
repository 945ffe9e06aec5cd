"""Drilled: the shipped system passes the whole drill, and the drill finds what is planted."""

from __future__ import annotations

import pytest

from bench.drill import look_for
from bench.planted.bug import Bug
from bench.planted.bugs import BUGS
from dujiang.drill.drilling import Drill
from dujiang.drill.storage import storage
from dujiang.systems.shop import app

RANDOM_S = 60.0
# One of each kind; `python -m bench drill --sides planted` hunts for all of them, and takes the better part of an hour.
HUNTED = (
    "event_published_after_commit",
    "answer_stored_after_commit",
    "savepoint_keeps_its_events",
    "refusal_not_stored",
    "key_without_fingerprint",
    "stock_read_and_written_back",
)
CUTS = 500


@pytest.mark.proof
def test_the_shop_passes_every_crash_point_and_a_minute_of_schedules() -> None:
    """Killed at each await point, with each single fault, and in random schedules: nothing is violated."""
    report = Drill(app, "dujiang.systems.shop:app").run(budget_s=RANDOM_S)

    assert report.passed, "\n".join(line for story in report.stories for line in story.lines())
    assert report.crash_points_killed == report.crash_points > 0
    assert report.seeds > 0


@pytest.mark.proof
def test_the_shop_outlives_power_cuts() -> None:
    """What was acknowledged is there after the power came back, whole, and the books balance."""
    report = storage(app, seed=1, cuts=CUTS)

    assert report.violation_count == 0
    assert report.cuts >= CUTS
    assert report.acknowledged > 0


@pytest.mark.proof
@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name in HUNTED], ids=lambda bug: str(bug.name))
def test_a_planted_bug_is_found_by_the_bare_command(bug: Bug) -> None:
    """The command that everybody runs, without a word about the bug, finds it."""
    finding = look_for(bug)

    assert finding.found, f"{bug.name} survived {finding.seeds} schedules in {finding.took_s:.0f} s: {finding.said}"
