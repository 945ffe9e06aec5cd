"""Caching: what one running copy has for its cached reads: the cache, the guard, and who keeps the guard informed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.caching.follower import Follower
from dujiang.caching.guard import Guard
from dujiang.caching.tally import Tally
from dujiang.caching.through import Through
from dujiang.messaging.forgotten import means_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.caching.cache import Cache
    from dujiang.data.database import Database
    from dujiang.kernel.node import Node
    from dujiang.telemetry.metrics import Metrics


class Caching:
    """The service; it looks at the log only where some read is cached.

    Args:
        node: The running copy.
        database: Where the log is.
        cache: Where answers lie.
        metrics: What is counted.
    """

    def __init__(self, node: Node, database: Database, cache: Cache, metrics: Metrics) -> None:
        self._node = node
        self._cache = cache
        self._metrics = metrics
        self.guard = Guard()
        self.follower = Follower(node, database, self.guard)
        self._reads: dict[str, Tally] = {}

    def __repr__(self) -> str:
        return f"<Caching of {len(self._reads)} reads: {self._cache!r}, {self.guard!r}>"

    def through(self, name: str, *, ttl_s: float, absent_s: float) -> Through:
        """A read behind the cache."""
        tally = self._reads[name] = Tally(self._metrics, name)
        return Through(self._node, self._cache, self.guard, tally, ttl_s=ttl_s, absent_s=absent_s, name=name)

    async def start(self) -> None:
        """Look at the log for the first time, and go on."""
        if self._reads:
            self._metrics.at_scrape(self._measure)
            await self.follower.start()

    async def stop(self) -> None:
        """Look no more, and keep nothing."""
        await self.follower.stop()
        self._cache.clear()

    def forgot(self, mark: int, names: Sequence[int]) -> None:
        """A transaction of this process has committed and makes these outdated; the mark is that of its row in the log."""
        self.follower.acted_upon(mark)
        if means_all(names):
            self.guard.begin_anew()
        else:
            self.guard.touch(names)

    def show(self) -> dict[str, Any]:
        """What lies here and what became of it, for operators."""
        return {
            "entries": len(self._cache),
            "bytes": self._cache.used_bytes,
            "limit_bytes": self._cache.limit_bytes,
            "trusted": self.guard.trusted(self._node.clock.monotonic()),
            "reads": {
                name: {
                    "hit": tally.hits.value,
                    "miss": tally.misses.value,
                    "stale": tally.stale.value,
                    "loads": tally.loads.value,
                    "inconsistent": tally.inconsistent.value,
                }
                for name, tally in self._reads.items()
            },
        }

    def _measure(self) -> None:
        self._metrics.gauge("dujiang_cache_bytes").set(self._cache.used_bytes)
        self._metrics.gauge("dujiang_cache_entries").set(len(self._cache))
        trusted = self.guard.trusted(self._node.clock.monotonic())
        self._metrics.gauge("dujiang_cache_trusted").set(float(trusted))
