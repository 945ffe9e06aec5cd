"""Random runs go over the broker in the database or over the model of RabbitMQ, as the seed and the option say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from dujiang import Tx
from dujiang.drill.brokers import broker_of
from dujiang.drill.checks import order
from dujiang.drill.drilling import SWEEP
from dujiang.drill.options import DrillOptionRefused, broker_named
from dujiang.drill.run import Run, Scenario
from dujiang.drill.search import tried
from tests.drill import apps
from tests.drill.drilled import STORM, living, standing, stormy, violated, workload
from tests.drill.test_promises import UNDISTURBED, plant

MIXED = replace(STORM, broker="both")


class TestChoice:
    def test_the_seed_chooses(self) -> None:
        """About three of ten go over the model, always the same ones; the sweep never does."""
        found = Counter(broker_of(MIXED, str(seed)) for seed in range(400))

        assert 80 < found["rabbitmq"] < 160
        assert found["rabbitmq"] + found["sql"] == 400
        assert broker_of(replace(SWEEP, broker="rabbitmq"), "1") == ""
        assert {broker_of(replace(STORM, broker=one), "1") for one in ("sql", "rabbitmq", "")} == {
            "sql",
            "rabbitmq",
            "",
        }

    def test_what_is_no_broker_is_refused(self) -> None:
        """With the ones that there are."""
        with pytest.raises(DrillOptionRefused) as found:
            broker_named("kafka")

        assert "sql, rabbitmq, both" in str(found.value.hint)


class TestRuns:
    def test_both_are_tried_and_a_sound_app_is_clean(self) -> None:
        """One search holds a warmed world of each; a seed lives in the same one when it is played again."""
        search = stormy(seeds=8, scenario=MIXED)

        assert violated(search) == set()
        assert set(search.found.brokers) == {"database:", "simulated:"}
        for seed in ("0", next(str(n) for n in range(8) if broker_of(MIXED, str(n)) == "rabbitmq")):
            with standing() as cluster:
                assert tried(cluster, workload(), MIXED, seed).digest == search.found.digests[seed]

    def test_only_the_order_of_a_key_that_lost_an_event_is_not_judged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A planted fault of order is seen on the model, whatever was lost of other keys; of the same key it is not."""
        plant(monkeypatch, "ORDER BY r.seq LIMIT 1", "ORDER BY r.run_at, r.seq LIMIT 1")
        scenario = replace(UNDISTURBED, broker="rabbitmq")
        with standing() as cluster, living(replace(cluster, broker="simulated:")) as world:
            run = Run(world, workload(), scenario).live("3", {("poison", 0): 1})
            outcome = world.loop.run_until_complete(run)
            ((sub_id,),) = world.store.rows("SELECT sub_id FROM dj_subscription")
            shared: Any = world.shared("rabbit", dict)
            lost: set[tuple[int, str]] = shared.lost_keys

            assert [each.kind for each in outcome.violations] == ["order"]
            lost.add((sub_id, "b"))
            assert len(list(order(world))) == 1
            lost.add((sub_id, "a"))
            assert list(order(world)) == []

    def test_what_the_model_loses_is_known_by_its_key(self) -> None:
        """A confirmed event is lost and comes late; nothing is violated, and the key is noted."""
        with standing() as cluster, living(replace(cluster, broker="simulated:")) as world:
            run = Run(world, workload(), Scenario(clients=2, operations=2, faults_s=1.0, reverse=False))
            outcome = world.loop.run_until_complete(run.live("1", {("rabbit.lost_after_confirm", 0): 1}))

            assert [fault.label for fault in outcome.faults] == ["rabbit.lost_after_confirm"]
            assert outcome.violations == []
            assert {key for _, key in world.lost_keys()} == {"a"}

    @pytest.mark.parametrize(("kept", "found"), [(0, [apps.CONSERVED]), (1, [])])
    def test_laws_are_not_judged_where_the_order_of_a_key_was_lost(self, kept: int, found: list[str]) -> None:
        """They may rest on that order, and the platform does not promise it then; without the loss they are judged."""

        async def forget(tx: Tx, body: apps.Adding) -> int:
            return 0

        with standing(add=forget) as cluster, living(replace(cluster, broker="simulated:")) as world:
            run = Run(world, workload(), Scenario(clients=2, operations=2, faults_s=1.0, reverse=False))
            outcome = world.loop.run_until_complete(run.live("1", {("rabbit.lost_after_confirm", 0): kept}))

        assert [each.kind for each in outcome.violations] == found
