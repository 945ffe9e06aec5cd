"""From a failing run to a story and a file: small, true, and repeatable."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dujiang.drill.drilling import Drill, Report
from dujiang.drill.fork import Forks
from dujiang.drill.replaying import replayed
from dujiang.drill.run import Scenario
from dujiang.drill.seedfile import SeedFile, SeedFileBroken, load
from tests.drill import apps
from tests.drill.drilled import STORM


def drilled(folder: Path, scenario: Scenario, seeds: int = 3, **defect: Any) -> Report:
    """A drill without a sweep."""
    drill = Drill(apps.app_of(**defect), "tests.drill.apps:app", folder=folder, width=2, first_only=True)
    return drill.run(seeds=seeds, sweep=False, scenario=scenario, shrink_s=15.0)


def line_of(function: Any, words: str) -> int:
    """The line of a function that holds these words."""
    lines, start = inspect.getsourcelines(function)
    return start + next(number for number, line in enumerate(lines) if words in line)


class TestStories:
    def test_a_stale_read_is_told_and_replayed(self, tmp_path: Path) -> None:
        """At most three faults are left; the story names both lines and the cure; the file fails again, exactly so."""
        report = drilled(tmp_path, STORM, add=apps.lost_update)
        (story,) = report.stories

        assert story.invariant == apps.CONSERVED
        assert story.kept <= 3
        assert story.before >= story.kept
        assert story.cause is not None
        read, write = line_of(apps.lost_update, "tx.execute(select("), line_of(apps.lost_update, "tx.execute(update(")
        assert story.cause.place == f"drill/apps.py:{read} lost_update"
        assert f"drill/apps.py:{write} lost_update" in story.cause.why
        assert "SELECT" in story.cause.why
        assert ".with_for_update()" in story.cause.cure

        seed = load(Path(report.replays[0]))
        again = replayed(apps.app_of(add=apps.lost_update), seed)
        assert again.fails
        assert again.outcome.digest == seed.digest
        assert again.remarks == ()
        assert again.story is not None
        assert again.story.cause == story.cause

        mended = replayed(apps.app_of(), seed)
        assert not mended.fails
        assert any("the run is not the one that was saved" in remark for remark in mended.remarks)

    def test_a_held_transaction_is_told(self, tmp_path: Path) -> None:
        """No fault is needed; both statements between which it slept are named, and where to do the slow work."""
        scenario = Scenario(clients=1, operations=1, faults_s=0.5, only=("notify",))
        (story,) = drilled(tmp_path, scenario, seeds=1, add=apps.sleep_inside).stories

        before, after = line_of(apps.added, "tx.execute("), line_of(apps.sleep_inside, "tx.execute(")
        assert story.kept == 0
        assert story.cause is not None
        assert story.cause.place == f"drill/apps.py:{before} added"
        assert f"drill/apps.py:{before} added and drill/apps.py:{after} sleep_inside" in story.cause.why
        assert "before the transaction" in story.cause.cure

    def test_an_unordered_select_is_told(self, tmp_path: Path) -> None:
        """The only fault is that rows came the other way round; the line and ORDER BY are named."""
        scenario = Scenario(clients=1, operations=1, faults_s=0.5, only=("order",))
        (story,) = drilled(tmp_path, scenario, seeds=6, add=apps.first_row).stories

        assert story.kept == 1
        assert "without ORDER BY" in story.schedule[0]
        assert story.cause is not None
        assert story.cause.place == f"drill/apps.py:{line_of(apps.first_row, 'select(')} first_row"
        assert story.cause.cure == "add ORDER BY"


GOOD = SeedFile(
    app="shop:app",
    seed="17",
    scenario=Scenario(only=("kill",), reverse=True),
    keep={("kill.worker1", 13): 1, ("lost.reply", 0): 2},
    invariant="effect-once",
    places=(("shop.orders", "CACHE"),),
    digest="d",
    workload="w",
    python="3.11",
)


class TestSeedFiles:
    def test_what_was_saved_is_loaded(self, tmp_path: Path) -> None:
        """All of it; saving again gives the same bytes."""
        GOOD.save(tmp_path / "new" / "a.djseed")
        found = load(tmp_path / "new" / "a.djseed")
        found.save(tmp_path / "b.djseed")

        assert found == GOOD
        assert (tmp_path / "b.djseed").read_bytes() == (tmp_path / "new" / "a.djseed").read_bytes()

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"format": 2}, "format 1"),
            ({"app": ""}, "app"),
            ({"app": 5}, "app"),
            ({"seed": None}, "seed"),
            ({"keep": [["kill.worker1", 1]]}, "wrong"),
            ({"keep": [["kill.worker1", "x", 1]]}, "wrong"),
            ({"keep": 5}, "wrong"),
            ({"places": [["one"]]}, "wrong"),
            ({"scenario": None}, "wrong"),
            ({"scenario": []}, "wrong"),
            ({"scenario": {"kind": "other", "clients": 1, "operations": 1}}, "kind"),
            ({"scenario": {"kind": "random", "clients": 0, "operations": 1}}, "clients"),
            ({"scenario": {"kind": "random", "clients": 1, "operations": 10_000}}, "operations"),
            ({"scenario": {"kind": "random", "clients": 1, "operations": 1, "colour": "red"}}, "colour"),
            ({"scenario": {"kind": "random", "clients": 1, "operations": 1, "faults_s": "long"}}, "faults_s"),
            ({"scenario": {"kind": "random", "clients": 1, "operations": 1, "only": [1]}}, "only"),
            ({"scenario": {"kind": "random", "clients": 1, "operations": 1, "jitter": "no"}}, "jitter"),
            ({"scenario": {"kind": "random", "clients": 1, "operations": 1, "reverse": 1}}, "reverse"),
        ],
    )
    def test_a_broken_file_is_refused_with_what_is_wrong(self, tmp_path: Path, change: Any, why: str) -> None:
        """Whatever is missing or of another kind is said with the path, never as a traceback."""
        path = tmp_path / "x.djseed"
        GOOD.save(path)
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

        with pytest.raises(SeedFileBroken, match=re.escape(why)) as found:
            load(path)
        assert found.value.path == str(path)

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b" " * ((1 << 20) + 1)])
    def test_what_is_no_seed_file_at_all_is_refused(self, tmp_path: Path, data: bytes) -> None:
        """Nothing, half of it, other JSON, other bytes, too deep, too much."""
        path = tmp_path / "x.djseed"
        path.write_bytes(data)

        with pytest.raises(SeedFileBroken):
            load(path)

    @pytest.mark.parametrize("missing", ["app", "seed", "scenario", "keep", "invariant"])
    def test_what_is_needed_must_be_there(self, tmp_path: Path, missing: str) -> None:
        """A file without it is refused."""
        path = tmp_path / "x.djseed"
        GOOD.save(path)
        found = json.loads(path.read_text())
        del found[missing]
        path.write_text(json.dumps(found))

        with pytest.raises(SeedFileBroken, match=missing):
            load(path)

    def test_a_file_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        """With the system's words."""
        with pytest.raises(SeedFileBroken, match="No such file"):
            load(tmp_path / "none.djseed")


class TestForks:
    def test_each_copy_reports_what_it_did(self) -> None:
        """Values and errors come back with their tags; the original is left alone, and no more run than may."""
        forks, here = Forks(width=2), list[int]()

        def work(number: int) -> int:
            here.append(number)
            return number * 10

        for number in range(5):
            forks.run(number, partial(work, number))
            assert len(forks._children) <= 2
        forks.run("bad", lambda: 1 // 0)
        found = dict(forks.finish())

        assert {tag: value for tag, value in found.items() if tag != "bad"} == {n: n * 10 for n in range(5)}
        assert "ZeroDivisionError" in found["bad"]["error"]
        assert here == []

    def test_a_large_report_arrives_whole(self) -> None:
        """Larger than a pipe holds at once."""
        forks = Forks(width=1)
        forks.run("x", lambda: "y" * 3_000_000)

        assert dict(forks.finish()) == {"x": "y" * 3_000_000}

    def test_a_copy_that_hangs_is_killed_and_said(self) -> None:
        """Others are heard, and the process is gone."""
        forks = Forks(width=2, limit_s=1.0)
        pids: list[int] = []
        forks.run("hangs", turn)
        pids.extend(child.pid for child in forks._children)
        forks.run("ends", lambda: 1)

        assert dict(forks.finish()) == {"hangs": {"hung": True}, "ends": 1}
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)

    def test_a_library_may_start_its_thread_anew_after_a_fork(self) -> None:
        """Exporters of traces do: it happens in the middle of a machine's callback and is not the machine's doing.

        Method: a process of its own, because a hook on forks cannot be taken out again.
        """
        code = """
import os, threading
from types import SimpleNamespace
from dujiang.drill.escape import sealed
from dujiang.drill.fork import Forks
from dujiang.drill.loop import MACHINE
os.register_at_fork(after_in_child=lambda: threading.Thread(target=print, daemon=True).start())
loop = SimpleNamespace(escaped=None)
with sealed():
    MACHINE.set(SimpleNamespace(world=SimpleNamespace(loop=loop)))
    forks = Forks(1)
    forks.run("x", lambda: loop.escaped is None)
    assert list(forks.finish()) == [("x", True)]
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

        assert (done.returncode, done.stderr) == (0, "")

    def test_a_copy_that_dies_is_said(self) -> None:
        """Without a report there is an error."""
        forks = Forks(width=1)
        forks.run("x", lambda: os._exit(3))

        assert dict(forks.finish()) == {"x": {"error": "it died"}}

    def test_a_copy_that_dies_in_the_middle_of_its_report_is_said(self) -> None:
        """Half a report is an error too, not an end of the drill."""
        forks = Forks(width=1)

        def half() -> None:
            os.write(forks._report, b'{"half')
            os._exit(3)

        forks.run("x", half)

        assert "error" in dict(forks.finish())["x"]

    def test_all_can_be_ended_at_once(self) -> None:
        """Then nothing is left to wait for."""
        forks = Forks(width=2)
        forks.run("x", turn)
        (child,) = forks._children
        forks.kill()

        assert list(forks.finish()) == []
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)


def turn() -> None:
    """Turn without an end."""
    while replace(STORM, clients=2).clients:
        time.monotonic()
