"""The file: who owns it, how it is opened, its log, and what survives `kill -9`."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from dujiang.backends.sqlite import file, store
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.backends.sqlite.file import open_reader, open_writer, path_of
from dujiang.backends.sqlite.store import OPEN
from dujiang.data.database import DatabaseRefused, DatabaseUnreachable, StoreInUse
from dujiang.data.sql import Sql
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import all_of

TABLE = Sql("make_item", "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, n BLOB)", "Makes the table.")
ADD = Sql("add_item", "INSERT INTO item (id, n) VALUES ($1, $2)", "Adds an item.")
COUNT = Sql("count_items", "SELECT count(*) FROM item", "Counts the items.")
IDS = Sql("ids", "SELECT id FROM item", "Lists the ids.")

CHILD = """
import asyncio, sys
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.data.sql import Sql
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import all_of

ADD = Sql("add_item", "INSERT INTO item (id, n) VALUES ($1, $2)", "Adds an item.")

async def client(database, number, first):
    id_ = first + number
    while True:
        await database.statement(ADD, id_, b"x" * 200)
        print(id_, flush=True)
        id_ += 16

async def main():
    database = SqliteDatabase(sys.argv[1], Node.system("child"))
    await database.start()
    print("ready", flush=True)
    await all_of(*(client(database, number, int(sys.argv[2])) for number in range(16)))

asyncio.run(main())
"""


def database_at(path: Path) -> SqliteDatabase:
    """An adapter, not started."""
    return SqliteDatabase(f"sqlite:///{path}", Node.system("test"))


def child(path: Path, first: int) -> subprocess.Popen[str]:
    """A process that writes rows for ever and prints the id of each acknowledged one."""
    command = [sys.executable, "-c", CHILD, f"sqlite:///{path}", str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def stat_of(path: str) -> os.stat_result | None:
    """What the system knows of a file; None when there is none."""
    return Path(path).stat() if Path(path).exists() else None


async def ids(database: SqliteDatabase) -> set[int]:
    """All ids in the table."""
    return {row[0] for row in await database.statement(IDS)}


class TestFolders:
    async def test_the_name_of_a_new_folder_is_made_durable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store in a folder that was just made does not vanish with it: every folder above is synced, once."""
        seen: list[str | Path] = []
        as_shipped = file.synced

        def synced(path: str | Path) -> None:
            seen.append(path)
            as_shipped(path)

        monkeypatch.setattr(store, "synced", synced)
        for _ in range(2):
            database = database_at(tmp_path / "new" / "deep" / "app.db")
            await database.start()
            await database.stop()

        assert seen == [tmp_path / "new", tmp_path, *tmp_path.parents]


class TestOwnership:
    async def test_a_second_process_is_refused_with_the_owners_pid(self, tmp_path: Path) -> None:
        """The error names the process that has the file."""
        path = tmp_path / "app.db"
        database = database_at(path)
        await database.start()
        await database.statement(TABLE)
        await database.stop()

        with child(path, 0) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with pytest.raises(StoreInUse) as refusal:
                await database.start()
            process.kill()

        assert refusal.value.pid == process.pid
        assert refusal.value.path == str(path)

    async def test_two_adapters_of_one_process_share_one_writer(self, tmp_path: Path) -> None:
        """Runtimes that name one file by different paths meet on one writer; the last to stop closes it."""
        (tmp_path / "link").symlink_to(tmp_path)
        one, two = database_at(tmp_path / "app.db"), database_at(tmp_path / "link" / "app.db")
        await one.start()
        await two.start()
        await one.statement(TABLE)

        await all_of(*(database.statement(ADD, n, b"") for n, database in enumerate([one, two] * 20)))
        shared = OPEN[one.path] is OPEN[two.path]
        await one.stop()
        with pytest.raises(DatabaseUnreachable):
            await one.statement(COUNT)
        rows = await two.statement(COUNT)
        await two.stop()

        assert shared
        assert rows == [(40,)]
        assert OPEN == {}

    async def test_a_start_during_the_last_stop_opens_anew(self, tmp_path: Path) -> None:
        """Stopping and starting at once neither shares a closing writer nor fails on the lock."""
        one, two = database_at(tmp_path / "app.db"), database_at(tmp_path / "app.db")
        await one.start()

        await all_of(one.stop(), two.start())
        await two.statement(TABLE)
        await two.stop()

        assert OPEN == {}

    def test_a_store_that_its_loop_left_open_is_taken_over(self, tmp_path: Path) -> None:
        """A loop that ended without a stop does not lock the file for the rest of the process."""
        path = tmp_path / "app.db"

        async def leave() -> None:
            database = database_at(path)
            await database.start()
            await database.statement(TABLE)

        async def come() -> list[object]:
            database = database_at(path)
            await database.start()
            rows = await database.statement(COUNT)
            await database.stop()
            return list(rows)

        asyncio.run(leave())

        assert asyncio.run(come()) == [(0,)]


class TestOpening:
    def test_relative_and_absolute_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three slashes name a relative path, four an absolute one; escapes are read; no file is refused."""
        monkeypatch.chdir(tmp_path)

        assert path_of("sqlite:///var/app.db") == str(tmp_path / "var/app.db")
        assert path_of("sqlite:////srv/a%20b.db") == "/srv/a b.db"
        for url in ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/app.db"):
            with pytest.raises(DatabaseRefused):
                path_of(url)

    async def test_what_is_no_store_is_refused_and_nothing_stays_locked(self, tmp_path: Path) -> None:
        """A file of another kind and a folder are refused with the reason; the file is not touched."""
        (tmp_path / "text.db").write_text("certainly not a database, but long enough to have a header" * 10)
        (tmp_path / "folder.db").mkdir()

        for name in ("text.db", "folder.db"):
            with pytest.raises(DatabaseRefused):
                await database_at(tmp_path / name).start()

        assert (tmp_path / "text.db").read_text().startswith("certainly")
        assert OPEN == {}

    async def test_an_old_sqlite_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A version that can lose committed writes does not open a store."""
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.40.1")

        with pytest.raises(DatabaseRefused, match=r"3\.40\.1"):
            await database_at(tmp_path / "app.db").start()

    def test_every_connection_has_its_settings(self, tmp_path: Path) -> None:
        """The settings are read back from SQLite, not from us."""
        path = str(tmp_path / "app.db")
        driver, reader = open_writer(path, "url"), open_reader(path, "url")

        found = {
            name: driver.pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
        }
        assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "trusted_schema": 0}
        assert driver.pragma("temp_store") == 2
        assert driver.pragma("busy_timeout") == 0
        assert (reader.pragma("query_only"), reader.readonly("main")) == (1, True)
        with pytest.raises(apsw.SQLError):
            driver.execute('SELECT "no such name"')
        reader.close()
        driver.close()

    async def test_the_lock_file_is_private(self, tmp_path: Path) -> None:
        """Only the owner's user can read who owns the store."""
        database = database_at(tmp_path / "made" / "app.db")
        await database.start()
        found = stat_of(f"{database.path}.lock")
        await database.stop()

        assert found is not None
        assert stat.S_IMODE(found.st_mode) == 0o600


class TestLog:
    async def test_the_log_is_copied_when_it_has_grown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many writes leave a log of bounded size, and none after a stop."""
        monkeypatch.setattr(file, "LOG_COPIED_AT_BYTES", 200_000)
        database = database_at(tmp_path / "app.db")
        await database.start()
        await database.statement(TABLE)

        for n in range(200):
            await database.statement(ADD, n, b"x" * 10_000)
        stats = database.stats()
        found = stat_of(f"{database.path}-wal")
        await database.stop()

        assert stats["log_copies"] >= 5
        assert stats["wal_bytes"] < 300_000
        assert found is not None
        assert found.st_size < 400_000
        assert stat_of(f"{database.path}-wal") is None

    async def test_durability_is_read_back_and_put_in_words(self, tmp_path: Path) -> None:
        """The answer names the settings as SQLite tells them, and changes its words when they are weaker."""
        database = database_at(tmp_path / "app.db")
        await database.start()

        strong = await database.durability()
        OPEN[database.path].writer.driver.pragma("synchronous", "normal")
        weak = await database.durability()
        await database.health()
        await database.stop()

        assert (strong["journal_mode"], strong["synchronous"]) == ("wal", "FULL")
        assert "survives" in strong["means"]
        assert "may be lost" in weak["means"]


class TestKill:
    async def test_kill_minus_nine_loses_nothing_that_was_acknowledged(self, tmp_path: Path) -> None:
        """A process that writes on 16 lines is killed in mid-flight, five times; every id that it printed is there.

        The pipe holds what the process printed before it died, so the parent knows every acknowledgement.
        """
        path = tmp_path / "app.db"
        database = database_at(path)
        await database.start()
        await database.statement(TABLE)
        await database.stop()
        acknowledged: set[int] = set()

        for turn in range(5):
            with child(path, turn * 1_000_000) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                for _ in range(100 + 53 * turn):
                    acknowledged.add(int(process.stdout.readline()))
                process.send_signal(signal.SIGKILL)
                rest, _ = process.communicate()
                acknowledged.update(int(text) for text in rest.splitlines(keepends=True) if text.endswith("\n"))
            await database.start()
            assert acknowledged <= await ids(database)
            await database.stop()

        assert len(acknowledged) > 1000
