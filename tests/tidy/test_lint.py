"""Style and types are tests: ruff, its formatter, and mypy in its strict mode.

Each tool runs as a process, as `make lint` runs it, and its own words are the message of the failing test.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.tidy.source import ROOT

CHECKS = {
    "ruff": ["ruff", "check", "--quiet", "--output-format", "concise"],
    "format": ["ruff", "format", "--check", "--quiet", "--output-format", "concise"],
    "mypy": ["mypy", "--no-error-summary"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_tool_finds_nothing(name: str) -> None:
    """The whole repository passes the tool; `make format` repairs what a machine can repair."""
    command = [sys.executable, "-m", *CHECKS[name]]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, f"\n{run.stdout}{run.stderr}"


def test_every_exception_has_its_reason() -> None:
    """Each rule that is switched off says why: behind it, or above a group of its kind."""
    text = (ROOT / "pyproject.toml").read_text()
    lines = text[text.index("[tool.ruff.lint]") : text.index("[tool.ruff.lint.pydocstyle]")].splitlines()
    rules = [line.strip() for line in lines if re.match(r'    "[A-Z]+[0-9]*",', line)]

    assert len(rules) > 20
    assert [line for line in rules if not re.search(r"# \S+", line)] == []
