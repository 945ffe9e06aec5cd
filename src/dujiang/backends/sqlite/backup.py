"""Keeper of the embedded store: SQLite's own copying, from a snapshot, in slices, in a thread.

    reader: BEGIN ─► pages 1..n in slices of 1 MiB ─► .TARGET.part/store.db ─► check, count, hash ─► sync ─► rename
    writer: commits go on; the log keeps what the snapshot still needs, and so grows until the copy is done

The snapshot is what makes slices possible: without it SQLite starts the copy over whenever somebody commits in
between, and under load never ends. VACUUM INTO copies from a snapshot too, but in one piece that cannot be watched or
stopped.

A restore verifies a copy beside the store and then changes names. The log of the old store must be gone before a new
one takes its name, or SQLite would replay it into the new one; so the old store is opened and closed properly first. One
that is too damaged for that is put aside with its log.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import apsw

from dujiang.backends.sqlite.errors import STORAGE_ERRORS, failed
from dujiang.backends.sqlite.file import FileLock, close, open_reader, open_writer, path_of, synced
from dujiang.data.backup import (
    FORMAT,
    MANIFEST_FILE,
    STORE_FILE,
    BackupCancelled,
    BackupDamaged,
    BackupTaken,
    BackupTarget,
    Manifest,
)
from dujiang.data.database import DiskFailed, DiskFull, StoreInUse
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dujiang.data.backup import Progress

T = TypeVar("T")

SLICE_BYTES = 1024 * 1024
PAGES = 256
MAGIC = b"SQLite format 3\0"
BESIDE = ("-wal", "-shm", "-journal")


class SqliteKeeper:
    """Copies one embedded store.

    Args:
        url: Of the store.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._path = Path(path_of(url))
        self._fresh = self._path.with_name(f"{self._path.name}.restoring")

    def __repr__(self) -> str:
        return f"<SqliteKeeper {self._path}>"

    # Out --------------------------------------------------------------------------------------------------------------

    def copy(self, target: Path, progress: Progress, product: str, made: str) -> Manifest:
        """Make a backup of the store, which this process has open."""
        if target.exists():
            raise BackupTaken(target=str(target), why="exists already")
        part = target.with_name(f".{target.name}.part")
        lock = self._begun(part, target)
        try:
            return self._guarded(target, lambda: self._copied(part, target, progress, product, made))
        finally:
            lock.release()
            shutil.rmtree(part, ignore_errors=True)

    def _begun(self, part: Path, target: Path) -> FileLock:
        """The lock on an empty folder for the work; what a dead one left in it is removed."""
        try:
            part.mkdir(mode=0o700, exist_ok=True)
            lock = FileLock(part / STORE_FILE)
        except StoreInUse as cause:
            raise BackupTaken(target=str(target), why=f"is being made by process {cause.pid}") from cause
        except OSError as cause:
            if cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(url=str(target), why=str(cause.strerror)) from cause
            raise BackupTarget(target=str(target), why=f"{cause.strerror}: {cause.filename}") from cause
        for left in part.iterdir():
            if str(left) != lock.path:
                left.unlink()
        return lock

    def _copied(self, part: Path, target: Path, progress: Progress, product: str, made: str) -> Manifest:
        copy = part / STORE_FILE
        self._copy_pages(copy, progress, target)
        progress.stage = "check"
        schema, rows = looked_into(copy)
        digest, size = hashed(copy, progress, target)
        manifest = Manifest(
            format=FORMAT, product=product, made=made, bytes=size, sha256=digest, schema=schema, rows=rows
        )
        synced(copy)
        with (part / MANIFEST_FILE).open("w", encoding="utf-8") as stream:
            json.dump(manifest.to_json(), stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        Path(f"{copy}.lock").unlink()
        synced(part)
        if target.exists():  # A rename would replace an empty folder without a word.
            raise BackupTaken(target=str(target), why="has been made meanwhile")
        part.rename(target)
        synced(target.parent)
        return manifest

    def _copy_pages(self, copy: Path, progress: Progress, target: Path) -> None:
        source = open_reader(str(self._path), self._url)
        try:
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # From here on the snapshot stands.
            page_bytes = int(source.pragma("page_size"))
            with closing(apsw.Connection(str(copy))) as into:
                into.pragma("synchronous", "off")
                with into.backup("main", source, "main") as work:
                    while not work.done:
                        if progress.cancelled:
                            raise BackupCancelled(target=str(target))
                        work.step(PAGES)
                        progress.total = work.page_count * page_bytes
                        progress.done = progress.total - work.remaining * page_bytes
        finally:
            close(source)

    def _guarded(self, target: Path, work: Callable[[], T]) -> T:
        """What the work answers; what a disk refuses becomes an error that names the disk."""
        try:
            return work()
        except OSError as cause:
            if cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(url=str(target), why=str(cause.strerror)) from cause
            raise DiskFailed(url=str(target), why=f"{cause.strerror}: {cause.filename}") from cause
        except apsw.Error as cause:
            if isinstance(cause, STORAGE_ERRORS):
                raise failed(cause, str(target)) from cause
            raise DiskFailed(url=str(self._path), why=f"the store cannot be copied: {cause}") from cause

    # In ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep every process from opening the store for the block."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._path)
        except OSError as cause:
            raise BackupTarget(target=str(self._path), why=f"{cause.strerror}: {cause.filename}") from cause
        try:
            yield
        finally:
            lock.release()
            for suffix in ("", *BESIDE, ".lock"):
                Path(f"{self._fresh}{suffix}").unlink(missing_ok=True)

    def filled(self) -> bool:
        """Whether there is a store already, or the log of one."""
        places = (self._path, Path(f"{self._path}-wal"))
        return any(place.exists() and place.stat().st_size > 0 for place in places)

    def unpack(self, source: Path, manifest: Manifest, progress: Progress) -> str:
        """Copy a backup beside the store and check it."""
        packed = source / STORE_FILE
        if not packed.is_file():
            raise BackupDamaged(source=str(source), why=f"it holds no {STORE_FILE}")
        size = packed.stat().st_size
        if size != manifest.bytes:
            why = f"{STORE_FILE} has {size} bytes instead of {manifest.bytes}"
            raise BackupDamaged(source=str(source), why=why)
        free = shutil.disk_usage(self._path.parent).free
        if free < size:
            raise DiskFull(url=str(self._path), why=f"{size} bytes are needed and {free} are free")
        progress.total = size
        self._guarded(self._path, lambda: self._unpacked(packed, source, manifest, progress))
        return f"sqlite:///{quote(str(self._fresh))}"

    def _unpacked(self, packed: Path, source: Path, manifest: Manifest, progress: Progress) -> None:
        digest = hashlib.sha256()
        with packed.open("rb") as read, self._fresh.open("wb") as write:
            os.fchmod(write.fileno(), 0o600)
            if os.geteuid() == 0:
                # Whoever the store, or its folder, belongs to must be able to open it; root restores for others.
                owner = (self._path if self._path.exists() else self._path.parent).stat()
                os.fchown(write.fileno(), owner.st_uid, owner.st_gid)
            while piece := read.read(SLICE_BYTES):
                digest.update(piece)
                write.write(piece)
                progress.done += len(piece)
            write.flush()
            os.fsync(write.fileno())
        if digest.hexdigest() != manifest.sha256:
            raise BackupDamaged(source=str(source), why=f"the SHA-256 of {STORE_FILE} is not that of the manifest")
        progress.stage = "check"
        try:
            schema, rows = looked_into(self._fresh)
        except DujiangError as cause:
            raise BackupDamaged(source=str(source), why=cause.detail) from cause
        if (schema, rows) != (manifest.schema, manifest.rows):
            raise BackupDamaged(
                source=str(source), why=f"{MANIFEST_FILE} tells of other tables than {STORE_FILE} holds"
            )

    def put(self) -> Path | None:
        """Put the unpacked copy in the place of the store."""
        return self._guarded(self._path, self._put)

    def _put(self) -> Path | None:
        aside = self._put_aside() if self.filled() else None
        synced(self._fresh)
        self._fresh.rename(self._path)
        synced(self._path.parent)
        return aside

    def _put_aside(self) -> Path:
        """Give the old store a second name, and its log, if one is left, another one."""
        self._close_properly()
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.before-restore-{number}")).exists():
            number += 1
        for suffix in BESIDE:
            with suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").rename(f"{aside}{suffix}")
        if self._path.exists():
            os.link(self._path, aside)  # Until the restored one takes it, the name leads to the old store.
        return aside

    def _close_properly(self) -> None:
        """Copy the old store's log into its data, if it can still be opened.

        SQLite removes the log of a file that is no store; so such a file is not even shown to it.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return
        with suppress(DujiangError, apsw.Error):
            driver = open_writer(str(self._path), self._url)
            try:
                driver.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                close(driver)


def looked_into(file: Path) -> tuple[dict[str, str], dict[str, int]]:
    """The revisions and the numbers of rows of a store that nobody has open. Raises BackupDamaged if it is not whole."""
    uri = f"file:{quote(str(file))}?immutable=1"
    try:
        with closing(apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)) as driver:
            wrong = [str(row[0]) for row in driver.execute("PRAGMA integrity_check(5)") if row[0] != "ok"]
            if wrong:
                raise BackupDamaged(source=str(file), why="; ".join(wrong))
            names = [
                str(row[0])
                for row in driver.execute(
                    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
                    " ORDER BY name"
                )
            ]
            rows = {name: int(driver.execute(f'SELECT count(*) FROM "{name}"').get) for name in names}
            versions = [name for name in names if name.startswith("dj_version") or name == "alembic_version"]
            schema = {
                name: ",".join(sorted(str(row[0]) for row in driver.execute(f'SELECT version_num FROM "{name}"')))
                for name in versions
            }
    except (apsw.NotADBError, apsw.CorruptError) as cause:
        raise BackupDamaged(source=str(file), why=f"{STORE_FILE} is no store: {cause}") from cause
    return schema, rows


def hashed(file: Path, progress: Progress, target: Path) -> tuple[str, int]:
    """SHA-256 and length of a file."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while piece := stream.read(SLICE_BYTES):
            if progress.cancelled:
                raise BackupCancelled(target=str(target))
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size
