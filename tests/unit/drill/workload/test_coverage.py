"""Coverage: a flow that never succeeded is told, with what it met and what helps."""

from __future__ import annotations

import json

from dujiang.drill.workload import Coverage
from dujiang.drill.workload.coverage import unexampled
from tests.unit.drill.workload.apps import bank, flow_named

TRANSFER = flow_named(bank(), "bank.transfer")
REFUSED = {"code": "no_money", "detail": "the account holds 0"}


def coverage() -> Coverage:
    """Of the bank's transfers."""
    return Coverage([TRANSFER], {})


class TestNotExercised:
    def test_a_single_success_is_enough(self) -> None:
        """One 2xx among refusals."""
        counted = coverage()

        for status in (422, 503, 201):
            counted.note(TRANSFER, status, REFUSED)

        assert counted.not_exercised() == []

    def test_the_most_frequent_refusal_is_told_with_the_cure(self) -> None:
        """Route, verb, counts, code and detail; the fields without examples, and the decorator."""
        counted = coverage()
        counted.note(TRANSFER, 500, {"code": "internal", "detail": "?"})
        for _ in range(2):
            counted.note(TRANSFER, 409, REFUSED)

        (told,) = counted.not_exercised()

        assert told.code == "flow_not_exercised"
        assert told.detail == (
            "POST /transfers (bank.transfer) is not exercised: none of 3 calls succeeded; "
            "2 were answered 409 no_money: the account holds 0"
        )
        assert told.hint == (
            "say which values exist, with Field(examples=[...]) at from_account, to_account, cents; "
            "or call it from a function with @module.workload, which may prepare what it needs"
        )

    def test_an_answer_without_a_problem_is_told_by_its_status(self) -> None:
        """A redirect, or a refusal of a foreign gateway."""
        counted, other = coverage(), coverage()
        counted.note(TRANSFER, 302, None)
        other.note(TRANSFER, 502, "bad gateway")

        assert counted.not_exercised()[0].what == "none of 1 calls succeeded; the answers were 302"
        assert other.not_exercised()[0].what == "none of 1 calls succeeded; 1 were answered 502"

    def test_an_obstacle_and_a_flow_that_was_never_called_are_told(self) -> None:
        """Why no request can be made; or that there was none."""
        blocked = Coverage([TRANSFER], {TRANSFER.name: "its body is text/plain, and not JSON"})

        assert blocked.not_exercised()[0].what == "no request can be made: its body is text/plain, and not JSON"
        assert coverage().not_exercised()[0].what == "it was never called"

    def test_fields_that_say_their_values_are_not_asked_about(self) -> None:
        """The exampled header is left out, and so is what has no field at all."""
        assert unexampled(TRANSFER) == ["from_account", "to_account", "cents"]


class TestProcesses:
    def test_the_counts_of_processes_add_up(self) -> None:
        """What several processes counted, in any order, tells what one would tell."""
        parts, whole = [coverage(), coverage()], coverage()
        for place, status in enumerate((409, 422, 422, 409, 409)):
            for counted in (parts[place % 2], whole):
                counted.note(TRANSFER, status, {"code": f"c{status}", "detail": "d"})
        sums = []
        for order in (parts, parts[::-1]):
            added = coverage()
            for each in order:
                added.add(json.loads(json.dumps(each.dump())))
            sums.append(added)

        assert [each.dump() for each in sums] == [whole.dump()] * 2
        assert str(sums[0].not_exercised()[0]) == str(whole.not_exercised()[0])

    def test_a_flow_that_need_not_be_exercised_is_ignored(self) -> None:
        """Answers of readers, and of modules that are driven by hand alone."""
        counted = coverage()

        counted.note(flow_named(bank(), "bank.accounts"), 200, [])

        assert counted.dump() == coverage().dump()
