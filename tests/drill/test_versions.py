"""Two versions in one cluster: what a rolling upgrade must survive, and what it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dujiang.drill.drilling import Drill
from dujiang.drill.replaying import replayed
from dujiang.drill.run import Scenario, warmed
from dujiang.drill.search import Search
from dujiang.drill.seedfile import load
from dujiang.drill.versions import VersionRefused
from tests.drill import apps
from tests.drill.drilled import STORM, standing, violated, workload

ROLLING = replace(STORM, only=("upgrade", "kill", "reply", "poison"))
CALM = Scenario(clients=3, operations=2, faults_s=1.0, only=("notify",), reverse=False)


def rolled(scenario: Scenario, seeds: int, **other: Any) -> Search:
    """Random schedules of the sound app beside another version of it."""
    with standing() as cluster:
        search = Search(replace(cluster, other=apps.app_of(**other)), workload(), width=2)
        search.random(scenario, budget_s=0.0, seeds=seeds)
    return search


class TestUpgrades:
    def test_a_field_with_a_default_may_be_added(self) -> None:
        """Half of the machines run the version that has it; machines are upgraded, rolled back and killed on the way."""
        search = rolled(ROLLING, 8, kind=apps.Noted)

        assert violated(search) == set()
        assert search.found.faults["upgrade"] > 3
        assert search.found.kills > 0

    def test_both_versions_work_from_the_first_moment(self) -> None:
        """One machine of each role runs the other version when a run begins."""
        other = apps.app_of(kind=apps.Noted)
        with standing() as cluster:
            world = warmed(replace(cluster, other=other))
            running = {name: m.runtime.app for name, m in world.machines.items() if m.runtime is not None}
            world.close()

        assert [running[name] is other for name in ("api1", "api2", "worker1", "worker2")] == [False, True, False, True]

    def test_an_event_that_was_renamed_reaches_nobody(self) -> None:
        """The catalogue has one topic for the reaction; what machines of the first version publish is heard by nobody."""
        search = rolled(CALM, 1, kind=apps.Put)

        assert "nothing-lost" in violated(search)
        said = [each.said for each in search.found.outcomes["nothing-lost"][1].violations]
        assert any("(Added) was committed, tally.count_entry of one version takes such" in each for each in said)

    def test_a_version_that_cannot_start_beside_the_other_is_refused(self) -> None:
        """A reaction with a new name and nothing said of the old one: who, why, and what to write."""
        with pytest.raises(VersionRefused) as found:
            rolled(CALM, 1, reaction="count_again")

        assert str(found.value).startswith("worker2 does not start in the other version beside the other one: ")
        assert "tally.count_entry" in found.value.why
        assert "renamed" in found.value.hint

    def test_a_failure_is_replayed_with_both(self, tmp_path: Path) -> None:
        """The file names the other version, and fails with it and not without."""
        other = apps.app_of(kind=apps.Put)
        drill = Drill(apps.app_of(), "v1:app", folder=tmp_path, width=2, first_only=True, other=("v2:app", other))
        report = drill.run(seeds=1, sweep=False, scenario=CALM, shrink_s=10.0)
        seed = load(Path(report.replays[0]))

        assert (seed.app, seed.other) == ("v1:app", "v2:app")
        assert replayed(apps.app_of(), seed, other=other).fails
        assert not replayed(apps.app_of(), seed).fails
