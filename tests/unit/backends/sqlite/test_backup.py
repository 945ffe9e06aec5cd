"""Backups of the embedded store: whole, of one moment, refused when damaged; a restore changes all or nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from dujiang.app.restore import restore
from dujiang.backends.postgres.backup import PostgresKeeper
from dujiang.backends.sqlite import backup
from dujiang.backends.sqlite.backup import SqliteKeeper, looked_into
from dujiang.backends.sqlite.database import SqliteDatabase
from dujiang.backends.sqlite.file import FileLock
from dujiang.data.backup import (
    BackupAhead,
    BackupCancelled,
    BackupDamaged,
    BackupElsewhere,
    BackupRunning,
    Backups,
    BackupTaken,
    BackupTarget,
    NoBackup,
    Progress,
    StoreNotEmpty,
)
from dujiang.data.database import DatabaseUnreachable, DiskFull, StoreInUse
from dujiang.data.sql import Sql
from dujiang.kernel.node import Node
from dujiang.systems.shop import app
from dujiang.testing.harness import running

ADD = Sql("add_item", "INSERT INTO item (id, n) VALUES ($1, $2)", "Adds an item.")
COUNT = Sql("count_items", "SELECT count(*) FROM item", "Counts the items.")
MADE = "2026-01-01T00:00:00Z"


def keeper_of(database: SqliteDatabase) -> SqliteKeeper:
    """The keeper of an open store."""
    return SqliteKeeper(database.url)


async def backed_up(database: SqliteDatabase, target: Path) -> Path:
    """A backup."""
    keeper_of(database).copy(target, Progress(), "0.1.0", MADE)
    return target


def put(source: Path, url: str, *, force: bool = False) -> Awaitable[Any]:
    """Restore without judging any module."""
    return restore(source, url, app=None, force=force, progress=Progress())


def change_manifest(source: Path, **values: Any) -> None:
    """Write other values into a manifest."""
    place = source / "manifest.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | values))


class TestCopy:
    async def test_it_is_one_moment_although_commits_go_on(
        self, database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows committed between two slices are not in the backup, and do not make it begin again.

        Method: slices of one page; after the first look at the progress a row is committed for each further one.
        """
        for number in range(40):
            await database.statement(ADD, number, b"x" * 3000)
        writer = database._open().writer.driver
        added = iter(range(1000, 2000))

        class Slices(Progress):
            @property
            def cancelled(self) -> bool:
                writer.execute("INSERT INTO item (id, n) VALUES (?, 0)", (next(added),))
                return False

            @cancelled.setter
            def cancelled(self, value: bool) -> None:
                pass

        monkeypatch.setattr(backup, "PAGES", 1)
        manifest = keeper_of(database).copy(tmp_path / "b", Slices(), "0.1.0", MADE)

        assert manifest.rows == {"item": 40}
        assert looked_into(tmp_path / "b" / "store.db") == ({}, {"item": 40})
        assert next(added) > 1030
        assert (await database.statement(COUNT))[0][0] > 70

    async def test_the_log_is_free_again_afterwards(self, database: SqliteDatabase, tmp_path: Path) -> None:
        """The snapshot ends with the copy: the log can be copied whole."""
        await database.statement(ADD, 1, 1)
        await backed_up(database, tmp_path / "b")
        await database.statement(ADD, 2, 2)

        frames, copied = database._open().writer.driver.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

        assert (frames, copied) == (0, 0)

    async def test_nothing_is_overwritten(self, database: SqliteDatabase, tmp_path: Path) -> None:
        """A target that exists is refused, and so is one that somebody is making."""
        await backed_up(database, tmp_path / "b")
        before = (tmp_path / "b" / "manifest.json").read_bytes()

        with pytest.raises(BackupTaken, match="exists already"):
            await backed_up(database, tmp_path / "b")
        (tmp_path / ".c.part").mkdir()
        lock = FileLock(tmp_path / ".c.part" / "store.db")
        with pytest.raises(BackupTaken, match=f"process {os.getpid()}"):
            await backed_up(database, tmp_path / "c")
        lock.release()

        assert (tmp_path / "b" / "manifest.json").read_bytes() == before

    async def test_what_a_dead_one_left_is_removed(self, database: SqliteDatabase, tmp_path: Path) -> None:
        """Half a backup of a killed process is no obstacle, and no part of the next one."""
        part = tmp_path / ".b.part"
        part.mkdir()
        (part / "store.db").write_bytes(b"half")
        (part / "store.db-wal").write_bytes(b"of it")

        await backed_up(database, tmp_path / "b")

        assert names(tmp_path / "b") == ["manifest.json", "store.db"]
        assert not part.exists()

    async def test_a_full_disk_leaves_nothing(
        self, database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No room: the error names the target, no folder stays, and the store works on."""

        def full(path: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(backup, "synced", full)
        with pytest.raises(DiskFull, match="b is full"):
            await backed_up(database, tmp_path / "b")

        assert not [name for name in names(tmp_path) if not name.startswith("app.db")]
        await database.statement(ADD, 1, 1)

    async def test_a_damaged_store_makes_no_backup(self, database: SqliteDatabase, tmp_path: Path) -> None:
        """A copy that fails SQLite's own check is no backup."""
        for number in range(2000):
            await database.statement(ADD, number, number)
        await database.stop()
        scribble(Path(database.path))
        await database.start()

        with pytest.raises(BackupDamaged):
            await backed_up(database, tmp_path / "b")

        assert not (tmp_path / "b").exists()


class TestBackups:
    async def test_one_at_a_time_with_its_standing(self, database: SqliteDatabase, tmp_path: Path) -> None:
        """A second one is refused while one runs; the standing tells how it ended."""
        node = Node.system("test")
        backups = Backups(node, lambda: keeper_of(database), "0.1.0")

        backups.begin(str(tmp_path / "one"))
        with pytest.raises(BackupRunning):
            backups.begin(str(tmp_path / "two"))
        manifest = await backups.finished()

        assert backups.standing.to_json()["state"] == "done"
        assert manifest.bytes == (tmp_path / "one" / "store.db").stat().st_size
        backups.begin(str(tmp_path / "two"))
        await backups.stop()
        assert backups.standing.state in {"done", "failed"}
        await node.tasks.close()

    async def test_a_cancelled_one_leaves_nothing(self, database: SqliteDatabase, tmp_path: Path) -> None:
        """Cancelled before its first slice, it ends with an error and without a folder."""
        node = Node.system("test")
        backups = Backups(node, lambda: keeper_of(database), "0.1.0")

        backups.begin(str(tmp_path / "b"))
        backups.cancel()
        with pytest.raises(BackupCancelled):
            await backups.finished()

        assert not (tmp_path / "b").exists()
        assert not (tmp_path / ".b.part").exists()
        await node.tasks.close()

    @pytest.mark.parametrize("target", ["relative", "/", "/nowhere/at/all"])
    async def test_a_target_that_cannot_be_is_refused_at_once(self, database: SqliteDatabase, target: str) -> None:
        """What is no absolute path of a folder to be made, in one that exists, is refused before anything runs."""
        backups = Backups(Node.system("test"), lambda: keeper_of(database), "0.1.0")

        with pytest.raises((BackupTarget, BackupTaken)):
            backups.begin(target)

    def test_a_server_database_names_its_own_tools(self) -> None:
        """PostgreSQL is refused with the commands to run, and without the password."""
        with pytest.raises(BackupElsewhere) as refused:
            PostgresKeeper("postgresql://app:secret@db:5433/shop")

        assert "pg_dump -h db -p 5433 -Fc -f shop.dump shop" in refused.value.hint
        assert "pg_basebackup -h db -p 5433" in refused.value.hint
        assert "secret" not in str(refused.value) + refused.value.hint


class TestRestore:
    async def test_a_backup_comes_back_and_the_old_store_stays_aside(
        self, database: SqliteDatabase, tmp_path: Path
    ) -> None:
        """By force only; what was there is kept whole under another name, its log included."""
        await database.statement(ADD, 1, 1)
        source = await backed_up(database, tmp_path / "b")
        await database.statement(ADD, 2, 2)
        await database.stop()

        with pytest.raises(StoreNotEmpty):
            await put(source, database.url)
        done = await put(source, database.url, force=True)
        await database.start()

        assert (await database.statement(COUNT))[0][0] == 1
        assert looked_into(Path(done.aside))[1] == {"item": 2}
        assert not [name for name in names(tmp_path) if "restoring" in name]

    async def test_the_log_of_a_killed_store_goes_into_the_old_one(
        self, database: SqliteDatabase, tmp_path: Path
    ) -> None:
        """A log that nobody copied belongs to the store that is put aside, never to the restored one."""
        source = await backed_up(database, tmp_path / "b")
        await database.statement(ADD, 2, 2)
        other = tmp_path / "other"
        other.mkdir()
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{database.path}{suffix}", other / f"app.db{suffix}")
        url = f"sqlite:///{other}/app.db"

        done = await put(source, url, force=True)

        assert looked_into(other / "app.db")[1] == {"item": 0}
        assert looked_into(Path(done.aside))[1] == {"item": 1}

    async def test_a_damaged_old_store_is_put_aside_with_its_log(
        self, database: SqliteDatabase, tmp_path: Path
    ) -> None:
        """The usual reason for a restore must not hinder it."""
        source = await backed_up(database, tmp_path / "b")
        other = tmp_path / "other"
        other.mkdir()
        (other / "app.db").write_bytes(b"no store at all" * 1000)
        (other / "app.db-wal").write_bytes(b"no log either")

        done = await put(source, f"sqlite:///{other}/app.db", force=True)

        assert looked_into(other / "app.db")[1] == {"item": 0}
        assert content(Path(done.aside)).startswith(b"no store")
        assert content(Path(f"{done.aside}-wal")) == b"no log either"
        assert not (other / "app.db-wal").exists()

    async def test_a_store_in_use_is_refused(self, database: SqliteDatabase, tmp_path: Path) -> None:
        """Force does not take a store from the process that works on it."""
        source = await backed_up(database, tmp_path / "b")

        with pytest.raises(StoreInUse, match=f"process {os.getpid()}"):
            await put(source, database.url, force=True)

    @pytest.mark.parametrize(
        ("damage", "error", "why"),
        [
            (shutil.rmtree, NoBackup, "does not exist"),
            (lambda b: (b / "manifest.json").unlink(), NoBackup, "holds no manifest"),
            (lambda b: (b / "manifest.json").write_text("{"), BackupDamaged, "manifest.json cannot be read"),
            (lambda b: (b / "manifest.json").write_text("[]"), BackupDamaged, "manifest.json cannot be read"),
            (lambda b: (b / "store.db").unlink(), BackupDamaged, "holds no store.db"),
            (lambda b: os.truncate(b / "store.db", 4096), BackupDamaged, "4096 bytes instead of"),
            (lambda b: flip(b / "store.db"), BackupDamaged, "SHA-256"),
            (lambda b: change_manifest(b, rows={"item": 7}), BackupDamaged, "other tables"),
            (lambda b: change_manifest(b, format=2, product="9.0"), BackupAhead, "format 2"),
            (lambda b: change_manifest(b, schema={"dj_version": "9999"}), BackupAhead, "dujiang 9999"),
        ],
    )
    async def test_what_is_no_whole_backup_changes_nothing(
        self,
        database: SqliteDatabase,
        tmp_path: Path,
        damage: Callable[[Path], Any],
        error: type[Exception],
        why: str,
    ) -> None:
        """Missing, cut, changed, of another tool or a newer version: each is told by its name, the store is untouched."""
        source = await backed_up(database, tmp_path / "b")
        await database.stop()
        before = content(Path(database.path))

        damage(source)
        with pytest.raises(error, match=why):
            await put(source, database.url, force=True)

        assert content(Path(database.path)) == before
        assert not [name for name in names(tmp_path) if "restor" in name]

    async def test_a_plain_file_and_an_unfinished_backup_are_no_backups(
        self, database: SqliteDatabase, tmp_path: Path
    ) -> None:
        """The store's own file is refused, and so is the folder of a backup that was killed."""
        part = tmp_path / ".b.part"
        part.mkdir()
        shutil.copyfile(database.path, part / "store.db")

        with pytest.raises(NoBackup, match="it is a file"):
            await put(Path(database.path), "sqlite:////tmp/nowhere.db")
        with pytest.raises(NoBackup, match="never finished"):
            await put(part, "sqlite:////tmp/nowhere.db")

    async def test_a_copied_file_with_a_right_hash_is_still_checked(
        self, database: SqliteDatabase, tmp_path: Path
    ) -> None:
        """A manifest that was made for a file that is no store does not make it one."""
        source = await backed_up(database, tmp_path / "b")
        (source / "store.db").write_bytes(b"text" * 1024)
        digest, size = backup.hashed(source / "store.db", Progress(), source)
        change_manifest(source, sha256=digest, bytes=size)

        with pytest.raises(BackupDamaged, match="no store"):
            await put(source, f"sqlite:///{tmp_path}/fresh.db")

        assert not (tmp_path / "fresh.db").exists()

    async def test_no_room_is_seen_before_anything_is_written(
        self, database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The free space is looked at first; the numbers are in the error."""
        source = await backed_up(database, tmp_path / "b")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))

        with pytest.raises(DiskFull, match="10 are free"):
            await put(source, f"sqlite:///{tmp_path}/fresh.db")

    async def test_open_work_of_the_copied_process_is_free(self, tmp_path: Path) -> None:
        """What was claimed at the moment of the backup is ready in the restored store, and no process lives in it."""
        async with running(app) as world:
            process = world.runtime.process
            claimed = Sql(
                "test_claim",
                "INSERT INTO dj_running (sub_id, seq, tenant, attempt, crashes, message_id, lease, started_us)"
                " VALUES (1, 1000000, '', 0, 0, X'00', $1, 0)",
                "Claims work as a consumer does.",
            )
            await world.runtime.database.statement(claimed, process.lease)
            SqliteKeeper(world.runtime.database.url).copy(tmp_path / "b", Progress(), "0.1.0", MADE)

        url = f"sqlite:///{tmp_path}/app.db"
        done = await restore(tmp_path / "b", url, app=app, force=False, progress=Progress())

        restored = apsw.Connection(str(tmp_path / "app.db"))
        assert done.pending == ()
        assert restored.execute("SELECT count(*) FROM dj_process WHERE expires_us > 0").get == 0
        assert restored.execute("SELECT count(*) FROM dj_running").get == 0
        assert restored.execute("SELECT count(*) FROM dj_ready WHERE seq = 1000000").get == 1
        restored.close()

    async def test_a_backup_that_is_behind_is_restored_and_says_what_is_pending(
        self, database: SqliteDatabase, tmp_path: Path
    ) -> None:
        """An older schema is no obstacle: the next start runs what is missing."""
        source = await backed_up(database, tmp_path / "b")

        done = await restore(source, f"sqlite:///{tmp_path}/f.db", app=app, force=False, progress=Progress())

        assert (done.pending[0], done.pending[-1]) == ("dujiang 0001", "shop 0001")


class TestRefusals:
    async def test_a_full_disk_is_a_refusal_of_its_own(self, database: SqliteDatabase) -> None:
        """SQLITE_FULL is 507 with a cure; callers that know only `database_unreachable` still know it."""
        database._open().writer.driver.execute("PRAGMA max_page_count = 3").fetchall()

        with pytest.raises(DiskFull) as refused:
            for number in range(2000):
                await database.statement(ADD, number, number)

        assert refused.value.http_status() == 507
        assert isinstance(refused.value, DatabaseUnreachable)
        assert "make room" in refused.value.hint


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def content(path: Path) -> bytes:
    """What a file holds."""
    return path.read_bytes()


def scribble(path: Path) -> None:
    """Overwrite the third page of a store."""
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 4096)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
