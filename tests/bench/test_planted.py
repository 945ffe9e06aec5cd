"""Planted bugs: each can be planted, its application loads with it, and the process that runs there sees it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.planted.bug import BOARD, BOOKS, COUPONS, LEDGER, PAYMENTS, ROUNDS, SEATS, SHOP, STOCK, TRIPS, WALLET, Bug
from bench.planted.bugs import BUGS
from bench.planted.plant import ROOT, NotPlantable, Planting, changed, copied, place_of, planted, put

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = [bug.name for bug in BUGS]
NEEDS = ("", "many_writers", "writer")

# Loads what all applications share once; each line on its input names a folder and a module, which a child imports.
LOADER = """
import importlib, os, sys, traceback
import alembic.op, apsw, fastapi, pydantic, sqlalchemy.ext.asyncio
for line in sys.stdin:
    folder, module = line.split()
    if not os.fork():
        sys.path.insert(0, folder)
        try:
            found = importlib.import_module(module)
            import dujiang
            assert dujiang.__file__.startswith(folder), dujiang.__file__
            assert found.app.verbs()
        except BaseException:
            os._exit(bool(traceback.print_exc()) or 1)
        os._exit(0)
    print(os.wait()[1], flush=True)
"""


@pytest.fixture(scope="module")
def loader() -> Iterator[subprocess.Popen[str]]:
    """A process that imports modules from folders, each in a child of its own."""
    command, pipe = [sys.executable, "-B", "-c", LOADER], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd="/") as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def copy() -> Iterator[Planting]:
    """One correct copy, into which a test may write."""
    with planted(None) as planting:
        yield planting


class TestTheTable:
    def test_names_are_unique_words(self) -> None:
        """A bug is called by its name on the command line and in reports."""
        assert len(set(NAMES)) == len(NAMES)
        assert [name for name in NAMES if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []

    def test_enough_bugs_need_nothing_but_the_embedded_store(self) -> None:
        """The bare command is judged by them; what needs more is marked and counted apart."""
        assert {bug.needs for bug in BUGS} <= set(NEEDS)
        assert len([bug for bug in BUGS if not bug.needs]) >= 28

    def test_every_application_has_bugs_and_every_bug_an_application(self) -> None:
        """The applications are drilled clean without a bug, so each is worth its drill."""
        assert {bug.app for bug in BUGS} == {
            SHOP,
            WALLET,
            COUPONS,
            SEATS,
            LEDGER,
            PAYMENTS,
            BOOKS,
            BOARD,
            ROUNDS,
            STOCK,
            TRIPS,
        }

    @pytest.mark.parametrize("bug", BUGS, ids=NAMES)
    def test_a_bug_says_everything(self, bug: Bug) -> None:
        """What its author had in mind, the promise, and the schedule, each in a sentence; no two bugs are one change."""
        assert all(text.endswith(".") and len(text) > 12 for text in (bug.says, bug.breaks, bug.shows))
        assert [
            other.name for other in BUGS if (other.where, other.new, other.old) == (bug.where, bug.new, bug.old)
        ] == [bug.name]

    @pytest.mark.parametrize("bug", BUGS, ids=NAMES)
    def test_a_bug_stands_in_one_place_and_compiles(self, bug: Bug) -> None:
        """Its right text is in its file once, and the changed file is Python that differs."""
        text = changed(bug)

        assert text != (ROOT / bug.where).read_text()
        compile(text, bug.where, "exec")


class TestPlanting:
    def test_a_process_sees_the_bug_and_not_the_checkout(self) -> None:
        """Product and applications come from the folder, although the product is installed editable."""
        bug = next(bug for bug in BUGS if bug.where.startswith("src/") and bug.app == WALLET)
        modules = ["dujiang", "dujiang.write", "bench.planted.apps.wallet"]

        with planted(bug) as planting:
            script = f"import importlib\nfor name in {modules}: print(importlib.import_module(name).__file__)"
            done = planting.run("-c", script)
            seen = [Path(line) for line in done.stdout.split()]

            assert done.returncode == 0, done.stderr
            assert all(path.is_relative_to(planting.folder) for path in seen), seen
            assert (planting.folder / place_of(bug.where)).read_text() == changed(bug)
        assert not planting.folder.exists()

    def test_nothing_is_changed_without_a_bug(self) -> None:
        """The correct copy, which is drilled clean, is what stands in the checkout."""
        with planted(None) as planting:
            there = {path.relative_to(planting.folder) for path in planting.folder.rglob("*.py")}

            assert {place_of(bug.where) for bug in BUGS} <= there
            for path in there:
                here = ROOT / path if path.parts[0] == "bench" else ROOT / "src" / path
                assert (planting.folder / path).read_bytes() == here.read_bytes()

    def test_what_a_neighbour_is_compiling_is_not_copied(self, tmp_path: Path) -> None:
        """A compiler's unfinished file is there when the folder is listed and gone when it is read: no reason to fail."""
        cache = tmp_path / "source" / "__pycache__"
        cache.mkdir(parents=True)
        (cache / "module.cpython-311.pyc").write_bytes(b"compiled")
        (cache / "module.cpython-311.pyc.139872").symlink_to(tmp_path / "gone")

        copied(tmp_path / "source", tmp_path / "target")

        assert [path.name for path in (tmp_path / "target").rglob("*.pyc*")] == ["module.cpython-311.pyc"]

    @pytest.mark.parametrize("old", ["no such text", "import"])
    def test_a_text_that_is_not_there_once_is_refused(self, old: str) -> None:
        """A bug whose place has moved or is not clear is an error, never a clean copy that counts as drilled."""
        bug = Bug(name="x_y", says="", where=BUGS[0].where, old=old, new="", app=SHOP, breaks="", shows="")

        with pytest.raises(NotPlantable, match="not once"), planted(bug):
            pass

    @pytest.mark.parametrize("bug", BUGS, ids=NAMES)
    def test_the_application_loads_with_the_bug(self, bug: Bug, loader: subprocess.Popen[str], copy: Planting) -> None:
        """A bug that fails at import would be found by anybody."""
        assert loader.stdin is not None
        assert loader.stdout is not None
        file = copy.folder / place_of(bug.where)
        right = file.read_text()

        put(file, changed(bug))
        print(copy.folder, bug.app.partition(":")[0], file=loader.stdin, flush=True)
        answer = loader.stdout.readline()
        put(file, right)

        assert answer == "0\n"
