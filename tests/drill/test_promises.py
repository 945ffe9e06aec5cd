"""Each promise of the platform is broken here once, and the drill says which: a planted fault in a statement or in the store.

What a user's own handler can break stands in test_checks.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dujiang.drill.drilling import SWEEP
from dujiang.drill.run import Scenario
from dujiang.drill.search import Search, tried
from dujiang.drill.violation import Violation
from dujiang.gateway import idempotency
from dujiang.gateway.idempotency import Idempotency, Key
from dujiang.gateway.problems import Answer
from dujiang.messaging import deadletter, work
from tests.drill import apps
from tests.drill.drilled import first, standing, stormy, violated, workload

UNDISTURBED = Scenario(clients=3, operations=2, faults_s=1.0, only=("notify",), reverse=False)


class TestOrder:
    def test_a_later_event_overtakes_one_that_waits_for_its_retry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: the head of a key is what is due first, not what was committed first."""
        plant(monkeypatch, "ORDER BY r.seq LIMIT 1", "ORDER BY r.run_at, r.seq LIMIT 1")
        (violation,) = poisoned(form=1)

        assert violation.kind == "order"
        assert violation.said.startswith("tally.count_entry handled event 2 of key ")
        assert violation.said.endswith("before event 1, which was committed first")

    def test_a_key_goes_on_although_its_event_is_dead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: only the hold of the whole subscription stops a claim. That the first event died is no finding."""
        plant(monkeypatch, "h.okey IN (k.okey, $4)", "h.okey = $4")
        found = poisoned(form=2)

        assert {each.kind for each in found} == {"order"}
        assert any("although event 1 before it is dead" in each.said for each in found)

    def test_nothing_is_found_without_the_plant(self) -> None:
        """The same poison in the sound platform: the key waits, for the retry or for the operator."""
        assert [poisoned(form=form) for form in (1, 2)] == [[], []]


class TestNothingStuck:
    def test_one_dead_event_stops_a_subscription_that_did_not_ask_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: every dead letter holds the whole subscription."""
        bury = deadletter.bury

        async def halting(*args: Any, **options: Any) -> None:
            await bury(*args, **{**options, "holds": work.HALT})

        monkeypatch.setattr(deadletter, "bury", halting)
        search = stormy(seeds=1, scenario=UNDISTURBED, count=apps.bury)

        assert violated(search) == {"nothing-stuck"}
        assert first(search, "nothing-stuck")[1] == "one dead event has stopped all of tally.count_entry"

    def test_a_reaction_that_waits_for_what_never_comes(self) -> None:
        """The work that is still under way is named, and the transaction that it held until its time was over."""
        search = stormy(seeds=1, scenario=UNDISTURBED, count=apps.wait_for_ever)

        assert violated(search) == {"nothing-stuck", "held-transaction"}
        assert "1 running: tally.count_entry event " in first(search, "nothing-stuck")[1]


class TestKeys:
    def test_another_request_under_a_used_key_gets_the_first_ones_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: whoever knows a key has the right to its answer."""
        stored = idempotency.stored
        monkeypatch.setattr(
            idempotency, "stored", lambda row, key: stored(row, replace(key, fingerprint=bytes(row[1])))
        )
        search = stormy(seeds=1, scenario=UNDISTURBED)

        assert violated(search) == {"key-is-one-request"}
        assert "with other contents was answered 201, not 422" in first(search, "key-is-one-request")[1]

    def test_a_replay_with_other_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: the stored answer is made anew from its values."""
        stored = idempotency.stored

        def anew(row: Any, key: Key) -> Answer:
            answer = stored(row, key)
            return replace(answer, body=answer.body.replace(b":", b": "))

        monkeypatch.setattr(idempotency, "stored", anew)
        search = stormy(seeds=1, scenario=UNDISTURBED)

        assert violated(search) == {"replay-stable"}
        assert "was answered 201, then 201 with other bytes" in first(search, "replay-stable")[1]

    def test_a_refusal_that_is_not_stored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: only successes are remembered, so the same call may be decided in another way later."""

        async def forget(self: Idempotency, key: Key, answer: Answer) -> Answer:
            return answer

        monkeypatch.setattr(Idempotency, "store_refusal", forget)
        search = stormy(seeds=1, scenario=UNDISTURBED, add=apps.refuse_always)

        assert violated(search) == {"replay-stable"}
        assert (
            "was refused with unwanted; asked again with its key it was decided anew"
            in first(search, "replay-stable")[1]
        )


class TestAsIfNothingHappened:
    def test_an_operation_that_a_reaction_runs_without_a_key(self) -> None:
        """A kill between the operation's commit and the acknowledgement: it runs again, and only the rows tell."""
        assert "as-if-nothing-happened" in swept(outside=True)

    def test_a_count_in_memory(self) -> None:
        """A kill forgets it, and no law says what the number should have been."""
        assert swept(count=apps.count_in_memory_only) == {"as-if-nothing-happened"}


def plant(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    """Change the statement that looks for the heads of keys."""
    assert right in work.HEADS.text
    monkeypatch.setattr(work, "HEADS", replace(work.HEADS, text=work.HEADS.text.replace(right, wrong)))


def poisoned(form: int) -> list[Violation]:
    """What is violated when the handling of the first event fails: twice, or until somebody replays it."""
    with standing() as cluster:
        outcome = tried(cluster, workload(), UNDISTURBED, "1", keep={("poison", 0): form})
    assert [fault.label for fault in outcome.faults] == ["poison"]
    return outcome.violations


def swept(**defect: Any) -> set[str]:
    """What the sweep over some crash points of an app finds."""
    with standing(**defect) as cluster:
        search = Search(cluster, workload(), width=2)
        search.count(SWEEP)
        assert violated(search) == set()
        search.sweep(SWEEP, every=5)
    return violated(search)
