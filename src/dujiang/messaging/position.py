"""Position: where the log of forgotten names was at some moment; it means the same in every process on one server.

    a snapshot   xmin ──── finished ────┤ running: some of them ├──── xmax ──── not begun
    a number     finished up to it      (where one writer commits in order)

`shows(number)` says whether the transaction of that number had ended by then. Two positions of one server are ordered as
the moments are: what the earlier one shows, the later one shows too. A position may be replaced by one that shows less, as
`encode` does where too many transactions run: whoever compares takes it for older than it is, and loads once more.

`origin` names the server, its life and the database: after a restart, a crash or a promotion a transaction may be gone and
its number be another's, so positions of two origins are never compared. tests/unit/messaging/test_position.py holds it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b

ORIGIN_BYTES = 8
RUNNING_MAX = 500
HEAD = struct.Struct("<8sQQH")
DISTANCE_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Position:
    """One moment of the log.

    Attributes:
        origin: Names the server's life and the database; 8 bytes.
        first: All transactions below it had ended.
        beyond: It and all above had not begun.
        running: Those between that had not ended.
    """

    origin: bytes
    first: int
    beyond: int
    running: frozenset[int] = frozenset()

    def shows(self, number: int) -> bool:
        """Whether this transaction had ended; what it committed was to be seen."""
        return number < self.first or (number < self.beyond and number not in self.running)

    def encode(self) -> bytes:
        """The position in bytes; with too much that runs, an older one."""
        offsets = sorted(number - self.first for number in self.running)
        if len(offsets) > RUNNING_MAX or (offsets and offsets[-1] > DISTANCE_MAX):
            return HEAD.pack(self.origin, self.first, self.first, 0)
        head = HEAD.pack(self.origin, self.first, self.beyond, len(offsets))
        return head + struct.pack(f"<{len(offsets)}I", *offsets)


def decoded(raw: bytes, start: int = 0) -> tuple[Position, int]:
    """The position that begins at `start`, and where it ends. Raises ValueError."""
    try:
        origin, first, beyond, count = HEAD.unpack_from(raw, start)
        end = start + HEAD.size + 4 * count
        offsets = struct.unpack_from(f"<{count}I", raw, start + HEAD.size)
    except struct.error as error:
        raise ValueError(f"no position: {error}") from None
    return Position(origin, first, beyond, frozenset(first + offset for offset in offsets)), end


def at_snapshot(origin: bytes, text: str) -> Position:
    """The position of a snapshot as PostgreSQL writes it: `10:20:11,13`."""
    first, beyond, running = text.split(":")
    return Position(origin, int(first), int(beyond), frozenset(map(int, filter(None, running.split(",")))))


def at_number(origin: bytes, number: int) -> Position:
    """The position after the row of this number, where one writer commits in order."""
    return Position(origin, number + 1, number + 1)


def origin_of(text: str) -> bytes:
    """The name of an origin, made of whatever tells it from others."""
    return blake2b(text.encode(), digest_size=ORIGIN_BYTES).digest()
