"""The port `cache`: where answers lie, and what an answer that lies there knows of itself.

An adapter keeps and gives back; it never judges. Whether an answer may still be given is decided by the guard of the
process that asks (guard.py), so an adapter that loses, evicts or is emptied costs loads and can do no harm.

For the next adapter: declare its capabilities, keep each numbered promise, then run testing/conformance/cache.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from dujiang.caching.guard import Guard

Key = tuple[str, bytes, str, str]
Standing = Literal["fresh", "stale", "dead"]


@dataclass(frozen=True, kw_only=True)
class CacheCapabilities:
    """What an adapter promises beyond the numbered list.

    Attributes:
        shared: Several processes see the same answers.
    """

    shared: bool


class Entry:
    """One kept answer.

    Attributes:
        body: The bytes that are sent; None = there is nothing (404).
        names: What it depends on, as numbers (messaging/forgotten.py).
        tick: The guard's tick before its data was read.
        loaded_s: When it was loaded, monotonic seconds, as all the times here.
        refresh_s: From when on somebody who reads it has it loaded again meanwhile.
        fresh_s: Until when it may be given as it is.
        stale_s: Until when it may be given, marked as stale, where loading fails.
        retry_s: Until when loading it again is not tried, because that failed.
        used: Whether it was read since the last eviction looked at it.
    """

    __slots__ = ("body", "fresh_s", "loaded_s", "names", "refresh_s", "retry_s", "stale_s", "tick", "used")

    def __init__(
        self,
        body: bytes | None,
        names: tuple[int, ...],
        *,
        tick: int,
        loaded_s: float,
        refresh_s: float,
        fresh_s: float,
        stale_s: float,
    ) -> None:
        self.body = body
        self.names = names
        self.tick = tick
        self.loaded_s = loaded_s
        self.refresh_s = refresh_s
        self.fresh_s = fresh_s
        self.stale_s = stale_s
        self.retry_s = float("-inf")
        self.used = False

    def __repr__(self) -> str:
        size = "nothing" if self.body is None else f"{len(self.body)} bytes"
        return f"<Entry of tick {self.tick}: {size}>"

    def standing(self, guard: Guard, now_s: float) -> Standing:
        """What it is worth now: fresh, stale (only if loading fails, and marked), or dead."""
        if now_s >= self.stale_s or not guard.valid(self.tick, self.names):
            return "dead"
        return "fresh" if now_s < self.fresh_s and guard.trusted(now_s) else "stale"


class Cache(Protocol):
    """What every adapter promises; testing/conformance/cache.py holds each one to it.

    1. `get` gives the entry that was put last under the key, unchanged, or None.
    2. The entries together never take more than `limit_bytes`, an estimate of their own weight included.
    3. An entry that is larger than an eighth of that is not kept; with a limit of 0 none is.
    4. Of entries of one size those that nobody reads go before those that are read.
    5. `clear` leaves nothing.
    """

    capabilities: CacheCapabilities
    limit_bytes: int

    @property
    def used_bytes(self) -> int:
        """What the entries take now."""
        ...

    def __len__(self) -> int:
        """How many entries there are."""
        ...

    def get(self, key: Key) -> Entry | None:
        """The entry under a key. Does not wait, does not judge."""
        ...

    def put(self, key: Key, entry: Entry) -> None:
        """Keep an entry, in the place of the one before."""
        ...

    def drop(self, key: Key) -> None:
        """Keep it no longer, if it is there."""
        ...

    def clear(self) -> None:
        """Keep nothing."""
        ...
