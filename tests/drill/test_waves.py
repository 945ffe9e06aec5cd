"""What random schedules seldom show: silence, a host that sleeps, and a crowd that wants one thing."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from dujiang.drill.checks import DAY_US, a_day_later
from dujiang.drill.clients import WAVE_S, Clients
from dujiang.drill.drilling import LULL
from dujiang.drill.lull import LATER_S, SILENCE_S
from dujiang.drill.nemesis import CROWD_TWICE, plan_of
from dujiang.drill.run import Scenario
from dujiang.drill.search import Search, tried
from dujiang.drill.story import sentence
from dujiang.drill.workload.memory import Memory
from dujiang.drill.world import Fault
from dujiang.messaging import relay
from tests.drill.apps import CONSERVED, Adding, pot
from tests.drill.drilled import STORM, first, living, standing, stormy, violated, workload

if TYPE_CHECKING:
    from typing import Any

    from dujiang.messaging.tx import Tx

TEN_MINUTES_ON = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=10)


def silent(**defect: Any) -> Search:
    """The run with a silence of an app with a defect."""
    with standing(**defect) as cluster:
        search = Search(cluster, workload(), width=1)
        search.lull(LULL)
    return search


async def added_twice_later(tx: Tx, body: Adding) -> int:
    """Add the right amount, for ten minutes."""
    amount = body.amount if tx.now < TEN_MINUTES_ON else 2 * body.amount
    await tx.execute(update(pot).where(pot.c.name == body.pot).values(held=pot.c.held + amount))
    return 0


class TestSilence:
    def test_a_sound_app_lives_through_it(self) -> None:
        """It lasts as long as it says, and nothing is found."""
        search = silent()

        assert violated(search) == set()
        assert search.found.virtual_s > SILENCE_S
        assert search.found.faults.keys() <= {"lost"}  # No bell rings.

    def test_a_loop_that_waits_ever_longer_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first event after the silence is not taken up soon."""
        monkeypatch.setattr(relay, "POLL_S_MAX", 10_000.0)
        search = silent()

        assert "nothing-stuck" in violated(search)
        assert "which came after a silence" in first(search, "nothing-stuck")[1]

    def test_what_time_alone_breaks_is_found(self) -> None:
        """Clocks are far ahead after the silence, and every machine has noticed."""
        assert CONSERVED in violated(silent(add=added_twice_later))
        assert LATER_S > 600


class TestSleep:
    def test_a_sound_app_survives_that_all_machines_are_suspended(self) -> None:
        """Leases have ended and events grown old when they go on."""
        search = stormy(12, Scenario(clients=4, operations=2, faults_s=6.0, only=("suspend", "kill")))

        assert violated(search) == set()
        assert search.found.faults["suspend"] > 0

    def test_a_day_later_counts_from_the_beginning(self) -> None:
        """Keys live for 24 hours: an hour asleep and 23 hours more must not be taken for the life of a key."""
        with standing() as cluster, living(cluster) as world:
            world.jumped_us = 3_600_000_000

            async def wait() -> None:
                assert [each async for each in a_day_later(world, Clients(world, workload(), Memory()))] == []

            world.loop.run_until_complete(wait())
            assert world.jumped_us == DAY_US

    def test_it_is_told(self) -> None:
        """With its length."""
        told = sentence(Fault(at_s=1.5, label="suspend.all", number=0, value=2, machine="", site=""))

        assert told == "t=1.500 s  all machines are suspended, and go on 900 s later"


class TestCrowds:
    def test_some_seeds_bring_one(self) -> None:
        """About a third; its requests often come twice; a scenario of chosen faults has none."""
        plans = [plan_of(str(seed), Scenario()) for seed in range(300)]
        crowds = [plan for plan in plans if plan.crowd]

        assert 60 < len(crowds) < 150
        assert all(plan.rate("twice.request") >= CROWD_TWICE for plan in crowds)
        assert not any(plan_of(str(seed), Scenario(only=("kill",))).crowd for seed in range(300))

    @pytest.mark.parametrize("crowd", [True, False])
    def test_a_crowd_comes_in_waves(self, *, crowd: bool) -> None:
        """Its clients ask at the same moment, and mostly for the same; others do not."""
        seed = next(str(n) for n in range(100) if plan_of(str(n), STORM).crowd is crowd)
        with standing() as cluster:
            trace = tried(cluster, workload(), STORM, seed, tracing=True).trace
        at_once = Counter(round(at_s, 6) for at_s, kind, said in trace if kind == "asks" and " client" in said)
        waves = [count for at_s, count in at_once.items() if at_s % WAVE_S == 0]

        assert (STORM.clients in waves) is crowd

    def test_it_knows_the_newest_thing_alone(self) -> None:
        """So all of it meets on one row."""
        crowd, others = Memory(1), Memory()
        for memory in (crowd, others):
            for value in ("one", "two", "three"):
                memory._keep("order", value)

        assert list(crowd.known("order")) == ["three"]
        assert list(others.known("order")) == ["three", "two", "one"]
