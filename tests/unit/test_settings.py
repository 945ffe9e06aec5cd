"""Settings: every broken one is refused with its place and its cure, all at once; nothing secret is shown.

The numbers in the ids are those of the list of broken configurations (config corpus).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.kernel.errors import DujiangError
from dujiang.settings import SETTINGS, Settings, SettingsRefused, masked, resolve
from dujiang.settings.kinds import Flag
from dujiang.settings.resolved import declared_fields

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cr3t"


def refusal(
    folder: Path, *, toml: str | bytes | None = None, environ: dict[str, str] | None = None, **flags: Any
) -> list[str]:
    """The problems of a start, as text."""
    if toml is not None:
        (folder / "dujiang.toml").write_bytes(toml.encode() if isinstance(toml, str) else toml)
    with pytest.raises(SettingsRefused) as caught:
        resolve(flags, environ or {}, folder)
    return [str(problem) for problem in caught.value.problems]


FILES = [
    pytest.param(b"", "dujiang.toml:1: the file is empty", id="4-empty"),
    pytest.param(b" \n\n", "dujiang.toml:1: the file is empty", id="4-blank"),
    pytest.param(b"port = 1\nhost = \n", "dujiang.toml:2: is not valid TOML", id="5-no-value"),
    pytest.param(b'port = 1\nlog_level = "info\n', "dujiang.toml:2: is not valid TOML", id="5-open-quote"),
    pytest.param(b"[", "dujiang.toml:1: is not valid TOML", id="5-open-bracket"),
    pytest.param(b"port = 1\nport = 2\n", "dujiang.toml:2: is not valid TOML: a key or table stands twice", id="6-key"),
    pytest.param(b"[a]\n[a]\n", "dujiang.toml:2: is not valid TOML: a key or table stands twice", id="6-table"),
    pytest.param(b"port = \x00\n", "dujiang.toml:1: is not valid TOML", id="6-nul"),
    pytest.param(b"\xef\xbb\xbfport = 1\n", "dujiang.toml:1: begins with a byte order mark", id="7-bom"),
    pytest.param("port = 1\n".encode("utf-16"), "dujiang.toml:1: begins with UTF-16", id="7-utf16"),
    pytest.param(b"port = 1\n# \xff\n", "dujiang.toml:2: is not UTF-8", id="7-latin1"),
    pytest.param(b"x = 1\n" + b"#" * (1 << 20), "dujiang.toml: is larger than 1 MiB", id="4-huge"),
    pytest.param(
        b'\ndatabse = "x"\n', "dujiang.toml:2: unknown setting 'databse'; did you mean 'database'?", id="8-key"
    ),
    pytest.param(
        b'databse.url = "x"\n', "dujiang.toml:1: unknown section 'databse'; did you mean 'database'?", id="8-dotted"
    ),
    pytest.param(
        b'database.url = "x"\n',
        "dujiang.toml:1: 'database' is a setting, not a section; write database =",
        id="8-table",
    ),
    pytest.param(b"\n\n[servers]\nx = 1\n", "dujiang.toml:3: unknown section 'servers'", id="9-section"),
    pytest.param(b'port = "8000"\n', "dujiang.toml:1: port: '8000' is not a whole number", id="10-text"),
    pytest.param(b"port = true\n", "dujiang.toml:1: port: True is not a whole number", id="10-boolean"),
    pytest.param(b"port = 8000.0\n", "dujiang.toml:1: port: 8000.0 is not a whole number", id="10-float"),
    pytest.param(b"database = 5\n", "dujiang.toml:1: database: 5 is not a URL", id="10-url"),
    pytest.param(b'allowed_hosts = "a"\n', "dujiang.toml:1: allowed_hosts: 'a' is not a list", id="10-list"),
    pytest.param(b"allowed_hosts = [1]\n", "dujiang.toml:1: allowed_hosts: 1 is not a host name", id="10-member"),
    pytest.param(b"log_level = 1979-05-27\n", "log_level: datetime.date(1979, 5, 27) is not one of", id="10-date"),
    pytest.param(b"access_log = 1\n", "access_log: 1 is not a boolean; write true or false", id="14-one"),
    pytest.param(b'access_log = "yes"\n', "access_log: 'yes' is not a boolean", id="14-yes"),
    pytest.param(b"grace = 10\n", "dujiang.toml:1: grace: 10 is not a duration in quotes with its unit", id="15-bare"),
    pytest.param(b'grace = "10"\n', "dujiang.toml:1: grace: '10' is not a duration", id="15-text"),
    pytest.param(b"body_limit = 1048576\n", "body_limit: 1048576 is not a size in quotes with its unit", id="17-bare"),
    pytest.param(b'body_limit = "1Mib"\n', "body_limit: '1Mib' is not a size; write a number and one of", id="17-unit"),
]


class TestFile:
    @pytest.mark.parametrize(("raw", "expected"), FILES)
    def test_a_broken_file_is_refused_with_its_line(self, tmp_path: Path, raw: bytes, expected: str) -> None:
        """Each mistake in dujiang.toml names the file, the line and the cure."""
        problems = refusal(tmp_path, toml=raw)

        assert len(problems) == 1
        assert expected in problems[0]

    def test_1_a_missing_file_is_right_unless_it_was_named(self, tmp_path: Path) -> None:
        """Without dujiang.toml the defaults hold; a file asked for by name must exist."""
        assert resolve({}, {}, tmp_path).port == 8000
        with pytest.raises(SettingsRefused, match=re.escape(f"there is no file {tmp_path / 'other.toml'}")):
            resolve({}, {}, tmp_path, file=tmp_path / "other.toml")

    def test_2_a_folder_in_place_of_the_file_is_refused(self, tmp_path: Path) -> None:
        """A folder named dujiang.toml is a mistake, not an absent file."""
        (tmp_path / "dujiang.toml").mkdir()

        assert refusal(tmp_path) == ["dujiang.toml: is a folder; a file is needed"]

    def test_3_an_unreadable_file_is_refused(self, tmp_path: Path) -> None:
        """A file that cannot be read stops the start (a link to itself: that holds for root too)."""
        (tmp_path / "dujiang.toml").symlink_to("dujiang.toml")

        (problem,) = refusal(tmp_path)

        assert problem.startswith("dujiang.toml: ")
        assert "cannot be read" in problem

    def test_3_a_pipe_does_not_hang_the_start(self, tmp_path: Path) -> None:
        """A named pipe in place of the file is refused without being opened."""
        os.mkfifo(tmp_path / "dujiang.toml")

        assert refusal(tmp_path) == ["dujiang.toml: is no ordinary file"]

    def test_6_a_line_inside_a_text_is_not_taken_for_the_key(self, tmp_path: Path) -> None:
        """The line of a problem is that of the key, though a longer text before it looks like the key."""
        problems = refusal(tmp_path, toml='log_level = """\nport = 0\n"""\n\nport = 0\n')

        assert [problem.partition(": ")[0] for problem in problems] == ["dujiang.toml:5", "dujiang.toml:1"]


ENVIRONMENTS = [
    pytest.param({"DUJIANG_PORT": "http"}, "DUJIANG_PORT: port: 'http' is not a whole number", id="11-18-word"),
    pytest.param({"DUJIANG_PORT": "8e3"}, "DUJIANG_PORT: port: '8e3' is not a whole number", id="11-exponent"),
    pytest.param({"DUJIANG_PORT": "9" * 40}, "is not a whole number", id="11-huge"),
    pytest.param({"DUJIANG_PORT": ""}, "DUJIANG_PORT: is empty", id="12-empty"),
    pytest.param({"DUJIANG_DATABSE": "x"}, "unknown variable; did you mean 'DUJIANG_DATABASE'?", id="13-near"),
    pytest.param({"DUJIANG_ZZZZZZ": "x"}, "DUJIANG_ZZZZZZ: unknown variable; known are: ", id="13-far"),
    pytest.param({"DUJIANG_ENV": "prd"}, "DUJIANG_ENV: unknown variable", id="13-env"),
    *(
        pytest.param({"DUJIANG_ACCESS_LOG": word}, f"{word!r} is not a boolean; write true or false", id=f"14-{word}")
        for word in ("yes", "1", "TRUE", "True", "on")
    ),
    pytest.param({"DUJIANG_GRACE": "10"}, "'10' is not a duration", id="15-no-unit"),
    pytest.param({"DUJIANG_GRACE": "-5s"}, "'-5s' is not a duration", id="16-negative"),
    pytest.param({"DUJIANG_GRACE": "0s"}, "'0s' is not a duration from 100ms to 10m", id="16-zero"),
    pytest.param({"DUJIANG_GRACE": "9" * 400 + "s"}, "is not a duration from", id="16-infinite"),
    pytest.param({"DUJIANG_BODY_LIMIT": "2GB"}, "'2GB' is not a size from 1KiB to 1GiB", id="17-above"),
    pytest.param({"DUJIANG_PORT": "0"}, "0 is not a whole number from 1 to 65,535", id="18-zero"),
    pytest.param({"DUJIANG_PORT": "70000"}, "70000 is not a whole number from 1 to 65,535", id="18-above"),
    pytest.param({"DUJIANG_POOL_SIZE": "0"}, "pool_size: 0 is not", id="34-zero"),
    pytest.param({"DUJIANG_WORKERS": "-1"}, "workers: -1 is not", id="34-negative"),
    pytest.param({"DUJIANG_HOST": "http://localhost"}, "is not a host name or an IP address", id="10-host"),
    pytest.param({"DUJIANG_INSTANCE": "a b"}, "instance: 'a b' is not", id="10-instance"),
    pytest.param({"DUJIANG_LOG_LEVEL": "INFO"}, "log_level: 'INFO' is not one of debug, info", id="10-level"),
    pytest.param({"DUJIANG_DATA": "a\x00b"}, "is not a folder that exists or can be made", id="10-nul"),
]


class TestEnvironment:
    @pytest.mark.parametrize(("environ", "expected"), ENVIRONMENTS)
    def test_a_broken_variable_is_refused_by_name(self, tmp_path: Path, environ: dict[str, str], expected: str) -> None:
        """Each mistake in a DUJIANG_* variable names the variable and what is accepted."""
        problems = refusal(tmp_path, environ=environ)

        assert len(problems) == 1
        assert problems[0].startswith(next(iter(environ)))
        assert expected in problems[0]

    def test_13_operational_and_foreign_variables_are_left_alone(self, tmp_path: Path) -> None:
        """Variables that steer tests, and those of other programs, are no settings and no mistakes."""
        environ = {"DUJIANG_CRASH_AT": "relay:1", "DUJIANG_REQUIRE_SERVICES": "", "PORT": "x", "DUJIANGX": ""}

        assert resolve({}, environ, tmp_path) == resolve({}, {}, tmp_path)

    def test_17_decimal_and_binary_sizes_differ(self, tmp_path: Path) -> None:
        """1MB is a million bytes and 1MiB is 1,048,576."""
        sizes = [resolve({}, {"DUJIANG_BODY_LIMIT": text}, tmp_path).body_limit_bytes for text in ("1MB", "1MiB")]

        assert sizes == [1_000_000, 1_048_576]


URLS = [
    pytest.param("localhost/shop", "has no scheme", id="19-none"),
    pytest.param("localhost:5432/shop", "has no scheme", id="19-port"),
    pytest.param(f"app:{SECRET}@localhost/shop", "has no scheme", id="19-user"),
    pytest.param("var/app.db", "has no scheme", id="19-path"),
    pytest.param("postgres://app@localhost/shop", "'postgres'; did you mean 'postgresql'?", id="20-typo"),
    pytest.param("postgresql+asyncpg://a@b/c", "did you mean 'postgresql'?", id="20-driver"),
    pytest.param("mongodb://a/b", "known are sqlite:, postgresql:", id="20-unknown"),
    pytest.param(f"postgresql://app:{SECRET}@x@localhost/shop", "more than one @ before its host", id="21-at"),
    pytest.param(f"postgresql://app:{SECRET}/x@localhost/shop", "no number as its port", id="21-slash"),
    pytest.param("postgresql://app@a:5432,b:x/shop", "no number as its port", id="21-second-host"),
    pytest.param("postgresql://app@a:5432,b:99999/shop", "a port outside 1 to 65535", id="21-second-port"),
    pytest.param(f"postgresql://app:{SECRET}?x@localhost/shop", "no number as its port", id="21-question"),
    pytest.param(f"postgresql://app:{SECRET}#x@localhost/shop", "no number as its port", id="21-hash"),
    pytest.param(f"postgresql://app:{SECRET}:x@localhost/shop", "more than one : in its user part", id="21-colon"),
    pytest.param(f"postgresql://app:{SECRET}%zz@localhost/shop", "a % that begins no escape", id="21-percent"),
    pytest.param(f"postgresql://app:{SECRET} x@localhost/shop", "holds a space", id="21-space"),
    pytest.param("postgresql://localhost:70000/shop", "a port outside 1 to 65535", id="18-url"),
    pytest.param("postgresql://localhost", "names no database", id="19-database"),
    pytest.param("postgresql:///shop", "names no host", id="19-host"),
    pytest.param("postgresql://", "names no host", id="19-bare"),
    pytest.param("postgresql://h/d?pool_sise=1", "no option 'pool_sise'; did you mean 'pool_size'?", id="8-option"),
    pytest.param("postgresql://h/d?pool_size=1&pool_size=2", "the option 'pool_size' stands twice", id="6-option"),
    pytest.param("sqlite://var/app.db", "three slashes before a path", id="22-two-slashes"),
    pytest.param("sqlite:var/app.db", "sqlite:///var/app.db", id="22-no-slash"),
    pytest.param("sqlite://", "three slashes before a path", id="22-bare"),
    pytest.param("sqlite:///", "names no file", id="22-no-path"),
    pytest.param("sqlite:///:memory:", "the embedded store is a file", id="22-memory"),
    pytest.param("sqlite:////dev/null/var/app.db", "cannot be made: /dev/null is not a folder", id="22-missing"),
    pytest.param("sqlite:////tmp", "names a folder", id="22-folder"),
    pytest.param("sqlite:///app.db?mode=ro", "knows no option 'mode'; known are: none", id="8-sqlite-option"),
]


class TestUrl:
    @pytest.mark.parametrize(("url", "expected"), URLS)
    def test_a_broken_url_is_refused_without_its_password(self, tmp_path: Path, url: str, expected: str) -> None:
        """Each mistake in a URL names the cure and never shows what may be a password."""
        problems = refusal(tmp_path, environ={"DUJIANG_DATABASE": url})

        assert len(problems) == 1
        assert expected in problems[0]
        assert SECRET not in problems[0]

    def test_47_a_missing_driver_names_its_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A URL whose driver is not installed says what to install."""
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

        (problem,) = refusal(tmp_path, database="postgresql://h/d")

        assert "pip install 'dujiang[postgres]'" in problem

    def test_several_hosts_are_one_database(self, tmp_path: Path) -> None:
        """PostgreSQL may be named by several hosts, shown as they are; a broker takes one."""
        url = "postgresql://a:5432,[::1]:5433/shop?target_session_attrs=read-write"

        assert resolve({"database": url}, {}, tmp_path).database == url
        assert masked(url) == url
        with pytest.raises(SettingsRefused, match="names several hosts, and 'amqp' takes one"):
            resolve({"broker": "amqp://a:5672,b:5672/x"}, {}, tmp_path)

    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql://app:{SECRET}@db:5432/shop",
            f"postgresql://app:{SECRET}@a:5432,b:5432/shop",
            f"postgresql://app:{SECRET}@[::1]:5432/shop?sslmode=require",
            f"postgresql://db/shop?user=app&password={SECRET}",
            f"postgresql://db/shop?replicas=postgresql://app:{SECRET}@r/shop",
            f"postgresql://app:{SECRET}",
            f"postgresql://app:12?{SECRET}@db/shop",
            f"app:{SECRET}@db",
        ],
    )
    def test_a_secret_is_masked_wherever_it_stands(self, url: str) -> None:
        """Passwords of users, of options and of URLs in options are shown as ***."""
        assert SECRET not in masked(url)
        assert "***" in masked(url)

    def test_what_holds_no_secret_is_shown_whole(self) -> None:
        """Masking leaves ports, addresses and options alone."""
        for url in (
            "postgresql://db:5432/shop?sslmode=require",
            "sqlite:////var/a.db",
            "database:",
            "postgresql://[::1]/a",
        ):
            assert masked(url) == url

    def test_a_relative_path_starts_at_the_folder_of_the_settings(self, tmp_path: Path) -> None:
        """The store lies beside dujiang.toml, with spaces and Chinese in its path, wherever the process stands."""
        folder = tmp_path / "a b 都江 50% #1?"
        folder.mkdir()

        settings = resolve({"database": "sqlite:///x/app.db"}, {}, folder)

        assert settings.database == f"sqlite:///{tmp_path}/a b 都江 50%25 %231%3F/x/app.db"

    def test_the_database_follows_the_data_folder(self, tmp_path: Path) -> None:
        """Without a database the store is app.db in the data folder."""
        settings = resolve({"data": "d"}, {}, tmp_path)

        assert settings.data == tmp_path / "d"
        assert settings.database == f"sqlite:///{tmp_path}/d/app.db"
        assert Settings(data=tmp_path / "d").database == settings.database


class TestResolve:
    def test_all_problems_of_all_sources_come_at_once(self, tmp_path: Path) -> None:
        """One start shows every mistake, each with its place."""
        problems = refusal(
            tmp_path,
            toml='prot = 1\ngrace = "x"\nworkers = 0\n',
            environ={"DUJIANG_DATABSE": "x", "DUJIANG_DATABASE": "postgres://a/b"},
            port="70000",
        )

        places = sorted(problem.partition(": ")[0] for problem in problems)
        assert places == [
            "--port", "DUJIANG_DATABASE", "DUJIANG_DATABSE", "dujiang.toml:1", "dujiang.toml:2", "dujiang.toml:3",
        ]  # fmt: skip

    def test_a_later_source_wins_and_is_named(self, tmp_path: Path) -> None:
        """Defaults < dujiang.toml < DUJIANG_* < flags, and the table says which one it was."""
        (tmp_path / "dujiang.toml").write_text('port = 1001\ngrace = "1s"\npool_size = 3\n')

        settings = resolve({"port": 1003, "host": None}, {"DUJIANG_PORT": "1002", "DUJIANG_GRACE": "2s"}, tmp_path)

        assert (settings.port, settings.grace_s, settings.pool_size) == (1003, 2.0, 3)
        sources = {row.name: row.source for row in settings.table()}
        assert [sources[name] for name in ("port", "grace", "pool_size", "host")] == [
            "--port", "DUJIANG_GRACE", "dujiang.toml:3", "default",
        ]  # fmt: skip

    def test_the_error_is_for_the_user_to_fix(self, tmp_path: Path) -> None:
        """SettingsRefused lists a line for each problem and says where to look."""
        with pytest.raises(SettingsRefused) as caught:
            resolve({"port": "0", "prot": "1"}, {}, tmp_path)

        error = caught.value
        assert isinstance(error, DujiangError)
        assert (error.code, error.move) == ("settings_refused", "fix")
        assert error.detail.splitlines()[0] == "2 settings are refused:"
        assert "doctor" in error.hint

    def test_secrets_are_in_no_text_of_the_settings(self, tmp_path: Path) -> None:
        """Neither repr nor str nor the table shows a password; the attribute holds it."""
        settings = resolve({"database": f"postgresql://app:{SECRET}@db/shop"}, {}, tmp_path)

        assert SECRET in settings.database
        assert SECRET not in f"{settings!r} {settings} {settings.table()}"

    def test_settings_cannot_be_changed(self, tmp_path: Path) -> None:
        """A running program keeps the settings it started with."""
        with pytest.raises(AttributeError):
            resolve({}, {}, tmp_path).port = 1  # type: ignore[misc]


class TestDeclaration:
    def test_every_setting_has_its_field_and_equal_default(self, tmp_path: Path) -> None:
        """The declared list and the fields of Settings say the same: names, order, defaults."""
        pairs = declared_fields()
        by_hand, resolved = Settings(data=tmp_path / "var"), resolve({}, {}, tmp_path)

        assert [row.name for _, row in pairs] == [row.name for row in SETTINGS]
        assert {name: getattr(by_hand, name) for name, _ in pairs} == {
            name: getattr(resolved, name) for name, _ in pairs
        }

    def test_every_setting_can_be_written_as_it_is_shown(self, tmp_path: Path) -> None:
        """What the table shows is what a user may write into a variable."""
        shown = {row.name: row.value for row in resolve({}, {}, tmp_path).table() if row.value}

        again = resolve({}, {f"DUJIANG_{name.upper()}": value for name, value in shown.items()}, tmp_path)

        assert again == resolve({}, {}, tmp_path)

    def test_every_setting_says_what_it_means_and_what_follows(self) -> None:
        """Meaning and consequence are sentences, for the generated reference."""
        for row in SETTINGS:
            assert row.means.endswith("."), row.name
            assert row.follows.endswith("."), row.name
            assert row.kind.says, row.name

    def test_14_a_boolean_is_written_in_one_way(self, tmp_path: Path) -> None:
        """Of all the words for truth, `true` and `false` alone are read."""
        kind = Flag()

        assert [kind.read(kind.from_text(word), folder=tmp_path) for word in ("true", "false")] == [True, False]
