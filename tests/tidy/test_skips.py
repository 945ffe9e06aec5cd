"""The rule of tests/conftest.py: a skip fails where the services must be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RULE = (Path(__file__).parents[1] / "conftest.py").read_text()

TESTS = """
import pytest

def test_that_passes():
    pass

def test_that_skips():
    pytest.skip("no server")

@pytest.mark.skipif(True, reason="no server by mark")
def test_that_is_marked():
    pass

@pytest.mark.xfail(reason="known", strict=True)
def test_that_is_expected_to_fail():
    raise AssertionError
"""

MODULE = """
import pytest

pytest.importorskip("no_such_driver")
"""


def outcome(folder: Path, tests: str, *, required: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in `folder` on these tests under the rule."""
    (folder / "conftest.py").write_text(RULE)
    (folder / "test_some.py").write_text(tests)
    without = [f"-pno:{plugin}" for plugin in ("cacheprovider", "asyncio", "anyio", "hypothesispytest")]
    command = [sys.executable, "-m", "pytest", *without, "--rootdir", str(folder), str(folder)]
    environment = {**os.environ, "DUJIANG_REQUIRE_SERVICES": required}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("required", ["", "0"])
def test_a_skip_stays_a_skip_on_a_developers_machine(tmp_path: Path, required: str) -> None:
    """Without the variable a skip is a skip and the run passes."""
    run = outcome(tmp_path, TESTS, required=required)

    assert run.returncode == 0, run.stdout
    assert "1 passed, 2 skipped, 1 xfailed" in run.stdout


def test_every_skip_fails_where_services_are_required(tmp_path: Path) -> None:
    """With the variable each kind of skip fails and says its reason; an expected failure stays one.

    A skip by mark comes before the test starts, and pytest calls a failure there an error.
    """
    run = outcome(tmp_path, TESTS, required="1")

    assert run.returncode == 1, run.stdout
    assert "1 failed, 1 passed, 1 xfailed, 1 error" in run.stdout
    assert "no server by mark" in run.stdout


def test_a_module_that_skips_itself_fails_too(tmp_path: Path) -> None:
    """A module that skips itself while it is collected ends the run with an error that says why."""
    run = outcome(tmp_path, MODULE, required="1")

    assert run.returncode == 2, run.stdout
    assert "no_such_driver" in run.stdout
