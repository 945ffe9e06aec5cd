"""The file: how its connections are opened, and the lock that makes one process its owner.

    app.db        the data            app.db-wal   commits that the data does not hold yet
    app.db.lock   the owner's pid     app.db-shm   SQLite's index of the log

The lock is an advisory lock of the operating system on `app.db.lock`, not the presence of the file: it ends with the
process however the process ends, so there is no stale lock to clean up after `kill -9`. The file itself stays,
because removing it would let two processes lock two files of one name.

Every connection of every kind is opened here, so no path exists on which `synchronous` is anything but FULL.
"""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote

import apsw

from dujiang.backends.sqlite.errors import unopened
from dujiang.data.database import DatabaseRefused, StoreInUse

if TYPE_CHECKING:
    from pathlib import Path

# Older versions can lose a committed write when two connections write and checkpoint at the same moment.
OLDEST = (3, 51, 3)
STATEMENTS_CACHED = 512
CACHE_KIB = 32 * 1024
# The log shrinks back to this after it has been copied into the data.
LOG_KEPT_BYTES = 32 * 1024 * 1024


def path_of(url: str) -> str:
    """The real path that `sqlite:///relative/app.db` or `sqlite:////absolute/app.db` names."""
    scheme, _, rest = url.partition(":")
    path = unquote(rest.partition("?")[0].removeprefix("///"))
    if scheme != "sqlite" or not rest.startswith("///") or not path or path.startswith(":memory:"):
        raise DatabaseRefused(url=url, why="the embedded store is a file: sqlite:///var/app.db")
    return os.path.realpath(path)


class FileLock:
    """The exclusive right of this process to open the file.

    Args:
        path: The database file; the lock is on `<path>.lock`.

    Raises:
        StoreInUse: Another process, or another part of this one, holds it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = f"{path}.lock"
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            owner = os.pread(self._handle, 32, 0).strip()
            os.close(self._handle)
            raise StoreInUse(path=str(path), pid=int(owner) if owner.isdigit() else 0) from cause
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, b"%d\n" % os.getpid(), 0)

    def __repr__(self) -> str:
        return f"<FileLock {self.path}{' released' if self._handle < 0 else ''}>"

    def release(self) -> None:
        """Give the right back. May be called twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def open_writer(path: str, url: str) -> apsw.Connection:
    """Open, or make, the file for writing. Raises DatabaseRefused or DatabaseUnreachable."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < OLDEST:
        needed = ".".join(map(str, OLDEST))
        why = f"SQLite {apsw.sqlite_lib_version()} can lose committed writes; {needed} or newer comes with `apsw`"
        raise DatabaseRefused(url=url, why=why)
    driver: apsw.Connection | None = None
    try:
        driver = apsw.Connection(path, statementcachesize=STATEMENTS_CACHED)
        driver.set_busy_timeout(0)
        if driver.pragma("journal_mode", "wal") != "wal":
            raise DatabaseRefused(url=url, why="its file system has no shared memory, which the write-ahead log needs")
        driver.pragma("synchronous", "full")
        if sys.platform == "darwin":
            driver.pragma("fullfsync", "on")
            driver.pragma("checkpoint_fullfsync", "on")
        driver.pragma("foreign_keys", "on")
        driver.pragma("journal_size_limit", LOG_KEPT_BYTES)
        harden(driver)
    except apsw.Error as cause:
        if driver is not None:
            driver.close()
        raise unopened(cause, url) from cause
    except DatabaseRefused:
        if driver is not None:
            driver.close()
        raise
    return driver


def open_reader(path: str, url: str) -> apsw.Connection:
    """Open the file for reading only."""
    try:
        driver = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY, statementcachesize=STATEMENTS_CACHED)
        # A reader waits only while the writer recovers the log after a crash, and that is done before it is opened.
        driver.set_busy_timeout(1000)
        driver.pragma("query_only", "on")
        harden(driver)
    except apsw.Error as cause:
        raise unopened(cause, url) from cause
    return driver


def harden(driver: apsw.Connection) -> None:
    """The settings that every connection shares."""
    driver.pragma("trusted_schema", "off")
    driver.pragma("temp_store", "memory")
    driver.pragma("cache_size", -CACHE_KIB)
    # "text" in double quotes is a name, as in every other database, never a string.
    driver.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    driver.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    driver.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
