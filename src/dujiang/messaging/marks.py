"""Marks: which work was in a handler's hands at the moment its process died.

    handler begins ──► 16 bytes of a mapped file ──► handler ends: the same bytes are zero again
                              │
                     kill -9: the file stays, its lock does not ──► whoever takes the work back reads it

A dead process leaves all its claims in dj_running: the one that killed it, those beside it, and hundreds that waited in
its line. Only those whose handler had begun are suspects, and the tables cannot tell: a row for each beginning would be a
round trip for each message. So the beginning is written to memory that outlives the process: a file that is mapped, one
for each running copy, in `DATA/started`. Writing is a copy of 16 bytes, without a system call.

The file is locked for as long as its copy lives. Who takes a lease back and cannot have the lock knows that nobody died:
the process was only too slow, and none of its work is to blame.

Where the file cannot be read (another machine, another data folder, a simulation) nothing is known, and all that the
dead process held is suspected. That costs time, never a message: a suspect is run alone (suspects.py).

Rejected: a column that the claim sets. A claim is not a beginning, and of 256 claims 255 would be innocent.
tests/unit/messaging/test_marks.py kills a process and reads what it left.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import mmap
import os
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger("dujiang.marks")

FOLDER = "started"
MARK = struct.Struct("=qq")  # Number of the subscription, number of the message; a subscription 0 is no mark.
MARKS_MAX = 4096

Place = tuple[int, int]


class Left(NamedTuple):
    """What a copy that was taken for dead left behind.

    Attributes:
        alive: It lives; it was only too slow.
        started: Whose handlers were running, if it is dead.
    """

    alive: bool
    started: frozenset[Place] = frozenset()


class Marks:
    """The marks of one running copy, and the reader of those that others left.

    Args:
        folder: The data folder.
        holder: The copy's name, unique among living copies.
        kept: Whether there is a file; without one nothing is marked.
    """

    def __init__(self, folder: Path, holder: str, *, kept: bool = True) -> None:
        self._folder = folder / FOLDER
        self._holder = holder
        self._kept = kept
        self._file = -1
        self._map: mmap.mmap | None = None
        self._free: list[int] = []
        self._read: dict[str, Left] = {}

    def __repr__(self) -> str:
        return f"<Marks {MARKS_MAX - len(self._free) if self._map else 'none'}>"

    async def start(self) -> None:
        """Make the file. A folder that takes none costs the precision of the accounts, nothing else."""
        if not self._kept:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path(self._holder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, MARKS_MAX * MARK.size)
            self._map = mmap.mmap(self._file, MARKS_MAX * MARK.size)
        except OSError as cause:
            logger.warning("crashes of this process will be counted for all that it holds: %s", cause)
            return
        self._free = list(range(0, MARKS_MAX * MARK.size, MARK.size))

    async def stop(self) -> None:
        """Take the file away: this process ends by itself."""
        if self._map is not None:
            self._map.close()
            self._map = None
            self._path(self._holder).unlink(missing_ok=True)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @contextmanager
    def on(self, *places: Place) -> Iterator[None]:
        """Say that the handler of these (subscription, message) runs; not for the rest beyond MARKS_MAX at once."""
        mapped, free = self._map, self._free
        if mapped is None:
            yield
            return
        taken = []
        for place in places[: len(free)]:
            offset = free.pop()
            MARK.pack_into(mapped, offset, *place)
            taken.append(offset)
        try:
            yield
        finally:
            for offset in taken:
                with suppress(ValueError):  # A handler that outlives the copy finds the file closed.
                    MARK.pack_into(mapped, offset, 0, 0)
            free.extend(taken)

    def left_by(self, holder: str) -> Left | None:
        """What a copy that was taken for dead left behind; None if nobody can know."""
        if holder in self._read:
            return self._read[holder]
        try:
            file = os.open(self._path(holder), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            raw = os.pread(file, MARKS_MAX * MARK.size, 0)
        except BlockingIOError:
            return Left(alive=True)
        except OSError:
            return None
        finally:
            os.close(file)
        whole = raw[: len(raw) // MARK.size * MARK.size]
        started = frozenset((sub_id, seq) for sub_id, seq in MARK.iter_unpack(whole) if sub_id)
        # The transaction that asks may run again, so what was read is kept and the file is not needed any more.
        found = self._read[holder] = Left(alive=False, started=started)
        with suppress(OSError):
            self._path(holder).unlink()
        return found

    def _path(self, holder: str) -> Path:
        return self._folder / hashlib.blake2b(holder.encode(), digest_size=12).hexdigest()
