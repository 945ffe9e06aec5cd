"""Crash points: the process dies at the pass that was armed, and nowhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dujiang
from dujiang.telemetry import crash
from dujiang.telemetry.crash import CRASH_POINTS, UnknownCrashPoint, count_sometimes, sometimes

PROGRAM = """
from dujiang.telemetry.crash import crash_point
try:
    for number in range(1, 5):
        crash_point("after_commit")
        print("other", number, flush=True)
        crash_point("relay_read")
        print("passed", number, flush=True)
finally:
    print("finally", flush=True)
"""


def run(armed: str) -> subprocess.CompletedProcess[str]:
    """Run the program with the variable set."""
    environment = {**os.environ, "DUJIANG_CRASH_AT": armed}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)


def test_the_armed_pass_ends_the_process_by_sigkill() -> None:
    """At the third pass of the point the process is gone: no `finally`, no output after it, death by signal 9."""
    done = run("relay_read:3")

    assert done.returncode == -9
    assert done.stdout.split("\n")[:-1] == ["other 1", "passed 1", "other 2", "passed 2", "other 3"]


@pytest.mark.parametrize("armed", ["", "relay_read:5", "inbox_inserted:1"])
def test_a_point_that_is_not_reached_kills_nobody(armed: str) -> None:
    """Without the variable, with more passes than happen, or with another point the program ends by itself."""
    done = run(armed)

    assert done.returncode == 0
    assert done.stdout.endswith("passed 4\nfinally\n")


@pytest.mark.parametrize("text", ["nowhere:1", "relay_read", "relay_read:0", "relay_read:x", "relay_read:-1", ":1"])
def test_a_wrong_variable_is_refused_and_names_the_points(text: str) -> None:
    """A typo must not make a kill test pass: the error repeats the text and lists every name."""
    with pytest.raises(UnknownCrashPoint) as raised:
        crash.armed(text)

    assert repr(text) in str(raised.value)
    assert all(name in raised.value.hint for name in CRASH_POINTS)


def test_a_wrong_variable_stops_the_import() -> None:
    """A process that was told to die at an unknown point does not start."""
    done = run("nowhere:1")

    assert done.returncode == 1
    assert "unknown_crash_point" in done.stderr
    assert done.stdout == ""


def test_every_point_is_passed_somewhere() -> None:
    """The documented names and the names in the code are the same: no kill test aims at a place that is not there."""
    code = "".join(path.read_text() for path in Path(dujiang.__file__).parent.rglob("*.py"))

    assert set(re.findall(r'crash_point\("(\w+)"\)', code)) == set(CRASH_POINTS)


def test_sometimes_counts_only_while_it_is_on() -> None:
    """Off it does nothing; on it counts each place by name; switching on again begins from nothing."""
    sometimes("before")
    reached = count_sometimes(on=True)
    sometimes("late reply")
    sometimes("late reply")
    again = count_sometimes(on=True)
    sometimes("other")
    count_sometimes(on=False)
    sometimes("after")

    assert reached is not None
    assert again is not None
    assert reached.counts == {"late reply": 2}
    assert again.counts == {"other": 1}
