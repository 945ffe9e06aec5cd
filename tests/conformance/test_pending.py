"""Every case of the design is run on each adapter, excluded by a capability, or listed as pending with its reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import test_broker, test_broker_model, test_broker_rabbit

ADAPTERS: dict[str, type[Any]] = {
    "SQLite": test_broker.TestSqlOnSqlite,
    "PostgreSQL": test_broker.TestSqlOnPostgres,
    "RabbitMQ": test_broker_rabbit.TestRabbitOnPostgres,
    "model": test_broker_model.TestModelOnSqlite,
}
NUMBERS = {f"C{number}" for number in range(1, 68)}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "pending.md"
ROW = re.compile(r"^\| (C\d+) \| (all|[A-Za-z, ]+) \| (whole|in part) \| (.+) \|$", re.MULTILINE)


def run_by(suite: type[Any]) -> set[str]:
    """The numbers of the cases that a class runs, without their parts."""
    return {number.partition(".")[0] for number in numbers_of(suite)}


def numbers_of(suite: type[Any]) -> list[str]:
    """The numbers of the cases that a class runs, with their parts."""
    tests: list[Any] = [getattr(suite, name, None) for name in dir(suite)]
    return [test.case[0] for test in tests if hasattr(test, "case")]


def excluded_from(suite: type[Any]) -> set[str]:
    """The numbers that a missing capability takes out."""
    return {number.partition(".")[0] for number in suite.excluded}


def pending(adapter: str) -> dict[str, str]:
    """The numbers on the page for an adapter, and whether they are missing whole or in part."""
    return {
        number: missing
        for number, which, missing, _ in ROW.findall(PAGE.read_text())
        if which == "all" or adapter in which.split(", ")
    }


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_every_case_is_run_excluded_or_pending(adapter: str) -> None:
    """No number of the design is forgotten on any adapter."""
    suite = ADAPTERS[adapter]

    assert run_by(suite) | excluded_from(suite) | set(pending(adapter)) >= NUMBERS


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_a_case_is_pending_as_the_page_says(adapter: str) -> None:
    """What is missing whole is not run, and what is missing in part is."""
    listed, run = pending(adapter), run_by(ADAPTERS[adapter])

    assert {number for number, missing in listed.items() if missing == "whole"} & run == set()
    assert {number for number, missing in listed.items() if missing == "in part"} <= run | excluded_from(
        ADAPTERS[adapter]
    )


def test_the_page_holds_nothing_but_rows_of_the_list() -> None:
    """Each row is readable, each number exists, and none stands twice for an adapter."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| C") and not line.startswith("| Case")]
    rows = ROW.findall(PAGE.read_text())

    assert len(rows) == len(lines)
    assert {number for number, *_ in rows} <= NUMBERS
    named = [(number, name) for number, which, *_ in rows for name in which.split(", ")]
    assert {name for _, name in named} <= {"all", *ADAPTERS}
    assert len(set(named)) == len(named)


def test_numbers_are_unique_within_an_adapter() -> None:
    """Two cases under one number could not be told apart in a report."""
    for suite in ADAPTERS.values():
        numbers = numbers_of(suite)

        assert len(set(numbers)) == len(numbers)


def test_what_a_class_keeps_for_every_run_are_cases_that_it_runs() -> None:
    """A number in `quick` that no case has would leave its case to proof without a word."""
    for suite in ADAPTERS.values():
        assert getattr(suite, "quick", set()) <= set(numbers_of(suite))
