"""VFS: SQLite's own files, with somebody beside them who hears of every operation and may refuse it.

    SQLite ──► File.xWrite ──► disk.write(...)    notes it, or raises: full, input/output error
                    └────────► the real file      what the machine sees while it runs (its page cache)

The files are real ones of the operating system, in a folder of memory if speed matters; only the hearing and refusing is
in Python. So locks and the shared memory of the write-ahead log are the operating system's, and the writer, the reader
and every setting are those of production: nothing of the store has to be told that it is drilled. The other way, files
that live in Python, has no shared memory and needs `locking_mode=exclusive`, which means one connection and another
code path in SQLite.

What is heard are facts of one folder, by the file's name. An unlinked file and a new one of the same name are two files.
SQLite's layer for Unix syncs the folder with the first sync of each log or journal that it opens; that happens below
can be heard, and is told too.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW_SYNCS_FOLDER = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
CODES = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "open": apsw.SQLITE_CANTOPEN,
}


class Disk(Protocol):
    """Hears of each operation before it is done. An OSError refuses it: ENOSPC as a full disk, all others as EIO."""

    def open(self, name: str, *, created: bool) -> int:
        """A file is opened; the number by which it is known from now on."""
        ...

    def read(self, file: int) -> None:
        """Bytes are read."""
        ...

    def write(self, file: int, offset: int, data: bytes) -> int:
        """Bytes are written; how many of them arrive. Fewer than given: the disk became full in the middle."""
        ...

    def truncate(self, file: int, size: int) -> None:
        """The length is set."""
        ...

    def sync(self, file: int, *, folder: bool) -> None:
        """The file, and perhaps its folder, is to be made durable."""
        ...

    def delete(self, name: str, *, folder: bool) -> None:
        """A name is removed, and perhaps the folder made durable."""
        ...


def refused(cause: OSError, what: str) -> apsw.Error:
    """The exception by which a layer of SQLite says what the disk said."""
    return apsw.exception_for(apsw.SQLITE_FULL if cause.errno == errno.ENOSPC else CODES[what])  # type: ignore[return-value]


class File(apsw.VFSFile):
    """One open file.

    Args:
        disk: Who hears.
        path: As SQLite gives it.
        flags: What is asked for, and what became of it.
    """

    def __init__(self, disk: Disk, path: str | apsw.URIFilename, flags: list[int]) -> None:
        named = path if isinstance(path, str) else path.filename()
        created = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and not Path(named).exists()
        self._disk = disk
        try:
            self._file = disk.open(Path(named).name, created=created)
        except OSError as cause:
            raise refused(cause, "open") from cause
        self._new = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and bool(flags[0] & NEW_SYNCS_FOLDER)
        super().__init__("unix", path, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802  (SQLite's names)
        """Read."""
        try:
            self._disk.read(self._file)
        except OSError as cause:
            raise refused(cause, "read") from cause
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        """Write; of a write that the disk cuts short, the beginning stays."""
        whole = bytes(data)
        try:
            arrives = self._disk.write(self._file, offset, whole)
        except OSError as cause:
            raise refused(cause, "write") from cause
        if arrives:
            super().xWrite(whole[:arrives], offset)
        if arrives < len(whole):
            raise refused(OSError(errno.ENOSPC, ""), "write")

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Set the length."""
        try:
            self._disk.truncate(self._file, newsize)
        except OSError as cause:
            raise refused(cause, "truncate") from cause
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Tell it, and no more: what is durable is the disk's to say, and the real file is in memory."""
        try:
            self._disk.sync(self._file, folder=self._new)
        except OSError as cause:
            raise refused(cause, "sync") from cause
        self._new = False


class Layer(apsw.VFS):
    """The layer under one name.

    Args:
        name: By which connections choose it.
        disk: Who hears.
    """

    def __init__(self, name: str, disk: Disk) -> None:
        self._disk = disk
        super().__init__(name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file; a temporary one, which has no name, is nobody's concern."""
        if name is None:
            return apsw.VFSFile("unix", name, flags)
        return File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001
        """Remove a name."""
        if Path(filename).exists():
            try:
                self._disk.delete(Path(filename).name, folder=bool(syncdir))
            except OSError as cause:
                raise refused(cause, "delete") from cause
        super().xDelete(filename, syncdir)


@contextmanager
def layered(name: str, disk: Disk) -> Iterator[str]:
    """Have a layer over `disk` for the block; yields the options of a URL that lead through it."""
    layer = Layer(name, disk)
    try:
        yield f"vfs={name}"
    finally:
        layer.unregister()
