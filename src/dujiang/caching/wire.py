"""Wire: an answer as bytes in a cache that processes share. Fixed fields, a checksum, no pickle; whatever is wrong is none.

    0  magic, format, flags      "DJ" 1, bit 0: there is nothing (404)
    4  checksum                  CRC-32 of all that follows
    8  loaded, refresh, fresh, stale    microseconds by the clock of the store, which all its processes have
    40 position                  messaging/position.py
    .. body                      as it is sent

What the answer depends on is not among it: each process judges by the names that its own code makes of the parameters. The
times say how long an answer is of use and decide nothing about its truth; they may be wrong by as much as clocks are.
tests/unit/caching/test_wire.py turns every bit of an entry, and cuts it at every byte.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from zlib import crc32

from dujiang.caching.cache import Entry
from dujiang.messaging.position import decoded

if TYPE_CHECKING:
    from dujiang.messaging.position import Position

MAGIC, FORMAT, NOTHING = b"DJ", 1, 1
HEAD = struct.Struct("<2sBBI")
TIMES = struct.Struct("<qqqq")
NEVER_US = 2**62


class Moment:
    """One moment by both clocks, between which times are translated.

    Args:
        now_s: Monotonic seconds of this process.
        now_us: Microseconds by the clock of the store.
    """

    __slots__ = ("now_s", "now_us")

    def __init__(self, now_s: float, now_us: int) -> None:
        self.now_s = now_s
        self.now_us = now_us

    def common(self, own_s: float) -> int:
        """A time of this process for all."""
        return NEVER_US if own_s == float("inf") else self.now_us + round((own_s - self.now_s) * 1e6)

    def own(self, common_us: int) -> float:
        """A time of all for this process."""
        return float("inf") if common_us >= NEVER_US else self.now_s + (common_us - self.now_us) / 1e6


def packed(entry: Entry, position: Position, moment: Moment) -> bytes:
    """An entry in bytes."""
    times = (entry.loaded_s, entry.refresh_s, entry.fresh_s, entry.stale_s)
    rest = TIMES.pack(*map(moment.common, times)) + position.encode() + (entry.body or b"")
    return HEAD.pack(MAGIC, FORMAT, NOTHING if entry.body is None else 0, crc32(rest)) + rest


def unpacked(raw: bytes, names: tuple[int, ...], tick: int, moment: Moment) -> tuple[Entry, Position]:
    """The entry in these bytes, and the position at which its load began. Raises ValueError.

    Args:
        raw: What `packed` made, or anything.
        names: What the answer depends on.
        tick: The guard's now.
        moment: Now.
    """
    try:
        magic, form, flags, checksum = HEAD.unpack_from(raw)
        times = TIMES.unpack_from(raw, HEAD.size)
    except struct.error as error:
        raise ValueError(f"no entry: {error}") from None
    if magic != MAGIC or form != FORMAT or flags not in (0, NOTHING) or crc32(memoryview(raw)[HEAD.size :]) != checksum:
        raise ValueError("no entry: a header that is none, or a checksum that does not fit")
    position, end = decoded(raw, HEAD.size + TIMES.size)
    body = raw[end:]
    if flags and body:
        raise ValueError("no entry: nothing, with a body")
    loaded_s, refresh_s, fresh_s, stale_s = map(moment.own, times)
    entry = Entry(
        None if flags else body,
        names,
        tick=tick,
        loaded_s=loaded_s,
        refresh_s=refresh_s,
        fresh_s=fresh_s,
        stale_s=stale_s,
    )
    return entry, position
