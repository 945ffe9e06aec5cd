"""The entry: every error of the command line is one message, one code; JSON when JSON was asked for.

The numbers in the ids are those of the list of command lines (CLI corpus).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from dujiang.cli import exits, main
from dujiang.cli.output import Report, say_error, say_table
from dujiang.data.database import DatabaseRefused, DatabaseUnreachable, StoreInUse
from dujiang.kernel.errors import DeadlinePassed, DujiangError, Refusal

if TYPE_CHECKING:
    from pathlib import Path

USAGES = [
    pytest.param(
        "",
        "Missing command.",
        "up, run, new, migrate, doctor, routes, contracts, audit, backup, restore, drill, replay, deadletter, jobs, sagas, "
        "schedules, cache",
        id="1-no-command",
    ),
    pytest.param("deadletter", "Missing command.", "list, show, replay, discard", id="1-no-subcommand"),
    pytest.param("ump", "No such command 'ump'. Did you mean 'up'?", "`dujiang --help`", id="2-command"),
    pytest.param("jobs lst", "Did you mean 'list'?", "`dujiang jobs --help`", id="2-jobs"),
    pytest.param("jobs --data x --data y", "'--data': given twice", "", id="4-twice-in-a-group"),
    pytest.param("jobs --data x list", "Options stand behind the command", "", id="6-options-of-a-group"),
    pytest.param("deadletter lst", "Did you mean 'list'?", "`dujiang deadletter --help`", id="2-subcommand"),
    pytest.param("up --prot 80", "No such option: --prot Did you mean '--port'?", "`dujiang up --help`", id="3-flag"),
    pytest.param("audit -x", "No such option: -x", "`dujiang audit --help`", id="3-short"),
    pytest.param("up --port 8001 --port 8002", "'--port': given twice", "", id="4-twice"),
    pytest.param("up --reload --reload", "'--reload': given twice", "", id="4-twice-boolean"),
    pytest.param("up --config a --config b", "'--config': given twice", "", id="50-config-twice"),
    pytest.param("up --port", "requires an argument", "", id="5-missing-value"),
    pytest.param("up --workers two", "Invalid value for '--workers'", "", id="6-type"),
    pytest.param("deadletter show seven", "Invalid value for 'ID'", "", id="6-argument"),
    pytest.param("deadletter list --limit 0", "Invalid value for '--limit'", "", id="6-range"),
    pytest.param("deadletter show", "Missing argument 'ID'", "", id="5-missing-argument"),
    pytest.param("up a:b c:d", "unexpected extra argument", "", id="6-extra"),
    pytest.param("up --port abc", "Invalid value for '--port'", "", id="7-port"),
    pytest.param("up --reload --workers 2", "--reload works with one worker", "", id="6-combination"),
    pytest.param("run", "Missing argument 'ROLE[,ROLE...]'", "`dujiang run --help`", id="5-missing-role"),
    pytest.param("run gatewy", "did you mean 'gateway'?", "name one, or several", id="6-role"),
    pytest.param("up --child 98,99", "is given by the supervisor only", "", id="6-child"),
]


class TestUsage:
    @pytest.mark.parametrize(("line", "what", "cure"), USAGES)
    def test_a_wrong_command_line_is_one_message_and_64(
        self, line: str, what: str, cure: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What is wrong and where the help is, on stderr; nothing on stdout; no traceback."""
        code = main.main(line.split())

        out, err = capsys.readouterr()
        assert (code, out) == (64, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 2
        assert what in err
        assert cure in err
        assert "Traceback" not in err

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            ("routes --json --nope", 64),
            ("deadletter show x --json", 64),
            ("audit nocolon --json", 64),
            ("audit missing_module_q:app --json", 78),
            ("doctor --json --data /dev/null/x", 78),
            ("deadletter replay 5 --json --payload /nope/file", 65),
        ],
        ids=lambda value: f"44-{value}",
    )
    def test_errors_are_json_when_json_was_asked_for(
        self, line: str, code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With --json stdout holds one JSON document with code, move, what, cure and exit, and stderr nothing."""
        assert main.main(line.split()) == code

        out, err = capsys.readouterr()
        error = json.loads(out)["error"]
        assert err == ""
        assert error["exit"] == code
        assert set(error) == {"code", "move", "what", "cure", "exit"}

    def test_help_and_version_are_no_errors(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`--help` of every command and `--version` end with 0."""
        lines = ["--version", "--help", "up --help", "migrate --help", "doctor --help", "routes --help", "audit --help"]

        assert [main.main(line.split()) for line in [*lines, "deadletter replay --help"]] == [0] * 8
        assert capsys.readouterr().out.startswith("dujiang ")

    def test_20_47_settings_of_the_command_line_are_refused_with_78(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """All broken settings come in one message, with their places."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "dujiang.toml").write_text('grase = "1s"\n')

        assert main.main(["up", "--port", "70000", "--database", "postgres://u:s3cr3t@h/d"]) == 78

        err = capsys.readouterr().err
        assert "error: 3 settings are refused:" in err
        assert "dujiang.toml:1: unknown setting 'grase'; did you mean 'grace'?" in err
        assert "--port: port: 70000" in err
        assert "s3cr3t" not in err

    def test_a_traceback_is_for_those_who_ask(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`--debug`, anywhere before `--`, shows the traceback beside the message."""
        for line in ("--debug audit missing_q:app", "audit missing_q:app --debug"):
            assert main.main(line.split()) == 78
            assert "Traceback" in capsys.readouterr().err

        assert main.without_debug(["a", "--", "--debug"]) == (["a", "--", "--debug"], False)

    def test_host_that_others_can_reach_is_refused(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """`up` binds to loopback only, and says why."""
        monkeypatch.chdir(tmp_path)

        assert [main.main(["up", "--host", host]) for host in ("0.0.0.0", "10.0.0.1", "::", "example.org")] == [78] * 4
        assert capsys.readouterr().err.count("until identity exists") == 4
        assert list(tmp_path.iterdir()) == []


@dataclass(eq=False, kw_only=True)
class Odd(DujiangError):
    """Something odd."""

    code = "odd"
    move = "wait"
    exit_code = 65
    says = "odd {count}"

    count: int


class TestExits:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (DatabaseUnreachable(url="u", why="w"), 69),
            (DatabaseRefused(url="u", why="w"), 78),
            (StoreInUse(path="p", pid=1), 69),
            (DeadlinePassed(what="w", limit_s=1.0), 69),
            (Refusal("no"), 65),
            (Odd(count=1), 65),
            (KeyboardInterrupt(), 130),
            (OSError(28, "No space left on device"), 69),
            (OSError(30, "Read-only file system"), 78),
            (PermissionError(13, "Permission denied"), 78),
            (ZeroDivisionError(), 70),
        ],
        ids=["48-down", "49-password", "8-store", "48-slow", "refusal", "own-code", "39-ctrl-c", "18-full",
             "17-read-only", "17-rights", "bug"],
    )  # fmt: skip
    def test_an_error_has_its_exit_code(self, error: BaseException, code: int) -> None:
        """The class's own code, then the error's code, then its move; foreign errors by errno."""
        assert exits.exit_code_of(error) == code

    def test_18_a_full_disk_is_said_plainly(self) -> None:
        """An error of the machine names the file and no line of ours."""
        report = main.foreign_report(OSError(28, "No space left on device", "/data/up.json"), 69)

        assert (report.what, report.exit_code) == ("/data/up.json: No space left on device", 69)

    def test_a_bug_names_its_line_and_asks_for_a_report(self) -> None:
        """A foreign exception becomes type, message and line, exit 70."""
        with pytest.raises(ZeroDivisionError) as caught:
            _ = 1 // 0

        report = main.foreign_report(caught.value, 70)

        assert report.what.startswith("ZeroDivisionError: ")
        assert "test_main.py:" in report.what
        assert (report.move, report.exit_code) == ("report", 70)

    def test_46_an_old_python_is_told_which_one_is_needed(self) -> None:
        """The message names the version needed and the one that runs."""
        assert "needs Python 3.11 or later; this is 3.9" in main.old_python((3, 9))


class TestOutput:
    def test_a_letter_cannot_drive_the_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Control characters of data are shown as escapes, in tables and in errors."""
        say_table(("a",), [["\x1b[2Jgone\r\n\u202e"]])
        say_error(Report("\x1b[2J", "", "c", "fix", 1), as_json=False)

        out, err = capsys.readouterr()
        assert out == "a\n\\x1b[2Jgone\\r\\n\\u202e\n"
        assert err == "error: \\x1b[2J [c]\n"

    def test_a_table_without_rows_is_its_head(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An empty list is no error."""
        say_table(("method", "path"), [])

        assert capsys.readouterr().out == "method  path\n"


def dujiang(shell: str, folder: Path, *, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a shell line in which `dujiang` is this installation's command."""
    line = shell.replace("dujiang ", f"{sys.executable} -m dujiang.cli ")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("DUJIANG_", "LC_", "LANG"))}
    return subprocess.run(  # noqa: PLW1510  (the exit code is what the test looks at)
        ["bash", "-o", "pipefail", "-c", line], cwd=folder, env=bare | (environ or {}), capture_output=True, timeout=60
    )


class TestProcess:
    def test_40_a_reader_that_goes_away_is_no_error(self, tmp_path: Path) -> None:
        """`| head` ends the command without a word on stderr, with the code of SIGPIPE."""
        done = dujiang("dujiang --help | true; echo ${PIPESTATUS[0]}", tmp_path)
        # The pipe may still take the text before its reader is gone; both are right, a message is not.
        closed = dujiang("dujiang --help > /dev/full", tmp_path)

        assert done.stdout.strip() in (b"0", b"141")
        assert done.stderr == b""
        assert closed.returncode == 69
        assert b"No space left" in closed.stderr
        assert b"Traceback" not in closed.stderr

    def test_41_closed_streams_do_no_harm(self, tmp_path: Path) -> None:
        """Without stdin, stdout or stderr the command still ends with its code."""
        assert dujiang("dujiang --version <&-", tmp_path).returncode == 0
        assert dujiang("dujiang --version >&-", tmp_path).returncode == 0
        assert dujiang("dujiang audit nocolon 2>&-", tmp_path).returncode == 64

    @pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
    def test_43_chinese_text_needs_no_locale(self, tmp_path: Path, locale: str) -> None:
        """A name in Chinese is shown, or escaped, under every locale; never an encoding error."""
        done = dujiang("dujiang audit 都江堰", tmp_path, environ={"LC_ALL": locale, "PYTHONUTF8": "0"})

        assert done.returncode == 64
        assert b"[app_name]" in done.stderr
        assert b"Traceback" not in done.stderr

    @pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}])
    def test_42_no_colour_where_none_belongs(self, tmp_path: Path, environ: dict[str, str]) -> None:
        """A pipe, NO_COLOR and a dumb terminal get plain text (the terminal is a real one, made by `script`)."""
        shell = "dujiang audit nocolon" if not environ else "script -qec 'dujiang audit nocolon' /dev/null"
        done = dujiang(shell, tmp_path, environ=environ)

        assert b"error: " in done.stdout + done.stderr
        assert b"\x1b" not in done.stdout + done.stderr

    def test_42_a_terminal_gets_colour(self, tmp_path: Path) -> None:
        """On a terminal that can, the word `error` is red."""
        done = dujiang("script -qec 'dujiang audit nocolon' /dev/null", tmp_path, environ={"TERM": "xterm"})

        assert b"\x1b[1;31merror:" in done.stdout

    def test_8_a_taken_port_names_its_owner_and_starts_nothing(self, tmp_path: Path) -> None:
        """A second server on a port is refused before it touches the store; the owner's pid is in the message."""
        holder = (
            "import socket,os,sys\ns=socket.socket();s.bind(('127.0.0.1',0));s.listen()\n"
            "print(s.getsockname()[1],os.getpid(),flush=True);sys.stdin.read()"
        )
        with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            port, pid = other.stdout.readline().decode().split()
            done = dujiang(f"dujiang up --port {port}", tmp_path)
            other.communicate()

        assert done.returncode == 69
        assert f"port {port} on 127.0.0.1 is taken by process {pid}".encode() in done.stderr
        assert list(tmp_path.iterdir()) == []
