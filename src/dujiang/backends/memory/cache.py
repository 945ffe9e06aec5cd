"""Cache in the process's own memory: nothing to install, and a hit is a look into a dictionary.

How each promise of caching/cache.py is kept:
  1. unchanged    entries are the objects themselves
  2. limit        each entry is weighed when it is put; the oldest go until there is room
  3. large ones   are refused by their weight, so that one answer cannot push a thousand others out
  4. second look  an entry that was read since eviction last saw it goes to the end of the line once more
  5. clear        is the dictionary's

Each process has its own. What one of them has loaded the others load too: loads per change, not per request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from dujiang.caching.cache import CacheCapabilities
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from dujiang.caching.cache import Entry, Key
    from dujiang.kernel.node import Node

MIB = 2**20
DEFAULT_MIB = 64
# An entry with its key, times and names, beside its body; measured with tracemalloc, rounded up.
OVERHEAD_BYTES = 800
LARGEST_SHARE = 8


@dataclass(eq=False, kw_only=True)
class CacheOption(DujiangError):
    """An option in the URL of the cache has a value that it cannot have."""

    code = "cache_option"
    move = "fix"
    says = "{name}={value} in the setting `cache` is no size"
    cure = "write max_mib as a whole number from 0 (keep nothing) to 1048576, as in memory:?max_mib=64"

    name: str
    value: str


class MemoryCache:
    """The cache of one process.

    Args:
        url: `memory:`, with `?max_mib=` for how much memory, in MiB, it may take; 0 = it keeps nothing.
        node: The running copy.
    """

    capabilities = CacheCapabilities(shared=False)

    def __init__(self, url: str, node: Node) -> None:
        self._node = node
        self.limit_bytes = limit_of(url)
        self.used_bytes = 0
        self._entries: dict[Key, Entry] = {}

    def __repr__(self) -> str:
        return f"<MemoryCache: {len(self)} entries, {self.used_bytes} of {self.limit_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        """The entry under a key; it is now one that is read."""
        found = self._entries.get(key)
        if found is not None:
            found.used = True
        return found

    def put(self, key: Key, entry: Entry) -> None:
        """Keep an entry if it is not too large; others go for it."""
        self.drop(key)
        size = weight(entry)
        if size * LARGEST_SHARE > self.limit_bytes:
            return
        self._entries[key] = entry
        self.used_bytes += size
        while self.used_bytes > self.limit_bytes:
            oldest = next(iter(self._entries))
            found = self._entries[oldest]
            self.drop(oldest)
            if found.used:
                found.used = False
                self._entries[oldest] = found
                self.used_bytes += weight(found)

    def drop(self, key: Key) -> None:
        """Keep it no longer, if it is there."""
        found = self._entries.pop(key, None)
        if found is not None:
            self.used_bytes -= weight(found)

    def clear(self) -> None:
        """Keep nothing."""
        self._entries.clear()
        self.used_bytes = 0


def weight(entry: Entry) -> int:
    """What an entry takes, in bytes."""
    return OVERHEAD_BYTES + 40 * len(entry.names) + len(entry.body or b"")


def limit_of(url: str) -> int:
    """The bytes that a URL allows. Raises CacheOption."""
    given = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True)).get("max_mib", str(DEFAULT_MIB))
    if not given.isascii() or not given.isdigit() or int(given) > MIB:
        raise CacheOption(name="max_mib", value=given)
    return int(given) * MIB
