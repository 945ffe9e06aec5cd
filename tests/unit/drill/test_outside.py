"""The world outside in a drill: every way in which a call fails is reached, repeats with other keys are found."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.drill.outside import Called, NoReply, clash, journals_of
from dujiang.drill.reached import places_named
from dujiang.drill.run import Outcome, Scenario
from dujiang.drill.search import tried
from dujiang.drill.story import cause_of
from dujiang.drill.template import cluster_of
from dujiang.drill.workload import Workload
from tests.unit.drill.outside_app import app_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ONE = Scenario(clients=1, operations=1, faults_s=8.0, jitter=False, reverse=False)
KEYED = ("reaction", "message")


@pytest.fixture(scope="module")
def lived() -> Iterator[Callable[..., Outcome]]:
    """Runs one letter's life under exactly these faults."""
    worlds: dict[str, tuple[Any, Any]] = {}

    def live(form: str, keep: dict[tuple[str, int], int], seed: str = "1") -> Outcome:
        if form not in worlds:
            app = app_of(form)
            worlds[form] = (cluster_of(app), Workload(app))
        cluster, workload = worlds[form]
        return tried(cluster, workload, ONE, seed, keep=keep, tracing=True)

    yield live
    for cluster, _ in worlds.values():
        shutil.rmtree(cluster.folder, ignore_errors=True)


def calls(outcome: Outcome, external: str = "post") -> list[str]:
    """The keys and arguments of the calls of an external, in order."""
    return [said for _, kind, said in outcome.trace if kind.endswith(f"calls {external}")]


def kinds(outcome: Outcome) -> set[str]:
    """What did not hold."""
    return {violation.kind for violation in outcome.violations}


def called(key: str | None, run: int, effects: int = 1) -> Called:
    """A call in a run of one cause."""
    return Called(
        external="post", key=key, arguments="", cause=KEYED, run=("w", run), place=f"a.py:{run} f", effects=effects
    )


class TestForms:
    def test_without_a_fault_a_call_is_made_once(self, lived: Callable[..., Outcome]) -> None:
        """One letter, one call, nothing violated."""
        outcome = lived("keyed", {})

        assert len(calls(outcome)) == 1
        assert outcome.violations == []

    @pytest.mark.parametrize("form", [1, 2, 4])
    def test_a_call_that_fails_is_made_again_with_its_key(self, form: int, lived: Callable[..., Outcome]) -> None:
        """A lost request, a lost answer and a refusal for now each fail the run; the next one has the same key."""
        outcome = lived("keyed", {("external.post", 0): form})

        assert [(fault.label, fault.value) for fault in outcome.faults] == [("external.post", form)]
        assert "outside_app.py" in outcome.faults[0].site
        assert len(calls(outcome)) == 2
        assert len(set(calls(outcome))) == 1
        assert outcome.violations == []
        assert outcome.notes == {"delivered again": 1}

    def test_an_effect_that_happens_twice_needs_no_second_call(self, lived: Callable[..., Outcome]) -> None:
        """The network doubles the request: the caller hears of one, the journal of the other side knows the key."""
        outcome = lived("keyed", {("external.post", 0): 3})

        assert len(calls(outcome)) == 1
        assert outcome.violations == []

    def test_a_run_is_the_same_when_it_is_repeated(self, lived: Callable[..., Outcome]) -> None:
        """The digest of the whole history is equal, the journal of an earlier run notwithstanding."""
        keep = {("external.post", 0): 2}

        assert lived("keyed", keep, "7").digest == lived("keyed", keep, "7").digest

    def test_the_caller_may_catch_either_kind_of_silence(self) -> None:
        """Clients raise a connection's error or a timeout; what a drill raises is both."""
        assert issubclass(NoReply, ConnectionError)
        assert issubclass(NoReply, TimeoutError)


class TestKeys:
    def test_another_key_in_the_second_run_is_found(self, lived: Callable[..., Outcome]) -> None:
        """The lost answer makes the reaction run again; its new key is named with the line, and so is the cure."""
        outcome = lived("fresh", {("external.post", 0): 2})
        (violation,) = [each for each in outcome.violations if each.kind == "external-keyed"]
        cause = cause_of(violation, outcome)

        assert violation.said.count("outside_app.py:") == 2
        assert cause is not None
        assert "call.key" in cause.cure

    @pytest.mark.parametrize("form", [2, 3])
    def test_a_repeat_without_a_key_is_found(self, form: int, lived: Callable[..., Outcome]) -> None:
        """Done again by a second run, or doubled by the network: nothing tells the repeat."""
        outcome = lived("keyless", {("external.shout", 0): form})
        (violation,) = outcome.violations
        cause = cause_of(violation, outcome)

        assert violation.kind == "external-keyed"
        assert cause is not None
        assert "without" not in cause.cure
        assert "nothing tells it" in cause.why

    def test_a_lost_request_without_a_key_is_no_repeat(self, lived: Callable[..., Outcome]) -> None:
        """What never arrived was not done."""
        assert kinds(lived("keyless", {("external.shout", 0): 1})) == set()

    @pytest.mark.parametrize(
        ("made", "clashes"),
        [
            ([called("a", 1), called("a", 2)], False),
            ([called("a", 1), called("b", 1)], False),
            ([called("a", 1), called("b", 1), called("b", 2), called("a", 2)], False),
            ([called("b", 1), called("a", 2), called("b", 2)], False),
            ([called("b", 1), called("a", 2), called("a", 3), called("b", 3)], False),
            ([called("a", 1), called("b", 2)], True),
            ([called("a", 1), called("b", 1), called("c", 2)], True),
            ([called(None, 1), called(None, 1)], False),
            ([called(None, 1), called(None, 2)], True),
            ([called(None, 1, 0), called(None, 2)], False),
            ([called(None, 1, 2)], True),
        ],
    )
    def test_keys_of_two_runs_fit_when_some_run_has_those_of_both(self, made: list[Called], clashes: bool) -> None:
        """A run may end early and may make several calls; what no run has in common with another is a clash."""
        assert (clash(made) is not None) == clashes

    def test_what_no_message_caused_is_not_compared(self) -> None:
        """Calls of a request or a script have no second run."""
        first, later = called("a", 1), called("b", 2)
        first.cause = later.cause = ("", "")

        assert clash([first, later]) is None


class TestTheOtherSide:
    def test_its_journal_is_found(self) -> None:
        """The global that a stand-in uses belongs to the other side: it outlives machines, and each world begins anew."""
        assert [str(place) for place in journals_of(app_of("keyed"))] == ["tests.unit.drill.outside_app.JOURNAL"]

    def test_a_machine_that_dies_takes_no_journal_along(self, lived: Callable[..., Outcome]) -> None:
        """Killed after the call: the second run, on another machine, meets the same journal, which knows the key."""
        calm = lived("keyed", {})
        killer = next(kind.split(" ")[0] for _, kind, _ in calm.trace if kind.endswith("calls post"))
        found = [lived("keyed", {(f"kill.{killer}", number): 1}) for number in range(20, 60, 4)]

        assert any(len(calls(outcome)) == 2 for outcome in found)
        assert [outcome.violations for outcome in found] == [[]] * len(found)


class TestSometimes:
    def test_what_was_never_reached_is_named_all_the_same(self) -> None:
        """A drill that never gets to a `sometimes` is too weak, so it stands in the report with 0."""
        assert places_named(app_of("keyed")) == ["delivered a hundred times", "delivered again"]
