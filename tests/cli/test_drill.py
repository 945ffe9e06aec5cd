"""`dujiang drill` and `dujiang replay` as commands: what they print, how they end, and what they leave behind."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dujiang.testing.processes import children_of
from tests.cli.processes import APP, Ended, Site, environment

pytestmark = pytest.mark.proof  # Each starts a drill, and a drill takes seconds.

LIMIT_S = 240.0
SHORT = ("drill", APP, "--seeds", "1", "--no-sweep", "--workers", "1")
ONE_VIOLATION = "every seat is free or sold"
TABLE = {
    "0001": "op.execute('CREATE TABLE desk_seat (id BIGINT PRIMARY KEY, free BIGINT NOT NULL, sold BIGINT NOT NULL)')"
}
SEATS = """
import socket, subprocess, threading, time
from dujiang import Model, Refusal
from dujiang.data.sql import Sql

class Guest(Model):
    name: str

LOOK = Sql("desk_look", "SELECT free, sold FROM desk_seat WHERE id = 1", "Looks.")
TAKE = Sql("desk_take", "UPDATE desk_seat SET free = $1, sold = sold + 1 WHERE id = 1", "Takes a seat that was seen free.")
TAKE_ONE = Sql("desk_take", "UPDATE desk_seat SET free = free - 1, sold = sold + 1 WHERE id = 1", "Takes a seat.")
OPEN = Sql("desk_open", "INSERT INTO desk_seat (id, free, sold) VALUES (1, 1000, 0)", "Opens the house.")

async def seed(tx: Tx) -> None:
    pass  # seed
    await tx.fetch(OPEN)

desk.seed = seed

@desk.write("POST /seats")
async def take(tx: Tx, body: Guest) -> Guest:
    pass  # body
    free, _ = (await tx.fetch(LOOK))[0]
    await tx.fetch(TAKE, free - 1)
    return body

@desk.invariant("every seat is free or sold")
async def seats(db: Read) -> list[object]:
    free, sold = (await db.fetch(LOOK))[0]
    return [] if free + sold == 1000 else [{"free": free, "sold": sold}]
"""
SOUND = SEATS.replace("await tx.fetch(TAKE, free - 1)", "await tx.fetch(TAKE_ONE)")


def site(folder: Path, source: str = SOUND) -> Path:
    """A folder with an application, and one for temporary files that shows what is left in it."""
    folder.mkdir(exist_ok=True)
    (folder / "tmp").mkdir()
    Site(folder, TABLE).write(source)
    return folder


def begun(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A command that runs; SIGINT is not ignored in it, whoever started the tests."""
    return subprocess.Popen(
        [sys.executable, "-m", "dujiang.cli", *words],
        cwd=folder,
        env=environment() | {"TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ran(folder: Path, *words: str) -> Ended:
    """A command to its end."""
    process = begun(folder, *words)
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return Ended(process.returncode, out, err)


def left(folder: Path) -> list[str]:
    """What stands in the folder for temporary files."""
    return sorted(path.name for path in (folder / "tmp").iterdir())


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A drill that found a lost update, once for all tests that look at it."""
    folder = site(tmp_path_factory.mktemp("failing"), SEATS)
    return folder, ran(folder, *SHORT)


def seed_file(folder: Path) -> Path:
    """The one replay file of a drill."""
    (found,) = (folder / ".drill").glob("*.djseed")
    return found


class TestDrill:
    def test_a_violation_is_told_with_its_cure_and_ends_with_1(self, failing: tuple[Path, Ended]) -> None:
        """The story names law, line and cure; the replay file, the report and the page exist; nothing else is left."""
        folder, end = failing

        assert end.code == 1, end.err
        assert f"✗ {ONE_VIOLATION}: " in end.out
        assert "site_app.py:" in end.out
        assert "cure: " in end.out
        assert f"replay: dujiang replay .drill/{seed_file(folder).name}" in end.out
        assert end.out.splitlines()[-2:] == ["1 violation", "report: .drill/report.html"]
        assert "Traceback" not in end.err
        assert {path.name for path in (folder / ".drill").iterdir()} == {
            "report.json",
            "report.html",
            seed_file(folder).name,
        }
        assert left(folder) == []

    def test_progress_in_a_pipe_is_whole_lines_on_stderr(self, failing: tuple[Path, Ended]) -> None:
        """Nothing is drawn over: a log of CI holds a line for each step, and stdout none of them."""
        _, end = failing

        assert "random 0/1\n" in end.err
        assert "\r" not in end.err
        assert "random 0/1" not in end.out

    def test_json_is_one_object_with_the_names_of_the_contract(self, tmp_path: Path) -> None:
        """A sound app is exit 0; stdout is one JSON value, whatever was said meanwhile."""
        folder = site(tmp_path / "sound")

        end = ran(folder, *SHORT, "--json")
        found = json.loads(end.out)

        assert end.code == 0, end.out + end.err
        assert {"flows", "crash_points", "crash_points_killed", "seeds", "kills", "virtual_seconds"} <= found.keys()
        assert found["violations"] == []
        assert found["seeds"] == 1
        assert found["flows"]["desk.take"]["201"] > 0
        assert left(folder) == []

    def test_a_folder_that_cannot_be_written_is_said_before_the_work(self, tmp_path: Path) -> None:
        """The answer comes at once, not after the budget: no progress was shown."""
        folder = site(tmp_path / "out")

        end = ran(folder, *SHORT, "--out", "site_app.py")

        assert end.code == 78
        assert "site_app.py" in end.err
        assert "[drill_folder]" in end.err
        assert "--out" in end.err
        assert "random" not in end.err

    @pytest.mark.parametrize(
        ("words", "code", "says"),
        [
            ("drill site_app:app --budget 0", 64, "[drill_option]"),
            ("drill site_app:app --budget 0s", 64, "--seeds N"),
            ("drill site_app:app --only kil", 64, "known are: kill, "),
            ("drill site_app:nothing", 78, "did you mean 'app'?"),
            ("drill nowhere:app", 78, "[app_module_missing]"),
            ("drill site_app", 64, "site_app:app"),
            ("replay nowhere.djseed", 65, "No such file"),
            ("replay site_app.py", 65, "is not JSON"),
            ("replay foreign.djseed", 65, "has not the format"),
            ("replay large.djseed", 65, "larger than"),
            ("replay lacking.djseed", 65, "'app'"),
            ("replay wrong.djseed", 65, "scenario.kind"),
        ],
    )
    def test_what_means_nothing_is_one_message(self, words: str, code: int, says: str, tmp_path: Path) -> None:
        """Options, names and replay files that cannot be used: what, which value, the cure; no traceback, no work."""
        folder = site(tmp_path / "refused")
        (folder / "foreign.djseed").write_text('{"format": 99}')
        (folder / "large.djseed").write_text(" " * (1 << 21))
        (folder / "lacking.djseed").write_text('{"format": 1, "scenario": {"kind": "sweep"}}')
        (folder / "wrong.djseed").write_text('{"format": 1, "app": "a:b", "seed": "1", "scenario": {"kind": "x"}}')

        end = ran(folder, *words.split())

        assert end.code == code, end.err
        assert says in end.err
        assert end.err.startswith("error: ")
        assert "\ncure:  " in end.err
        assert "Traceback" not in end.err
        assert left(folder) == []

    @pytest.mark.parametrize(
        ("place", "line", "what"),
        [
            ("body", 'socket.create_connection(("127.0.0.1", 9))', "a look-up of a host name"),
            ("body", 'subprocess.run(["true"])', "another program"),
            ("body", "threading.Thread(target=print).start()", "a thread"),
            ("body", "time.sleep(1)", "time.sleep()"),
            ("seed", "time.sleep(1)", "time.sleep()"),
        ],
        ids=["socket", "program", "thread", "sleep", "seed"],
    )
    def test_what_leaves_the_simulation_is_refused_with_its_line(
        self, place: str, line: str, what: str, tmp_path: Path
    ) -> None:
        """One sentence with file, line and the way out, also from the seed of an empty store; no noise behind it."""
        folder = site(tmp_path / "escaped", SEATS.replace(f"pass  # {place}", line))
        where = next(n for n, text in enumerate((folder / "site_app.py").read_text().splitlines(), 1) if line in text)

        end = ran(folder, *SHORT)

        assert end.code == 78
        assert f"error: {what} at " in end.err
        assert f"site_app.py:{where} " in end.err
        assert "[escaped_simulation]" in end.err
        assert end.err.splitlines()[-1].startswith("cure:  ")
        assert left(folder) == []


class TestEnded:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_drill_that_is_ended_tells_what_it_found(self, number: signal.Signals, tmp_path: Path) -> None:
        """Ended in the middle: 130, the violation found so far with a replay file, no process and no folder left."""
        folder = site(tmp_path / "ended", SEATS)
        process = begun(folder, "drill", APP, "--budget", "1h", "--workers", "2")
        assert process.stderr is not None
        seen = ""
        while "sweep " not in seen:
            assert select.select([process.stderr], [], [], LIMIT_S)[0], seen
            line = process.stderr.readline()
            assert line, seen
            seen += line
        children = children_of(process.pid)

        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT_S)

        assert process.returncode == 130, err
        assert f"✗ {ONE_VIOLATION}: " in out
        assert "the drill was ended before" in out
        assert seed_file(folder).exists()
        assert "Traceback" not in err
        assert left(folder) == []
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


class TestReplay:
    def test_the_failure_shows_again_and_then_is_cured(self, failing: tuple[Path, Ended], tmp_path: Path) -> None:
        """A replay file is 1 with the same story on the code that failed, and 0 on the code that was cured."""
        folder, _ = failing
        cured = site(tmp_path / "cured")

        again = ran(folder, "replay", str(seed_file(folder)))
        after = ran(cured, "replay", str(seed_file(folder)))

        assert again.code == 1, again.err
        assert f"✗ {ONE_VIOLATION}: " in again.out
        assert after.code == 0, after.err
        assert f"it does not fail any more: {ONE_VIOLATION}" in after.out
        assert left(folder) == left(cured) == []

    def test_changed_types_are_said(self, failing: tuple[Path, Ended], tmp_path: Path) -> None:
        """When the handlers' types have changed, the seed stands for other requests, and the replay says so."""
        folder, _ = failing
        changed = site(tmp_path / "changed", SEATS.replace("name: str", "name: str\n    age: int"))

        end = ran(changed, "replay", str(seed_file(folder)))

        assert end.code in {0, 1}
        assert "the handlers' types have changed since" in end.err
