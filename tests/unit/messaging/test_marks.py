"""Marks outlive the process that made them, and tell a dead one from a slow one."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from dujiang.messaging.marks import MARKS_MAX, Left, Marks

if TYPE_CHECKING:
    from pathlib import Path

DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from dujiang.messaging.marks import Marks

async def main():
    marks = Marks(Path(sys.argv[1]), "dead")
    await marks.start()
    with marks.on((1, 10)):
        pass
    with marks.on((1, 11)), marks.on((2, 12), (2, 13)):
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_what_was_marked_at_the_death_is_read_by_others(tmp_path: Path) -> None:
    """A killed process leaves the marks that were set, and not those that had been taken back."""
    ended = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False, timeout=60)
    reader = Marks(tmp_path, "reader")

    assert ended.returncode == -9
    assert reader.left_by("dead") == Left(alive=False, started=frozenset({(1, 11), (2, 12), (2, 13)}))


def test_what_was_read_once_is_known_although_the_file_is_gone(tmp_path: Path) -> None:
    """The transaction that asks may run again; the folder does not grow by each death."""
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False, timeout=60)
    reader = Marks(tmp_path, "reader")
    first = reader.left_by("dead")

    assert list((tmp_path / "started").iterdir()) == []
    assert reader.left_by("dead") == first


async def test_a_living_copy_accuses_nobody(tmp_path: Path) -> None:
    """While its marks are locked the copy lives, whatever its lease says."""
    living, reader = Marks(tmp_path, "living"), Marks(tmp_path, "reader")
    await living.start()
    with living.on((1, 1)):
        assert reader.left_by("living") == Left(alive=True)
    await living.stop()

    assert reader.left_by("living") is None


async def test_nothing_is_known_of_a_copy_without_marks(tmp_path: Path) -> None:
    """Another machine's copy, and one that keeps no marks, are unknown."""
    silent = Marks(tmp_path, "silent", kept=False)
    await silent.start()
    with silent.on((1, 1)):
        assert Marks(tmp_path, "reader").left_by("silent") is None
    await silent.stop()


async def test_a_folder_that_takes_no_file_keeps_nobody_from_working(tmp_path: Path) -> None:
    """Without a place for the file nothing is marked, and handlers run all the same."""
    (tmp_path / "started").write_text("in the way")
    marks = Marks(tmp_path, "copy")
    await marks.start()
    with marks.on((1, 1)):
        pass
    await marks.stop()


async def test_more_than_fit_are_handled_unmarked(tmp_path: Path) -> None:
    """A batch larger than the file marks what fits, and every place is free again afterwards."""
    marks = Marks(tmp_path, "copy")
    await marks.start()
    for _ in range(3):
        with marks.on(*((1, n + 1) for n in range(MARKS_MAX + 10))), marks.on((2, 2)):
            pass
    assert repr(marks) == "<Marks 0>"
    await marks.stop()
