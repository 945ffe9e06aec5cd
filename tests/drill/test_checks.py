"""Each check can fail: an app with one defect shows exactly that defect, and a sound one shows nothing."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.backends.sqlite.simulated.session import SimulatedSession
from dujiang.backends.sqlite.simulated.store import SimulatedStore
from dujiang.drill.drilling import SWEEP
from dujiang.drill.escape import EscapedSimulation
from dujiang.drill.run import Scenario
from dujiang.drill.search import Search
from tests.drill import apps
from tests.drill.drilled import calm, first, standing, stormy, violated, workload

UNDISTURBED = Scenario(clients=3, operations=2, faults_s=1.0, only=("notify",), reverse=False)


class TestSound:
    def test_a_sound_app_is_clean(self) -> None:
        """Under faults of all kinds nothing is violated, and there were faults, kills among them."""
        search = stormy(seeds=6)

        assert violated(search) == set()
        assert search.found.seeds == 6
        assert search.found.operations > 30
        assert search.found.kills > 0
        assert len(search.found.faults) >= 3

    def test_a_sweep_of_a_sound_app_is_clean(self) -> None:
        """Every twelfth crash point and single fault of the calm run: killed there, and as if nothing had happened."""
        with standing() as cluster:
            search = Search(cluster, workload(), width=2)
            points = search.count(SWEEP)
            search.sweep(SWEEP, every=12)

        assert violated(search) == set()
        assert len(points) > 100
        assert search.found.killed > len(points) // 24
        assert search.found.single > 3
        assert search.found.kills == search.found.killed


class TestDefectsOfAnApp:
    def test_a_lost_update(self) -> None:
        """Two that read before either writes: the user's own law breaks, nothing else."""
        search = stormy(add=apps.lost_update)

        assert violated(search) == {apps.CONSERVED}
        assert first(search, apps.CONSERVED)[1] == "tally.conserved found 1 rows: {'name': 'a'}"

    def test_an_inner_error(self) -> None:
        """A 500 is nobody's decision."""
        search = stormy(seeds=1, scenario=UNDISTURBED, add=apps.inner_error)

        assert violated(search) == {"no-surprise"}
        assert first(search, "no-surprise")[1] == "POST /entries was answered 500 internal"

    def test_a_transaction_that_sleeps(self) -> None:
        """The seconds and the line of the next statement are named; a shorter sleep is nobody's fault."""
        found = stormy(seeds=1, scenario=UNDISTURBED, add=apps.sleep_inside)

        assert violated(found) == {"held-transaction"}
        said = first(found, "held-transaction")[1]
        assert said.startswith("a transaction did nothing for 1.5 s until drill/apps.py:")
        assert said.endswith(" sleep_inside")
        assert violated(stormy(seeds=1, scenario=UNDISTURBED, add=apps.nap_inside)) == set()

    def test_a_background_task_that_fails(self) -> None:
        """Its answer is fine; the failure is said all the same."""
        search = stormy(seeds=1, scenario=UNDISTURBED, add=apps.background_error)

        assert violated(search) == {"no-surprise"}
        assert "nobody looks" in first(search, "no-surprise")[1]

    def test_a_reaction_that_never_works(self) -> None:
        """What dies though nobody poisoned it is a finding, with the error."""
        search = stormy(seeds=1, scenario=UNDISTURBED, count=apps.never_works)

        assert violated(search) == {"nothing-dead"}
        assert "tally.count_entry gave up event" in first(search, "nothing-dead")[1]
        assert "ValueError: never works" in first(search, "nothing-dead")[1]

    def test_work_that_is_thrown_away(self) -> None:
        """An event that was committed and reached nobody."""
        search = stormy(seeds=2, scenario=UNDISTURBED, count=apps.drop_others)

        assert "nothing-lost" in violated(search)
        assert "was committed and never reached tally.count_entry" in first(search, "nothing-lost")[1]

    def test_unordered_rows(self) -> None:
        """It needs the rows turned round, and nothing else; both ways are tried."""
        plain = stormy(seeds=1, scenario=UNDISTURBED, add=apps.first_row)
        turned = stormy(
            seeds=1,
            scenario=Scenario(clients=1, operations=1, faults_s=0.5, reverse=True, only=("order",)),
            add=apps.first_row,
        )

        assert violated(plain) == set()
        assert violated(turned) == {apps.CONSERVED}


class TestDefectsOfThePlatform:
    """The platform is held to the same checks, so each of its promises is broken here once."""

    def test_a_commit_that_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer whose commit is gone is missed when the call is asked again."""
        commit = SimulatedStore.commit

        def forget(self: SimulatedStore, held: Any, cause: str) -> int:
            if held.writer and self.primary.execute("SELECT count(*) FROM tally_entry").fetchall() == [(2,)]:
                self.roll_back(held)
                return self.commits + 1
            return commit(self, held, cause)

        monkeypatch.setattr(SimulatedStore, "commit", forget)
        search = stormy(seeds=1, scenario=UNDISTURBED)

        assert "acked-not-lost" in violated(search)
        assert "asked again with its key the app knows nothing of it" in first(search, "acked-not-lost")[1]

    def test_an_effect_that_is_done_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the claim of each message, a second delivery counts again."""

        async def claim(self: SimulatedSession, sql: Any, args: Any) -> list[Any]:
            return [(1,)]

        monkeypatch.setattr(SimulatedSession, "_claim", claim)
        found = violated(stormy(seeds=1, scenario=UNDISTURBED))

        assert found & {"effect-once", "nothing-lost"}


class TestEscapes:
    @pytest.mark.parametrize(
        ("add", "what"),
        [
            (apps.open_connection, "a look-up of a host name"),
            (apps.start_thread, "a thread"),
            (apps.sleep_for_real, "time.sleep()"),
            (apps.start_program, "another program"),
        ],
    )
    def test_what_leaves_the_simulation_is_refused_with_its_line(self, add: Any, what: str) -> None:
        """The drill ends at once and names the user's line; nothing is reported that nobody could repeat."""
        with pytest.raises(EscapedSimulation) as found:
            calm(add=add)

        assert found.value.what == what
        assert found.value.where.startswith("drill/apps.py:")
        assert found.value.where.endswith(f" {add.__name__}")
        line = int(found.value.where.partition(":")[2].partition(" ")[0])
        assert add.__code__.co_firstlineno < line <= add.__code__.co_firstlineno + 3


class TestMemory:
    def test_a_global_that_changes_is_found_and_separated(self) -> None:
        """Every machine has its own from then on: the law that rests on the global breaks, and a remark says why."""
        search = calm(add=apps.count_in_memory)

        assert [str(place) for place in search.cluster.places] == ["tests.drill.apps.KEPT"]
        assert search.found.remarks == ["tests.drill.apps.KEPT changed: every machine has its own from here on"]
        assert apps.KEPT.count == 0

    def test_nothing_is_separated_where_nothing_changes(self) -> None:
        """A sound app keeps nothing in memory."""
        search = calm()

        assert search.cluster.places == ()
        assert search.found.remarks == []
