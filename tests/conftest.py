"""What holds for every test: where the services must be there, a skip is a failure.

A suite that skips what it cannot run looks the same as one that passes. `.ci/run` therefore sets
DUJIANG_REQUIRE_SERVICES=1, and any skip, at collection or in a test, becomes a failure that repeats the skip's reason.
Without the variable, a developer without PostgreSQL sees the skip and its reason in pytest's summary.

The suite runs in one process a core (pytest-xdist), a file of tests as a whole in one of them. What a test printed travels
from there as UTF-8; half a character, which tests of bad input log on purpose, is shown as its escape.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

REQUIRE_SERVICES = "DUJIANG_REQUIRE_SERVICES"


def failed_if_skipped(report: pytest.CollectReport | pytest.TestReport) -> None:
    """Turn a skip into a failure when services are required; an expected failure is no skip."""
    if os.environ.get(REQUIRE_SERVICES, "") in ("", "0") or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{reason}\n\nNothing may be skipped while {REQUIRE_SERVICES} is set."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge the skip of one test."""
    report = yield
    failed_if_skipped(report)
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge the skip of a whole module."""
    report = yield
    failed_if_skipped(report)
    return report
