"""Marker: `@pytest.mark.drill`, so that a project drills itself in its own CI; a plugin of pytest.

    @pytest.mark.drill("shop:app", seeds=200)
    def test_it_survives() -> None: ...

    @pytest.mark.drill("shop:app", only="kill,reply", sweep=False)
    def test_it_survives_kills(drilled: Report) -> None:
        assert drilled.passed, drilled.text()
        assert drilled.coverage.share == 1.0

The drill runs before the body. Without the fixture a violation fails the test, with the stories and the commands that
replay them; with it the report is the test's to judge. A plugin is imported by every run of pytest on the machine: nothing
is imported here that such a run has not loaded anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dujiang.drill.drilling import Report

NAME = "drill"
FIXTURE = "drilled"
SEEDS = 50
HOW = 'write @pytest.mark.drill("module:attribute", seeds=200)'


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f'drill(app, seeds={SEEDS}, budget="60s", only="", sweep=True, fail_fast=False): drill the app, an App or '
        "'module:attribute', and fail on a violation; the fixture `drilled` is the report",
    )


@pytest.fixture(name=FIXTURE)
def drilled_fixture(request: pytest.FixtureRequest) -> Report:
    """The report of the drill that the test's marker asks for; the test judges it."""
    mark = request.node.get_closest_marker(NAME)
    if mark is None:
        pytest.fail(f"the fixture `{FIXTURE}` needs the marker: {HOW}", pytrace=False)
    return drilled(mark)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Drill before the body of a marked test that does not ask for the report."""
    mark = pyfuncitem.get_closest_marker(NAME)
    if mark is not None and FIXTURE not in pyfuncitem.fixturenames:
        report = drilled(mark)
        if not report.passed:
            pytest.fail(report.text(), pytrace=False)


def drilled(mark: pytest.Mark) -> Report:
    """Drill as a marker says."""
    from dujiang.drill.calling import drill  # noqa: PLC0415  (only a marked test pays for it)
    from dujiang.kernel.errors import DujiangError  # noqa: PLC0415

    if len(mark.args) != 1:
        pytest.fail(f"the marker names no app: {HOW}", pytrace=False)
    options: dict[str, Any] = dict(mark.kwargs)
    if not {"seeds", "budget"} & options.keys():
        options["seeds"] = SEEDS
    try:
        report = drill(app_of(mark.args[0]), **options)
    except DujiangError as error:
        pytest.fail(f"{error.detail} [{error.code}]\ncure: {error.hint}", pytrace=False)
    if report.interrupted:
        raise KeyboardInterrupt
    return report


def app_of(named: Any) -> Any:
    """The app that a marker names."""
    from pkgutil import resolve_name  # noqa: PLC0415  (only a marked test pays for it)

    from dujiang.app import App  # noqa: PLC0415

    try:
        found = resolve_name(named) if isinstance(named, str) else named
    except (ImportError, AttributeError, ValueError) as error:
        pytest.fail(f"the marker's app {named!r} cannot be loaded: {error}; {HOW}", pytrace=False)
    if not isinstance(found, App):
        pytest.fail(f"the marker's app {named!r} is a {type(found).__name__}, not an App; {HOW}", pytrace=False)
    return found
