"""`dujiang new`: copies pass their own tests and the drill, and what cannot be made leaves nothing behind."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import Ended, Up, dujiang, environment

COPIES = {"bakery": "shop", "bank": "ledger", "diary": ""}
TESTS_S = 600.0
# Root may write everywhere, so it becomes somebody who owns nothing; a first call has imported what he may not read.
AS_NOBODY = """
import os, sys
from dujiang.cli.main import main
assert main(["new", "warm", "--from", "shop", "--into", sys.argv[1], "--json"]) == 0
if os.geteuid() == 0:
    os.seteuid(65534)
sys.exit(main(sys.argv[2:]))
"""


# Half a minute for the tests of the larger copy: they run in the system's own folder too.
@pytest.fixture(scope="module", params=["bakery", pytest.param("bank", marks=pytest.mark.proof), "diary"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project made by the command: a copy of the shop, and the small one; in a folder with a space and an accent."""
    folder = tmp_path_factory.mktemp("mes projets é")
    name: str = request.param
    system = COPIES[name]
    made = dujiang(folder, "new", name, *(("--from", system) if system else ()))
    assert made.code == 0, made.err
    assert f"dujiang up {name}:app" in made.out
    return folder / name


class TestCopies:
    def test_a_copy_passes_its_own_tests(self, project: Path) -> None:
        """The tests that came with it pass under the new name, on the embedded store, on PostgreSQL and in the drill."""
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            cwd=project,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TESTS_S,
            check=False,
        )

        assert run.returncode == 0, run.stdout + run.stderr
        assert "skipped" not in run.stdout

    def test_a_copy_runs(self, project: Path) -> None:
        """`up` serves it from its folder, and its routes carry the new name where the old ones carried the old."""
        name = project.name
        with Up(project, f"{name}:app") as server:
            server.started()
            ready = server.request("GET", "/health/ready")
            paths = json.loads(server.request("GET", "/openapi.json").body)["paths"]

        assert ready.status == 200
        assert not any("/shop/" in path or "/starter/" in path for path in paths)
        assert any(path.startswith("/api/v1/") for path in paths)

    def test_a_copy_is_drilled(self, project: Path) -> None:
        """`drill` finds the copy by its name, and nothing wrong with it."""
        words = ("drill", f"{project.name}:app", "--seeds", "2", "--no-sweep", "--json", "--workers", "1")
        run = subprocess.run(
            [sys.executable, "-m", "dujiang.cli", *words],
            cwd=project,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TESTS_S,
            check=False,
        )

        assert run.stdout, run.stderr
        assert json.loads(run.stdout)["violations"] == []

    def test_json_tells_what_was_made(self, tmp_path: Path) -> None:
        """`--json` and `--into`: the files are those that lie in the folder."""
        made = json.loads(dujiang(tmp_path, "new", "diary", "--into", "elsewhere", "--json").out)

        there = [str(path.relative_to(tmp_path / "elsewhere")) for path in (tmp_path / "elsewhere").rglob("*")]
        files = sorted(path for path in there if (tmp_path / "elsewhere" / path).is_file())
        assert (made["name"], made["from"], made["files"]) == ("diary", "starter", files)
        assert {"pyproject.toml", "README.md", "Makefile", "diary/notes.py", "tests/test_diary.py"} <= set(files)

    def test_the_current_folder_may_be_the_project(self, tmp_path: Path) -> None:
        """An empty folder is filled, not replaced, and has nothing else in it afterwards."""
        before = tmp_path.stat().st_ino

        assert dujiang(tmp_path, "new", "diary", "--into", ".").code == 0
        assert tmp_path.stat().st_ino == before
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            ".gitignore",
            "Makefile",
            "README.md",
            "diary",
            "pyproject.toml",
            "tests",
        ]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "why", "cure"),
        [
            ("my shop", "lower-case letters", "my_shop"),
            ("My-Shop", "lower-case letters", "my_shop"),
            ("9lives", "lower-case letters", "my_9lives"),
            ("", "lower-case letters", "bakery"),
            ("café", "lower-case letters", "caf"),
            ("../shop", "lower-case letters", "shop"),
            ("class", "keyword", "my_class"),
            ("json", "Python has a module", "my_json"),
            ("pydantic", "is installed at", "my_pydantic"),
            ("dujiang", "is installed at", "my_dujiang"),
            ("tests", "tests/", "my_tests"),
            ("dj_order", "dj_", "my_dj_order"),
            ("order", "shop calls something else so", "my_order"),
            ("contract", "shop calls something else so", "my_contract"),
            ("x" * 41, "40 characters", "bakery"),
        ],
    )
    def test_a_name_that_no_package_can_have(self, tmp_path: Path, name: str, why: str, cure: str) -> None:
        """Each is one message with the reason and a name that would do, exit 64, and nothing made."""
        ended = dujiang(tmp_path, "new", "--from", "shop", "--", name)

        assert_refused(ended, 64, "project_name", why, cure)
        assert list(tmp_path.iterdir()) == []

    def test_an_unknown_system_is_told_with_those_that_are(self, tmp_path: Path) -> None:
        """The nearest and all are named."""
        ended = dujiang(tmp_path, "new", "bakery", "--from", "shpo")

        assert_refused(ended, 64, "system_unknown", "'shpo'", "did you mean 'shop'? there are: ledger, shop, starter")

    def test_a_folder_that_is_not_free(self, tmp_path: Path) -> None:
        """A folder with something in it, a file, a broken link, a place below nothing: exit 65, and they stay as they are."""
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").write_text("mine")
        (tmp_path / "file").write_text("mine")
        (tmp_path / "link").symlink_to("nowhere")

        for into, why in (("full", "'thesis.txt'"), ("file", "no folder"), ("link", "no folder"), ("a/b", "no folder")):
            assert_refused(dujiang(tmp_path, "new", "bakery", "--into", into), 65, "project_folder", why, "--into")
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "link", "thesis.txt"]
        assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"

    @pytest.mark.parametrize("existing", [False, True], ids=["new folder", "empty folder"])
    def test_a_write_that_fails_half_way_leaves_nothing(self, tmp_path: Path, existing: bool) -> None:
        """The operating system refuses to let a file grow beyond 3,000 bytes: no half project, no temporary folder."""
        if existing:
            (tmp_path / "bakery").mkdir()
        run = subprocess.run(
            [sys.executable, "-B", "-m", "dujiang.cli", "new", "bakery", "--from", "shop"],
            cwd=tmp_path,
            env=environment(),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
            capture_output=True,
            text=True,
            check=False,
        )

        assert run.returncode != 0
        assert "[project_not_written]" in run.stderr
        assert "File too large" in run.stderr
        assert "nothing of the project is left" in run.stderr
        assert [path.name for path in tmp_path.rglob("*")] == (["bakery"] if existing else [])

    @pytest.mark.parametrize("existing", [False, True], ids=["new folder", "empty folder"])
    def test_a_folder_that_may_not_be_written_to(self, tmp_path: Path, existing: bool) -> None:
        """Without the right to write the message names the folder and the right, exit 78."""
        closed = tmp_path / "closed"
        (closed / "bakery").mkdir(parents=True)
        if not existing:
            (closed / "bakery").rmdir()
        for folder in (closed / "bakery", closed):
            if folder.exists():
                folder.chmod(0o555)
        for above in closed.parents:
            if above.stat().st_uid == os.geteuid() and above != Path("/"):
                above.chmod(above.stat().st_mode | 0o011)

        run = subprocess.run(
            [sys.executable, "-B", "-c", AS_NOBODY, str(tmp_path / "warm"), "new", "bakery", "--from", "shop"],
            cwd=closed,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        for folder in (closed, closed / "bakery"):
            if folder.exists():
                folder.chmod(0o755)

        assert_refused(
            Ended(run.returncode, run.stdout, run.stderr), 78, "project_not_written", "Permission denied", "--into"
        )

    def test_an_empty_folder_of_ones_own_is_enough(self, tmp_path: Path) -> None:
        """Nothing is written beside a folder that exists: its owner needs no right to write above it."""
        closed = tmp_path / "closed"
        (closed / "bakery").mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(closed / "bakery", 65534, -1)
        closed.chmod(0o555)
        for above in closed.parents:
            if above.stat().st_uid == os.geteuid() and above != Path("/"):
                above.chmod(above.stat().st_mode | 0o011)

        run = subprocess.run(
            [sys.executable, "-B", "-c", AS_NOBODY, str(tmp_path / "warm"), "new", "bakery", "--from", "shop"],
            cwd=closed,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        closed.chmod(0o755)

        assert run.returncode == 0, run.stderr
        assert (closed / "bakery" / "bakery" / "orders.py").exists()


def assert_refused(ended: Ended, code: int, error: str, *says: str) -> None:
    """One message with these words, one exit code, no traceback."""
    assert ended.code == code, ended
    assert f"[{error}]" in ended.err
    assert "Traceback" not in ended.err
    for words in says:
        assert words in ended.err, ended.err
