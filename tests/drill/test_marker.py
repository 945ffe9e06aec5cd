"""`@pytest.mark.drill` and the drill as a function, in a project of a user, by a pytest of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.docs.markdown import ROOT, write_files

PAGE = ROOT / "docs" / "tutorial-drill.md"
TESTS = """
import pytest
from dujiang.drill import Report, drill
from tickets import app

@pytest.mark.drill("tickets:app", seeds=1, sweep=False)
async def test_without_the_report():
    raise AssertionError("the body runs after a drill that failed")

@pytest.mark.drill(app, seeds=1, sweep=False, only=["kill"])
async def test_with_the_report(drilled: Report):
    assert [each.invariant for each in drilled.violations] == ["every seat is free or sold"]
    assert drilled.violations[0].schedule == ()
    assert drilled.coverage.await_sites and drilled.coverage.share == 0.0
    assert "every seat is free or sold" in drilled.text()
    drilled.violations[0].save("own.djseed")

@pytest.mark.drill("tickets:nothing")
def test_of_an_unknown_app(): ...

@pytest.mark.drill(app, only="kil")
def test_of_an_unknown_fault(): ...

@pytest.mark.drill(seeds=1)
def test_without_an_app(): ...

def test_without_the_marker(drilled): ...

def test_that_is_not_marked(): ...
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each of the user's tests came to: its outcome, and why."""
    folder = tmp_path_factory.mktemp("project")
    write_files(PAGE, folder)
    (folder / "test_tickets.py").write_text(TESTS)
    (folder / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "addopts = --strict-markers\nfilterwarnings = error\n"
    )
    (folder / "conftest.py").write_text(
        "import json\nfound = {}\n"
        "def pytest_runtest_logreport(report):\n"
        "    if report.when == 'call' or report.failed:\n"
        "        found[report.nodeid.partition('::')[2]] = f'{report.outcome} {report.longreprtext}'\n"
        "def pytest_sessionfinish():\n    open('results.json', 'w').write(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tickets.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "results.json").exists(), done.stdout + done.stderr
    found: dict[str, str] = json.loads((folder / "results.json").read_text())
    return found | {"own.djseed": str((folder / "own.djseed").exists())}


class TestMarker:
    def test_a_violation_fails_the_test_with_story_and_replay(self, results: dict[str, str]) -> None:
        """The failure is the story as the command prints it, not a traceback; the body does not run."""
        said = results["test_without_the_report"]

        assert said.startswith("failed ✗ every seat is free or sold: ")
        assert "\n  cure: " in said
        assert "\n  replay: dujiang replay .drill/every-seat-is-free-or-sold-sweep.djseed" in said
        assert "Traceback" not in said
        assert "the body runs" not in said

    def test_the_report_is_the_tests_to_judge(self, results: dict[str, str]) -> None:
        """With the fixture nothing fails by itself; violations, schedule, coverage and save are there, also in auto mode."""
        assert results["test_with_the_report"].startswith("passed")
        assert results["own.djseed"] == "True"

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("test_of_an_unknown_app", "'tickets:nothing' cannot be loaded"),
            ("test_of_an_unknown_fault", "known are: kill, "),
            ("test_without_an_app", "the marker names no app"),
            ("test_without_the_marker", "needs the marker"),
        ],
    )
    def test_a_wrong_marker_is_one_sentence(self, name: str, says: str, results: dict[str, str]) -> None:
        """An app or an option that is none fails the test, with what would be right."""
        assert results[name].startswith("failed")
        assert says in results[name]

    def test_a_test_without_the_marker_is_left_alone(self, results: dict[str, str]) -> None:
        """The plugin drills nothing that nobody asked it to drill."""
        assert results["test_that_is_not_marked"].startswith("passed")


class TestCost:
    @pytest.mark.parametrize("statement", ["import dujiang.drill.marker", "import dujiang.drill"])
    def test_an_unused_plugin_loads_next_to_nothing(self, statement: str) -> None:
        """Pytest imports the plugin in every run on the machine: beside pytest only a handful of small modules come."""
        script = f"import sys, pytest\nbefore = set(sys.modules)\n{statement}\nprint(len(set(sys.modules) - before))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

        assert int(done.stdout) <= 5
