"""Cut: what a disk may hold after the power went at one place of its log.

    synced before the cut                                   is there
    written since: cut into sectors of 512 or 4096 bytes    any of them, in any order; each whole or not at all
    made longer since                                       may be longer, with zeros where nothing arrived
    names made, removed since the folder was synced         any of them

Nothing that is not on this list happens: a sector that was not written is not damaged (SQLite calls that powersafe
overwrite, and relies on it), and what was synced stays. A draw of "each with probability one half" of a thousand
sectors is nearly always the same broken picture, so the way of drawing is drawn first, for each file: nothing, all, the
first few, all but one, one alone, few, half, most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.kernel.entropy import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dujiang.drill.storage.disk import Entry, Image
    from dujiang.kernel.entropy import Entropy

SECTORS = (512, 4096)
SHARES = (0.1, 0.5, 0.9)


class Surviving:
    """A disk's durable state while its log is gone through.

    Args:
        image: What it held at the beginning.
        numbers: The numbers of those files.
        log: What was done since.
    """

    def __init__(self, image: Mapping[str, bytes], numbers: Mapping[str, int], log: Sequence[Entry]) -> None:
        self._names = dict(numbers)
        self._files = {numbers[name]: bytearray(content) for name, content in image.items()}
        self._log = log
        self._at = 0
        self._renamed: list[Entry] = []  # Names made and removed since the folder was synced.
        self._unsynced: dict[int, list[Entry]] = {}

    def __repr__(self) -> str:
        return f"<Surviving at {self._at} of {len(self._log)}>"

    def advance(self, to: int) -> None:
        """Go on to a later place of the log."""
        for entry in self._log[self._at : to]:
            if entry.kind in ("create", "delete"):
                self._renamed.append(entry)
                self._files.setdefault(entry.file, bytearray())
            elif entry.kind in ("write", "truncate"):
                self._unsynced.setdefault(entry.file, []).append(entry)
            elif entry.kind == "sync":
                self._settle(entry.file)
            elif entry.kind == "sync_failed":
                chance = SeededEntropy(f"sync {entry.at}")
                self._files[entry.file] = self._drawn(entry.file, chance)
                self._unsynced.pop(entry.file, None)
            else:
                self._names = self._after(self._names, self._renamed)
                self._renamed.clear()
        self._at = max(self._at, to)

    def image(self, chance: Entropy) -> Image:
        """One state in which the disk may be if the power goes here."""
        kept = self._renamed[: chance.below(len(self._renamed) + 1)]
        if chance.random() < 0.5:
            kept = [entry for entry in self._renamed if chance.random() < 0.5]
        return {name: bytes(self._drawn(file, chance)) for name, file in self._after(self._names, kept).items()}

    @staticmethod
    def _after(names: Mapping[str, int], entries: Sequence[Entry]) -> dict[str, int]:
        after = dict(names)
        for entry in entries:
            if entry.kind == "create":
                after[entry.name] = entry.file
            elif after.get(entry.name) == entry.file:
                del after[entry.name]
        return after

    def _settle(self, file: int) -> None:
        content = self._files[file]
        for entry in self._unsynced.pop(file, ()):
            apply(content, entry)

    def _drawn(self, file: int, chance: Entropy) -> bytearray:
        """The content of a file with some of what was not synced."""
        content = bytearray(self._files[file])
        entries = self._unsynced.get(file)
        if not entries:
            return content
        pieces = cut_up(entries, SECTORS[chance.below(len(SECTORS))])
        longer = chance.random() < 0.5
        for piece, stays in zip(pieces, chosen(len(pieces), chance), strict=True):
            if stays:
                apply(content, piece)
            elif longer and piece.kind == "write" and (missing := piece.at + len(piece.data) - len(content)) > 0:
                content.extend(bytes(missing))
        return content


def cut_up(entries: Sequence[Entry], sector: int) -> list[Entry]:
    """The entries, with each write cut where a sector ends."""
    pieces = []
    for entry in entries:
        if entry.kind != "write":
            pieces.append(entry)
            continue
        at, end = entry.at, entry.at + len(entry.data)
        while at < end:
            until = min(end, at - at % sector + sector)
            pieces.append(entry._replace(at=at, data=entry.data[at - entry.at : until - entry.at]))
            at = until
    return pieces


def chosen(count: int, chance: Entropy) -> list[bool]:
    """Which of so many pieces stay; see the head of this module."""
    way = chance.below(8)
    one = chance.below(count)
    if way < 2:
        return [way == 1] * count
    if way == 2:
        return [place < one for place in range(count)]
    if way in (3, 4):
        return [(place == one) == (way == 4) for place in range(count)]
    share = SHARES[way - 5]
    return [chance.random() < share for _ in range(count)]


def apply(content: bytearray, entry: Entry) -> None:
    """Do to the content what the entry did."""
    if entry.kind == "truncate":
        del content[entry.at :]
        content.extend(bytes(entry.at - len(content)))
        return
    if entry.at > len(content):
        content.extend(bytes(entry.at - len(content)))
    content[entry.at : entry.at + len(entry.data)] = entry.data
