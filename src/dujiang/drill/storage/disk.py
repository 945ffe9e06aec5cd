"""Disk: a twin of one folder on a disk, which keeps a log of everything that is done to it, and may do it badly.

    open write truncate sync delete ──► weather: let it pass, cut it short, refuse it, or only say "synced"
                                        └► log, in order; an acknowledgement is a place between two entries

The disk does not decide what a power cut leaves: cut.py draws that from the log afterwards. What happens before a cut
cannot depend on it, so one life, lived to its end undisturbed, is cut as often as one likes; a cut costs a copy of
the files instead of a run.

Weather is what a disk does wrong while the machine runs:
  lie     a sync that says it is done and does nothing
  full    from the n-th write on no file grows; the write that meets the end arrives in part; what is overwritten fits
  error   the n-th read, write or sync, and some after it, fail with EIO. A sync that failed has forgotten what it did not
          write: the system's cache takes those pages for clean, and no later sync brings them to the disk
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dujiang.kernel.entropy import Entropy

Kind = Literal["create", "write", "truncate", "sync", "sync_failed", "folder", "delete"]

# What a disk holds: the bytes of each file, by name.
Image = dict[str, bytes]


class Entry(NamedTuple):
    """One thing that was done.

    Attributes:
        kind: What.
        file: The number of the file; 0 for the folder.
        name: Its name when it was opened.
        at: Offset of a write, new length of a truncation, the draw of a failed sync.
        data: What was written.
    """

    kind: Kind
    file: int
    name: str
    at: int = 0
    data: bytes = b""


@dataclass(kw_only=True)
class Weather:
    """What the disk will do wrong; see the head of this module.

    Attributes:
        lie: Share of syncs that do nothing.
        full_at: The write, counted from 1, that meets the end of the disk; 0 = none.
        full_for: How many refused writes it takes until somebody makes room.
        error_in: Which operations fail.
        error_at: The first of them that does, counted from 1; 0 = none.
        error_for: How many fail, one after another.
    """

    lie: float = 0.0
    full_at: int = 0
    full_for: int = 0
    error_in: Literal["read", "write", "sync"] = "sync"
    error_at: int = 0
    error_for: int = 0

    @property
    def bad(self) -> bool:
        """Whether operations may be refused."""
        return bool(self.full_at or self.error_at)

    def clear(self) -> None:
        """There is room again, and no error; lies go on."""
        self.full_at = self.error_at = 0


@dataclass
class Tally:
    """What was asked of disks and how they answered; sums over lives."""

    operations: int = 0
    syncs: int = 0
    syncs_ignored: int = 0
    full: int = 0
    errors: int = 0


class TwinDisk:
    """One folder; a `Disk` of backends/sqlite/vfs.py.

    Args:
        folder: A real, empty folder, which holds what the machine sees.
        image: What the disk holds when the machine starts.
        weather: What it does wrong.
        chance: Draws lies and short writes.
        tally: Counts.
    """

    def __init__(
        self, folder: Path, image: Mapping[str, bytes], weather: Weather, chance: Entropy, tally: Tally
    ) -> None:
        self.folder = folder
        self.image = dict(image)
        self.weather = weather
        self.log: list[Entry] = []
        self.numbered = {name: number for number, name in enumerate(sorted(image), 1)}
        self._numbers = dict(self.numbered)
        self._names = {number: name for name, number in self.numbered.items()}
        self._sizes = {number: len(image[name]) for name, number in self.numbered.items()}
        self._next = len(self.numbered) + 1
        self._chance = chance
        self._tally = tally
        self._counts = {"read": 0, "write": 0, "sync": 0}
        for name, content in image.items():
            (folder / name).write_bytes(content)

    def __repr__(self) -> str:
        return f"<TwinDisk {self.folder}: {len(self.log)} entries>"

    @property
    def now(self) -> int:
        """The present place in the log: a cut there, or earlier, does not know of what comes now."""
        return len(self.log)

    def open(self, name: str, *, created: bool) -> int:
        """Open or make a file."""
        number = self._numbers.get(name)
        if number is None or created:
            number = self._numbers[name] = self._next
            self._next += 1
            self._names[number], self._sizes[number] = name, 0
            self.log.append(Entry("create", number, name))
        return number

    def read(self, file: int) -> None:
        """Bytes are read."""
        self._pass("read")

    def write(self, file: int, offset: int, data: bytes) -> int:
        """Bytes are written; how many arrive."""
        self._pass("write")
        size = self._sizes[file]
        arrive = len(data)
        if offset + len(data) > size and self._full():
            arrive = max(self._chance.below(len(data)), min(len(data), max(0, size - offset)))
        if arrive:
            self._sizes[file] = max(size, offset + arrive)
            self.log.append(Entry("write", file, self._names[file], offset, data[:arrive]))
        return arrive

    def truncate(self, file: int, size: int) -> None:
        """The length is set."""
        self._pass("write")
        self._sizes[file] = size
        self.log.append(Entry("truncate", file, self._names[file], size))

    def sync(self, file: int, *, folder: bool) -> None:
        """The file is to be made durable; a lie covers its folder too."""
        self._tally.syncs += 1
        try:
            self._pass("sync")
        except OSError:
            self.log.append(Entry("sync_failed", file, self._names[file], self._chance.bits(32)))
            raise
        if self.weather.lie and self._chance.random() < self.weather.lie:
            self._tally.syncs_ignored += 1
            return
        self.log.append(Entry("sync", file, self._names[file]))
        if folder:
            self.log.append(Entry("folder", 0, ""))

    def delete(self, name: str, *, folder: bool) -> None:
        """A name is removed."""
        self._tally.operations += 1
        file = self._numbers.pop(name, None)
        if file is not None:
            self.log.append(Entry("delete", file, name))
        if folder:
            self.log.append(Entry("folder", 0, ""))

    def _pass(self, what: Literal["read", "write", "sync"]) -> None:
        """Count an operation, and fail it if it is one of those that fail."""
        self._tally.operations += 1
        self._counts[what] += 1
        weather = self.weather
        if weather.error_at and weather.error_in == what and self._counts[what] >= weather.error_at:
            if weather.error_for:
                weather.error_for -= 1
                self._tally.errors += 1
                raise OSError(errno.EIO, "the drill says so")
            weather.error_at = 0

    def _full(self) -> bool:
        """Whether this write finds no room."""
        weather = self.weather
        if not weather.full_at or self._counts["write"] < weather.full_at:
            return False
        if not weather.full_for:
            weather.full_at = 0
            return False
        weather.full_for -= 1
        self._tally.full += 1
        return True
