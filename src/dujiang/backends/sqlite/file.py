"""The file: how its connections are opened, and the lock that makes one process its owner.

    app.db        the data            app.db-wal   commits that the data does not hold yet
    app.db.lock   the owner's pid     app.db-shm   SQLite's index of the log

The lock is an advisory lock of the operating system on `app.db.lock`, not the presence of the file: it ends with the
process however the process ends, so there is no stale lock to clean up after `kill -9`. The file itself stays,
because removing it would let two processes lock two files of one name.

Every connection of every kind is opened here, so no path exists on which `synchronous` is anything but FULL.

Three options of the URL exist that the settings refuse. Two are for drills and tests: `vfs` names the layer of SQLite
through which the file is reached (see vfs.py), `log_bytes` the size at which the log is copied into the data. The third,
`guest`, is for the child process in which a suspected message runs: it opens the file beside its owner, without the lock,
and never copies the log (docs/decisions/0019).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

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
LOG_COPIED_AT_BYTES = 16 * 1024 * 1024


logger = logging.getLogger("dujiang.sqlite")


def path_of(url: str) -> str:
    """The real path that `sqlite:///relative/app.db` or `sqlite:////absolute/app.db` names."""
    scheme, _, rest = url.partition(":")
    path = unquote(rest.partition("?")[0].removeprefix("///"))
    if scheme != "sqlite" or not rest.startswith("///") or not path or path.startswith(":memory:"):
        raise DatabaseRefused(url=url, why="the embedded store is a file: sqlite:///var/app.db")
    return os.path.realpath(path)


def vfs_of(url: str) -> str | None:
    """The layer below SQLite that a URL names; None = the operating system's files."""
    return dict(parse_qsl(url.partition("?")[2])).get("vfs")


def is_guest(url: str) -> bool:
    """Whether a URL opens the file beside the process that owns it."""
    return dict(parse_qsl(url.partition("?")[2])).get("guest") == "yes"


def log_bytes_of(url: str) -> int:
    """The size of the log at which it is copied into the data."""
    return int(dict(parse_qsl(url.partition("?")[2])).get("log_bytes", LOG_COPIED_AT_BYTES))


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
        with contextlib.suppress(OSError):
            # On a full disk the lock holds all the same; whoever is refused by it then reads no number.
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
        driver = apsw.Connection(path, vfs=vfs_of(url), statementcachesize=STATEMENTS_CACHED)
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
        close(driver)
        raise unopened(cause, url) from cause
    except DatabaseRefused:
        close(driver)
        raise
    return driver


def open_reader(path: str, url: str) -> apsw.Connection:
    """Open the file for reading only. Raises DatabaseRefused or DatabaseUnreachable."""
    driver: apsw.Connection | None = None
    try:
        flags = apsw.SQLITE_OPEN_READONLY
        driver = apsw.Connection(path, flags=flags, vfs=vfs_of(url), statementcachesize=STATEMENTS_CACHED)
        # A reader waits only while the writer recovers the log after a crash, and that is done before it is opened.
        driver.set_busy_timeout(1000)
        driver.pragma("query_only", "on")
        harden(driver)
    except apsw.Error as cause:
        close(driver)
        raise unopened(cause, url) from cause
    return driver


def synced(path: str | Path) -> None:
    """Make a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def close(driver: apsw.Connection | None) -> None:
    """Close a connection, if there is one. A disk that fails then is logged: the connection is closed all the same."""
    if driver is None:
        return
    try:
        driver.close()
    except apsw.Error as cause:
        logger.warning("the disk failed while the store was closed: %s", cause)


def divided_by_zero(*_args: Any) -> None:
    """What a division by zero calls (compiler.py), because SQLite itself makes NULL of it."""
    raise ZeroDivisionError("division by zero")


def harden(driver: apsw.Connection) -> None:
    """The settings that every connection shares."""
    driver.pragma("trusted_schema", "off")
    driver.pragma("temp_store", "memory")
    driver.pragma("cache_size", -CACHE_KIB)
    # As every other database has it, and as an index can help with.
    driver.pragma("case_sensitive_like", "on")
    driver.create_scalar_function("dj_divided_by_zero", divided_by_zero, 0)
    # "text" in double quotes is a name, as in every other database, never a string.
    driver.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    driver.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    driver.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    # One plan for all values: otherwise a statement whose plan could depend on a value is compiled anew at every run of it.
    driver.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
