"""Second: what a process does with the cache that it shares with others, when it has no answer of its own.

    get ──► fresh, and the floors allow it ──► give, and keep in the first level
        └─► not so ──► claim the key ──► won         ──► load, keep for all, release
                                     └─► another has it ──► look again: 10, 20, 40 .. ms ──► give what it brought
                                                          └─► after half a second load without keeping

Judging and taking the guard's tick are one step without an await between them: whatever is heard later ends the answer here
as it would end one that was loaded here.

The lease saves loads and proves nothing: a process that finds none, or waits in vain, loads. Nor does anybody wait for the
load of another when this process has itself just changed what is asked for, because such a load may not have seen it.

A load that begins says where the log was: at the last look, which this process knows already. Where a name was forgotten
here since, that would be too early for everybody's floors, and the database is asked: one more statement, only then.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from dujiang.caching.wire import Moment, packed, unpacked

if TYPE_CHECKING:
    from dujiang.caching.cache import Entry, Key
    from dujiang.caching.floors import Floors
    from dujiang.caching.follower import Follower
    from dujiang.caching.guard import Guard
    from dujiang.caching.shared import SharedCache
    from dujiang.kernel.node import Node
    from dujiang.messaging.position import Position
    from dujiang.telemetry.metrics import Metrics

logger = logging.getLogger("dujiang.caching")

WAIT_S = 0.5
PAUSE_S, PAUSE_S_MAX = 0.01, 0.1
KEEPING_MAX = 1_000
OUTCOMES = ("hit", "miss", "outdated", "unreadable", "waited")


@dataclass(slots=True)
class Found:
    """What the second level had.

    Attributes:
        fresh: May be given as it is.
        stale: May be given, marked, where loading fails.
        token: Of our claim; None = another loads, so what we load is not kept.
    """

    fresh: Entry | None = None
    stale: Entry | None = None
    token: bytes | None = None


class Second:
    """The second level as one process sees it.

    Args:
        node: The running copy.
        cache: Where the bytes are.
        guard: Of the first level.
        floors: Judge what others have loaded.
        follower: Knows where the log is.
        metrics: What is counted.
    """

    def __init__(
        self, node: Node, cache: SharedCache, guard: Guard, floors: Floors, *, follower: Follower, metrics: Metrics
    ) -> None:
        self._node = node
        self.cache = cache
        self._guard = guard
        self._floors = floors
        self._follower = follower
        self.count = {name: metrics.counter("dujiang_cache_shared_reads_total", outcome=name) for name in OUTCOMES}
        self._keeping = 0

    def __repr__(self) -> str:
        return f"<Second {self.cache!r}: {self._floors!r}>"

    async def find(self, key: bytes, names: tuple[int, ...], *, newer: bool) -> Found:
        """What others have loaded, or leave to load it.

        Args:
            key: Of the answer.
            names: What it depends on.
            newer: An answer that is near its end will not do.
        """
        found = Found()
        if not self._guard.trusted(self._node.clock.monotonic()):
            return found  # Nothing would be fresh, and nobody could judge what we loaded.
        if self._take(await self.cache.get(key), names, found, newer=newer):
            self.count["hit"].add()
            return found
        self.count["miss"].add()
        token = self._node.entropy.bits(64).to_bytes(8, "big").hex().encode()
        if not self._floors.told(names):
            found.token = token
            return found
        claimed = await self.cache.claim(key, token)
        if claimed is False:
            claimed = await self._wait(key, names, found, token=token, newer=newer)
        if claimed:
            found.token = token
        return found

    def show(self) -> dict[str, Any]:
        """How the shared cache is, and what became of the looks at it, for operators."""
        condition = self.cache.condition
        counts = {name: counter.value for name, counter in self.count.items()}
        failures = {"silent": condition.silent, "refused": condition.refused, "skipped": condition.skipped}
        return {"up": condition.up, "why": condition.why, **counts, **failures}

    def measure(self, metrics: Metrics) -> None:
        """Set what is read at a scrape."""
        condition = self.cache.condition
        metrics.gauge("dujiang_cache_shared_up").set(float(condition.up))
        for kind in ("silent", "refused", "skipped"):
            metrics.counter("dujiang_cache_shared_failures_total", kind=kind).value = getattr(condition, kind)

    async def position(self, names: tuple[int, ...]) -> Position | None:
        """Where a load that begins now may say it began; None = nowhere that others could place."""
        if self._floors.told(names):
            return self._follower.here()
        return await self._follower.exactly_here()

    def keep(self, key: bytes, entry: Entry | None, position: Position | None, token: bytes | None) -> None:
        """Keep an answer for all, if it can be placed, and end our claim; in the background."""
        if token is None:
            return
        if self._keeping >= KEEPING_MAX:
            self.cache.condition.skipped += 1
            return
        value, ttl_ms = None, 0
        # With another server behind the URL since the load began, whose data they are nobody knows.
        if entry is not None and position is not None and self._follower.origin == position.origin:
            moment = self._moment()
            value = packed(entry, position, moment)
            ttl_ms = int((entry.stale_s - moment.now_s) * 1000)
        self._keeping += 1
        self._node.tasks.spawn(self._kept(key, value, ttl_ms, token), name="keep for all")

    async def _kept(self, key: bytes, value: bytes | None, ttl_ms: int, token: bytes) -> None:
        try:
            if value is not None and ttl_ms > 0:
                await self.cache.put(key, value, ttl_ms)
            await self.cache.release(key, token)
        finally:
            self._keeping -= 1

    async def _wait(
        self, key: bytes, names: tuple[int, ...], found: Found, *, token: bytes, newer: bool
    ) -> bool | None:
        """Another loads: look again until it has, until its lease is ours, or for half a second."""
        clock, pause_s = self._node.clock, PAUSE_S
        until_s = clock.monotonic() + WAIT_S
        while clock.monotonic() < until_s:
            await clock.sleep(pause_s * self._node.entropy.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
            if self._take(await self.cache.get(key), names, found, newer=newer):
                self.count["waited"].add()
                return None
            claimed = await self.cache.claim(key, token)
            if claimed is not False or not self._floors.told(names):
                return claimed
        return False

    def _take(self, raw: bytes | None, names: tuple[int, ...], found: Found, *, newer: bool) -> bool:
        """Judge bytes; whether they are an answer that may be given."""
        if raw is None:
            return False
        moment = self._moment()
        try:
            entry, position = unpacked(raw, names, self._guard.tick, moment)
        except ValueError as error:
            if not self.count["unreadable"].value:  # Once: whoever fills the cache must not fill the log.
                logger.warning("entries of the shared cache cannot be read and are loaded again: %s", error)
            self.count["unreadable"].add()
            return False
        if not self._floors.allow(position, names):
            self.count["outdated"].add()
            return False
        standing = entry.standing(self._guard, moment.now_s)
        if standing == "stale":
            found.stale = entry
        elif standing == "fresh" and not (newer and moment.now_s >= entry.refresh_s):
            found.fresh = entry
        return found.fresh is not None

    def _moment(self) -> Moment:
        clock = self._node.clock
        return Moment(clock.monotonic(), clock.now_us())


class Place:
    """Where the answers of one read lie.

    Args:
        read: Its name.
        contract: Tells this form of its answers from others: `Codec` and names of its parameters.
    """

    __slots__ = ("_head",)

    def __init__(self, read: str, contract: bytes) -> None:
        self._head = f"{read}:{blake2b(contract, digest_size=6).hexdigest()}:".encode()

    def of(self, key: Key) -> bytes:
        """The key in the shared cache: a digest, so that it tells nobody about a customer."""
        told = blake2b(digest_size=16)
        for part in key:
            text = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
            told.update(b"%d:" % len(text))
            told.update(text)
        return self._head + told.hexdigest().encode()
